//! Between wire messages and the keyspace's own types. Byte strings are shared, not copied.

mod auth;

use bytes::Bytes;
use mvcc::{
    Alarm, AlarmKind, Caller, Command, Compare, CompareResult, CompareTarget, DeleteRangeRequest, DeleteRangeResponse,
    Event, EventKind, KeyValue, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseOp, SortOrder,
    SortTarget, TxnRequest, TxnResponse,
};

use prost::Message as _;

use crate::proto as pb;

pub(crate) use auth::{load_record, store_record};

/// The wire said something our types cannot say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(unreachable_pub, reason = "named by trait implementations of public types")]
pub enum BadRequest {
    /// An unknown sort order or target.
    SortOption,
    /// A log entry without a command, or with an unknown one.
    Command,
}

impl From<pb::KeyValue> for KeyValue {
    fn from(kv: pb::KeyValue) -> Self {
        Self {
            key: kv.key,
            value: kv.value,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }
}

impl From<KeyValue> for pb::KeyValue {
    fn from(kv: KeyValue) -> Self {
        Self {
            key: kv.key,
            value: kv.value,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        }
    }
}

impl From<Event> for pb::Event {
    fn from(event: Event) -> Self {
        let kind = match event.kind {
            EventKind::Put => pb::event::EventType::Put,
            EventKind::Delete => pb::event::EventType::Delete,
        };
        Self { r#type: kind.into(), kv: Some(event.kv.into()), prev_kv: event.prev_kv.map(Into::into) }
    }
}

impl From<pb::Event> for Event {
    fn from(event: pb::Event) -> Self {
        let kind = if event.r#type == 1 { EventKind::Delete } else { EventKind::Put };
        Self { kind, kv: event.kv.unwrap_or_default().into(), prev_kv: event.prev_kv.map(Into::into) }
    }
}

impl TryFrom<pb::RangeRequest> for RangeRequest {
    type Error = BadRequest;

    fn try_from(r: pb::RangeRequest) -> Result<Self, BadRequest> {
        use pb::range_request::{SortOrder as Order, SortTarget as Target};
        let sort_order = match Order::try_from(r.sort_order).map_err(|_| BadRequest::SortOption)? {
            Order::None => SortOrder::None,
            Order::Ascend => SortOrder::Ascend,
            Order::Descend => SortOrder::Descend,
        };
        let sort_target = match Target::try_from(r.sort_target).map_err(|_| BadRequest::SortOption)? {
            Target::Key => SortTarget::Key,
            Target::Version => SortTarget::Version,
            Target::Create => SortTarget::Create,
            Target::Mod => SortTarget::Mod,
            Target::Value => SortTarget::Value,
        };
        Ok(Self {
            key: r.key,
            range_end: r.range_end,
            limit: r.limit,
            revision: r.revision,
            sort_order,
            sort_target,
            serializable: r.serializable,
            keys_only: r.keys_only,
            count_only: r.count_only,
            min_mod_revision: r.min_mod_revision,
            max_mod_revision: r.max_mod_revision,
            min_create_revision: r.min_create_revision,
            max_create_revision: r.max_create_revision,
        })
    }
}

impl From<RangeRequest> for pb::RangeRequest {
    fn from(r: RangeRequest) -> Self {
        Self {
            key: r.key,
            range_end: r.range_end,
            limit: r.limit,
            revision: r.revision,
            sort_order: r.sort_order as i32,
            sort_target: r.sort_target as i32,
            serializable: r.serializable,
            keys_only: r.keys_only,
            count_only: r.count_only,
            min_mod_revision: r.min_mod_revision,
            max_mod_revision: r.max_mod_revision,
            min_create_revision: r.min_create_revision,
            max_create_revision: r.max_create_revision,
        }
    }
}

impl From<pb::PutRequest> for PutRequest {
    fn from(r: pb::PutRequest) -> Self {
        Self {
            key: r.key,
            value: r.value,
            lease: r.lease,
            prev_kv: r.prev_kv,
            ignore_value: r.ignore_value,
            ignore_lease: r.ignore_lease,
        }
    }
}

impl From<PutRequest> for pb::PutRequest {
    fn from(r: PutRequest) -> Self {
        Self {
            key: r.key,
            value: r.value,
            lease: r.lease,
            prev_kv: r.prev_kv,
            ignore_value: r.ignore_value,
            ignore_lease: r.ignore_lease,
        }
    }
}

impl From<pb::DeleteRangeRequest> for DeleteRangeRequest {
    fn from(r: pb::DeleteRangeRequest) -> Self {
        Self { key: r.key, range_end: r.range_end, prev_kv: r.prev_kv }
    }
}

impl From<DeleteRangeRequest> for pb::DeleteRangeRequest {
    fn from(r: DeleteRangeRequest) -> Self {
        Self { key: r.key, range_end: r.range_end, prev_kv: r.prev_kv }
    }
}

impl From<pb::Compare> for Compare {
    fn from(c: pb::Compare) -> Self {
        use pb::compare::{CompareResult as Relation, CompareTarget as Target, TargetUnion};
        let result = match Relation::try_from(c.result) {
            Ok(Relation::Equal) => CompareResult::Equal,
            Ok(Relation::Greater) => CompareResult::Greater,
            Ok(Relation::Less) => CompareResult::Less,
            Ok(Relation::NotEqual) => CompareResult::NotEqual,
            Err(_) => CompareResult::Other,
        };
        // A value of another kind than the target counts as zero, as in etcd.
        let target = match (Target::try_from(c.target), c.target_union) {
            (Ok(Target::Version), Some(TargetUnion::Version(version))) => CompareTarget::Version(version),
            (Ok(Target::Version), _) => CompareTarget::Version(0),
            (Ok(Target::Create), Some(TargetUnion::CreateRevision(revision))) => CompareTarget::Create(revision),
            (Ok(Target::Create), _) => CompareTarget::Create(0),
            (Ok(Target::Mod), Some(TargetUnion::ModRevision(revision))) => CompareTarget::Mod(revision),
            (Ok(Target::Mod), _) => CompareTarget::Mod(0),
            (Ok(Target::Value), Some(TargetUnion::Value(value))) => CompareTarget::Value(value),
            (Ok(Target::Value), _) => CompareTarget::Value(Bytes::new()),
            (Ok(Target::Lease), Some(TargetUnion::Lease(lease))) => CompareTarget::Lease(lease),
            (Ok(Target::Lease), _) => CompareTarget::Lease(0),
            (Err(_), _) => CompareTarget::Unknown,
        };
        Self { result, target, key: c.key, range_end: c.range_end }
    }
}

/// Stands in messages between members for every target that is none.
const UNKNOWN_TARGET: i32 = -1;

impl From<Compare> for pb::Compare {
    fn from(c: Compare) -> Self {
        use pb::compare::{CompareTarget as Target, TargetUnion};
        let result = match c.result {
            CompareResult::Equal => 0,
            CompareResult::Greater => 1,
            CompareResult::Less => 2,
            CompareResult::NotEqual => 3,
            CompareResult::Other => 4,
        };
        let (target, target_union) = match c.target {
            CompareTarget::Version(version) => (Target::Version.into(), Some(TargetUnion::Version(version))),
            CompareTarget::Create(revision) => (Target::Create.into(), Some(TargetUnion::CreateRevision(revision))),
            CompareTarget::Mod(revision) => (Target::Mod.into(), Some(TargetUnion::ModRevision(revision))),
            CompareTarget::Value(value) => (Target::Value.into(), Some(TargetUnion::Value(value))),
            CompareTarget::Lease(lease) => (Target::Lease.into(), Some(TargetUnion::Lease(lease))),
            CompareTarget::Unknown => (UNKNOWN_TARGET, None),
        };
        Self { result, target, key: c.key, range_end: c.range_end, target_union }
    }
}

impl TryFrom<pb::RequestOp> for RequestOp {
    type Error = BadRequest;

    fn try_from(op: pb::RequestOp) -> Result<Self, BadRequest> {
        use pb::request_op::Request;
        Ok(match op.request {
            Some(Request::RequestRange(range)) => Self::Range(range.try_into()?),
            Some(Request::RequestPut(put)) => Self::Put(put.into()),
            Some(Request::RequestDeleteRange(delete)) => Self::DeleteRange(delete.into()),
            Some(Request::RequestTxn(txn)) => Self::Txn(txn.try_into()?),
            None => Self::Empty,
        })
    }
}

impl From<RequestOp> for pb::RequestOp {
    fn from(op: RequestOp) -> Self {
        use pb::request_op::Request;
        let request = match op {
            RequestOp::Range(range) => Some(Request::RequestRange(range.into())),
            RequestOp::Put(put) => Some(Request::RequestPut(put.into())),
            RequestOp::DeleteRange(delete) => Some(Request::RequestDeleteRange(delete.into())),
            RequestOp::Txn(txn) => Some(Request::RequestTxn(txn.into())),
            RequestOp::Empty => None,
        };
        Self { request }
    }
}

impl TryFrom<pb::TxnRequest> for TxnRequest {
    type Error = BadRequest;

    fn try_from(r: pb::TxnRequest) -> Result<Self, BadRequest> {
        let ops = |ops: Vec<pb::RequestOp>| ops.into_iter().map(RequestOp::try_from).collect::<Result<_, _>>();
        Ok(Self {
            compare: r.compare.into_iter().map(Into::into).collect(),
            success: ops(r.success)?,
            failure: ops(r.failure)?,
        })
    }
}

impl From<TxnRequest> for pb::TxnRequest {
    fn from(r: TxnRequest) -> Self {
        let ops = |ops: Vec<RequestOp>| ops.into_iter().map(Into::into).collect();
        Self {
            compare: r.compare.into_iter().map(Into::into).collect(),
            success: ops(r.success),
            failure: ops(r.failure),
        }
    }
}

/// A header that holds only a revision: what stands inside a transaction's answer.
fn inner_header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..pb::ResponseHeader::default() })
}

impl From<RangeResponse> for pb::RangeResponse {
    fn from(r: RangeResponse) -> Self {
        let kvs = r.kvs.into_iter().map(Into::into).collect();
        Self { header: inner_header(r.revision), kvs, more: r.more, count: r.count }
    }
}

impl From<pb::RangeResponse> for RangeResponse {
    fn from(r: pb::RangeResponse) -> Self {
        let kvs = r.kvs.into_iter().map(Into::into).collect();
        Self { revision: revision(r.header), kvs, more: r.more, count: r.count }
    }
}

impl From<PutResponse> for pb::PutResponse {
    fn from(r: PutResponse) -> Self {
        Self { header: inner_header(r.revision), prev_kv: r.prev_kv.map(Into::into) }
    }
}

impl From<pb::PutResponse> for PutResponse {
    fn from(r: pb::PutResponse) -> Self {
        Self { revision: revision(r.header), prev_kv: r.prev_kv.map(Into::into) }
    }
}

impl From<DeleteRangeResponse> for pb::DeleteRangeResponse {
    fn from(r: DeleteRangeResponse) -> Self {
        let prev_kvs = r.prev_kvs.into_iter().map(Into::into).collect();
        Self { header: inner_header(r.revision), deleted: r.deleted, prev_kvs }
    }
}

impl From<pb::DeleteRangeResponse> for DeleteRangeResponse {
    fn from(r: pb::DeleteRangeResponse) -> Self {
        let prev_kvs = r.prev_kvs.into_iter().map(Into::into).collect();
        Self { revision: revision(r.header), deleted: r.deleted, prev_kvs }
    }
}

impl From<TxnResponse> for pb::TxnResponse {
    fn from(r: TxnResponse) -> Self {
        use pb::response_op::Response;
        let op = |op: ResponseOp| pb::ResponseOp {
            response: Some(match op {
                ResponseOp::Range(range) => Response::ResponseRange(range.into()),
                ResponseOp::Put(put) => Response::ResponsePut(put.into()),
                ResponseOp::DeleteRange(delete) => Response::ResponseDeleteRange(delete.into()),
                ResponseOp::Txn(txn) => Response::ResponseTxn(txn.into()),
            }),
        };
        let responses = r.responses.into_iter().map(op).collect();
        Self { header: inner_header(r.revision), succeeded: r.succeeded, responses }
    }
}

impl From<pb::TxnResponse> for TxnResponse {
    fn from(r: pb::TxnResponse) -> Self {
        use pb::response_op::Response;
        let op = |op: pb::ResponseOp| {
            Some(match op.response? {
                Response::ResponseRange(range) => ResponseOp::Range(range.into()),
                Response::ResponsePut(put) => ResponseOp::Put(put.into()),
                Response::ResponseDeleteRange(delete) => ResponseOp::DeleteRange(delete.into()),
                Response::ResponseTxn(txn) => ResponseOp::Txn(txn.into()),
            })
        };
        let responses = r.responses.into_iter().filter_map(op).collect();
        Self { revision: revision(r.header), succeeded: r.succeeded, responses }
    }
}

pub(crate) fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

impl From<Alarm> for pb::AlarmMember {
    fn from(alarm: Alarm) -> Self {
        let kind = match alarm.kind {
            AlarmKind::NoSpace => pb::AlarmType::Nospace,
            AlarmKind::Corrupt => pb::AlarmType::Corrupt,
        };
        Self { member_id: alarm.member, alarm: kind.into() }
    }
}

pub(crate) fn alarm(member: pb::AlarmMember) -> Option<Alarm> {
    let kind = match pb::AlarmType::try_from(member.alarm) {
        Ok(pb::AlarmType::Nospace) => AlarmKind::NoSpace,
        Ok(pb::AlarmType::Corrupt) => AlarmKind::Corrupt,
        Ok(pb::AlarmType::None) | Err(_) => return None,
    };
    Some(Alarm { member: member.member_id, kind })
}

/// The bytes of a command in the log, and of who asks for it.
pub(crate) fn encode(caller: &Caller, command: &Command) -> Bytes {
    Bytes::from(proposal(caller, command).encode_to_vec())
}

fn proposal(caller: &Caller, command: &Command) -> pb::Proposal {
    use pb::proposal::Command as Wire;
    let command = match command.clone() {
        Command::Put(put) => Wire::Put(put.into()),
        Command::DeleteRange(delete) => Wire::DeleteRange(delete.into()),
        Command::Txn(txn) => Wire::Txn(txn.into()),
        Command::Compact(revision) => Wire::Compact(revision),
        Command::LeaseGrant { id, ttl } => Wire::LeaseGrant(pb::LeaseGrantRequest { ttl, id }),
        Command::LeaseRevoke { id } => Wire::LeaseRevoke(id),
        Command::LeaseCheckpoint(left) => {
            let checkpoint = |(id, remaining_ttl)| pb::LeaseCheckpoint { id, remaining_ttl };
            Wire::LeaseCheckpoint(pb::LeaseCheckpoints { leases: left.into_iter().map(checkpoint).collect() })
        }
        Command::AlarmRaise(alarm) => Wire::AlarmRaise(alarm.into()),
        Command::AlarmClear(alarm) => Wire::AlarmClear(alarm.into()),
        Command::Auth(command) => Wire::Auth(command.into()),
        Command::Downgrade(target) => Wire::Downgrade(target.map_or(0, |minor| u32::from(minor) + 1)),
    };
    let (caller, member) = auth::write_caller(caller);
    pb::Proposal { command: Some(command), caller, member }
}

/// Reads a command back from the log, and who asked for it.
pub(crate) fn command(proposal: pb::Proposal) -> Result<(Caller, Command), BadRequest> {
    use pb::proposal::Command as Wire;
    let caller = auth::read_caller(proposal.caller, proposal.member);
    let command = match proposal.command.ok_or(BadRequest::Command)? {
        Wire::Put(put) => Command::Put(put.into()),
        Wire::DeleteRange(delete) => Command::DeleteRange(delete.into()),
        Wire::Txn(txn) => Command::Txn(txn.try_into()?),
        Wire::Compact(revision) => Command::Compact(revision),
        Wire::LeaseGrant(grant) => Command::LeaseGrant { id: grant.id, ttl: grant.ttl },
        Wire::LeaseRevoke(id) => Command::LeaseRevoke { id },
        Wire::LeaseCheckpoint(left) => {
            Command::LeaseCheckpoint(left.leases.into_iter().map(|lease| (lease.id, lease.remaining_ttl)).collect())
        }
        Wire::AlarmRaise(member) => Command::AlarmRaise(alarm(member).ok_or(BadRequest::Command)?),
        Wire::AlarmClear(member) => Command::AlarmClear(alarm(member).ok_or(BadRequest::Command)?),
        Wire::Auth(command) => Command::Auth(command.try_into()?),
        Wire::Downgrade(target) => {
            let minor = target.checked_sub(1).map(u8::try_from).transpose();
            Command::Downgrade(minor.map_err(|_| BadRequest::Command)?)
        }
    };
    Ok((caller, command))
}
