//! The server as its clients see it. One program, so that it is linked once.

mod answers;
mod api;
mod claims;
mod distributed;
mod forged;
mod headers;
mod openapi;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
mod websockets;
