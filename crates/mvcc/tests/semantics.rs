//! etcd's rules, as a user of the keyspace can rely on them.

use base::Timestamp;
use bytes::Bytes;
use mvcc::{
    Alarm, AlarmKind, Command, Compare, CompareResult, CompareTarget, DeleteRangeRequest, EventKind, Keyspace,
    MvccError, PutRequest, RangeRequest, RequestOp, Response, ResponseOp, SortOrder, SortTarget, TxnRequest,
    TxnResponse,
};

const NOW: Timestamp = Timestamp::from_unix_seconds(1000);

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put_request(key: &str, value: &str) -> PutRequest {
    PutRequest { key: text(key), value: text(value), ..PutRequest::default() }
}

fn put(keyspace: &mut Keyspace, key: &str, value: &str) -> i64 {
    match apply(keyspace, &Command::Put(put_request(key, value))) {
        Ok(Response::Put(response)) => response.revision,
        other => panic!("{other:?}"),
    }
}

fn delete(keyspace: &mut Keyspace, key: &str, range_end: &str) -> i64 {
    let request = DeleteRangeRequest { key: text(key), range_end: text(range_end), prev_kv: false };
    match apply(keyspace, &Command::DeleteRange(request)) {
        Ok(Response::DeleteRange(response)) => response.deleted,
        other => panic!("{other:?}"),
    }
}

fn apply(keyspace: &mut Keyspace, command: &Command) -> Result<Response, MvccError> {
    keyspace.apply(command, NOW).answer
}

fn txn(keyspace: &mut Keyspace, request: TxnRequest) -> Result<TxnResponse, MvccError> {
    match apply(keyspace, &Command::Txn(request))? {
        Response::Txn(response) => Ok(response),
        other => panic!("{other:?}"),
    }
}

/// `key=value` of what a range finds, then `count` and whether there is more.
fn show(keyspace: &Keyspace, request: &RangeRequest) -> String {
    match keyspace.state().range(request) {
        Ok(found) => {
            let pair = |kv: &mvcc::KeyValue| {
                format!("{}={}", String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value))
            };
            let kvs: Vec<String> = found.kvs.iter().map(pair).collect();
            format!("{} count={}{}", kvs.join(" "), found.count, if found.more { " more" } else { "" })
        }
        Err(error) => error.to_string(),
    }
}

fn all() -> RangeRequest {
    RangeRequest::prefix(Bytes::new())
}

fn sample() -> Keyspace {
    let mut keyspace = Keyspace::new();
    put(&mut keyspace, "a", "3");
    put(&mut keyspace, "b", "1");
    put(&mut keyspace, "c", "2");
    put(&mut keyspace, "b", "9");
    keyspace
}

#[test]
fn revisions_count_changes_only() {
    let mut keyspace = Keyspace::new();
    assert_eq!(keyspace.state().revision(), 1);
    assert_eq!(put(&mut keyspace, "a", "1"), 2);
    assert_eq!(put(&mut keyspace, "a", "1"), 3);
    assert_eq!(delete(&mut keyspace, "x", ""), 0);
    assert_eq!(keyspace.state().revision(), 3);
    assert_eq!(delete(&mut keyspace, "a", ""), 1);
    assert_eq!(put(&mut keyspace, "a", "2"), 5);
    let kv = keyspace.state().range(&RangeRequest::key("a")).expect("readable").kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (5, 5, 1));
}

#[test]
fn ranges_count_before_they_cut() {
    let keyspace = sample();
    let check = |request: RangeRequest, expect: &str| assert_eq!(show(&keyspace, &request), expect, "{request:?}");
    let base = all();
    check(base.clone(), "a=3 b=9 c=2 count=3");
    check(RangeRequest { limit: 2, ..base.clone() }, "a=3 b=9 count=3 more");
    check(RangeRequest { revision: 4, ..base.clone() }, "a=3 b=1 c=2 count=3");
    check(RangeRequest { revision: 3, limit: 1, ..base.clone() }, "a=3 count=2 more");
    check(RangeRequest { revision: 6, ..base.clone() }, "etcdserver: mvcc: required revision is a future revision");
    check(RangeRequest { count_only: true, limit: 1, ..base.clone() }, " count=3");
    check(RangeRequest { keys_only: true, ..base.clone() }, "a= b= c= count=3");
    check(RangeRequest { min_mod_revision: 4, ..base.clone() }, "b=9 c=2 count=3");
    check(RangeRequest { max_create_revision: 2, ..base.clone() }, "a=3 count=3");
    let descending = RangeRequest { sort_order: SortOrder::Descend, ..base.clone() };
    check(descending.clone(), "c=2 b=9 a=3 count=3");
    check(RangeRequest { sort_target: SortTarget::Value, limit: 1, ..descending }, "b=9 count=3 more");
    // A sort target without an order sorts what the limit left (one more than asked for is read).
    check(RangeRequest { sort_target: SortTarget::Create, limit: 1, ..base.clone() }, "a=3 count=3 more");
    check(RangeRequest { key: text("b"), range_end: text("a"), ..base }, " count=0");
    check(RangeRequest { range_end: text("\0"), ..RangeRequest::key("b") }, "b=9 c=2 count=2");
}

#[test]
fn transactions_compare_first_and_then_run_in_order() {
    let mut keyspace = sample();
    let range = |key: &str| RequestOp::Range(RangeRequest::key(text(key)));
    let nested = TxnRequest {
        compare: vec![Compare::mod_revision("n", 0)],
        success: vec![RequestOp::Put(put_request("m", "created"))],
        failure: Vec::new(),
    };
    let request = TxnRequest {
        compare: vec![Compare::mod_revision("a", 2)],
        success: vec![RequestOp::Put(put_request("n", "1")), range("n"), RequestOp::Txn(nested)],
        failure: vec![range("a")],
    };
    let response = txn(&mut keyspace, request).expect("it holds");
    assert!(response.succeeded);
    assert_eq!(response.revision, 6);
    let ResponseOp::Range(found) = &response.responses[1] else { panic!("a range") };
    assert_eq!(found.kvs.len(), 1, "later operations see earlier ones");
    let ResponseOp::Txn(inner) = &response.responses[2] else { panic!("a transaction") };
    assert!(inner.succeeded, "compares look at the state before the whole transaction");
    let one = keyspace.state().range(&RangeRequest::key("m")).expect("readable").kvs.remove(0);
    assert_eq!(one.mod_revision, 6, "everything shares one revision");
}

#[test]
fn compares_treat_missing_keys_as_etcd_does() {
    let mut keyspace = sample();
    let mut check = |key: &str, result: CompareResult, target: CompareTarget, expect: bool| {
        let compare = Compare { result, target, key: text(key), range_end: Bytes::new() };
        let request = TxnRequest { compare: vec![compare.clone()], ..TxnRequest::default() };
        assert_eq!(txn(&mut keyspace, request).expect("valid").succeeded, expect, "{compare:?}");
    };
    use CompareResult::{Equal, Greater, Less, NotEqual, Other};
    check("x", Equal, CompareTarget::Version(0), true);
    check("x", Less, CompareTarget::Mod(1), true);
    check("x", NotEqual, CompareTarget::Value(text("1")), false);
    check("a", NotEqual, CompareTarget::Value(text("1")), true);
    check("b", Greater, CompareTarget::Version(1), true);
    check("b", Equal, CompareTarget::Create(3), true);
    check("b", Other, CompareTarget::Create(99), true);
    check("a", Equal, CompareTarget::Lease(0), true);
    check("a", Equal, CompareTarget::Unknown, true);
    check("x", Greater, CompareTarget::Unknown, false);
}

#[test]
fn a_transaction_that_cannot_be_done_changes_nothing() {
    let mut keyspace = sample();
    let lease = PutRequest { lease: 7, ..put_request("z", "1") };
    let future = RangeRequest { revision: 6, ..RangeRequest::key("a") };
    let keep = PutRequest { ignore_value: true, ..put_request("z", "") };
    let cases = [
        (RequestOp::Put(lease), MvccError::LeaseNotFound),
        (RequestOp::Range(future), MvccError::FutureRevision),
        (RequestOp::Put(keep), MvccError::KeyNotFound),
    ];
    for (bad, error) in cases {
        let success = vec![RequestOp::Put(put_request("a", "x")), bad];
        assert_eq!(txn(&mut keyspace, TxnRequest { success, ..TxnRequest::default() }), Err(error));
        assert_eq!(keyspace.state().revision(), 5);
    }
}

#[test]
fn a_put_alone_looks_at_its_lease_first_and_one_in_a_transaction_at_its_key() {
    let mut keyspace = sample();
    let bad = PutRequest { ignore_value: true, lease: 7, ..put_request("z", "") };
    assert_eq!(apply(&mut keyspace, &Command::Put(bad.clone())), Err(MvccError::LeaseNotFound));
    let success = vec![RequestOp::Put(bad)];
    let request = TxnRequest { success, ..TxnRequest::default() };
    assert_eq!(txn(&mut keyspace, request), Err(MvccError::KeyNotFound));
}

#[test]
fn compaction_forgets_what_nobody_can_reach() {
    let mut keyspace = sample();
    delete(&mut keyspace, "a", "");
    delete(&mut keyspace, "c", "");
    put(&mut keyspace, "d", "4");
    let before = keyspace.state().hash_kv(0).expect("readable").hash;
    let compact = |keyspace: &mut Keyspace, revision| apply(keyspace, &Command::Compact(revision)).map(drop);
    assert_eq!(compact(&mut keyspace, 9), Err(MvccError::FutureRevision));
    assert_eq!(compact(&mut keyspace, 7), Ok(()));
    assert_eq!(compact(&mut keyspace, 7), Err(MvccError::Compacted { revision: 7 }));
    let mut steps = 0;
    while keyspace.is_compacting() {
        keyspace.compact_step(2);
        steps += 1;
    }
    assert!(steps > 2);
    let rows: Vec<i64> = keyspace.state().rows().map(|row| row.kv.mod_revision).collect();
    assert_eq!(rows, [5, 7, 8], "b's newest, the tombstone exactly at the compaction, and what came later");
    assert_eq!(show(&keyspace, &RangeRequest { revision: 6, ..all() }), MvccError::Compacted { revision: 7 }.text());
    assert_eq!(show(&keyspace, &RangeRequest { revision: 7, ..all() }), "b=9 count=1");
    assert_eq!(keyspace.state().history(b"a", b"z", 6, false, 10), Err(MvccError::Compacted { revision: 7 }));
    let history = keyspace.state().history(b"a", b"z", 7, true, 10).expect("kept");
    let kinds: Vec<_> = history.events.iter().map(|event| (event.kind, event.kv.mod_revision)).collect();
    assert_eq!(kinds, [(EventKind::Delete, 7), (EventKind::Put, 8)]);
    assert_ne!(before, keyspace.state().hash_kv(0).expect("readable").hash);
}

#[test]
fn history_never_splits_a_revision() {
    let mut keyspace = Keyspace::new();
    for _ in 0..3 {
        let success = vec![RequestOp::Put(put_request("a", "1")), RequestOp::Put(put_request("b", "2"))];
        txn(&mut keyspace, TxnRequest { success, ..TxnRequest::default() }).expect("valid");
    }
    let piece = keyspace.state().history(b"", b"\0", 1, true, 2).expect("kept");
    assert_eq!((piece.events.len(), piece.through), (4, 3));
    assert!(piece.events[0].prev_kv.is_none() && piece.events[2].prev_kv.is_some());
    let rest = keyspace.state().history(b"", b"\0", piece.through + 1, false, 2).expect("kept");
    assert_eq!((rest.events.len(), rest.through), (2, 4));
}

#[test]
fn a_lease_takes_its_keys_along_in_one_revision() {
    let mut keyspace = Keyspace::new();
    let grant = Command::LeaseGrant { id: 7, ttl: 10 };
    apply(&mut keyspace, &grant).expect("new");
    assert_eq!(apply(&mut keyspace, &grant), Err(MvccError::LeaseExists));
    for key in ["b", "a", "c"] {
        apply(&mut keyspace, &Command::Put(PutRequest { lease: 7, ..put_request(key, "v") })).expect("lease exists");
    }
    put(&mut keyspace, "c", "detached");
    let later = NOW + std::time::Duration::from_secs(9);
    assert_eq!(keyspace.state().lease(7, later, true).expect("there").keys, [text("a"), text("b")]);
    assert_eq!(keyspace.expired(later, 9), Vec::<i64>::new());
    assert_eq!(keyspace.renew(7, later), Some(10));
    let end = later + std::time::Duration::from_secs(10);
    assert_eq!((keyspace.expired(end, 9), keyspace.renew(7, end)), (vec![7], None));
    let applied = keyspace.apply(&Command::LeaseRevoke { id: 7 }, end);
    let changes = applied.changes.expect("two deletions");
    assert_eq!((changes.revision, changes.changes.len()), (6, 2));
    assert_eq!(show(&keyspace, &all()), "c=detached count=1");
    assert_eq!(apply(&mut keyspace, &Command::LeaseRevoke { id: 7 }), Err(MvccError::LeaseNotFound));
    let too_long = Command::LeaseGrant { id: 8, ttl: 9_000_000_001 };
    assert_eq!(apply(&mut keyspace, &too_long), Err(MvccError::LeaseTtlTooLarge));
}

#[test]
fn without_space_only_what_frees_it_goes_on() {
    let mut keyspace = sample();
    let alarm = Alarm { member: 1, kind: AlarmKind::NoSpace };
    apply(&mut keyspace, &Command::AlarmRaise(alarm)).expect("raised");
    assert_eq!(apply(&mut keyspace, &Command::Put(put_request("a", "1"))), Err(MvccError::NoSpace));
    let grant = Command::LeaseGrant { id: 1, ttl: 5 };
    assert_eq!(apply(&mut keyspace, &grant), Err(MvccError::NoSpace));
    assert_eq!(delete(&mut keyspace, "a", ""), 1);
    // Zero is a member like others here: etcdctl lists alarms and clears one after the other.
    apply(&mut keyspace, &Command::AlarmClear(Alarm { member: 0, ..alarm })).expect("none");
    assert_eq!(apply(&mut keyspace, &Command::Put(put_request("a", "1"))), Err(MvccError::NoSpace));
    apply(&mut keyspace, &Command::AlarmClear(alarm)).expect("cleared");
    put(&mut keyspace, "a", "again");
}

#[test]
fn a_new_leader_gives_leases_what_was_noted_and_not_more() {
    let second = std::time::Duration::from_secs;
    let mut keyspace = Keyspace::new();
    for (id, ttl) in [(7, 1000), (8, 100), (9, 1000)] {
        apply(&mut keyspace, &Command::LeaseGrant { id, ttl }).expect("new");
    }
    assert_eq!(keyspace.lease_checkpoints(NOW, second(300)), [], "none has used any of its time");
    keyspace.renew(9, NOW + second(400));
    let later = NOW + second(400);
    assert_eq!(keyspace.lease_checkpoints(later, second(300)), [(7, 600)], "9 is fresh and 8 too short");
    let noted = vec![(7, 600), (404, 5)];
    let applied = keyspace.apply(&Command::LeaseCheckpoint(noted), later);
    assert_eq!(applied.batch.leases.len(), 1, "a lease that is gone is passed over");
    assert!(applied.changes.is_none());
    keyspace.renew_all(later, second(1));
    let left = |keyspace: &Keyspace, id| keyspace.state().lease(id, later, false).map(|lease| lease.remaining);
    assert_eq!((left(&keyspace, 7), left(&keyspace, 9)), (Some(601), Some(1001)));
    // So it is for whoever starts from what was stored.
    let records: Vec<_> = keyspace.state().lease_records().collect();
    let restored = Keyspace::restore([], records, [], keyspace.marks(), later);
    let mut restored = restored.expect("consistent");
    restored.renew_all(later, second(0));
    assert_eq!(left(&restored, 7), Some(600));
    // A renewal makes it void.
    assert!(keyspace.state().has_lease_checkpoint(7));
    apply(&mut keyspace, &Command::LeaseCheckpoint(vec![(7, 0)])).expect("noted");
    keyspace.renew_all(later, second(0));
    assert_eq!(left(&keyspace, 7), Some(1000));
}

#[test]
fn keys_are_counted_while_they_exist() {
    let mut keyspace = sample();
    let count = |keyspace: &Keyspace| keyspace.state().keys_total();
    let before = count(&keyspace);
    put(&mut keyspace, "fresh", "1");
    put(&mut keyspace, "fresh", "2");
    assert_eq!(count(&keyspace), before + 1);
    delete(&mut keyspace, "fresh", "");
    assert_eq!(count(&keyspace), before);
    let revision = keyspace.state().revision();
    apply(&mut keyspace, &Command::Compact(revision)).expect("in range");
    while keyspace.is_compacting() {
        keyspace.compact_step(9);
    }
    assert_eq!(count(&keyspace), before);
    put(&mut keyspace, "fresh", "3");
    assert_eq!(count(&keyspace), before + 1);
}

#[test]
fn a_restored_keyspace_is_the_same() {
    let mut keyspace = sample();
    apply(&mut keyspace, &Command::LeaseGrant { id: 7, ttl: 10 }).expect("new");
    apply(&mut keyspace, &Command::Put(PutRequest { lease: 7, ..put_request("l", "v") })).expect("lease exists");
    delete(&mut keyspace, "l", "");
    apply(&mut keyspace, &Command::Put(PutRequest { lease: 7, ..put_request("l", "w") })).expect("lease exists");
    delete(&mut keyspace, "b", "");
    apply(&mut keyspace, &Command::Compact(8)).expect("in range");
    keyspace.compact_step(1);
    let state = keyspace.snapshot();
    let rows: Vec<_> = state.rows().map(|row| mvcc::Row::from_disk(&row.disk_key(), &row.disk_value())).collect();
    let rows = rows.into_iter().map(|row| row.expect("readable"));
    let restored = Keyspace::restore(rows, state.lease_records(), state.alarms(), keyspace.marks(), NOW);
    let mut restored = restored.expect("consistent");
    assert_eq!(restored.state().hash_kv(0), state.hash_kv(0));
    assert_eq!(show(&restored, &all()), show(&keyspace, &all()));
    assert_eq!(restored.state().lease(7, NOW, true), state.lease(7, NOW, true));
    assert!(restored.is_compacting(), "an interrupted compaction goes on");
    assert_eq!(put(&mut restored, "n", "1"), put(&mut keyspace, "n", "1"));
}
