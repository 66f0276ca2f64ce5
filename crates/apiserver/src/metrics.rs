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
    /// The label that tells servers apart.
    server: String,
    /// Reloads of the authentication configuration, failed and good: how many, and when the last was.
    reloads: Mutex<[(u64, f64); 2]>,
}

impl Metrics {
    pub(crate) fn new(started: Duration, host_name: &str) -> Self {
        Self { started, by_kind: Mutex::default(), server: id_hash(host_name), reloads: Mutex::default() }
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
        let server = &self.server;
        if known.is_empty() {
            return;
        }
        let name = "apiserver_authentication_config_controller_automatic_reload";
        let _ = writeln!(out, "# HELP {name}s_total Reloads of the authentication configuration, by status.");
        let _ = writeln!(out, "# TYPE {name}s_total counter");
        for (status, (count, _)) in &known {
            let _ = writeln!(out, "{name}s_total{{apiserver_id_hash=\"{server}\",status=\"{status}\"}} {count}");
        }
        let _ = writeln!(out, "# HELP {name}_last_timestamp_seconds Time of the last reload, by status.");
        let _ = writeln!(out, "# TYPE {name}_last_timestamp_seconds gauge");
        for (status, (_, last)) in &known {
            let labels = format!("apiserver_id_hash=\"{server}\",status=\"{status}\"");
            let _ = writeln!(out, "{name}_last_timestamp_seconds{{{labels}}} {last}");
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

/// What upstream puts into the label `apiserver_id_hash`: SHA-256 of the server's id, which is a digest of its machine's name
/// (`apiserver/pkg/server/config.go`).
fn id_hash(host_name: &str) -> String {
    let digest = |bytes: &[u8]| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let with_length =
        |text: &str| [&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes(), text.as_bytes()].concat();
    let hash = digest(&[with_length(host_name), with_length("kube-apiserver")].concat());
    let id = format!("apiserver-{}", base32(&hash.as_ref()[..16]));
    format!("sha256:{}", digest(id.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// RFC 4648 §6, in small letters and without padding.
fn base32(bytes: &[u8]) -> String {
    let letter = |at: usize| {
        let bit = |at: usize| bytes.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
        let value = (0..5).fold(0, |value, offset| value << 1 | usize::from(bit(at * 5 + offset)));
        char::from(b"abcdefghijklmnopqrstuvwxyz234567"[value])
    };
    (0..(bytes.len() * 8).div_ceil(5)).map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_told_by_the_hash_of_its_id() {
        assert_eq!(base32(b"foobar"), "mzxw6ytboi");
        assert_eq!(base32(b"f"), "my");
        // Computed as upstream does for the host name `h`.
        assert_eq!(id_hash("h"), "sha256:b7e8bce39f78b7d11a9158d11f42287422eb33cc17d2a1cc68cae589e56ce21b");
        let metrics = Metrics::new(Duration::ZERO, "h");
        metrics.authentication_reload(true, Timestamp::from_unix_seconds(7));
        let text = metrics.render(Duration::ZERO);
        let name = "apiserver_authentication_config_controller_automatic_reload";
        let labels = "{apiserver_id_hash=\"sha256:b7e8bce39f78b7d11a9158d11f42287422eb33cc17d2a1cc68cae589e56ce21b\",status=\"success\"}";
        assert!(text.contains(&format!("{name}s_total{labels} 1\n")), "{text}");
        assert!(text.contains(&format!("{name}_last_timestamp_seconds{labels} 7\n")), "{text}");
    }
}
