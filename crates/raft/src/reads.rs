//! Linearizable reads: an index that the leader confirms to be current (dissertation §6.4).

use std::collections::VecDeque;

use crate::io::{Output, Refusal, Role};
use crate::message::Body;
use crate::node::Raft;
use crate::types::{LogIndex, MemberId};

/// Reads that wait for a majority to confirm the leader.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// The latest round; each read starts one.
    round: u64,
    waiting: VecDeque<Read>,
    /// Reads that came before the leader committed anything in its term.
    early: Vec<(Option<MemberId>, u64)>,
}

#[derive(Debug)]
struct Read {
    round: u64,
    index: LogIndex,
    asker: Option<MemberId>,
    context: u64,
}

impl Reads {
    /// Forgets everything; returns the marks of this member's own reads.
    pub(crate) fn abandon(&mut self) -> Vec<u64> {
        let waiting = self.waiting.drain(..).map(|read| (read.asker, read.context));
        waiting.chain(self.early.drain(..)).filter(|(asker, _)| asker.is_none()).map(|(_, context)| context).collect()
    }

    pub(crate) fn round(&self) -> u64 {
        self.round
    }
}

impl Raft {
    pub(crate) fn read_index(&mut self, asker: Option<MemberId>, context: u64, out: &mut Vec<Output>) {
        match (self.role, self.leader, asker) {
            (Role::Leader, _, _) => self.read_as_leader(asker, context, out),
            (_, Some(leader), None) => self.send(leader, Body::ReadIndex { context }, false, out),
            (_, None, None) => out.push(Output::Refused { context, reason: Refusal::NoLeader }),
            // Passed on by a member that has not heard of the new leader: it will ask again.
            (_, _, Some(_)) => {}
        }
    }

    fn read_as_leader(&mut self, asker: Option<MemberId>, context: u64, out: &mut Vec<Output>) {
        if !self.committed_in_term() {
            self.reads.early.push((asker, context));
            return;
        }
        let index = self.commit;
        if self.is_alone() {
            self.answer_read(asker, context, index, out);
            return;
        }
        self.reads.round += 1;
        self.reads.waiting.push_back(Read { round: self.reads.round, index, asker, context });
        self.broadcast_heartbeat(out);
    }

    pub(crate) fn committed_in_term(&self) -> bool {
        self.log.term(self.commit) == Some(self.term)
    }

    /// The leader has committed in its term: early reads may start.
    pub(crate) fn start_early_reads(&mut self, out: &mut Vec<Output>) {
        if !self.reads.early.is_empty() && self.committed_in_term() {
            for (asker, context) in std::mem::take(&mut self.reads.early) {
                self.read_as_leader(asker, context, out);
            }
        }
    }

    /// Answers the reads whose round a majority confirmed.
    pub(crate) fn confirm_reads(&mut self, out: &mut Vec<Output>) {
        let (id, round) = (self.config.id, self.reads.round);
        let confirmed = |member| {
            let progress = self.progress.get(&member);
            if member == id { round } else { progress.map_or(0, |progress| progress.read_round) }
        };
        let Some(confirmed) = self.members().reached_by_majority(confirmed) else { return };
        while self.reads.waiting.front().is_some_and(|read| read.round <= confirmed) {
            let read = self.reads.waiting.pop_front().expect("there is a first");
            self.answer_read(read.asker, read.context, read.index, out);
        }
    }

    fn answer_read(&mut self, asker: Option<MemberId>, context: u64, index: LogIndex, out: &mut Vec<Output>) {
        match asker {
            None => out.push(Output::ReadReady { context, index }),
            Some(to) => self.send(to, Body::ReadIndexReply { context, index }, false, out),
        }
    }
}
