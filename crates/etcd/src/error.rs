//! Errors: what a caller of the store sees, and what the operator sees.

use mvcc::MvccError;

use crate::members::MemberError;

/// Why the store did not answer. The texts are etcd's (`api/v3rpc/rpctypes`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The revision asked for is compacted away.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted {
        /// The compaction's revision; 0 when the answer did not say.
        revision: i64,
    },
    /// The keyspace refused; nothing was changed.
    #[error("{0}")]
    Refused(MvccError),
    /// The request is larger than allowed; nothing was changed.
    #[error("etcdserver: request is too large")]
    TooLarge,
    /// Too many proposals wait; nothing was changed.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// No answer in time: whether it was done is not known.
    #[error("etcdserver: request timed out")]
    Timeout,
    /// There was no leader to propose anything to, for as long as a request may take. In Go's words: etcd hands its own
    /// context's error on.
    #[error("context deadline exceeded")]
    Deadline,
    /// There is no leader.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// Leadership changed while the read waited for it.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    /// A learner answers serializable reads only.
    #[error("etcdserver: rpc not supported for learner")]
    Learner,
    /// A change of membership is refused; nothing was changed.
    #[error("{0}")]
    Member(#[from] MemberError),
    /// The leader did not hand over in time.
    #[error("etcdserver: request timed out, leader transfer took too long")]
    TransferTimeout,
    /// The member is stopping: whether it was done is not known.
    #[error("etcdserver: server stopped")]
    Stopped,
    /// Another answer of a remote etcd: its gRPC code and text.
    #[error("{message}")]
    Remote {
        /// gRPC status code number.
        code: i32,
        /// Its text.
        message: String,
    },
    /// The remote etcd cannot be reached: whether it was done is not known.
    #[error("etcd is unavailable: {0}")]
    Unavailable(String),
}

impl From<MvccError> for StoreError {
    fn from(error: MvccError) -> Self {
        match error {
            MvccError::Compacted { revision } => Self::Compacted { revision },
            other => Self::Refused(other),
        }
    }
}

/// What stopped a member, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// The thread that owns the state is gone without having been stopped.
    #[error("the store's state thread is gone; start it again: the log has everything that was acknowledged")]
    Ended,
    /// The data directory, log or checkpoint could not be used.
    #[error("{doing}")]
    Storage {
        /// What was being done, naming the path.
        doing: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The state thread could not be started.
    #[error("starting the state thread")]
    Thread(#[source] std::io::Error),
    /// The stored state contradicts itself.
    #[error("{0}")]
    Damaged(String),
    /// A snapshot cannot be restored, or not there.
    #[error("{0}")]
    Snapshot(String),
    /// A remote etcd's address or TLS settings are not usable.
    #[error("connecting to etcd at {endpoint}")]
    Connect {
        /// The address as given.
        endpoint: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The member cannot join its cluster.
    #[error("{0}")]
    Join(String),
    /// The options or keys of authentication tokens are not usable.
    #[error("{0}")]
    AuthToken(String),
    /// A listener failed.
    #[error("serving etcd clients")]
    Serve(#[source] std::io::Error),
}

pub(crate) fn storage(doing: &str, source: impl std::error::Error + Send + Sync + 'static) -> EtcdError {
    EtcdError::Storage { doing: doing.to_owned(), source: Box::new(source) }
}
