//! The API server of a cluster: one door for every request.
//!
//! ```text
//! HTTP shell ─► handle: parse → authenticate → audit → authorize → row → verb ─► transaction in the store
//!                                                                     ▲               │ one watch
//! callers in this process ─► handle                                   └── watch caches ◄┘
//! ```
//! [`ApiServer::start`] reads the store and makes what a new cluster needs; [`ApiServer::serve_connection`] speaks
//! HTTPS; [`ApiServer::handle`] answers callers in this process with trees instead of bytes.

mod access_review;
mod audit;
mod authentication_config;
mod authn;
mod bootstrap;
mod caches;
mod claims;
mod compact;
mod config;
mod crd;
mod create;
mod custom;
mod deadline;
mod decode;
mod delete;
mod delete_options;
mod derived;
mod distributed;
mod encode;
mod encryption;
mod error;
mod filter;
mod http_shell;
mod identity;
mod info;
mod issuers;
mod message;
mod metrics;
mod openapi;
mod outbound;
mod paths;
mod proxy;
mod read;
mod reader;
mod reviews;
mod route;
mod server;
mod service_tokens;
mod special;
mod stored;
mod token_webhook;
mod update;
mod watch;
mod websocket_token;
mod websocket_watch;
mod write;

pub use config::{AuditSink, Config, RequestHeader};
pub use encryption::{KeyAnswer, KeyQuestion, KeyService};
pub use error::Error;
pub use http_shell::connection_builder;
pub use identity::{Channel, Identity};
pub use issuers::TrustedIssuer;
pub use message::{Body, Caller, Content, List, Peer, Reply, Request};
pub use proxy::{FindKubelet, Kubelets};
pub use server::ApiServer;
pub use token_webhook::{TokenWebhook, WebhookAddress, read_webhook_config};
pub use watch::{WatchEvent, WatchKind, WatchObject, WatchStream};
