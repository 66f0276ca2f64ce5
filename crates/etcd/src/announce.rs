//! What a member says in the log before it does anything: which of its flags are old, and how it is set up, in the lines of
//! etcd that harnesses read (`server/etcdmain/config.go`, `server/embed/etcd.go`).

use std::path::Path;

use crate::flags::Flags;

/// Flags that go away, and what is said of them.
const DEPRECATED: &[(&str, &str)] = &[
    ("max-snapshots", "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."),
    (
        "v2-deprecation",
        "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input.",
    ),
];

/// Warns of flags that go away.
pub(crate) fn deprecated(flags: &Flags) {
    for (name, what) in DEPRECATED.iter().filter(|(name, _)| flags.given(name)) {
        tracing::warn!(target: "etcd", flag = name, "{what}");
    }
    for name in flags.names().filter(|name| name.starts_with("experimental-")) {
        let new = name.trim_start_matches("experimental-");
        tracing::warn!(
            target: "etcd",
            flag = name,
            "--{name} is deprecated in v3.6 and will be decommissioned in v3.7. Use '--{new}' or its feature gate instead."
        );
    }
}

/// Says how a member is set up.
pub(crate) fn starting(flags: &Flags, data_dir: &Path, has_begun: bool) {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let catch_up = flags.either("snapshot-catchup-entries");
    let catch_up_entries: u64 = flags.text(catch_up).parse().unwrap_or(0);
    let snapshot_count: u64 = flags.text("snapshot-count").parse().unwrap_or(0);
    tracing::info!(
        target: "etcd",
        etcd_version = crate::VERSION,
        os,
        arch,
        member_initialized = has_begun,
        name = flags.text("name"),
        data_dir = %data_dir.display(),
        force_new_cluster = flags.is_set("force-new-cluster"),
        heartbeat_interval = ?flags.number("heartbeat-interval"),
        election_timeout = ?flags.number("election-timeout"),
        snapshot_count,
        snapshot_catchup_entries = catch_up_entries,
        initial_advertise_peer_urls = flags.text("initial-advertise-peer-urls"),
        listen_peer_urls = flags.text("listen-peer-urls"),
        advertise_client_urls = flags.text("advertise-client-urls"),
        listen_client_urls = flags.text("listen-client-urls"),
        listen_metrics_urls = flags.text("listen-metrics-urls"),
        initial_cluster = flags.text("initial-cluster"),
        initial_cluster_state = flags.text("initial-cluster-state"),
        initial_cluster_token = flags.text("initial-cluster-token"),
        quota_backend_bytes = flags.number("quota-backend-bytes"),
        max_request_bytes = flags.number("max-request-bytes"),
        pre_vote = flags.is_set("pre-vote"),
        feature_gates = flags.text("feature-gates"),
        discovery_token = flags.text("discovery-token"),
        v2_deprecation = "write-only",
        "starting an etcd server"
    );
}

/// Says what becomes of `--bootstrap-defrag-threshold-megabytes`: a state that was read from the disk takes no more space
/// than it needs.
pub(crate) fn defragmentation(flags: &Flags, size_bytes: i64, size_in_use_bytes: i64) {
    let threshold = flags.number(flags.either("bootstrap-defrag-threshold-megabytes"));
    if threshold > 0 {
        tracing::info!(
            target: "etcd",
            current_db_size_bytes = size_bytes,
            current_db_size_in_use_bytes = size_in_use_bytes,
            experimental_bootstrap_defrag_threshold_bytes = threshold << 20,
            "Skipping defragmentation"
        );
    }
}
