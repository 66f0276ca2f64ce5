//! What passes between this member and each other one, for `/metrics`, under etcd's names (`rafthttp` metrics).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use raft::MemberId;

use super::Peers;
use crate::hub::lock;
use crate::metrics::{Counter, Histogram};

/// Of one member.
pub(super) struct Counts {
    pub(super) sent_bytes: Counter,
    pub(super) received_bytes: Counter,
    /// Messages that did not leave: the queue was full, or there was no connection.
    pub(super) send_failures: Counter,
    /// Connections that broke.
    pub(super) disconnections: Counter,
    pub(super) round_trips: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        let (sent_bytes, received_bytes) = (Counter::default(), Counter::default());
        let (send_failures, disconnections) = (Counter::default(), Counter::default());
        Self { sent_bytes, received_bytes, send_failures, disconnections, round_trips: Histogram::of_round_trips() }
    }
}

/// Of all members that this one had to do with.
#[derive(Default)]
pub(super) struct CountsByMember(std::sync::Mutex<BTreeMap<MemberId, Arc<Counts>>>);

impl CountsByMember {
    pub(super) fn of(&self, member: MemberId) -> Arc<Counts> {
        lock(&self.0).entry(member).or_default().clone()
    }

    fn all(&self) -> BTreeMap<MemberId, Arc<Counts>> {
        lock(&self.0).clone()
    }
}

impl Peers {
    /// Writes the families `etcd_network_*` about other members.
    pub(crate) fn print(&self, out: &mut String) {
        let (own, members) = (self.0.member_id, self.0.members.borrow().clone());
        let pair = |other: MemberId| format!("{{Local=\"{own:x}\",Remote=\"{other:x}\"}}");
        let others = || members.list().into_iter().map(|member| member.id).filter(|id| *id != own);
        let connected = |id: MemberId| u64::from(self.connected_for(id).is_some());
        let active = others().map(|id| (pair(id), connected(id)));
        family(out, "etcd_network_active_peers", "gauge", active);
        family(out, "etcd_network_known_peers", "gauge", others().chain([own]).map(|id| (pair(id), 1)));
        let all = self.0.counts.all();
        let lost = all.iter().map(|(id, counts)| (pair(*id), counts.disconnections.get()));
        family(out, "etcd_network_disconnected_peers_total", "counter", lost);
        let from = all.iter().map(|(id, counts)| (format!("{{From=\"{id:x}\"}}"), counts.received_bytes.get()));
        family(out, "etcd_network_peer_received_bytes_total", "counter", from);
        let to = |value: fn(&Counts) -> &Counter| {
            all.iter().map(move |(id, counts)| (format!("{{To=\"{id:x}\"}}"), value(counts).get()))
        };
        family(out, "etcd_network_peer_sent_bytes_total", "counter", to(|counts| &counts.sent_bytes));
        family(out, "etcd_network_peer_sent_failures_total", "counter", to(|counts| &counts.send_failures));
        for (place, (id, counts)) in all.iter().enumerate() {
            let name = "etcd_network_peer_round_trip_time_seconds";
            if place == 0 {
                let _ = writeln!(out, "# TYPE {name} histogram");
            }
            counts.round_trips.lines(name, &format!("To=\"{id:x}\","), out);
        }
    }
}

/// A family that nobody has a line of is left out, as Prometheus' library does.
fn family(out: &mut String, name: &str, kind: &str, lines: impl Iterator<Item = (String, u64)>) {
    for (place, (labels, value)) in lines.enumerate() {
        if place == 0 {
            let _ = writeln!(out, "# TYPE {name} {kind}");
        }
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}
