//! An etcd member: drives consensus and keyspace over a log, serves etcd's v3 API, and the `Store` door on either a
//! member in this process or any etcd over gRPC.

mod access;
mod adopt;
mod announce;
mod answers;
mod auth;
mod bolt;
mod calls;
mod checkpoint;
mod command;
mod compactor;
mod config_file;
mod connector;
mod convert;
mod corked;
mod corruption;
mod database;
mod discovery;
mod eager;
mod engine;
mod error;
mod features;
mod flags;
mod gateway;
mod gateway_command;
mod grpc;
mod grpc_proxy;
mod http_routes;
mod hub;
mod journal;
mod leaderless;
mod listen;
mod listeners;
mod local;
mod local_watch;
mod logging;
mod member;
mod members;
mod methods;
mod metrics;
mod metrics_page;
mod peers;
mod pings;
mod process;
mod proto;
mod recovery;
mod remote;
mod restore;
mod router;
mod serve;
mod settings;
mod shared;
mod store;
mod tls;
mod unary;
mod view;

pub use command::{Command, Refusal, command, run_command};
pub use error::{EtcdError, StoreError};
pub use flags::Flags;
pub use gateway_command::Gateway;
pub use grpc_proxy::GrpcProxy;
pub use journal::Storage;
pub use local::LocalStore;
pub use local_watch::LocalWatch;
pub use logging::Logging;
pub use member::{Member, MemberConfig};
pub use members::MemberError;
// What the calls of `Store` take and give.
pub use mvcc::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, Event, EventKind, KeyValue, MvccError, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse, prefix_end,
};
pub use peers::{Joined, PeerNetwork, inquire};
pub use remote::{RemoteStore, RemoteWatch};
pub use router::Traffic;
pub use serve::ServeOptions;
pub use store::{LeaseGranted, LeaseTimeToLive, Store, StoreStatus, Watch, WatchBatch, WatchRequest};

/// The etcd version whose behaviour this is.
pub const VERSION: &str = "3.6.16";
