//! etcd's messages and services, made from the files in `proto`.

#[allow(unreachable_pub, missing_docs, clippy::all, clippy::pedantic, dead_code, reason = "generated code")]
mod etcdserverpb;

#[allow(unreachable_pub, missing_docs, clippy::all, clippy::pedantic, dead_code, reason = "generated code")]
pub(crate) mod v3electionpb;

#[allow(unreachable_pub, missing_docs, clippy::all, clippy::pedantic, dead_code, reason = "generated code")]
pub(crate) mod v3lockpb;

pub(crate) use etcdserverpb::*;

/// The descriptors of all of them (`google.protobuf.FileDescriptorSet`).
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!("proto/descriptors.bin");
