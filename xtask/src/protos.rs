//! `cargo xtask protos`: makes the committed Rust code of protocol files; neither protoc nor a build script is needed.

use std::path::Path;

use anyhow::Context;

/// Makes `crates/etcd/src/proto/etcdserverpb.rs` from `crates/etcd/proto/etcd.proto`. `root` is the workspace.
///
/// # Errors
/// When the file does not compile or the result cannot be written.
pub(crate) fn etcd(root: &Path) -> anyhow::Result<()> {
    let folder = root.join("crates/etcd/proto");
    let files = protox::compile([folder.join("etcd.proto")], [&folder]).context("compiling etcd.proto")?;
    let out = root.join("crates/etcd/src/proto");
    std::fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(true)
        .build_server(true)
        .disable_comments(["."])
        .emit_rerun_if_changed(false)
        .out_dir(&out)
        .compile_fds(files)
        .context("writing the code of etcd.proto")
}
