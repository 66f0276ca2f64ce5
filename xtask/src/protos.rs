//! `cargo xtask protos`: makes the committed Rust code of protocol files; neither protoc nor a build script is needed.

use std::path::Path;

use anyhow::Context;
use prost::Message as _;

/// The protocol files of the store.
const ETCD: [&str; 3] = ["etcd.proto", "lock.proto", "election.proto"];

/// Makes a Rust file for each package of `crates/etcd/proto` in `crates/etcd/src/proto`, and `descriptors.bin`: the
/// descriptors of all of them, for the JSON gateway and for reflection. `root` is the workspace.
///
/// # Errors
/// When a file does not compile or the result cannot be written.
pub(crate) fn etcd(root: &Path) -> anyhow::Result<()> {
    let folder = root.join("crates/etcd/proto");
    let files =
        protox::compile(ETCD.map(|file| folder.join(file)), [&folder]).context("compiling the protocol files")?;
    let mut bare = files.clone();
    bare.file.iter_mut().for_each(|file| file.source_code_info = None);
    let out = root.join("crates/etcd/src/proto");
    std::fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    std::fs::write(out.join("descriptors.bin"), bare.encode_to_vec()).context("writing the descriptors")?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(true)
        .build_server(true)
        .disable_comments(["."])
        .emit_rerun_if_changed(false)
        .out_dir(&out)
        .compile_fds(files)
        .context("writing the code of the protocol files")
}
