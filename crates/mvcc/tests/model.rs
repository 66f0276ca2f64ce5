//! The keyspace against a naive model: every revision kept as a whole map.

use std::collections::BTreeMap;

use base::Timestamp;
use bytes::Bytes;
use mvcc::{Command, DeleteRangeRequest, Keyspace, PutRequest, RangeRequest, RequestOp, TxnRequest};
use proptest::prelude::*;

type Map = BTreeMap<u8, (u8, i64, i64, i64)>;

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8, u8),
    Txn(Vec<(u8, Option<u8>)>),
    /// A share of the way from the last compaction to now, in tenths.
    Compact(u8),
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0_u8..6;
    let step = prop_oneof![
        6 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        3 => (key.clone(), 0_u8..4).prop_map(|(key, length)| Step::Delete(key, length)),
        3 => proptest::collection::btree_map(key, proptest::option::of(any::<u8>()), 0..4)
            .prop_map(|ops| Step::Txn(ops.into_iter().collect())),
        1 => (0_u8..=10).prop_map(Step::Compact),
        2 => Just(Step::Sweep),
    ];
    proptest::collection::vec(step, 1..60)
}

fn key(key: u8) -> Bytes {
    Bytes::copy_from_slice(&[b'a' + key])
}

fn delete(from: u8, length: u8) -> DeleteRangeRequest {
    let range_end = if length == 0 { Bytes::new() } else { key(from + length) };
    DeleteRangeRequest { key: key(from), range_end, prev_kv: false }
}

/// Applies a step to the newest map; true when it changed something.
fn model(step: &Step, map: &mut Map, revision: i64) -> bool {
    let put = |map: &mut Map, key: u8, value: u8| {
        let (create, version) = map.get(&key).map_or((revision, 0), |old| (old.1, old.3));
        map.insert(key, (value, create, revision, version + 1));
    };
    let before = map.len();
    match step {
        Step::Put(key, value) => put(map, *key, *value),
        Step::Delete(from, length) => {
            map.retain(|key, _| !(*from..*from + (*length).max(1)).contains(key));
            return map.len() != before;
        }
        Step::Txn(ops) => {
            let mut changed = false;
            for (key, value) in ops {
                match value {
                    Some(value) => {
                        put(map, *key, *value);
                        changed = true;
                    }
                    None => changed |= map.remove(key).is_some(),
                }
            }
            return changed;
        }
        Step::Compact(_) | Step::Sweep => return false,
    }
    true
}

fn command(step: &Step, keyspace: &Keyspace) -> Option<Command> {
    let put =
        |k: u8, value: u8| PutRequest { key: key(k), value: Bytes::copy_from_slice(&[value]), ..PutRequest::default() };
    Some(match step {
        Step::Put(key, value) => Command::Put(put(*key, *value)),
        Step::Delete(from, length) => Command::DeleteRange(delete(*from, *length)),
        Step::Txn(ops) => {
            let op = |(key, value): &(u8, Option<u8>)| match value {
                Some(value) => RequestOp::Put(put(*key, *value)),
                None => RequestOp::DeleteRange(delete(*key, 0)),
            };
            Command::Txn(TxnRequest { success: ops.iter().map(op).collect(), ..TxnRequest::default() })
        }
        Step::Compact(tenths) => {
            let (from, to) = (keyspace.state().compacted().max(0), keyspace.state().revision());
            Command::Compact(from + (to - from) * i64::from(*tenths) / 10)
        }
        Step::Sweep => return None,
    })
}

/// Compares every readable revision with the model, and the history from there on with what was recorded.
fn check(keyspace: &Keyspace, maps: &[Map], events: &[(i64, Bytes, bool)]) {
    let state = keyspace.state();
    for (revision, map) in (1_i64..).zip(maps) {
        let request = RangeRequest { revision, ..RangeRequest::prefix(Bytes::new()) };
        let found = state.range(&request);
        if revision < state.compacted() {
            assert!(found.is_err());
            continue;
        }
        let found = found.expect("readable");
        let pairs = found
            .kvs
            .iter()
            .map(|kv| (kv.key[0] - b'a', (kv.value[0], kv.create_revision, kv.mod_revision, kv.version)));
        assert_eq!(&pairs.collect::<Map>(), map, "revision {revision}");
        assert_eq!(found.count, map.len() as i64);
        let history = state.history(b"\0", b"\0", revision, false, usize::MAX).expect("kept");
        let seen: Vec<_> =
            history.events.iter().map(|e| (e.kv.mod_revision, e.kv.key.clone(), e.kv.version == 0)).collect();
        let expect: Vec<_> = events.iter().filter(|event| event.0 >= revision).cloned().collect();
        if revision > state.compacted() {
            assert_eq!(seen, expect, "history from {revision}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_kept_revision_reads_as_it_was(steps in steps()) {
        let mut keyspace = Keyspace::new();
        let (mut maps, mut events) = (vec![Map::new()], Vec::new());
        for step in &steps {
            let Some(command) = command(step, &keyspace) else {
                keyspace.compact_step(3);
                continue;
            };
            let snapshot = keyspace.snapshot();
            let applied = keyspace.apply(&command, Timestamp::EPOCH);
            let mut map = maps.last().expect("never empty").clone();
            if model(step, &mut map, maps.len() as i64 + 1) {
                maps.push(map);
            }
            prop_assert_eq!(keyspace.state().revision(), maps.len() as i64);
            prop_assert!(snapshot.revision() <= keyspace.state().revision());
            for change in applied.changes.iter().flat_map(|changes| &changes.changes) {
                events.push((change.row.kv.mod_revision, change.row.kv.key.clone(), change.row.tombstone));
            }
        }
        check(&keyspace, &maps, &events);
        let state = keyspace.snapshot();
        let rows = state.rows().map(|row| (**row).clone());
        let restored = Keyspace::restore(rows, [], [], keyspace.marks(), Timestamp::EPOCH).expect("consistent");
        check(&restored, &maps, &events);
        prop_assert_eq!(restored.state().hash_kv(0), state.hash_kv(0));
        while keyspace.is_compacting() {
            keyspace.compact_step(1000);
        }
        check(&keyspace, &maps, &events);
        prop_assert_eq!(keyspace.state().hash_kv(0).map(|hash| hash.hash), state.hash_kv(0).map(|hash| hash.hash));
    }
}
