//! What a user's roles add up to.

use std::sync::Arc;

use bytes::Bytes;

use super::{Permission, PermissionKind, Role};

/// Reading or writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// The ranges a user may read and write.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Granted {
    read: Vec<Interval>,
    write: Vec<Interval>,
}

/// Keys from `begin` up to `end`; without an end all that follow.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interval {
    begin: Bytes,
    end: Option<Bytes>,
}

impl Granted {
    pub(crate) fn new<'r>(roles: impl Iterator<Item = &'r Arc<Role>>) -> Self {
        let mut granted = Self::default();
        for permission in roles.flat_map(|role| &role.permissions) {
            let interval = Interval::of(permission);
            match permission.kind {
                PermissionKind::Read => granted.read.push(interval),
                PermissionKind::Write => granted.write.push(interval),
                PermissionKind::ReadWrite => {
                    granted.read.push(interval.clone());
                    granted.write.push(interval);
                }
                PermissionKind::Other(_) => {}
            }
        }
        merge(&mut granted.read);
        merge(&mut granted.write);
        granted
    }

    /// Whether every key of a range is allowed. Adjoining permissions cover a range together.
    pub(crate) fn covers(&self, key: &[u8], range_end: &[u8], access: Access) -> bool {
        let intervals = match access {
            Access::Read => &self.read,
            Access::Write => &self.write,
        };
        let after = intervals.partition_point(|interval| interval.begin[..] <= *key);
        let Some(interval) = after.checked_sub(1).map(|at| &intervals[at]) else { return false };
        match (range_end, &interval.end) {
            // The range of an inverted request is empty, but it must still touch a permission (etcd `pkg/adt`).
            ([0] | [], None) => true,
            (range_end, None) => interval.begin[..] < *range_end,
            ([0], Some(_)) => false,
            ([], Some(end)) => key < &end[..],
            (range_end, Some(end)) => key < &end[..] && interval.begin[..] < *range_end && *range_end <= end[..],
        }
    }
}

impl Interval {
    fn of(permission: &Permission) -> Self {
        let end = match &permission.range_end[..] {
            [] => Some([&permission.key[..], &[0]].concat().into()),
            [0] => None,
            _ => Some(permission.range_end.clone()),
        };
        Self { begin: permission.key.clone(), end }
    }
}

/// Sorts, and joins what touches.
fn merge(intervals: &mut Vec<Interval>) {
    intervals.sort_by(|a, b| a.begin.cmp(&b.begin));
    let mut merged: Vec<Interval> = Vec::new();
    for next in intervals.drain(..) {
        match merged.last_mut().map(|last| &mut last.end) {
            Some(None) => break,
            Some(end) if end.as_ref().is_some_and(|end| next.begin <= *end) => {
                if next.end.is_none() || next.end > *end {
                    *end = next.end;
                }
            }
            _ => merged.push(next),
        }
    }
    *intervals = merged;
}
