//! Time, elections and hand-over.

use crate::io::{Output, Role};
use crate::message::{Body, Message};
use crate::node::Raft;
use crate::progress::Progress;
use crate::types::{EntryKind, LogIndex, MemberId, Term};

impl Raft {
    pub(crate) fn tick(&mut self, out: &mut Vec<Output>) {
        self.elapsed += 1;
        if self.role == Role::Leader {
            self.tick_leader(out);
        } else if self.is_alone() {
            self.campaign(false, out);
        } else if self.elapsed >= self.election_timeout && self.is_voter() {
            self.elapsed = 0;
            self.draw_election_timeout();
            if self.config.pre_vote { self.pre_campaign(out) } else { self.campaign(false, out) }
        }
    }

    fn tick_leader(&mut self, out: &mut Vec<Output>) {
        if let Some((_, ticks)) = &mut self.transfer {
            *ticks += 1;
            if *ticks >= self.config.election_ticks {
                self.transfer = None;
            }
        }
        if self.elapsed >= self.config.election_ticks {
            self.elapsed = 0;
            if self.config.check_quorum && !self.majority_answered() {
                self.become_follower(self.term, None, out);
                return;
            }
        }
        self.heartbeat_elapsed += 1;
        if self.heartbeat_elapsed >= self.config.heartbeat_ticks {
            self.heartbeat_elapsed = 0;
            self.broadcast_heartbeat(out);
        }
    }

    /// Whether a majority was heard of since the last time this was asked.
    fn majority_answered(&mut self) -> bool {
        let id = self.config.id;
        let active = |member| u8::from(member == id || self.progress.get(&member).is_some_and(|p| p.recent_active));
        let answered = self.members().reached_by_majority(active) == Some(1);
        self.progress.values_mut().for_each(|progress| progress.recent_active = false);
        answered
    }

    /// The only voter needs nobody.
    pub(crate) fn is_alone(&self) -> bool {
        self.is_voter() && self.members().voters.len() == 1
    }

    /// With check-quorum, a member that hears a leader helps nobody to depose it (dissertation §6.2).
    pub(crate) fn has_live_leader(&self) -> bool {
        self.config.check_quorum && self.leader.is_some() && self.elapsed < self.config.election_ticks
    }

    fn pre_campaign(&mut self, out: &mut Vec<Output>) {
        self.role = Role::PreCandidate;
        self.leader = None;
        self.votes.clear();
        self.votes.insert(self.config.id, true);
        let body = Body::PreVote { last_index: self.log.last_index(), last_term: self.log.last_term() };
        let message = Message { term: self.term.next(), body };
        for to in self.other_voters() {
            out.push(Output::Send { to, message: message.clone(), after_sync: false });
        }
        self.decide_pre_vote(out);
    }

    /// Starts a real election.
    pub(crate) fn campaign(&mut self, transfer: bool, out: &mut Vec<Output>) {
        if self.role == Role::Leader || !self.is_voter() {
            return;
        }
        self.term = self.term.next();
        self.vote = Some(self.config.id);
        self.role = Role::Candidate;
        self.leader = None;
        self.elapsed = 0;
        self.draw_election_timeout();
        self.votes.clear();
        self.votes.insert(self.config.id, true);
        self.write_hard_state(out);
        let body = Body::Vote { last_index: self.log.last_index(), last_term: self.log.last_term(), transfer };
        for to in self.other_voters() {
            self.send(to, body.clone(), true, out);
        }
        self.decide_vote(out);
    }

    fn other_voters(&self) -> Vec<MemberId> {
        self.members().voters.iter().copied().filter(|id| *id != self.config.id).collect()
    }

    pub(crate) fn consider_pre_vote(
        &mut self,
        from: MemberId,
        term: Term,
        last_index: LogIndex,
        last_term: Term,
        out: &mut Vec<Output>,
    ) {
        let granted = !self.has_live_leader() && term > self.term && self.log.is_covered_by(last_index, last_term);
        let term = if granted { term } else { self.term };
        let message = Message { term, body: Body::PreVoteReply { granted } };
        out.push(Output::Send { to: from, message, after_sync: false });
    }

    pub(crate) fn consider_vote(
        &mut self,
        from: MemberId,
        last_index: LogIndex,
        last_term: Term,
        out: &mut Vec<Output>,
    ) {
        let free = self.vote == Some(from) || (self.vote.is_none() && self.leader.is_none());
        let granted = free && self.log.is_covered_by(last_index, last_term);
        if granted {
            self.vote = Some(from);
            self.elapsed = 0;
        }
        self.send(from, Body::VoteReply { granted }, true, out);
    }

    pub(crate) fn count_pre_vote(&mut self, from: MemberId, granted: bool, out: &mut Vec<Output>) {
        if self.role == Role::PreCandidate {
            self.votes.entry(from).or_insert(granted);
            self.decide_pre_vote(out);
        }
    }

    pub(crate) fn count_vote(&mut self, from: MemberId, granted: bool, out: &mut Vec<Output>) {
        if self.role == Role::Candidate {
            self.votes.entry(from).or_insert(granted);
            self.decide_vote(out);
        }
    }

    fn decide_pre_vote(&mut self, out: &mut Vec<Output>) {
        match self.election() {
            Some(true) => self.campaign(false, out),
            Some(false) => self.become_follower(self.term, None, out),
            None => {}
        }
    }

    fn decide_vote(&mut self, out: &mut Vec<Output>) {
        match self.election() {
            Some(true) => self.lead(out),
            Some(false) => self.become_follower(self.term, None, out),
            None => {}
        }
    }

    /// Won, lost or open.
    fn election(&self) -> Option<bool> {
        let members = self.members();
        let count = |answer| members.voters.iter().filter(|id| self.votes.get(id) == Some(&answer)).count();
        if count(true) >= members.majority() {
            return Some(true);
        }
        (members.voters.len() - count(false) < members.majority()).then_some(false)
    }

    fn lead(&mut self, out: &mut Vec<Output>) {
        self.role = Role::Leader;
        self.leader = Some(self.config.id);
        self.elapsed = 0;
        self.heartbeat_elapsed = 0;
        self.votes.clear();
        self.transfer = None;
        let next = self.log.last_index().next();
        let inflight = self.config.max_inflight_messages;
        self.progress = self.members().members().map(|id| (id, Progress::new(next, inflight))).collect();
        self.append_own(vec![(EntryKind::Empty, 0, bytes::Bytes::new())], out);
    }

    pub(crate) fn transfer_leader(&mut self, to: MemberId, out: &mut Vec<Output>) {
        let eligible = to != self.config.id && self.members().voters.contains(&to);
        if self.role != Role::Leader || !eligible {
            return;
        }
        self.transfer = Some((to, 0));
        self.continue_transfer(to, out);
    }

    /// Hands over once the chosen member has everything.
    pub(crate) fn continue_transfer(&mut self, from: MemberId, out: &mut Vec<Output>) {
        if self.transfer.is_none_or(|(to, _)| to != from) {
            return;
        }
        let Some(progress) = self.progress.get(&from) else { return };
        if progress.matched == self.log.last_index() {
            self.send(from, Body::TimeoutNow, false, out);
        } else {
            self.send_entries(from, false, out);
        }
    }
}
