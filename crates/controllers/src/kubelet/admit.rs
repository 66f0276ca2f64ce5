//! What a kubelet refuses to run although it was bound to the node: pods can name a node and go past the scheduler.

use machinery::{ObjectKey, Value};

use super::Kubelet;
use crate::pods;
use crate::scheduler::request::{Amounts, host_ports, of_pod};

impl Kubelet {
    /// Reason and message of a refusal, as upstream's kubelet words them.
    pub(super) fn refusal(&self, key: &ObjectKey, pod: &Value) -> Option<(&'static str, String)> {
        let admitted = self.pods.iter().filter(|(k, local)| *k != key && local.is_admitted()).map(|(_, l)| &l.pod);
        let others: Vec<&Value> = admitted.map(|p| &**p).filter(|p| !pods::is_finished(p)).collect();
        let rejected = |text: String| format!("Pod was rejected: {text}");
        let mut used = Amounts::default();
        others.iter().for_each(|p| used.add(&of_pod(p), 1));
        let allocatable = self.allocatable.as_ref()?;
        if others.len() as i64 + 1 > allocatable.get("pods") {
            let (used, capacity) = (others.len(), allocatable.get("pods"));
            let text =
                format!("Node didn't have enough resource: pods, requested: 1, used: {used}, capacity: {capacity}");
            return Some(("OutOfpods", rejected(text)));
        }
        for (name, wanted) in of_pod(pod).iter().filter(|(_, wanted)| *wanted > 0) {
            let (used, capacity) = (used.get(name), allocatable.get(name));
            if wanted > capacity - used {
                let text = format!(
                    "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
                );
                return Some((out_of(name), rejected(text)));
            }
        }
        let taken: Vec<_> = others.iter().flat_map(|p| host_ports(p)).collect();
        let clashes = |(protocol, address, port): &(machinery::CompactString, machinery::CompactString, i64)| {
            let any = |a: &str| a == "0.0.0.0";
            taken.iter().any(|(p, a, n)| p == protocol && n == port && (a == address || any(a) || any(address)))
        };
        if host_ports(pod).iter().any(clashes) {
            let text = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
            return Some(("NodePorts", rejected(text.to_owned())));
        }
        None
    }
}

/// `OutOfcpu` and its like; the reasons of events are fixed words.
fn out_of(resource: &str) -> &'static str {
    match resource {
        "cpu" => "OutOfcpu",
        "memory" => "OutOfmemory",
        "ephemeral-storage" => "OutOfephemeral-storage",
        _ => "UnexpectedAdmissionError",
    }
}
