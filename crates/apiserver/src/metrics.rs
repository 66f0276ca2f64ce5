//! Counters for `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

use base::Timestamp;
use http::Method;

#[derive(Default)]
struct Counter {
    requests: u64,
    seconds: f64,
}

/// What is counted.
pub(crate) struct Metrics {
    started: Duration,
    by_kind: Mutex<BTreeMap<(String, u16), Counter>>,
    /// Reloads of the authentication configuration, failed and good: how many, and when the last was.
    reloads: Mutex<[(u64, f64); 2]>,
}

impl Metrics {
    pub(crate) fn new(started: Duration) -> Self {
        Self { started, by_kind: Mutex::default(), reloads: Mutex::default() }
    }

    pub(crate) fn request(&self, method: &Method, code: u16, took: Duration) {
        if let Ok(mut kinds) = self.by_kind.lock() {
            let counter = kinds.entry((method.as_str().to_owned(), code)).or_default();
            counter.requests += 1;
            counter.seconds += took.as_secs_f64();
        }
    }

    pub(crate) fn authentication_reload(&self, is_success: bool, now: Timestamp) {
        if let Ok(mut reloads) = self.reloads.lock() {
            let (count, last) = &mut reloads[usize::from(is_success)];
            *count += 1;
            *last = now.unix_seconds() as f64;
        }
    }

    /// Upstream's counters of the reloads, once there were any.
    fn render_reloads(&self, out: &mut String) {
        let Ok(reloads) = self.reloads.lock() else { return };
        let known = ["failure", "success"].into_iter().zip(reloads.iter()).filter(|(_, (count, _))| *count > 0);
        let known: Vec<_> = known.collect();
        if known.is_empty() {
            return;
        }
        let name = "apiserver_authentication_config_controller_automatic_reload";
        let _ = writeln!(out, "# HELP {name}s_total Reloads of the authentication configuration, by status.");
        let _ = writeln!(out, "# TYPE {name}s_total counter");
        for (status, (count, _)) in &known {
            let _ = writeln!(out, "{name}s_total{{status=\"{status}\"}} {count}");
        }
        let _ = writeln!(out, "# HELP {name}_last_timestamp_seconds Time of the last reload, by status.");
        let _ = writeln!(out, "# TYPE {name}_last_timestamp_seconds gauge");
        for (status, (_, last)) in &known {
            let _ = writeln!(out, "{name}_last_timestamp_seconds{{status=\"{status}\"}} {last}");
        }
    }

    /// Prometheus' text format.
    pub(crate) fn render(&self, now: Duration) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "# HELP apiserver_request_total Requests answered, by method and code.");
        let _ = writeln!(out, "# TYPE apiserver_request_total counter");
        let Ok(kinds) = self.by_kind.lock() else { return out };
        for ((method, code), counter) in kinds.iter() {
            let _ = writeln!(out, "apiserver_request_total{{code=\"{code}\",verb=\"{method}\"}} {}", counter.requests);
        }
        let _ = writeln!(out, "# HELP apiserver_request_duration_seconds Time from request to answer.");
        let _ = writeln!(out, "# TYPE apiserver_request_duration_seconds summary");
        for ((method, code), counter) in kinds.iter() {
            let labels = format!("code=\"{code}\",verb=\"{method}\"");
            let _ = writeln!(out, "apiserver_request_duration_seconds_sum{{{labels}}} {}", counter.seconds);
            let _ = writeln!(out, "apiserver_request_duration_seconds_count{{{labels}}} {}", counter.requests);
        }
        drop(kinds);
        self.render_reloads(&mut out);
        let _ = writeln!(out, "# HELP process_uptime_seconds Time since the server started.");
        let _ = writeln!(out, "# TYPE process_uptime_seconds gauge");
        let _ = writeln!(out, "process_uptime_seconds {}", now.saturating_sub(self.started).as_secs_f64());
        out
    }
}
