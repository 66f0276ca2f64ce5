//! Counters behind `/metrics`, under the names etcd's dashboards read.

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
}

/// Upper bounds of the buckets of disk times, in microseconds (etcd: 1 ms doubling, to 8 s).
const BUCKETS_US: [u64; 14] = [
    1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000, 1_024_000, 2_048_000, 4_096_000,
    8_192_000,
];

/// A histogram of times.
#[derive(Default)]
pub(crate) struct Histogram {
    buckets: [Counter; BUCKETS_US.len()],
    sum_us: Counter,
    count: Counter,
}

impl Histogram {
    pub(crate) fn observe(&self, time: std::time::Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.add(us);
        self.count.add(1);
        if let Some(bucket) = BUCKETS_US.iter().position(|bound| us <= *bound) {
            self.buckets[bucket].add(1);
        }
    }

    pub(crate) fn print(&self, name: &str, out: &mut String) {
        use std::fmt::Write as _;
        let _ = writeln!(out, "# TYPE {name} histogram");
        let mut total = 0;
        for (bound, bucket) in BUCKETS_US.iter().zip(&self.buckets) {
            total += bucket.get();
            let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {total}", *bound as f64 / 1e6);
        }
        let count = self.count.get();
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum {}", self.sum_us.get() as f64 / 1e6);
        let _ = writeln!(out, "{name}_count {count}");
    }
}

/// What a member counts.
#[derive(Default)]
pub(crate) struct Metrics {
    pub(crate) proposals_committed: Counter,
    pub(crate) proposals_failed: Counter,
    pub(crate) leader_changes: Counter,
    pub(crate) puts: Counter,
    pub(crate) deletes: Counter,
    pub(crate) ranges: Counter,
    pub(crate) txns: Counter,
    pub(crate) watch_streams: Counter,
    pub(crate) watch_streams_ended: Counter,
    pub(crate) grpc_started: Counter,
    pub(crate) sync: Histogram,
}
