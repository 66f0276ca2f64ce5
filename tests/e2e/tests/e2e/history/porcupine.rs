//! The same histories, judged by somebody else's checker: porcupine searches for an order of the operations that one store
//! can have carried out one by one. It knows nothing of watches; what it needs of them is which writes that were never
//! answered were done, and when.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::check::{Change, Kind, Operation};

/// Whether the operations are linearizable; nothing where the program could not be built.
///
/// # Errors
/// When the program does not come to a verdict.
pub(super) fn judge(operations: &[Operation], changes: &[Change]) -> Result<Option<bool>> {
    let Some(porcupine) = e2e::client("porcupine") else {
        e2e::skipped("porcupine", "go is not installed");
        return Ok(None);
    };
    let mut child = Command::new(porcupine).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin is piped")?.write_all(lines(operations, changes).as_bytes())?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match text.split(':').next() {
        Some("linearizable") => Ok(Some(true)),
        Some("not linearizable") => Ok(Some(false)),
        _ => bail!("porcupine: {} {text}", output.status),
    }
}

/// One operation a line. A write that nobody was told of and no watch shows was not done.
fn lines(operations: &[Operation], changes: &[Change]) -> String {
    let shown: BTreeMap<u64, i64> = changes.iter().map(|change| (change.value, change.revision)).collect();
    let mut lines = String::new();
    for operation in operations {
        let put = match operation.kind {
            Kind::Put(value) => Some(value),
            Kind::Get => None,
        };
        let revision = match (&operation.answer, put.and_then(|value| shown.get(&value))) {
            (Some(answer), _) => answer.revision,
            (None, Some(revision)) => *revision,
            (None, None) => continue,
        };
        let found = operation.answer.as_ref().and_then(|answer| answer.found);
        let line = json!({
            "key": operation.key,
            "began": u64::try_from(operation.began.as_nanos()).unwrap_or(u64::MAX),
            "ended": operation.answer.as_ref().and_then(|answer| u64::try_from(answer.ended.as_nanos()).ok()),
            "put": put,
            "revision": revision,
            "found": found.map(|(value, revision)| json!({"value": value, "revision": revision})),
        });
        lines += &format!("{line}\n");
    }
    lines
}

/// Both checkers say the same of what a sound store does, and of every kind of broken one that operations alone tell.
#[test]
fn porcupine_and_our_checker_agree_on_sound_and_broken_histories() -> Result<()> {
    use super::check::{Answer, check};
    use std::time::Duration;

    let operation =
        |began, kind, answer| Operation { began: Duration::from_millis(began), key: "k".to_owned(), kind, answer };
    let told = |ended, revision, found| Answer { ended: Duration::from_millis(ended), revision, found };
    let put = |began, value, answer: Option<(u64, i64)>| {
        operation(began, Kind::Put(value), answer.map(|(ended, revision)| told(ended, revision, None)))
    };
    let get = |began, ended, revision, found| operation(began, Kind::Get, Some(told(ended, revision, found)));
    let change = |revision, value| Change { revision, key: "k".to_owned(), value, version: revision - 1 };
    let (first, second) = (put(0, 1, Some((2, 2))), put(3, 2, Some((4, 3))));
    let cases: Vec<(&str, bool, Vec<Operation>)> = vec![
        ("one after the other", true, vec![first.clone(), get(2, 3, 2, Some((1, 2))), second.clone()]),
        ("a read at the same time, before", true, vec![first.clone(), second.clone(), get(3, 5, 2, Some((1, 2)))]),
        ("a write without answer, done", true, vec![first.clone(), put(1, 2, None), get(5, 6, 3, Some((2, 3)))]),
        ("a write without answer, not done", true, vec![first.clone(), second.clone(), put(1, 3, None)]),
        ("nothing there yet", true, vec![get(0, 1, 1, None), first.clone(), second.clone()]),
        ("a stale read", false, vec![first.clone(), second.clone(), get(5, 6, 2, Some((1, 2)))]),
        ("a value that is not its revision's", false, vec![first.clone(), second.clone(), get(5, 6, 3, Some((1, 2)))]),
        ("a lost write", false, vec![first.clone(), second.clone(), get(5, 6, 3, None)]),
        ("a read of what was never written", false, vec![first.clone(), second, get(5, 6, 3, Some((9, 3)))]),
        ("a write at another's revision", false, vec![first.clone(), put(3, 2, Some((4, 2)))]),
        ("writes out of order", false, vec![put(0, 2, Some((1, 3))), put(2, 1, Some((3, 2)))]),
        ("a read that went back", false, vec![put(0, 1, None), get(1, 2, 2, Some((1, 2))), get(3, 4, 1, None)]),
    ];
    for (what, is_sound, operations) in cases {
        let done: Vec<u64> = match what {
            "a write without answer, not done" => vec![1, 2],
            _ => operations
                .iter()
                .filter_map(|o| match o.kind {
                    Kind::Put(value) => Some(value),
                    Kind::Get => None,
                })
                .collect(),
        };
        let mut done: Vec<Change> =
            done.into_iter().map(|value| change(i64::try_from(value).unwrap_or(0) + 1, value)).collect();
        done.sort_by_key(|change| change.revision);
        assert_eq!(check(&operations, &done).is_ok(), is_sound, "our checker: {what}");
        if let Some(verdict) = judge(&operations, &done)? {
            assert_eq!(verdict, is_sound, "porcupine: {what}");
        }
    }
    Ok(())
}
