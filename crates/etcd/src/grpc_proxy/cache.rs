//! Answers to ranges, kept for clients that take a stale one (`server/proxy/grpcproxy/cache`): each until a write through
//! the proxy touches it, or newer ones need its place.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use super::upstream::Caller;
use crate::proto as pb;

/// Answers that are kept at most.
pub(super) const ENTRIES_MAX: usize = 2048;

/// Who asked what. etcd's proxy gives one user's answers to another; here each token has its own.
type Key = (Option<String>, Bytes);

/// Kept answers.
pub(super) struct Cache {
    entries: BTreeMap<Key, Entry>,
    /// What was asked last by when it was asked, for the choice of what has to go.
    uses: BTreeMap<u64, Key>,
    next_use: u64,
    compacted: i64,
}

struct Entry {
    answer: pb::RangeResponse,
    /// Nothing for an answer of a past revision, which no write changes.
    range: Option<(Bytes, Bytes)>,
    used: u64,
}

/// What is known of a range.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    Answer(Box<pb::RangeResponse>),
    Compacted,
    Nothing,
}

impl Default for Cache {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), uses: BTreeMap::new(), next_use: 0, compacted: -1 }
    }
}

fn key(caller: &Caller, request: &pb::RangeRequest) -> Key {
    // An answer that had to be up to date will do for those that need not be.
    let request = pb::RangeRequest { serializable: true, ..request.clone() };
    (caller.token.clone(), request.encode_to_vec().into())
}

impl Cache {
    /// Looks an answer up.
    pub(super) fn get(&mut self, caller: &Caller, request: &pb::RangeRequest) -> Found {
        let key = key(caller, request);
        if request.revision > 0 && request.revision < self.compacted {
            self.remove(&key);
            return Found::Compacted;
        }
        let Some(entry) = self.entries.get_mut(&key) else { return Found::Nothing };
        self.uses.remove(&entry.used);
        entry.used = self.next_use;
        self.uses.insert(self.next_use, key);
        self.next_use += 1;
        Found::Answer(Box::new(entry.answer.clone()))
    }

    /// Keeps an answer.
    pub(super) fn add(&mut self, caller: &Caller, request: &pb::RangeRequest, answer: &pb::RangeResponse) {
        if request.revision > 0 && request.revision <= self.compacted {
            return;
        }
        let key = key(caller, request);
        self.remove(&key);
        if self.entries.len() == ENTRIES_MAX
            && let Some((_, oldest)) = self.uses.pop_first()
        {
            self.entries.remove(&oldest);
        }
        let range = (request.revision == 0).then(|| (request.key.clone(), request.range_end.clone()));
        self.uses.insert(self.next_use, key.clone());
        self.entries.insert(key, Entry { answer: answer.clone(), range, used: self.next_use });
        self.next_use += 1;
    }

    /// Forgets what a write to this range may have changed.
    pub(super) fn invalidate(&mut self, key: &[u8], range_end: &[u8]) {
        let touched =
            |entry: &Entry| entry.range.as_ref().is_some_and(|(start, end)| overlap((start, end), (key, range_end)));
        let gone: Vec<Key> =
            self.entries.iter().filter(|(_, entry)| touched(entry)).map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| self.remove(key));
    }

    /// What is older than this revision is not answered any more.
    pub(super) fn compact(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.uses.remove(&entry.used);
        }
    }
}

/// Whether two ranges have a key in common; an empty end is that of one key, a zero byte that of the keyspace.
fn overlap(a: (&[u8], &[u8]), b: (&[u8], &[u8])) -> bool {
    let begins_before_end = |key: &[u8], (start, end): (&[u8], &[u8])| match end {
        [] => key <= start,
        [0] => true,
        end => key < end,
    };
    begins_before_end(a.0, b) && begins_before_end(b.0, a)
}

/// The error of a range that was compacted away.
pub(super) fn compacted() -> Status {
    Status::out_of_range("etcdserver: mvcc: required revision has been compacted")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &str, end: &str, revision: i64) -> pb::RangeRequest {
        let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
        pb::RangeRequest { key, range_end, revision, ..Default::default() }
    }

    fn answer(count: i64) -> pb::RangeResponse {
        pb::RangeResponse { count, ..Default::default() }
    }

    #[test]
    fn ranges_overlap_where_they_share_a_key() {
        let check = |a: (&str, &str), b: (&str, &str), expect: bool| {
            let (a, b) = ((a.0.as_bytes(), a.1.as_bytes()), (b.0.as_bytes(), b.1.as_bytes()));
            assert_eq!((overlap(a, b), overlap(b, a)), (expect, expect), "{a:?} {b:?}");
        };
        check(("a", ""), ("a", ""), true);
        check(("a", ""), ("b", ""), false);
        check(("a", "c"), ("b", ""), true);
        check(("a", "c"), ("c", ""), false);
        check(("a", "c"), ("c", "e"), false);
        check(("a", "d"), ("c", "e"), true);
        check(("a", "\0"), ("z", ""), true);
        check(("b", "\0"), ("a", ""), false);
    }

    #[test]
    fn a_write_forgets_what_it_may_have_changed_and_nothing_else() {
        let mut cache = Cache::default();
        let nobody = Caller::default();
        let (one, all, past) = (range("a", "", 0), range("a", "z", 0), range("a", "", 3));
        for (request, count) in [(&one, 1), (&all, 2), (&past, 3)] {
            cache.add(&nobody, request, &answer(count));
        }
        let serializable = pb::RangeRequest { serializable: true, ..one.clone() };
        assert_eq!(cache.get(&nobody, &serializable), Found::Answer(Box::new(answer(1))));
        let other = Caller { token: Some("t".to_owned()), ..Caller::default() };
        assert_eq!(cache.get(&other, &one), Found::Nothing, "another user's answer");
        cache.invalidate(b"b", b"");
        assert_eq!(cache.get(&nobody, &all), Found::Nothing);
        assert_eq!(cache.get(&nobody, &one), Found::Answer(Box::new(answer(1))));
        cache.invalidate(b"", b"\0");
        assert_eq!(cache.get(&nobody, &one), Found::Nothing);
        assert_eq!(cache.get(&nobody, &past), Found::Answer(Box::new(answer(3))), "the past does not change");
        cache.compact(4);
        assert_eq!(cache.get(&nobody, &past), Found::Compacted);
        assert_eq!(cache.len(), 0);
        cache.add(&nobody, &past, &answer(3));
        assert_eq!(cache.len(), 0);
        cache.add(&nobody, &one, &answer(1));
        assert_eq!(cache.len(), 1, "what is current is kept after a compaction too");
    }

    #[test]
    fn what_was_not_asked_for_longest_goes_first() {
        let mut cache = Cache::default();
        let nobody = Caller::default();
        let nth = |n: usize| range(&n.to_string(), "", 0);
        for n in 0..ENTRIES_MAX {
            cache.add(&nobody, &nth(n), &answer(1));
        }
        assert_ne!(cache.get(&nobody, &nth(0)), Found::Nothing);
        cache.add(&nobody, &nth(ENTRIES_MAX), &answer(1));
        assert_eq!(cache.len(), ENTRIES_MAX);
        assert_ne!(cache.get(&nobody, &nth(0)), Found::Nothing);
        assert_eq!(cache.get(&nobody, &nth(1)), Found::Nothing);
    }
}
