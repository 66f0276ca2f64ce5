//! etcd's gRPC services on a member in this process.

mod auth;
mod cluster;
mod downgrade;
mod election;
mod health;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod session;
mod snapshot;
mod watch;

use std::borrow::Cow;
use std::sync::Arc;

use mvcc::{AuthError, MvccError};
use tonic::{Code, Status};

use crate::auth::Credentials;
use crate::convert::BadRequest;
use crate::local::Who;
use crate::members::MemberError;
use crate::{LocalStore, StoreError, proto as pb};

pub(crate) use watch::refused as refused_watch;

/// Implements every service; cloned for each connection.
#[derive(Clone)]
pub(crate) struct Api {
    /// Asks for a client of whom nothing is known: see [`Api::client`].
    pub(crate) store: LocalStore,
}

impl Api {
    pub(crate) fn new(store: &LocalStore) -> Self {
        Self { store: LocalStore { shared: store.shared.clone(), who: Who::Client(None) } }
    }

    /// The store as the client of a request may use it. While nobody is asked who they are, nothing is looked at.
    fn client<T>(&self, request: &tonic::Request<T>) -> Cow<'_, LocalStore> {
        if self.store.shared.auth.is_enabled() {
            Cow::Owned(self.client_of_stream(request))
        } else {
            Cow::Borrowed(&self.store)
        }
    }

    /// As [`Api::client`], for requests that go on: authentication may be enabled while they do.
    fn client_of_stream<T>(&self, request: &tonic::Request<T>) -> LocalStore {
        let who = Who::Client(Some(Arc::new(Credentials::of(request))));
        LocalStore { shared: self.store.shared.clone(), who }
    }

    /// The header of an answer.
    fn header(&self, revision: i64) -> Option<pb::ResponseHeader> {
        let shared = &self.store.shared;
        let raft_term = shared.published().term;
        Some(pb::ResponseHeader { cluster_id: shared.cluster_id, member_id: shared.member_id, revision, raft_term })
    }

    fn revision(&self) -> i64 {
        self.store.shared.published().snapshot.revision()
    }

    /// A learner answers serializable reads of keys, and nothing else of `KV` (`etcdserver/api/v3rpc/interceptor`).
    fn check_vote(&self, serializable: bool) -> Result<(), Status> {
        if !serializable && self.store.shared.published().learner {
            return Err(status(StoreError::Learner));
        }
        Ok(())
    }

    /// Requests that ask for a leader are refused when there is none (`etcdserver/api/v3rpc/interceptor`).
    fn check<T>(&self, request: &tonic::Request<T>) -> Result<(), Status> {
        let shared = &self.store.shared;
        let wants_leader = request.metadata().get("hasleader").is_some_and(|value| value == "true");
        if wants_leader && shared.published().leader == 0 {
            return Err(status(StoreError::NoLeader));
        }
        Ok(())
    }
}

/// The gRPC form of an error: code and text are what clients match on.
pub(crate) fn status(error: StoreError) -> Status {
    let code = match &error {
        StoreError::Compacted { .. } => Code::OutOfRange,
        StoreError::Refused(refusal) => match refusal {
            MvccError::Compacted { .. } | MvccError::FutureRevision | MvccError::LeaseTtlTooLarge => Code::OutOfRange,
            MvccError::NoSpace => Code::ResourceExhausted,
            MvccError::Corrupt => Code::DataLoss,
            MvccError::LeaseNotFound => Code::NotFound,
            MvccError::LeaseExists => Code::FailedPrecondition,
            MvccError::EmptyKey
            | MvccError::KeyNotFound
            | MvccError::ValueProvided
            | MvccError::LeaseProvided
            | MvccError::TooManyOps
            | MvccError::DuplicateKey => Code::InvalidArgument,
            MvccError::Auth(refusal) => auth_code(*refusal),
        },
        StoreError::TooLarge => Code::InvalidArgument,
        StoreError::TooManyRequests => Code::ResourceExhausted,
        StoreError::TransferTimeout => Code::Unknown,
        StoreError::Learner => Code::FailedPrecondition,
        StoreError::Deadline => Code::DeadlineExceeded,
        StoreError::Timeout
        | StoreError::NoLeader
        | StoreError::LeaderChanged
        | StoreError::Stopped
        | StoreError::Unavailable(_) => Code::Unavailable,
        StoreError::Member(refusal) => match refusal {
            MemberError::NotFound => Code::NotFound,
            MemberError::BadUrls => Code::InvalidArgument,
            MemberError::Unhealthy => Code::Unavailable,
            // etcd returns this one as an error of another type, which gRPC does not know.
            MemberError::NotEnoughStarted => Code::Unknown,
            MemberError::Exists
            | MemberError::PeerUrlExists
            | MemberError::NotLearner
            | MemberError::LearnerNotReady
            | MemberError::TooManyLearners
            | MemberError::BadTransferee
            | MemberError::NotLeader => Code::FailedPrecondition,
        },
        StoreError::Remote { code, .. } => Code::from(*code),
    };
    Status::new(code, error.to_string())
}

fn auth_code(error: AuthError) -> Code {
    match error {
        AuthError::RootUserNotExist
        | AuthError::RootRoleNotExist
        | AuthError::UserAlreadyExist
        | AuthError::UserNotFound
        | AuthError::RoleAlreadyExist
        | AuthError::RoleNotFound
        | AuthError::RoleNotGranted
        | AuthError::PermissionNotGranted
        | AuthError::NotEnabled => Code::FailedPrecondition,
        AuthError::UserEmpty
        | AuthError::RoleEmpty
        | AuthError::AuthFailed
        | AuthError::PermissionNotGiven
        | AuthError::OldRevision
        | AuthError::InvalidManagement => Code::InvalidArgument,
        AuthError::PermissionDenied => Code::PermissionDenied,
        AuthError::InvalidToken => Code::Unauthenticated,
        // etcd has no code for these.
        AuthError::NoPasswordUser | AuthError::PasswordTooLong | AuthError::VerifyOnly => Code::Unknown,
    }
}

fn bad_request(error: BadRequest) -> Status {
    match error {
        BadRequest::SortOption => Status::invalid_argument("etcdserver: invalid sort option"),
        BadRequest::Command => Status::invalid_argument("etcdserver: key not found"),
    }
}
