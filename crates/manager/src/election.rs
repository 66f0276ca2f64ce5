//! Who leads: the holder of a Lease, as client-go's leader election has it.

use std::time::Duration;

use base::Clock;
use machinery::{GroupVersionResource, Status, Value, json};
use tokio::sync::watch;

use crate::api::{Api, Request, collection_path, object_path};

const LEASE_SECONDS: i64 = 15;
const RETRY: Duration = Duration::from_secs(2);
/// Without a renewal for this long a leader steps down.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// Runs for the Lease `kube-system/<name>` for ever, telling whether we hold it.
pub(crate) async fn run(api: Api, name: &'static str, identity: String, clock: Clock, leading: watch::Sender<bool>) {
    let mut seen: (Value, Duration) = (Value::Null, clock.monotonic());
    let mut renewed = clock.monotonic();
    loop {
        match attempt(&api, name, &identity, &clock, &mut seen).await {
            Ok(true) => {
                renewed = clock.monotonic();
                leading.send_if_modified(|l| !std::mem::replace(l, true));
            }
            Ok(false) => {
                leading.send_if_modified(|l| std::mem::replace(l, false));
            }
            Err(error) => {
                tracing::debug!(%error, lease = name, "leader election");
                if clock.monotonic().saturating_sub(renewed) > RENEW_DEADLINE {
                    leading.send_if_modified(|l| std::mem::replace(l, false));
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = leading.closed() => return,
        }
    }
}

async fn attempt(
    api: &Api,
    name: &str,
    identity: &str,
    clock: &Clock,
    seen: &mut (Value, Duration),
) -> Result<bool, Status> {
    let leases = GroupVersionResource::new("coordination.k8s.io", "v1", "leases");
    let now = clock.now().rfc3339_micros();
    let path = object_path(&leases, "kube-system", name, "");
    let held = match api.call(Request::get(&path)).await {
        Ok(lease) => lease,
        Err(status) if status.code == 404 => {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": "kube-system"},
                "spec": {"holderIdentity": identity, "leaseDurationSeconds": LEASE_SECONDS, "acquireTime": now,
                    "renewTime": now, "leaseTransitions": 0}});
            api.call(Request::new("POST", collection_path(&leases, "kube-system"), Some(lease))).await?;
            return Ok(true);
        }
        Err(status) => return Err(status),
    };
    if seen.0 != held["spec"] {
        *seen = (held["spec"].clone(), clock.monotonic());
    }
    let holder = held.str_at(&["spec", "holderIdentity"]);
    let ours = holder == identity;
    let seconds = held.at(&["spec", "leaseDurationSeconds"]).and_then(Value::as_i64).unwrap_or(LEASE_SECONDS);
    let expired = clock.monotonic() >= seen.1 + Duration::from_secs(seconds.max(1).unsigned_abs());
    if !ours && !holder.is_empty() && !expired {
        return Ok(false);
    }
    let mut lease = Value::clone(&held);
    let spec = lease.at_mut(&["spec"]);
    if !ours {
        let count = spec["leaseTransitions"].as_i64().unwrap_or(0);
        spec.set("leaseTransitions", count + 1);
        spec.set("acquireTime", now.as_str());
    }
    spec.set("holderIdentity", identity);
    spec.set("leaseDurationSeconds", LEASE_SECONDS);
    spec.set("renewTime", now);
    api.call(Request::new("PUT", path, Some(lease))).await?;
    Ok(true)
}
