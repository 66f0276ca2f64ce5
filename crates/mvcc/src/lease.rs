//! Leases: which keys live how long. Time is an argument; who may expire a lease is the caller's business.

use std::time::Duration;

use base::Timestamp;
use bytes::Bytes;
use imbl::OrdSet;

use crate::keyspace::Keyspace;
use crate::snapshot::Snapshot;

/// The largest TTL etcd grants, in seconds.
pub const LEASE_TTL_MAX: i64 = 9_000_000_000;

/// A lease and its keys.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    /// Seconds.
    pub(crate) granted_ttl: i64,
    /// Seconds left when it was last checkpointed; 0 for all.
    pub(crate) remaining_ttl: i64,
    pub(crate) expiry: Timestamp,
    pub(crate) keys: OrdSet<Bytes>,
}

impl Lease {
    /// What a new leader gives it, in seconds.
    fn left(&self) -> i64 {
        if self.remaining_ttl > 0 { self.remaining_ttl } else { self.granted_ttl }
    }
}

/// A lease as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Its id.
    pub id: i64,
    /// Seconds it was granted with.
    pub ttl: i64,
    /// Seconds it had left when that was last noted in the log; 0 for all.
    pub remaining_ttl: i64,
}

/// What a lease has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// Whole seconds left, 0 or less when it has expired.
    pub remaining: i64,
    /// Seconds it was granted with.
    pub granted_ttl: i64,
    /// Its keys, in order.
    pub keys: Vec<Bytes>,
}

pub(crate) fn expiry(now: Timestamp, ttl: i64) -> Timestamp {
    now + Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

impl Snapshot {
    /// What a lease has left; nothing when there is no such lease.
    pub fn lease(&self, id: i64, now: Timestamp, with_keys: bool) -> Option<LeaseState> {
        let lease = self.leases.get(&id)?;
        let remaining = lease.expiry.since(now).as_secs();
        let keys = if with_keys { lease.keys.iter().cloned().collect() } else { Vec::new() };
        Some(LeaseState {
            remaining: i64::try_from(remaining).unwrap_or(i64::MAX),
            granted_ttl: lease.granted_ttl,
            keys,
        })
    }

    /// Whether the lease has run out but is not revoked yet.
    pub fn lease_expired(&self, id: i64, now: Timestamp) -> bool {
        self.leases.get(&id).is_some_and(|lease| lease.expiry <= now)
    }

    /// Whether renewing a lease makes a noted remaining time void; that must go through the log first.
    pub fn has_lease_checkpoint(&self, id: i64) -> bool {
        self.leases.get(&id).is_some_and(|lease| lease.remaining_ttl > 0)
    }

    /// All lease ids, the one that expires first at the front.
    pub fn lease_ids(&self) -> Vec<i64> {
        let mut ids: Vec<_> = self.leases.iter().map(|(id, lease)| (lease.expiry, *id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }
}

impl Keyspace {
    /// Renews a lease from now on; returns its TTL in seconds. Nothing when it is unknown or has already expired.
    pub fn renew(&mut self, id: i64, now: Timestamp) -> Option<i64> {
        let lease = self.state.leases.get_mut(&id)?;
        if lease.expiry <= now {
            return None;
        }
        self.expiries.remove(&(lease.expiry, id));
        lease.expiry = expiry(now, lease.granted_ttl);
        self.expiries.insert((lease.expiry, id));
        Some(lease.granted_ttl)
    }

    /// Gives every lease what it had left when that was last noted, else its full TTL, plus `extra`: what a new leader
    /// does.
    pub fn renew_all(&mut self, now: Timestamp, extra: Duration) {
        let ids: Vec<i64> = self.state.leases.keys().copied().collect();
        self.expiries = OrdSet::new();
        for id in ids {
            let Some(lease) = self.state.leases.get_mut(&id) else { continue };
            lease.expiry = expiry(now, lease.left()) + extra;
            self.expiries.insert((lease.expiry, id));
        }
    }

    /// What to note in the log of leases that have more than `interval` left and have used some of their time, so that
    /// a new leader does not begin them anew: id and seconds left.
    pub fn lease_checkpoints(&self, now: Timestamp, interval: Duration) -> Vec<(i64, i64)> {
        let due = |(id, lease): (&i64, &Lease)| {
            let left = lease.expiry.since(now);
            let seconds = i64::try_from(left.as_secs() + u64::from(left.subsec_nanos() > 0)).unwrap_or(i64::MAX);
            (left > interval && seconds < lease.left()).then_some((*id, seconds))
        };
        self.state.leases.iter().filter_map(due).collect()
    }

    /// Leases that have run out, at most `max` of them, longest overdue first.
    pub fn expired(&self, now: Timestamp, max: usize) -> Vec<i64> {
        self.expiries.iter().take_while(|(expiry, _)| *expiry <= now).take(max).map(|(_, id)| *id).collect()
    }

    /// When the next lease runs out.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.expiries.get_min().map(|(expiry, _)| *expiry)
    }

    pub(crate) fn attach(&mut self, id: i64, key: &Bytes) {
        if let Some(lease) = self.state.leases.get_mut(&id) {
            lease.keys.insert(key.clone());
        }
    }

    pub(crate) fn detach(&mut self, id: i64, key: &Bytes) {
        if let Some(lease) = self.state.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }
}
