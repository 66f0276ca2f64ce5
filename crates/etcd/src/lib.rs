//! An etcd member: drives consensus and keyspace over a log, serves etcd's v3 API, and the `Store` door on either a
//! member in this process or any etcd over gRPC.

mod error;
mod local;
mod remote;
mod store;

pub use error::{EtcdError, StoreError};
pub use local::{LocalStore, LocalWatch};
pub use remote::{RemoteStore, RemoteWatch};
pub use store::{LeaseGranted, LeaseTimeToLive, Store, StoreStatus, Watch, WatchBatch, WatchRequest};
