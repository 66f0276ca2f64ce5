//! The log from leader to follower, commitment, and changes of membership.

use bytes::Bytes;

use crate::io::{Output, Proposal, Refusal, Role};
use crate::membership::MembershipChange;
use crate::message::{Body, Snapshot};
use crate::node::Raft;
use crate::progress::{Pace, Progress};
use crate::types::{Entry, EntryKind, LogIndex, MemberId, Term};

impl Raft {
    pub(crate) fn propose(&mut self, proposals: Vec<Proposal>, out: &mut Vec<Output>) {
        if self.role != Role::Leader {
            for Proposal { context, data } in proposals {
                self.pass_on(EntryKind::Normal, context, data, out);
            }
        } else if self.transfer.is_some() {
            let refused = |p: Proposal| Output::Refused { context: p.context, reason: Refusal::Transferring };
            out.extend(proposals.into_iter().map(refused));
        } else if !proposals.is_empty() {
            let entries = proposals.into_iter().map(|p| (EntryKind::Normal, p.context, p.data)).collect();
            self.append_own(entries, out);
        }
    }

    pub(crate) fn propose_change(
        &mut self,
        context: u64,
        change: MembershipChange,
        data: &[u8],
        out: &mut Vec<Output>,
    ) {
        let content = change.encode(data);
        if self.role != Role::Leader {
            self.pass_on(EntryKind::Membership, context, content, out);
            return;
        }
        match self.refuse_change(change) {
            Some(reason) => out.push(Output::Refused { context, reason }),
            None => self.append_own(vec![(EntryKind::Membership, context, content)], out),
        }
    }

    /// One change at a time, and none before the leader has committed in its term (dissertation §4.1 and the
    /// correction of 2015 to it).
    fn refuse_change(&self, change: MembershipChange) -> Option<Refusal> {
        if self.transfer.is_some() {
            return Some(Refusal::Transferring);
        }
        if matches!(change, MembershipChange::Update(_)) {
            // It changes nobody's part, so it may come beside another change.
            return None;
        }
        if self.last_change() > self.commit || !self.committed_in_term() {
            return Some(Refusal::ChangePending);
        }
        self.members().with(change).voters.is_empty().then_some(Refusal::InvalidChange)
    }

    /// A follower sends a client's proposal to its leader.
    fn pass_on(&mut self, kind: EntryKind, context: u64, data: Bytes, out: &mut Vec<Output>) {
        match self.leader {
            Some(leader) => self.send(leader, Body::Propose { kind, context, data }, false, out),
            None => out.push(Output::Refused { context, reason: Refusal::NoLeader }),
        }
    }

    /// A proposal passed on by a follower. One that cannot be taken is dropped: the proposer's time-out covers it.
    pub(crate) fn forwarded(&mut self, kind: EntryKind, context: u64, data: Bytes, out: &mut Vec<Output>) {
        if self.role != Role::Leader || self.transfer.is_some() {
            return;
        }
        if kind == EntryKind::Membership {
            let entry = Entry { term: self.term, index: LogIndex(0), kind, context, data: data.clone() };
            let Some((change, _)) = entry.membership_change() else { return };
            if self.refuse_change(change).is_some() {
                return;
            }
        }
        self.append_own(vec![(kind, context, data)], out);
    }

    /// The leader appends to its own log and sends on.
    pub(crate) fn append_own(&mut self, new: Vec<(EntryKind, u64, Bytes)>, out: &mut Vec<Output>) {
        let mut entries = Vec::with_capacity(new.len());
        for (kind, context, data) in new {
            let entry = Entry { term: self.term, index: self.log.last_index().next(), kind, context, data };
            entries.push(entry.clone());
            self.push_entry(entry);
            if kind == EntryKind::Membership {
                self.follow_membership();
            }
        }
        self.persist(entries, out);
        self.broadcast_entries(false, out);
    }

    /// Members that came get a progress, members that left lose theirs.
    fn follow_membership(&mut self) {
        let members = self.members().clone();
        let (next, inflight) = (self.log.last_index(), self.config.max_inflight_messages);
        self.progress.retain(|id, _| members.contains(*id));
        for id in members.members() {
            self.progress.entry(id).or_insert_with(|| {
                let mut progress = Progress::new(next, inflight);
                progress.recent_active = true;
                progress
            });
        }
        self.transfer = self.transfer.filter(|(to, _)| members.voters.contains(to));
    }

    /// The entry that last changed the membership, or the base of the log.
    fn last_change(&self) -> LogIndex {
        self.membership_since()
    }

    fn others(&self) -> Vec<MemberId> {
        self.progress.keys().copied().filter(|id| *id != self.config.id).collect()
    }

    pub(crate) fn broadcast_entries(&mut self, even_none: bool, out: &mut Vec<Output>) {
        for to in self.others() {
            self.send_entries(to, even_none, out);
        }
    }

    pub(crate) fn broadcast_heartbeat(&mut self, out: &mut Vec<Output>) {
        let read = self.reads.round();
        for to in self.others() {
            let commit = self.commit.min(self.progress[&to].matched);
            self.send(to, Body::Heartbeat { commit, read }, false, out);
        }
    }

    /// Sends the next entries a member lacks, or a snapshot; with `even_none` also the bare commit index.
    pub(crate) fn send_entries(&mut self, to: MemberId, even_none: bool, out: &mut Vec<Output>) {
        let Some(progress) = self.progress.get_mut(&to) else { return };
        if progress.is_paused() {
            return;
        }
        let prev_index = progress.next.previous();
        let Some(prev_term) = self.log.term(prev_index) else {
            if progress.recent_active {
                progress.snapshot(self.log.base());
                out.push(Output::SendSnapshot { to });
            }
            return;
        };
        let entries = self.log.slice(progress.next, self.config.max_message_bytes);
        if entries.is_empty() && !even_none {
            return;
        }
        if let Some(last) = entries.last() {
            progress.sent(last.index);
        }
        let body = Body::Append { prev_index, prev_term, entries, commit: self.commit };
        self.send(to, body, false, out);
    }

    /// Sends until the window is full or nothing is left.
    fn send_all(&mut self, to: MemberId, out: &mut Vec<Output>) {
        loop {
            let before = self.progress.get(&to).map(|progress| progress.next);
            self.send_entries(to, false, out);
            if self.progress.get(&to).map(|progress| progress.next) == before {
                break;
            }
        }
    }

    /// A follower takes entries that fit its log.
    pub(crate) fn accept(
        &mut self,
        from: MemberId,
        (prev_index, prev_term): (LogIndex, Term),
        entries: Vec<Entry>,
        commit: LogIndex,
        out: &mut Vec<Output>,
    ) {
        if prev_index < self.commit {
            self.send(from, Body::Appended { index: self.commit }, true, out);
            return;
        }
        if self.log.term(prev_index) != Some(prev_term) {
            let (hint_index, hint_term) = self.log.possible_agreement(prev_index, prev_term);
            self.send(from, Body::Rejected { index: prev_index, hint_index, hint_term }, false, out);
            return;
        }
        let mut last = prev_index;
        let mut new = Vec::new();
        for entry in entries {
            if entry.index != last.next() {
                break;
            }
            last = entry.index;
            if new.is_empty() {
                match self.log.term(entry.index) {
                    Some(held) if held == entry.term => continue,
                    Some(_) => self.truncate(entry.index),
                    None => {}
                }
            }
            self.push_entry(entry.clone());
            new.push(entry);
        }
        if !new.is_empty() {
            self.persist(new, out);
        }
        self.commit = self.commit.max(commit.min(last));
        self.send(from, Body::Appended { index: last }, true, out);
    }

    /// A follower's log holds everything up to `index`.
    pub(crate) fn appended(&mut self, from: MemberId, index: LogIndex, out: &mut Vec<Output>) {
        if self.role != Role::Leader || index > self.log.last_index() {
            return;
        }
        let Some(progress) = self.progress.get_mut(&from) else { return };
        progress.recent_active = true;
        let was_paused = progress.is_paused();
        let news = progress.confirmed(index);
        match progress.pace {
            Pace::Probe if news || index.next() == progress.next => progress.replicate(),
            Pace::Snapshot(as_of) if progress.matched >= as_of => {
                progress.probe();
                progress.replicate();
            }
            Pace::Probe | Pace::Snapshot(_) | Pace::Replicate => {}
        }
        if news && self.advance_commit(out) {
            // The new commit index went to everybody, this member included.
        } else if was_paused {
            self.send_entries(from, true, out);
        }
        self.send_all(from, out);
        self.continue_transfer(from, out);
    }

    /// A follower's log does not fit: try further back.
    pub(crate) fn refused(
        &mut self,
        from: MemberId,
        index: LogIndex,
        (hint_index, hint_term): (LogIndex, Term),
        out: &mut Vec<Output>,
    ) {
        if self.role != Role::Leader {
            return;
        }
        let (agreed, _) = self.log.possible_agreement(hint_index, hint_term);
        let Some(progress) = self.progress.get_mut(&from) else { return };
        progress.recent_active = true;
        let probing = progress.pace == Pace::Probe;
        if progress.rejected(index, agreed) {
            if !probing {
                progress.next = index.min(agreed.next()).max(progress.matched.next());
            }
            self.send_entries(from, true, out);
        }
    }

    pub(crate) fn heartbeat_answered(&mut self, from: MemberId, read: u64, out: &mut Vec<Output>) {
        if self.role != Role::Leader {
            return;
        }
        let last = self.log.last_index();
        let Some(progress) = self.progress.get_mut(&from) else { return };
        progress.alive();
        progress.read_round = progress.read_round.max(read);
        if progress.matched < last {
            // An answer or a message may have been lost: in Probe this repeats it, in Replicate it shows the gap.
            let even_none = progress.pace == Pace::Replicate && progress.next > last;
            self.send_entries(from, even_none, out);
        }
        self.confirm_reads(out);
    }

    /// Commits what a majority has and this term's leader made (dissertation §3.6.2). Returns whether that is news.
    pub(crate) fn advance_commit(&mut self, out: &mut Vec<Output>) -> bool {
        let (id, stable) = (self.config.id, self.stable);
        let durable = |member| match self.progress.get(&member) {
            _ if member == id => stable,
            Some(progress) => progress.matched,
            None => LogIndex(0),
        };
        let Some(index) = self.members().reached_by_majority(durable) else { return false };
        let index = index.max(self.decided_alone().min(stable));
        if index <= self.commit || self.log.term(index) != Some(self.term) {
            return false;
        }
        self.commit = index;
        self.start_early_reads(out);
        self.broadcast_entries(true, out);
        if !self.members().contains(id) && self.last_change() <= self.commit {
            // Its own removal is committed: the others take over (dissertation §4.2.2).
            self.become_follower(self.term, None, out);
        }
        true
    }

    /// The last change of membership that this member made while it was the only voter, if it is not committed yet. It
    /// commits such a change by itself: the second voter cannot begin before it knows of it. That is safe, as nobody
    /// is elected without this member, whose log holds the change.
    fn decided_alone(&self) -> LogIndex {
        let (id, commit) = (self.config.id, self.commit);
        let changes = self.memberships().windows(2).filter(|pair| pair[0].1.voters.iter().eq([&id]));
        changes.map(|pair| pair[1].0).filter(|index| *index > commit).max().unwrap_or_default()
    }

    /// A snapshot takes the place of a log that is gone.
    pub(crate) fn restore(&mut self, from: MemberId, snapshot: Snapshot, out: &mut Vec<Output>) {
        if snapshot.index > self.commit {
            if self.log.term(snapshot.index) == Some(snapshot.term) {
                self.commit = snapshot.index;
            } else {
                self.start_after(snapshot.index, snapshot.term, snapshot.members.clone());
                out.push(Output::Restore(snapshot));
            }
        }
        self.send(from, Body::Appended { index: self.commit }, true, out);
    }

    pub(crate) fn snapshot_sent(&mut self, to: MemberId, index: Option<LogIndex>, out: &mut Vec<Output>) {
        let Some(progress) = self.progress.get_mut(&to) else { return };
        if let Pace::Snapshot(as_of) = progress.pace {
            match index {
                Some(index) => {
                    progress.pace = Pace::Snapshot(index.max(as_of));
                    progress.probe();
                }
                None => {
                    progress.pace = Pace::Probe;
                    progress.paused = true;
                }
            }
        }
        self.send_entries(to, true, out);
    }

    pub(crate) fn unreachable(&mut self, id: MemberId) {
        if let Some(progress) = self.progress.get_mut(&id)
            && progress.pace == Pace::Replicate
        {
            progress.probe();
        }
    }
}
