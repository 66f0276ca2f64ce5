//! What a leader knows of each member, and how much it lets be under way to it.

use std::collections::VecDeque;

use crate::types::LogIndex;

/// How a leader sends to a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// Where the logs agree is unknown: one message, then wait.
    Probe,
    /// They agree: send ahead of the answers.
    Replicate,
    /// A snapshot as of at least this index is under way: send nothing else.
    Snapshot(LogIndex),
}

/// A leader's knowledge of one member.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The last entry known to be durable there.
    pub matched: LogIndex,
    /// The next entry to send.
    pub next: LogIndex,
    /// How it is sent to.
    pub pace: Pace,
    /// Whether it answered lately.
    pub recent_active: bool,
    /// The latest read round it confirmed.
    pub(crate) read_round: u64,
    /// In `Probe`: a message is under way.
    pub(crate) paused: bool,
    inflight: VecDeque<LogIndex>,
    inflight_max: usize,
}

impl Progress {
    pub(crate) fn new(next: LogIndex, inflight_max: usize) -> Self {
        Self {
            matched: LogIndex(0),
            next,
            pace: Pace::Probe,
            recent_active: false,
            read_round: 0,
            paused: false,
            inflight: VecDeque::new(),
            inflight_max: inflight_max.max(1),
        }
    }

    /// Whether nothing may be sent now.
    pub(crate) fn is_paused(&self) -> bool {
        match self.pace {
            Pace::Probe => self.paused,
            Pace::Replicate => self.inflight.len() >= self.inflight_max,
            Pace::Snapshot(_) => true,
        }
    }

    /// Entries up to `last` were sent (none if it is before `next`).
    pub(crate) fn sent(&mut self, last: LogIndex) {
        match self.pace {
            Pace::Replicate if last >= self.next => {
                self.next = last.next();
                self.inflight.push_back(last);
            }
            Pace::Probe => self.paused = true,
            Pace::Replicate | Pace::Snapshot(_) => {}
        }
    }

    /// The member confirmed `index`. Returns whether that is news.
    pub(crate) fn confirmed(&mut self, index: LogIndex) -> bool {
        let news = index > self.matched;
        if news {
            self.matched = index;
            self.paused = false;
        }
        self.next = self.next.max(index.next());
        while self.inflight.front().is_some_and(|last| *last <= index) {
            self.inflight.pop_front();
        }
        news
    }

    /// The member refused what followed `rejected`. Returns whether to try again from `hint`.
    pub(crate) fn rejected(&mut self, rejected: LogIndex, hint: LogIndex) -> bool {
        match self.pace {
            Pace::Replicate => {
                if rejected <= self.matched {
                    return false;
                }
                self.probe();
                true
            }
            Pace::Probe => {
                if self.next.previous() != rejected {
                    return false;
                }
                self.next = rejected.min(hint.next()).max(self.matched.next());
                self.paused = false;
                true
            }
            Pace::Snapshot(_) => false,
        }
    }

    /// Goes back to one message at a time, from what is certain.
    pub(crate) fn probe(&mut self) {
        let certain = match self.pace {
            Pace::Snapshot(index) => self.matched.max(index),
            Pace::Probe | Pace::Replicate => self.matched,
        };
        self.next = certain.next();
        self.pace = Pace::Probe;
        self.paused = false;
        self.inflight.clear();
    }

    /// The logs agree: send ahead.
    pub(crate) fn replicate(&mut self) {
        self.pace = Pace::Replicate;
        self.next = self.matched.next();
        self.paused = false;
        self.inflight.clear();
    }

    /// A snapshot goes out.
    pub(crate) fn snapshot(&mut self, index: LogIndex) {
        self.pace = Pace::Snapshot(index);
        self.inflight.clear();
    }

    /// The member is there; if the window is full, an answer was lost: open it by one.
    pub(crate) fn alive(&mut self) {
        self.recent_active = true;
        self.paused = false;
        if self.inflight.len() >= self.inflight_max {
            self.inflight.pop_front();
        }
    }
}
