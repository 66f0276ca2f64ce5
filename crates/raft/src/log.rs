//! The entries held in memory: everything after the last checkpoint.

use std::collections::VecDeque;

use crate::types::{Entry, LogIndex, Term};

#[derive(Debug)]
pub(crate) struct Log {
    /// The entry before the first one held: the snapshot's.
    base: LogIndex,
    base_term: Term,
    entries: VecDeque<Entry>,
}

impl Log {
    pub(crate) fn new(base: LogIndex, base_term: Term, entries: Vec<Entry>) -> Self {
        let mut expect = base.next();
        for entry in &entries {
            assert_eq!(entry.index, expect, "the restored log has a gap");
            expect = expect.next();
        }
        Self { base, base_term, entries: entries.into() }
    }

    pub(crate) fn base(&self) -> LogIndex {
        self.base
    }

    pub(crate) fn last_index(&self) -> LogIndex {
        LogIndex(self.base.0 + self.entries.len() as u64)
    }

    pub(crate) fn last_term(&self) -> Term {
        self.entries.back().map_or(self.base_term, |entry| entry.term)
    }

    /// The term of an entry, if it is held or is the base.
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.base { Some(self.base_term) } else { self.get(index).map(|entry| entry.term) }
    }

    pub(crate) fn get(&self, index: LogIndex) -> Option<&Entry> {
        let place = index.0.checked_sub(self.base.0 + 1)?;
        self.entries.get(usize::try_from(place).ok()?)
    }

    /// Whether a log that ends so is at least as complete as this one (dissertation §3.6.1).
    pub(crate) fn is_covered_by(&self, last_index: LogIndex, last_term: Term) -> bool {
        (last_term, last_index) >= (self.last_term(), self.last_index())
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last_index().next(), "entries are appended without gaps");
        self.entries.push_back(entry);
    }

    /// Drops the entry at `index` and all after it.
    pub(crate) fn truncate(&mut self, index: LogIndex) {
        assert!(index > self.base, "a checkpointed entry cannot be taken back");
        self.entries.truncate((index.0 - self.base.0 - 1) as usize);
    }

    /// Forgets entries up to and including `index`, whose effects a checkpoint holds.
    pub(crate) fn compact(&mut self, index: LogIndex) {
        let Some(term) = self.term(index) else { return };
        self.entries.drain(..(index.0 - self.base.0) as usize);
        (self.base, self.base_term) = (index, term);
    }

    /// Starts again after a snapshot.
    pub(crate) fn reset(&mut self, base: LogIndex, base_term: Term) {
        self.entries.clear();
        (self.base, self.base_term) = (base, base_term);
    }

    /// Entries from `from` on: at least one if there is one, no more than `max_bytes` otherwise.
    pub(crate) fn slice(&self, from: LogIndex, max_bytes: usize) -> Vec<Entry> {
        let mut size = 0;
        let mut taken = Vec::new();
        let start = (from.0 - self.base.0 - 1) as usize;
        for entry in self.entries.range(start.min(self.entries.len())..) {
            size += entry.size();
            if !taken.is_empty() && size > max_bytes {
                break;
            }
            taken.push(entry.clone());
        }
        taken
    }

    /// Entries in `from..=to`.
    pub(crate) fn between(&self, from: LogIndex, to: LogIndex) -> Vec<Entry> {
        let place = |index: LogIndex| (index.0 - self.base.0 - 1) as usize;
        self.entries.range(place(from)..=place(to)).cloned().collect()
    }

    /// The greatest index up to `index` whose term is at most `term`: where two logs may agree.
    pub(crate) fn possible_agreement(&self, index: LogIndex, term: Term) -> (LogIndex, Term) {
        let mut at = index.min(self.last_index());
        while at > self.base && self.term(at).is_some_and(|held| held > term) {
            at = at.previous();
        }
        (at, self.term(at).unwrap_or_default())
    }
}
