//! Mutated inputs for what reads the bytes of strangers, on stable Rust.
//!
//! ```text
//! seeds (made by the test, good ones) ─► a few edits: bits, bytes, cuts, repeats, pieces of other seeds, words ─► the check
//! ```
//! The check panics when its property does not hold; the input is made smaller and printed. An input that takes too long ends the
//! process with that input, and so does memory that grows without an end.
//!
//! `FUZZ_CASES` is how many inputs a target sees; the usual number takes seconds for all targets together.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{TestCaseError, TestError, TestRunner};

const CASES: u32 = 4000;
const EDITS_MAX: usize = 6;
/// Inputs that grew longer are cut.
const BYTES_MAX: usize = 256 * 1024;
/// No input here is worth so much time, not even on a busy machine.
const CASE_LIMIT: Duration = Duration::from_secs(10);
/// What a target may add to the process' highest memory.
const MEMORY_KIB_MAX: u64 = 512 * 1024;

/// One change of an input; places are relative to its length.
#[derive(Clone, Debug)]
enum Edit {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Word(Index, Index),
    Cut(Index, Index),
    End(Index),
    Repeat(Index, Index, u8),
    Splice(Index, Index, Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = any::<Index>;
    prop_oneof![
        4 => (place(), 0..8_u8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        2 => (place(), prop_oneof![Just(0), Just(0x7f), Just(0x80), Just(0xff), any::<u8>()])
            .prop_map(|(at, byte)| Edit::Set(at, byte)),
        1 => (place(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        3 => (place(), place()).prop_map(|(at, word)| Edit::Word(at, word)),
        2 => (place(), place()).prop_map(|(from, to)| Edit::Cut(from, to)),
        1 => place().prop_map(Edit::End),
        1 => (place(), place(), 1..64_u8).prop_map(|(from, to, times)| Edit::Repeat(from, to, times)),
        1 => (place(), place(), place()).prop_map(|(seed, from, at)| Edit::Splice(seed, from, at)),
    ]
}

/// A target: good inputs, and words of its language.
#[derive(Clone, Debug, Default)]
pub struct Fuzz {
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    divisor: u32,
}

impl Fuzz {
    /// With these inputs to begin from.
    ///
    /// # Panics
    /// Without any.
    pub fn of<S: Into<Vec<u8>>>(seeds: impl IntoIterator<Item = S>) -> Self {
        let seeds: Vec<Vec<u8>> = seeds.into_iter().map(Into::into).collect();
        assert!(!seeds.is_empty(), "something to begin from");
        Self { seeds, words: vec![vec![0]], divisor: 1 }
    }

    /// Pieces that are put in as they are.
    #[must_use]
    pub fn words<W: Into<Vec<u8>>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.words.extend(words.into_iter().map(Into::into));
        self
    }

    /// A check that costs so many times more than others gets so many times fewer inputs.
    #[must_use]
    pub const fn costly(mut self, times: u32) -> Self {
        self.divisor = times;
        self
    }

    /// Shows the check inputs until it panics or has seen enough; every seed as it is comes first.
    ///
    /// # Panics
    /// With the smallest input that was found to break the check.
    pub fn run(&self, check: impl Fn(&[u8])) {
        let before = peak_kib();
        let watched = Watched::new();
        for seed in &self.seeds {
            watched.case(seed, &check);
        }
        let asked = std::env::var("FUZZ_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES);
        let cases = (asked / self.divisor.max(1)).max(1);
        let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
        let inputs = (any::<Index>(), vec(edit(), 0..=EDITS_MAX));
        let result = TestRunner::new(config).run(&inputs, |(seed, edits)| {
            let input = self.input(seed, &edits);
            catch_unwind(AssertUnwindSafe(|| watched.case(&input, &check)))
                .map_err(|panic| TestCaseError::fail(text(panic.as_ref())))
        });
        match result {
            Ok(()) => {}
            Err(TestError::Fail(why, (seed, edits))) => {
                panic!("{why}\ninput: {}", self.input(seed, &edits).escape_ascii());
            }
            Err(TestError::Abort(why)) => panic!("{why}"),
        }
        let grown = peak_kib().saturating_sub(before);
        assert!(grown <= MEMORY_KIB_MAX, "memory grew by {grown} KiB");
    }

    fn input(&self, seed: Index, edits: &[Edit]) -> Vec<u8> {
        let mut bytes = seed.get(&self.seeds).clone();
        for edit in edits {
            self.apply(&mut bytes, edit);
            bytes.truncate(BYTES_MAX);
        }
        bytes
    }

    fn apply(&self, bytes: &mut Vec<u8>, edit: &Edit) {
        // One more place than there are bytes: the end.
        let place = |index: &Index, length: usize| index.index(length + 1);
        let range = |a: &Index, b: &Index, length: usize| {
            let (a, b) = (place(a, length), place(b, length));
            a.min(b)..a.max(b)
        };
        let length = bytes.len();
        match edit {
            Edit::Flip(..) | Edit::Set(..) if length == 0 => {}
            Edit::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Edit::Set(at, byte) => bytes[at.index(length)] = *byte,
            Edit::Insert(at, new) => drop(bytes.splice(splice_at(at, length), new.iter().copied())),
            Edit::Word(at, word) => drop(bytes.splice(splice_at(at, length), word.get(&self.words).iter().copied())),
            Edit::Cut(from, to) => drop(bytes.drain(range(from, to, length))),
            Edit::End(at) => bytes.truncate(place(at, length)),
            Edit::Repeat(from, to, times) => {
                let range = range(from, to, length);
                let (at, piece) = (range.end, bytes[range].repeat(usize::from(*times)));
                bytes.splice(at..at, piece);
            }
            Edit::Splice(seed, from, at) => {
                let other = seed.get(&self.seeds);
                bytes.truncate(place(at, length));
                bytes.extend(&other[place(from, other.len())..]);
            }
        }
    }
}

fn splice_at(index: &Index, length: usize) -> std::ops::Range<usize> {
    let at = index.index(length + 1);
    at..at
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().cloned();
    said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "a panic".to_owned())
}

/// The highest memory of this process so far, where the system tells.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Somebody who ends the process when a case does not end.
struct Watched {
    current: Arc<Mutex<Vec<u8>>>,
    begun: Sender<bool>,
}

impl Watched {
    fn new() -> Self {
        let (begun, watch) = channel();
        let current = Arc::new(Mutex::new(Vec::new()));
        let shown = Arc::clone(&current);
        std::thread::spawn(move || {
            let mut running = false;
            loop {
                match watch.recv_timeout(CASE_LIMIT) {
                    Ok(state) => running = state,
                    Err(RecvTimeoutError::Timeout) if running => {
                        let input = shown.lock().unwrap_or_else(PoisonError::into_inner);
                        // A panic of this thread would be heard only when the case ends.
                        let _ = std::io::Write::write_all(
                            &mut std::io::stderr(),
                            format!("no end within {CASE_LIMIT:?}: {}\n", input.escape_ascii()).as_bytes(),
                        );
                        std::process::abort();
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        Self { current, begun }
    }

    fn case(&self, input: &[u8], check: &impl Fn(&[u8])) {
        input.clone_into(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = self.begun.send(true);
        let result = catch_unwind(AssertUnwindSafe(|| check(input)));
        let _ = self.begun.send(false);
        if let Err(panic) = result {
            resume_unwind(panic);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_check_that_does_not_hold_is_found_and_told_with_its_input() {
        let found = catch_unwind(|| Fuzz::of(["GET /"]).run(|input| assert!(!input.contains(&b'!'), "an exclamation")));
        let why = text(found.unwrap_err().as_ref());
        assert!(why.contains("an exclamation") && why.contains('!'), "{why}");
    }

    #[test]
    fn all_seeds_and_words_are_seen() {
        let (first, second, word) = (Cell::new(0), Cell::new(0), Cell::new(0));
        Fuzz::of(["one", "two"]).words(["<word>"]).run(|input| {
            let count = |cell: &Cell<u32>, piece: &[u8]| {
                cell.set(cell.get() + u32::from(input.windows(piece.len()).any(|window| window == piece)));
            };
            count(&first, b"one");
            count(&second, b"two");
            count(&word, b"<word>");
        });
        assert!([&first, &second, &word].iter().all(|seen| seen.get() > 10), "{first:?} {second:?} {word:?}");
    }
}
