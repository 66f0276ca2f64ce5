//! Members as their users see them. One program, so that it is linked once.

mod auth;
mod cluster;
mod member;
mod proxy;
mod recovery;
mod restore;
#[path = "../support/mod.rs"]
mod support;
