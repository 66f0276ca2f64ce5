//! Counters behind `/metrics`, under the names etcd's dashboards read.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that any thread may raise.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// For what is a gauge.
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
}

/// Upper bounds of the buckets of disk times, in microseconds (etcd: 1 ms doubling, to 8 s).
const DISK_BUCKETS_US: &[u64] = &[
    1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000, 1_024_000, 2_048_000, 4_096_000,
    8_192_000,
];

/// Those of the ways to other members and back (0.1 ms doubling, to 3.3 s).
const ROUND_TRIP_BUCKETS_US: &[u64] = &[
    100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 102_400, 204_800, 409_600, 819_200, 1_638_400,
    3_276_800,
];

/// Those of the times of calls (Prometheus' defaults).
const CALL_BUCKETS_US: &[u64] =
    &[5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000];

/// A histogram of times.
pub(crate) struct Histogram {
    bounds_us: &'static [u64],
    buckets: Box<[Counter]>,
    sum_us: Counter,
    count: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new(DISK_BUCKETS_US)
    }
}

impl Histogram {
    fn new(bounds_us: &'static [u64]) -> Self {
        let buckets = bounds_us.iter().map(|_| Counter::default()).collect();
        Self { bounds_us, buckets, sum_us: Counter::default(), count: Counter::default() }
    }

    /// One for the times of calls.
    pub(crate) fn of_calls() -> Self {
        Self::new(CALL_BUCKETS_US)
    }

    /// One for the ways to another member and back.
    pub(crate) fn of_round_trips() -> Self {
        Self::new(ROUND_TRIP_BUCKETS_US)
    }

    pub(crate) fn observe(&self, time: std::time::Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.add(us);
        self.count.add(1);
        if let Some(bucket) = self.bounds_us.iter().position(|bound| us <= *bound) {
            self.buckets[bucket].add(1);
        }
    }

    /// Its lines; `labels` is empty or ends with a comma.
    pub(crate) fn lines(&self, name: &str, labels: &str, out: &mut String) {
        let mut total = 0;
        for (bound, bucket) in self.bounds_us.iter().zip(&self.buckets) {
            total += bucket.get();
            let _ = writeln!(out, "{name}_bucket{{{labels}le=\"{}\"}} {total}", *bound as f64 / 1e6);
        }
        let count = self.count.get();
        let _ = writeln!(out, "{name}_bucket{{{labels}le=\"+Inf\"}} {count}");
        let braced = match labels.trim_end_matches(',') {
            "" => String::new(),
            labels => format!("{{{labels}}}"),
        };
        let _ = writeln!(out, "{name}_sum{braced} {}", self.sum_us.get() as f64 / 1e6);
        let _ = writeln!(out, "{name}_count{braced} {count}");
    }

    pub(crate) fn print(&self, name: &str, out: &mut String) {
        let _ = writeln!(out, "# TYPE {name} histogram");
        self.lines(name, "", out);
    }
}

/// What a member counts.
#[derive(Default)]
pub(crate) struct Metrics {
    pub(crate) proposals_committed: Counter,
    pub(crate) proposals_failed: Counter,
    pub(crate) leader_changes: Counter,
    pub(crate) slow_applies: Counter,
    pub(crate) slow_read_indexes: Counter,
    pub(crate) failed_read_indexes: Counter,
    pub(crate) late_heartbeats: Counter,
    pub(crate) puts: Counter,
    pub(crate) deletes: Counter,
    pub(crate) ranges: Counter,
    pub(crate) txns: Counter,
    pub(crate) leases_granted: Counter,
    pub(crate) leases_renewed: Counter,
    pub(crate) leases_revoked: Counter,
    /// Of those that were revoked, the ones that this member ended as their time was over.
    pub(crate) leases_expired: Counter,
    pub(crate) watch_streams: Counter,
    pub(crate) watch_streams_ended: Counter,
    pub(crate) sync: Histogram,
    /// Of the view.
    pub(crate) commits: Arc<Histogram>,
    pub(crate) health: Health,
}

/// What the health routes found.
#[derive(Default)]
pub(crate) struct Health {
    pub(crate) healthy: Counter,
    pub(crate) unhealthy: Counter,
    /// For each check, in the order of [`HEALTH_CHECKS`].
    pub(crate) checks: [CheckResults; HEALTH_CHECKS.len()],
}

/// The checks of `/livez` and `/readyz`.
pub(crate) const HEALTH_CHECKS: [(&str, &str); 5] = [
    ("livez", "serializable_read"),
    ("readyz", "data_corruption"),
    ("readyz", "serializable_read"),
    ("readyz", "linearizable_read"),
    ("readyz", "non_learner"),
];

/// How often a check passed and failed, and how it went last.
#[derive(Default)]
pub(crate) struct CheckResults {
    pub(crate) passed: Counter,
    pub(crate) failed: Counter,
    pub(crate) last: Counter,
}
