//! `Store` on a member in this process.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mvcc::{
    Alarm, AlarmKind, AuthError, Caller, Command, DeleteRangeRequest, DeleteRangeResponse, LEASE_TTL_MAX, MvccError,
    PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, Response, TxnRequest, TxnResponse,
    check_delete_range, check_put, check_range, check_txn,
};
use tokio::sync::oneshot;

use crate::StoreError;
use crate::auth::Credentials;
use crate::listen::Url;
use crate::local_watch::LocalWatch;
use crate::members::{Change, MemberError, member_id};
use crate::proto as pb;
use crate::shared::{Message, PENDING_MAX, Published, Shared};
use crate::store::{LeaseGranted, LeaseTimeToLive, StoreStatus, WatchRequest};
use pb::member_change::Kind;

/// Until the leader is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// What a write costs beside its bytes, for the quota (etcd counts 256 for keys and revisions).
const ROW_OVERHEAD_BYTES: i64 = 256;

/// A handle on a member in this process.
#[derive(Clone)]
pub struct LocalStore {
    pub(crate) shared: Arc<Shared>,
    pub(crate) who: Who,
}

/// For whom a handle asks.
#[derive(Clone)]
pub(crate) enum Who {
    /// The member itself and what runs in its process: may do everything.
    Member,
    /// A client, and what it shows when it is asked who it is.
    Client(Option<Arc<Credentials>>),
}

impl LocalStore {
    /// Waits until local state is as new as what anybody was told. The only voter's always is.
    pub(crate) async fn linearize(&self, serializable: bool) -> Result<(), StoreError> {
        if self.shared.is_stopped() {
            return Err(StoreError::Stopped);
        }
        if serializable {
            return Ok(());
        }
        let published = self.shared.published();
        if published.alone {
            return if published.leader == 0 { Err(StoreError::NoLeader) } else { Ok(()) };
        }
        let (reply, answer) = oneshot::channel();
        self.shared.send(Message::Read { reply })?;
        self.patiently(answer).await
    }

    /// Who asks, as of now.
    async fn caller(&self) -> Result<Caller, StoreError> {
        match &self.who {
            Who::Member => Ok(Caller::Member),
            Who::Client(None) => Ok(Caller::Anonymous),
            Who::Client(Some(credentials)) => {
                let caller = self.shared.auth.identify(&self.shared, credentials).await;
                caller.map_err(|error| StoreError::Refused(error.into()))
            }
        }
    }

    /// The state to read from, if whoever asks may.
    pub(crate) async fn permit(
        &self,
        permit: impl FnOnce(&mvcc::Snapshot, &Caller) -> Result<(), AuthError>,
    ) -> Result<Arc<Published>, StoreError> {
        let published = self.shared.published();
        if matches!(self.who, Who::Member) || !published.snapshot.auth().is_enabled() {
            return Ok(published);
        }
        let caller = self.caller().await?;
        let published = self.shared.published();
        permit(&published.snapshot, &caller).map_err(|error| StoreError::Refused(error.into()))?;
        Ok(published)
    }

    /// Refuses whoever may not manage the cluster.
    pub(crate) async fn permit_admin(&self) -> Result<(), StoreError> {
        self.permit(|snapshot, caller| snapshot.auth().permit_admin(caller)).await.map(drop)
    }

    /// Refuses whoever does not say who it is.
    pub(crate) async fn permit_named(&self) -> Result<(), StoreError> {
        self.permit(|snapshot, caller| snapshot.auth().permit_named(caller)).await.map(drop)
    }

    /// Reads keys.
    pub(crate) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        check_range(&request)?;
        self.linearize(request.serializable).await?;
        self.shared.metrics.ranges.add(1);
        let permit = |snapshot: &mvcc::Snapshot, caller: &Caller| {
            snapshot.auth().permit_read(caller, &request.key, &request.range_end)?;
            snapshot.auth().permit_current(caller)
        };
        Ok(self.permit(permit).await?.snapshot.range(&request)?)
    }

    pub(crate) async fn put(&self, request: PutRequest) -> Result<PutResponse, StoreError> {
        check_put(&request)?;
        self.check_quota(request.key.len() + request.value.len(), 1)?;
        self.shared.metrics.puts.add(1);
        match self.propose(Command::Put(request)).await? {
            Response::Put(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, StoreError> {
        check_delete_range(&request)?;
        self.shared.metrics.deletes.add(1);
        match self.propose(Command::DeleteRange(request)).await? {
            Response::DeleteRange(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, StoreError> {
        check_txn(&request, self.shared.limits.txn_ops_max)?;
        self.shared.metrics.txns.add(1);
        if request.is_read_only() {
            self.linearize(request.is_serializable()).await?;
            let permit = |snapshot: &mvcc::Snapshot, caller: &Caller| {
                snapshot.permit_txn(caller, &request)?;
                snapshot.auth().permit_current(caller)
            };
            return Ok(self.permit(permit).await?.snapshot.read_txn(&request)?);
        }
        let (bytes, rows) = cost(&request);
        if rows > 0 {
            self.check_quota(bytes, rows)?;
        }
        match self.propose(Command::Txn(request)).await? {
            Response::Txn(response) => Ok(response),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn compact(&self, revision: i64, physical: bool) -> Result<i64, StoreError> {
        self.permit_admin().await?;
        done(self.propose_with(Command::Compact(revision), physical).await?)
    }

    pub(crate) async fn lease_grant(&self, ttl: i64, id: i64) -> Result<LeaseGranted, StoreError> {
        self.check_quota(0, 1)?;
        self.permit_named().await?;
        if ttl > LEASE_TTL_MAX {
            return Err(MvccError::LeaseTtlTooLarge.into());
        }
        let ttl = ttl.max(self.shared.limits.lease_ttl_min);
        let id = if id == 0 { self.fresh_lease_id() } else { id };
        let revision = done(self.propose(Command::LeaseGrant { id, ttl }).await?)?;
        Ok(LeaseGranted { id, ttl, revision })
    }

    pub(crate) async fn lease_revoke(&self, id: i64) -> Result<i64, StoreError> {
        self.permit_named().await?;
        done(self.propose(Command::LeaseRevoke { id }).await?)
    }

    pub(crate) async fn lease_keep_alive(&self, id: i64) -> Result<i64, StoreError> {
        self.permit(|snapshot, caller| {
            snapshot.auth().permit_named(caller)?;
            snapshot.permit_lease_write(caller, id)
        })
        .await?;
        match self.ask_leader(|| pb::peer_request::Ask::Renew(id)).await? {
            None => self.renew_here(id).await,
            Some(pb::peer_reply::Answer::Renewed(ttl)) => Ok(ttl),
            Some(_) => Err(StoreError::Timeout),
        }
    }

    /// Renews a lease if this member leads.
    pub(crate) async fn renew_here(&self, id: i64) -> Result<i64, StoreError> {
        if self.shared.published().snapshot.has_lease_checkpoint(id) {
            // Should this member lose the lead, the next must not go by what was left before.
            let command = Command::LeaseCheckpoint(vec![(id, 0)]);
            self.propose_for(Caller::Member, command, false).await?;
        }
        let (reply, answer) = oneshot::channel();
        self.shared.send(Message::Renew { id, reply })?;
        let answer = answer.await.map_err(|_| StoreError::Stopped)?;
        self.shared.metrics.leases_renewed.add(u64::from(answer.is_ok()));
        answer
    }

    pub(crate) async fn lease_time_to_live(&self, id: i64, keys: bool) -> Result<LeaseTimeToLive, StoreError> {
        let permit = |snapshot: &mvcc::Snapshot, caller: &Caller| {
            snapshot.auth().permit_named(caller)?;
            if keys { snapshot.permit_lease_read(caller, id) } else { Ok(()) }
        };
        self.permit(permit).await?;
        let ask = || pb::peer_request::Ask::TimeToLive(pb::LeaseTimeToLiveRequest { id, keys });
        match self.ask_leader(ask).await? {
            None => self.time_to_live_here(id, keys),
            Some(pb::peer_reply::Answer::TimeToLive(left)) => Ok(LeaseTimeToLive {
                revision: self.shared.published().snapshot.revision(),
                ttl: left.ttl,
                granted_ttl: left.granted_ttl,
                keys: left.keys,
            }),
            Some(_) => Err(StoreError::Timeout),
        }
    }

    /// What a lease has left as this member sees it: only the leader knows of renewals.
    pub(crate) fn time_to_live_here(&self, id: i64, keys: bool) -> Result<LeaseTimeToLive, StoreError> {
        let published = self.shared.published();
        let revision = published.snapshot.revision();
        let now = self.shared.clock.now();
        Ok(match published.snapshot.lease(id, now, keys) {
            Some(state) => {
                LeaseTimeToLive { revision, ttl: state.remaining, granted_ttl: state.granted_ttl, keys: state.keys }
            }
            None => LeaseTimeToLive { revision, ttl: -1, ..LeaseTimeToLive::default() },
        })
    }

    /// Asks the leader; nothing when this member leads itself. Where there is none, or no line to it yet, again until a request
    /// has taken too long, as etcd does.
    async fn ask_leader(
        &self,
        ask: impl Fn() -> pb::peer_request::Ask,
    ) -> Result<Option<pb::peer_reply::Answer>, StoreError> {
        let deadline = tokio::time::Instant::now() + self.shared.limits.request_timeout();
        loop {
            let published = self.shared.published();
            if published.learner {
                return Err(StoreError::Learner);
            }
            if published.leader == self.shared.member_id {
                return Ok(None);
            }
            let answer = match self.shared.peers.as_ref().filter(|_| published.leader != 0) {
                None => Err(StoreError::NoLeader),
                Some(peers) => tokio::time::timeout_at(deadline, peers.ask(published.leader, ask()))
                    .await
                    .map_err(|_| StoreError::Timeout)?,
            };
            if answer != Err(StoreError::NoLeader) || tokio::time::Instant::now() > deadline {
                return answer.map(Some);
            }
            if self.shared.is_stopped() {
                return Err(StoreError::Stopped);
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// All members as this one knows them.
    pub fn members(&self) -> Vec<pb::Member> {
        self.shared.published().members.list()
    }

    /// Adds a member at these peer URLs, which can then join (`--initial-cluster-state existing`); a learner has no
    /// vote yet. Returns it as it was added.
    ///
    /// # Errors
    /// [`StoreError::Member`] when it is refused; other errors leave open whether it was done.
    pub async fn member_add(&self, mut peer_urls: Vec<String>, learner: bool) -> Result<pb::Member, StoreError> {
        peer_urls.iter_mut().for_each(|url| *url = url.trim().to_owned());
        check_urls(&peer_urls)?;
        peer_urls.sort_unstable();
        let now = u64::try_from(self.shared.clock.now().unix_seconds()).unwrap_or(0);
        let id = member_id(&peer_urls, "", Some(now));
        let member = pb::Member { id, peer_ur_ls: peer_urls, is_learner: learner, ..pb::Member::default() };
        self.change_members(Change::new(Kind::Add, member.clone())).await?;
        Ok(member)
    }

    /// Removes a member; it stops by itself, and its id never comes back.
    ///
    /// # Errors
    /// As [`LocalStore::member_add`].
    pub async fn member_remove(&self, id: u64) -> Result<(), StoreError> {
        self.change_members(Change::new(Kind::Remove, pb::Member { id, ..pb::Member::default() })).await
    }

    /// Tells where a member is to be found from now on.
    ///
    /// # Errors
    /// As [`LocalStore::member_add`].
    pub async fn member_update(&self, id: u64, mut peer_urls: Vec<String>) -> Result<(), StoreError> {
        if self.members().iter().all(|member| member.id != id) {
            return Err(MemberError::NotFound.into());
        }
        peer_urls.iter_mut().for_each(|url| *url = url.trim().to_owned());
        check_urls(&peer_urls)?;
        let member = pb::Member { id, peer_ur_ls: peer_urls, ..pb::Member::default() };
        self.change_members(Change::new(Kind::Update, member)).await
    }

    /// Gives a learner that has caught up its vote.
    ///
    /// # Errors
    /// As [`LocalStore::member_add`].
    pub async fn member_promote(&self, id: u64) -> Result<(), StoreError> {
        self.change_members(Change::new(Kind::Promote, pb::Member { id, ..pb::Member::default() })).await
    }

    /// Changes who takes part: the leader decides, and answers when the change is in force there.
    async fn change_members(&self, change: Change) -> Result<(), StoreError> {
        let ask = || pb::peer_request::Ask::Change(change.clone().into());
        let unseen = !self.shared.published().members.show(&change);
        let answer = tokio::select! {
            biased;
            answer = self.ask_leader(ask) => answer?,
            // A leader that removes itself may be cut off before its answer is here.
            () = self.shared.shown(&change), if unseen => return Ok(()),
        };
        if answer.is_none() {
            return self.change_members_here(change).await;
        }
        // A reader that asks this member next must see it.
        let shown = tokio::time::timeout(self.shared.limits.request_timeout(), self.shared.shown(&change));
        shown.await.map_err(|_| StoreError::Timeout)
    }

    /// Waits for an answer of the state thread, as long as etcd would.
    async fn patiently(&self, answer: oneshot::Receiver<Result<(), StoreError>>) -> Result<(), StoreError> {
        match tokio::time::timeout(self.shared.limits.request_timeout(), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(StoreError::Stopped),
            Err(_) => Err(StoreError::Timeout),
        }
    }

    pub(crate) async fn change_members_here(&self, change: Change) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.shared.send(Message::ChangeMembers { change, reply })?;
        self.patiently(answer).await
    }

    /// Hands leadership over to a member with a vote. Only the leader can.
    ///
    /// # Errors
    /// [`StoreError::Member`] when this member does not lead or the other cannot; [`StoreError::TransferTimeout`].
    pub async fn move_leader(&self, to: u64) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.shared.send(Message::MoveLeader { to, reply })?;
        self.patiently(answer).await
    }

    pub(crate) async fn leases(&self) -> Result<Vec<i64>, StoreError> {
        let permit = |snapshot: &mvcc::Snapshot, caller: &Caller| {
            snapshot.auth().permit_named(caller)?;
            snapshot.lease_ids().into_iter().try_for_each(|id| snapshot.permit_lease_read(caller, id))
        };
        Ok(self.permit(permit).await?.snapshot.lease_ids())
    }

    /// Raises or clears an alarm; returns the alarms that changed.
    pub(crate) async fn alarm(&self, alarm: Alarm, raise: bool) -> Result<Vec<Alarm>, StoreError> {
        let command = if raise { Command::AlarmRaise(alarm) } else { Command::AlarmClear(alarm) };
        match self.propose(command).await? {
            Response::Alarms(alarms) => Ok(alarms),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn defragment(&self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.shared.send(Message::Defragment { reply })?;
        answer.await.map_err(|_| StoreError::Stopped)
    }

    pub(crate) fn watch(&self, request: WatchRequest) -> Result<LocalWatch, StoreError> {
        if self.shared.is_stopped() {
            return Err(StoreError::Stopped);
        }
        Ok(LocalWatch::new(&self.shared, request))
    }

    pub(crate) fn progress(&self) -> Result<(), StoreError> {
        self.shared.progress_asked.fetch_add(1, Ordering::AcqRel);
        crate::hub::lock(&self.shared.hub).wake_all();
        Ok(())
    }

    pub(crate) fn status(&self) -> StoreStatus {
        let published = self.shared.published();
        StoreStatus {
            version: crate::VERSION.to_owned(),
            db_size: published.snapshot.size_bytes(),
            db_size_in_use: published.snapshot.size_in_use_bytes(),
            member: self.shared.member_id,
            leader: published.leader,
            revision: published.snapshot.revision(),
            raft_term: published.term,
            raft_index: published.raft_index,
            raft_applied_index: published.applied_index,
        }
    }

    pub(crate) async fn propose(&self, command: Command) -> Result<Response, StoreError> {
        self.propose_with(command, false).await
    }

    async fn propose_with(&self, command: Command, physical: bool) -> Result<Response, StoreError> {
        self.propose_for(self.caller().await?, command, physical).await
    }

    pub(crate) async fn propose_for(
        &self,
        caller: Caller,
        command: Command,
        physical: bool,
    ) -> Result<Response, StoreError> {
        let published = self.shared.published();
        if published.learner {
            return Err(StoreError::Learner);
        }
        let data = crate::convert::encode(&caller, &command);
        if data.len() > self.shared.limits.request_bytes_max {
            return Err(StoreError::TooLarge);
        }
        let pending = self.shared.pending.fetch_add(1, Ordering::Relaxed);
        if pending >= PENDING_MAX {
            self.shared.pending.fetch_sub(1, Ordering::Relaxed);
            return Err(StoreError::TooManyRequests);
        }
        // Leases and compactions change when the state thread has to look at the clock again: they are its own.
        let of_keys = matches!(command, Command::Put(_) | Command::DeleteRange(_) | Command::Txn(_));
        let (reply, answer) = oneshot::channel();
        let message = Message::Propose { caller, command, data, physical, reply };
        let alone = of_keys && pending == 0 && published.alone;
        let left = if alone { self.shared.turns.take(message, &self.shared.pending).await } else { Err(message) };
        if let Err(message) = left {
            self.shared.send(message)?;
        }
        match tokio::time::timeout(self.shared.limits.request_timeout(), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(StoreError::Stopped),
            // What a leader took and then did not answer is another matter than what nobody took.
            Err(_) if published.leader == 0 && self.shared.published().leader == 0 => Err(StoreError::Deadline),
            Err(_) => Err(StoreError::Timeout),
        }
    }

    /// etcd's quota rule: a write that would pass it raises the alarm, which then refuses all writes that grow.
    fn check_quota(&self, bytes: usize, rows: i64) -> Result<(), StoreError> {
        let published = self.shared.published();
        let cost = i64::try_from(bytes).unwrap_or(i64::MAX).saturating_add(rows * ROW_OVERHEAD_BYTES);
        if published.snapshot.size_bytes().saturating_add(cost) <= self.shared.limits.quota_bytes {
            return Ok(());
        }
        if !published.snapshot.has_alarm(AlarmKind::NoSpace) {
            let alarm = Alarm { member: self.shared.member_id, kind: AlarmKind::NoSpace };
            let (reply, _) = oneshot::channel();
            self.shared.pending.fetch_add(1, Ordering::Relaxed);
            let (caller, command) = (Caller::Member, Command::AlarmRaise(alarm));
            let data = crate::convert::encode(&caller, &command);
            self.shared.send(Message::Propose { caller, command, data, physical: false, reply })?;
        }
        Err(MvccError::NoSpace.into())
    }

    fn fresh_lease_id(&self) -> i64 {
        let bytes: [u8; 8] = self.shared.entropy.bytes();
        (i64::from_le_bytes(bytes) & i64::MAX).max(1)
    }
}

pub(crate) fn check_urls(peer_urls: &[String]) -> Result<(), MemberError> {
    if peer_urls.is_empty() || peer_urls.iter().any(|url| Url::parse(url.trim()).is_err()) {
        return Err(MemberError::BadUrls);
    }
    Ok(())
}

pub(crate) fn done(response: Response) -> Result<i64, StoreError> {
    match response {
        Response::Done { revision } => Ok(revision),
        other => Err(unexpected(&other)),
    }
}

/// The state thread answered another command than was asked: our own mistake, told as an unknown outcome.
pub(crate) fn unexpected(response: &Response) -> StoreError {
    tracing::error!(target: "etcd", ?response, "an answer of the wrong kind");
    StoreError::Timeout
}

/// Bytes and rows a transaction could write.
fn cost(request: &TxnRequest) -> (usize, i64) {
    let mut total = (0, 0);
    for ops in [&request.success, &request.failure] {
        for op in ops {
            let (bytes, rows) = match op {
                RequestOp::Put(put) => (put.key.len() + put.value.len(), 1),
                RequestOp::Txn(txn) => cost(txn),
                RequestOp::Range(_) | RequestOp::DeleteRange(_) | RequestOp::Empty => (0, 0),
            };
            total = (total.0 + bytes, total.1 + rows);
        }
    }
    total
}
