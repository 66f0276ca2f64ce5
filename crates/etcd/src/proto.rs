//! etcd's messages and services, made from `proto/etcd.proto`.

#[allow(unreachable_pub, missing_docs, clippy::all, clippy::pedantic, dead_code, reason = "generated code")]
mod etcdserverpb;

pub(crate) use etcdserverpb::*;
