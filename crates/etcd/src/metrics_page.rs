//! The page at `/metrics`, in Prometheus' text format.

use std::fmt::{Display, Write as _};
use std::sync::atomic::Ordering;

use crate::hub::lock;
use crate::metrics::HEALTH_CHECKS;
use crate::{LocalStore, process};

/// Writes families of one line.
#[derive(Default)]
pub(crate) struct Page(pub(crate) String);

impl Page {
    fn one(&mut self, kind: &str, name: &str, value: impl Display) {
        let bare = name.split('{').next().unwrap_or(name);
        let _ = writeln!(self.0, "# TYPE {bare} {kind}\n{name} {value}");
    }

    pub(crate) fn gauge(&mut self, name: &str, value: impl Display) {
        self.one("gauge", name, value);
    }

    pub(crate) fn counter(&mut self, name: &str, value: impl Display) {
        self.one("counter", name, value);
    }
}

/// The whole page.
pub(crate) fn page(store: &LocalStore) -> String {
    let mut page = Page(String::with_capacity(32 << 10));
    server(store, &mut page);
    keyspace(store, &mut page);
    let metrics = &store.shared.metrics;
    metrics.sync.print("etcd_disk_wal_fsync_duration_seconds", &mut page.0);
    health(store, &mut page);
    metrics.commits.print("etcd_disk_backend_commit_duration_seconds", &mut page.0);
    if let Some(peers) = &store.shared.peers {
        peers.print(&mut page.0);
    }
    store.shared.calls.print(&mut page.0);
    if let Some(process) = process::read() {
        of_process(&process, &mut page);
    }
    page.0
}

fn server(store: &LocalStore, page: &mut Page) {
    let shared = &store.shared;
    let (published, metrics) = (shared.published(), &shared.metrics);
    page.gauge("etcd_server_has_leader", u8::from(published.leader != 0));
    page.gauge("etcd_server_is_leader", u8::from(published.leader == shared.member_id));
    page.gauge("etcd_server_is_learner", u8::from(published.learner));
    page.counter("etcd_server_leader_changes_seen_total", metrics.leader_changes.get());
    page.gauge("etcd_server_proposals_committed_total", published.raft_index);
    page.gauge("etcd_server_proposals_applied_total", published.applied_index);
    page.gauge("etcd_server_proposals_pending", shared.pending.load(Ordering::Relaxed));
    page.counter("etcd_server_proposals_failed_total", metrics.proposals_failed.get());
    page.counter("etcd_server_slow_apply_total", metrics.slow_applies.get());
    page.counter("etcd_server_slow_read_indexes_total", metrics.slow_read_indexes.get());
    page.counter("etcd_server_read_indexes_failed_total", metrics.failed_read_indexes.get());
    page.counter("etcd_server_heartbeat_send_failures_total", metrics.late_heartbeats.get());
    page.gauge("etcd_server_quota_backend_bytes", shared.limits.quota_bytes);
    page.gauge(&format!("etcd_server_version{{server_version=\"{}\"}}", crate::VERSION), 1);
    page.gauge(&format!("etcd_server_id{{server_id=\"{:x}\"}}", shared.member_id), 1);
    page.gauge("etcd_cluster_version{cluster_version=\"3.6\"}", 1);
}

fn keyspace(store: &LocalStore, page: &mut Page) {
    let shared = &store.shared;
    let (published, metrics) = (shared.published(), &shared.metrics);
    let snapshot = &published.snapshot;
    page.gauge("etcd_mvcc_db_total_size_in_bytes", snapshot.size_bytes());
    page.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", snapshot.size_in_use_bytes());
    page.gauge("etcd_debugging_mvcc_keys_total", snapshot.keys_total());
    page.gauge("etcd_debugging_mvcc_current_revision", snapshot.revision());
    page.gauge("etcd_debugging_mvcc_compact_revision", snapshot.compacted());
    let (watchers, slow) = {
        let hub = lock(&shared.hub);
        (hub.watchers(), hub.slow_watchers())
    };
    page.gauge("etcd_debugging_mvcc_watcher_total", watchers);
    page.gauge("etcd_debugging_mvcc_slow_watcher_total", slow);
    let streams = metrics.watch_streams.get() - metrics.watch_streams_ended.get();
    page.gauge("etcd_debugging_mvcc_watch_stream_total", streams);
    page.counter("etcd_mvcc_put_total", metrics.puts.get());
    page.counter("etcd_mvcc_delete_total", metrics.deletes.get());
    page.counter("etcd_mvcc_range_total", metrics.ranges.get());
    page.counter("etcd_mvcc_txn_total", metrics.txns.get());
    page.counter("etcd_debugging_lease_granted_total", metrics.leases_granted.get());
    page.counter("etcd_debugging_lease_renewed_total", metrics.leases_renewed.get());
    page.counter("etcd_debugging_lease_revoked_total", metrics.leases_revoked.get());
    page.counter("etcd_debugging_server_lease_expired_total", metrics.leases_expired.get());
}

fn health(store: &LocalStore, page: &mut Page) {
    let health = &store.shared.metrics.health;
    page.counter("etcd_server_health_success", health.healthy.get());
    page.counter("etcd_server_health_failures", health.unhealthy.get());
    let run = |index: &usize| health.checks[*index].passed.get() + health.checks[*index].failed.get() > 0;
    let seen: Vec<usize> = (0..HEALTH_CHECKS.len()).filter(run).collect();
    if seen.is_empty() {
        return;
    }
    let out = &mut page.0;
    let _ = writeln!(out, "# TYPE etcd_server_healthcheck gauge");
    for index in &seen {
        let ((kind, name), check) = (HEALTH_CHECKS[*index], &health.checks[*index]);
        let _ = writeln!(out, "etcd_server_healthcheck{{name=\"{name}\",type=\"{kind}\"}} {}", check.last.get());
    }
    let _ = writeln!(out, "# TYPE etcd_server_healthchecks_total counter");
    for index in &seen {
        let ((kind, name), check) = (HEALTH_CHECKS[*index], &health.checks[*index]);
        for (status, count) in [("error", check.failed.get()), ("success", check.passed.get())] {
            let labels = format!("name=\"{name}\",status=\"{status}\",type=\"{kind}\"");
            let _ = writeln!(out, "etcd_server_healthchecks_total{{{labels}}} {count}");
        }
    }
}

/// What the system knows of this process.
pub(crate) fn of_process(process: &process::Process, page: &mut Page) {
    page.counter("process_cpu_seconds_total", process.cpu_seconds);
    page.gauge("process_open_fds", process.open_fds);
    page.gauge("process_max_fds", process.max_fds);
    page.gauge("process_resident_memory_bytes", process.resident_bytes);
    page.gauge("process_virtual_memory_bytes", process.virtual_bytes);
    page.gauge("process_start_time_seconds", process.start_seconds);
    page.gauge("os_fd_used", process.open_fds);
    page.gauge("os_fd_limit", process.max_fds);
}
