//! Counters for `/metrics`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

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
}

impl Metrics {
    pub(crate) fn new(started: Duration) -> Self {
        Self { started, by_kind: Mutex::default() }
    }

    pub(crate) fn request(&self, method: &Method, code: u16, took: Duration) {
        if let Ok(mut kinds) = self.by_kind.lock() {
            let counter = kinds.entry((method.as_str().to_owned(), code)).or_default();
            counter.requests += 1;
            counter.seconds += took.as_secs_f64();
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
        let _ = writeln!(out, "# HELP process_uptime_seconds Time since the server started.");
        let _ = writeln!(out, "# TYPE process_uptime_seconds gauge");
        let _ = writeln!(out, "process_uptime_seconds {}", now.saturating_sub(self.started).as_secs_f64());
        out
    }
}
