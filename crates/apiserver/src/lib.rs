//! The API server of a cluster: one door for every request.
//!
//! ```text
//! HTTP shell ─► handle: parse → authenticate → audit → authorize → row → verb ─► transaction in the store
//!                                                                     ▲               │ one watch
//! callers in this process ─► handle                                   └── watch caches ◄┘
//! ```
//! [`ApiServer::start`] reads the store and makes what a new cluster needs; [`ApiServer::serve_connection`] speaks
//! HTTPS; [`ApiServer::handle`] answers callers in this process with trees instead of bytes.

mod audit;
mod authn;
mod bootstrap;
mod caches;
mod compact;
mod config;
mod crd;
mod create;
mod custom;
mod decode;
mod delete;
mod derived;
mod encode;
mod error;
mod filter;
mod http_shell;
mod identity;
mod info;
mod message;
mod metrics;
mod openapi;
mod paths;
mod proxy;
mod read;
mod reader;
mod reviews;
mod route;
mod server;
mod special;
mod stored;
mod update;
mod watch;
mod write;

pub use config::{AuditSink, Config};
pub use error::Error;
pub use identity::Identity;
pub use message::{Body, Caller, Content, List, Peer, Reply, Request};
pub use proxy::{FindKubelet, Kubelets};
pub use server::ApiServer;
pub use watch::{WatchEvent, WatchKind, WatchObject, WatchStream};
