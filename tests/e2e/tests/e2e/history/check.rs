//! What a history of one store must hold, whatever went wrong on the way. etcd tells the revision of every answer, so the
//! order of all operations is known and need not be searched for: it must be one that the clients can have seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a client did, and what it was told; all values ever written are different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) began: Duration,
    pub(super) key: String,
    pub(super) kind: Kind,
    /// Nothing when no answer came: a write may have been done or not.
    pub(super) answer: Option<Answer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Put(u64),
    Get,
}

/// An answer, when it came, and the revision in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) ended: Duration,
    pub(super) revision: i64,
    /// Of a get: value and revision of the last change, if the key was there.
    pub(super) found: Option<(u64, i64)>,
}

/// A change as a watch from the beginning shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) revision: i64,
    pub(super) key: String,
    pub(super) value: u64,
    /// How often the key was written.
    pub(super) version: i64,
}

/// Whether the operations and the changes can be those of one etcd (strict serializability, writes done once, a watch
/// that is ordered, unique and complete).
pub(super) fn check(operations: &[Operation], changes: &[Change]) -> Result<(), String> {
    check_changes(operations, changes)?;
    let by_revision: BTreeMap<i64, &Change> = changes.iter().map(|change| (change.revision, change)).collect();
    for operation in operations {
        let Some(answer) = &operation.answer else { continue };
        match operation.kind {
            Kind::Put(value) => {
                let shown = by_revision.get(&answer.revision);
                if shown.is_none_or(|change| (&change.key, change.value) != (&operation.key, value)) {
                    return Err(format!("an acknowledged write is not there: {operation:?}, but {shown:?}"));
                }
            }
            Kind::Get => {
                let before = by_revision.range(..=answer.revision).rev().map(|(_, change)| *change);
                let last = before.into_iter().find(|change| change.key == operation.key);
                let expect = last.map(|change| (change.value, change.revision));
                if answer.found != expect {
                    return Err(format!("a read is not of its revision: {operation:?}, expected {expect:?}"));
                }
            }
        }
    }
    check_order(operations)
}

/// The changes themselves: in order, once each, of values that somebody wrote.
fn check_changes(operations: &[Operation], changes: &[Change]) -> Result<(), String> {
    let written: BTreeMap<u64, &str> = operations
        .iter()
        .filter_map(|operation| match operation.kind {
            Kind::Put(value) => Some((value, operation.key.as_str())),
            Kind::Get => None,
        })
        .collect();
    let (mut versions, mut seen, mut last) = (BTreeMap::new(), BTreeSet::new(), 0);
    for change in changes {
        if change.revision <= last {
            return Err(format!("a watch went back: {change:?} after revision {last}"));
        }
        last = change.revision;
        if written.get(&change.value) != Some(&change.key.as_str()) {
            return Err(format!("nobody wrote that: {change:?}"));
        }
        if !seen.insert(change.value) {
            return Err(format!("a write was done twice: {change:?}"));
        }
        let version = versions.entry(change.key.as_str()).or_insert(0);
        *version += 1;
        if *version != change.version {
            return Err(format!("a change is missing before {change:?}: it should be version {version}"));
        }
    }
    Ok(())
}

/// What began after an answer had come must be of that answer's revision or a later one; a write of a later one.
fn check_order(operations: &[Operation]) -> Result<(), String> {
    let answered =
        || operations.iter().filter_map(|operation| operation.answer.as_ref().map(|answer| (operation, answer)));
    let mut ends: Vec<(Duration, i64)> = answered().map(|(_, answer)| (answer.ended, answer.revision)).collect();
    ends.sort_unstable();
    // The largest revision that anybody had been told by then.
    let mut told = 0;
    let ends: Vec<(Duration, i64)> = ends
        .into_iter()
        .map(|(ended, revision)| {
            told = told.max(revision);
            (ended, told)
        })
        .collect();
    for (operation, answer) in answered() {
        let before = ends.partition_point(|(ended, _)| *ended < operation.began);
        let known = before.checked_sub(1).map_or(0, |place| ends[place].1);
        let is_late = match operation.kind {
            Kind::Put(_) => answer.revision <= known,
            Kind::Get => answer.revision < known,
        };
        if is_late {
            return Err(format!("time went back: {operation:?} although revision {known} had been told before"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn put(began: u64, value: u64, answer: Option<(u64, i64)>) -> Operation {
        let answer = answer.map(|(ended, revision)| Answer { ended: at(ended), revision, found: None });
        Operation { began: at(began), key: "k".to_owned(), kind: Kind::Put(value), answer }
    }

    fn get(began: u64, ended: u64, revision: i64, found: Option<(u64, i64)>) -> Operation {
        let answer = Some(Answer { ended: at(ended), revision, found });
        Operation { began: at(began), key: "k".to_owned(), kind: Kind::Get, answer }
    }

    fn change(revision: i64, value: u64, version: i64) -> Change {
        Change { revision, key: "k".to_owned(), value, version }
    }

    #[test]
    fn the_checker_takes_what_a_sound_store_may_do() {
        let operations = [
            put(0, 1, Some((2, 2))),
            // Never answered, and done.
            put(1, 2, None),
            // Never answered, and not done.
            put(1, 3, None),
            get(3, 4, 2, Some((1, 2))),
            get(5, 6, 3, Some((2, 3))),
        ];
        assert_eq!(check(&operations, &[change(2, 1, 1), change(3, 2, 2)]), Ok(()));
        assert_eq!(check(&[get(0, 1, 1, None)], &[]), Ok(()));
    }

    #[test]
    fn the_checker_finds_every_kind_of_broken_store() {
        let two = [change(2, 1, 1), change(3, 2, 2)];
        let cases: &[(&str, &[Operation], &[Change])] = &[
            ("a lost write", &[put(0, 1, Some((1, 2)))], &[]),
            ("a write of another revision", &[put(0, 1, Some((1, 3)))], &[change(2, 1, 1)]),
            ("a write done twice", &[put(0, 1, None)], &[change(2, 1, 1), change(3, 1, 2)]),
            ("a value from nowhere", &[], &[change(2, 1, 1)]),
            ("a watch that goes back", &[put(0, 1, None), put(0, 2, None)], &[change(3, 1, 1), change(2, 2, 2)]),
            ("a watch with a gap", &[put(0, 1, None), put(0, 2, None)], &[change(2, 1, 1), change(4, 2, 3)]),
            ("a stale read", &[put(0, 1, Some((1, 2))), put(2, 2, Some((3, 3))), get(4, 5, 2, Some((1, 2)))], &two),
            (
                "a read that does not fit its revision",
                &[put(0, 1, Some((1, 2))), put(2, 2, Some((3, 3))), get(4, 5, 3, Some((1, 2)))],
                &two,
            ),
            ("a write before one that was answered already", &[put(0, 2, Some((1, 3))), put(2, 1, Some((3, 2)))], &two),
        ];
        for (what, operations, changes) in cases {
            assert!(check(operations, changes).is_err(), "{what} is not found");
        }
    }
}
