//! Where things lie under the data directory.
//!
//! ```text
//! DATA/platform            the platform's keys (movable with --platform-dir)
//! DATA/cloud               the cloud's state
//! DATA/clusters/<id>/...   one directory a cluster: signer/, <instance>/, addresses.json, cluster.json
//! DATA/user/               what clients read: kubeconfig, tokens, etcdctl's certificates, gcloud's configuration
//! DATA/logs/               one file a process
//! DATA/run.json            the running sandbox
//! ```

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The paths of one sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
    platform: PathBuf,
}

/// What `run.json` tells about a running sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RunState {
    /// The process of cloud, fleet and edge.
    pub(crate) pid: u32,
    /// `http://127.0.0.1:PORT`
    pub(crate) cloud_endpoint: String,
    /// `http://127.0.0.1:PORT/pilothouse/v1`
    pub(crate) control_endpoint: String,
    pub(crate) project: String,
    pub(crate) account: String,
    pub(crate) platform_dir: PathBuf,
    /// Of the default cluster; empty without one.
    pub(crate) etcd_endpoints: Vec<String>,
}

impl Layout {
    /// Resolves `--data-dir` and `--platform-dir` with their defaults.
    ///
    /// # Errors
    /// When there is neither a flag nor a home directory.
    pub(crate) fn resolve(data_dir: Option<&Path>, platform_dir: Option<&Path>) -> Result<Self> {
        let root = match data_dir {
            Some(directory) => std::path::absolute(directory)?,
            None => default_root()?,
        };
        let platform = match platform_dir {
            Some(directory) => std::path::absolute(directory)?,
            None => root.join("platform"),
        };
        Ok(Self { root, platform })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn platform(&self) -> &Path {
        &self.platform
    }

    pub(crate) fn cloud(&self) -> PathBuf {
        self.root.join("cloud")
    }

    pub(crate) fn cluster(&self, id: &str) -> PathBuf {
        // The first digits tell clusters apart for people; the whole id stands inside.
        self.clusters().join(&id[..id.len().min(16)])
    }

    pub(crate) fn clusters(&self) -> PathBuf {
        self.root.join("clusters")
    }

    pub(crate) fn user(&self) -> PathBuf {
        self.root.join("user")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.logs().join(format!("{process}.log"))
    }

    pub(crate) fn run_file(&self) -> PathBuf {
        self.root.join("run.json")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.user().join("kubeconfig")
    }

    pub(crate) fn access_token(&self) -> PathBuf {
        self.user().join("access-token")
    }

    pub(crate) fn control_token(&self) -> PathBuf {
        self.root.join("control-token")
    }

    /// Makes the directories that are missing, all 0700.
    ///
    /// # Errors
    /// When one cannot be made, or the place holds something else.
    pub(crate) fn prepare(&self) -> Result<()> {
        let marker = self.root.join("pilothouse");
        if self.root.exists() && !marker.exists() && fs::read_dir(&self.root).is_ok_and(|mut d| d.next().is_some()) {
            bail!(
                "{} holds something that is not a Pilothouse sandbox; nothing was changed. Choose another --data-dir",
                self.root.display()
            );
        }
        for directory in [&self.root, &self.clusters(), &self.user(), &self.logs()] {
            make_directory(directory)?;
        }
        if !marker.exists() {
            write_private(&marker, b"A Pilothouse sandbox lives here; `pilothouse reset` removes it.\n")?;
        }
        Ok(())
    }

    /// The running sandbox, if one runs.
    ///
    /// # Errors
    /// When `run.json` is damaged.
    pub(crate) fn running(&self) -> Result<Option<RunState>> {
        let file = self.run_file();
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", file.display())),
        };
        let state: RunState = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; delete it and start again", file.display()))?;
        Ok(process_serves(state.pid, &self.root).then_some(state))
    }

    /// The running sandbox, or the line that says there is none.
    ///
    /// # Errors
    /// When none runs.
    pub(crate) fn must_run(&self) -> Result<RunState> {
        match self.running()? {
            Some(state) => Ok(state),
            None => bail!("no sandbox runs on {}; start one with `pilothouse up`", self.root.display()),
        }
    }
}

/// Is the process alive, and (where that can be told) the one that serves this directory?
fn process_serves(pid: u32, root: &Path) -> bool {
    let Some(id) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    if rustix::process::test_kill_process(id).is_err() {
        return false;
    }
    match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(line) => line.windows(root.as_os_str().len()).any(|w| w == root.as_os_str().as_encoded_bytes()),
        Err(_) => true,
    }
}

fn default_root() -> Result<PathBuf> {
    if let Some(data) = std::env::var_os("XDG_DATA_HOME").filter(|d| !d.is_empty()) {
        return Ok(PathBuf::from(data).join("pilothouse"));
    }
    let home = std::env::home_dir().context("no home directory; name a place with --data-dir")?;
    Ok(home.join(".local/share/pilothouse"))
}

/// Makes a directory and its parents; what is made is 0700.
///
/// # Errors
/// Names the directory.
pub(crate) fn make_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Writes a file of mode 0600, replacing it whole or not at all.
///
/// # Errors
/// Names the file.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_other_things_in_it_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("thesis.txt"), "mine").unwrap();
        let layout = Layout::resolve(Some(directory.path()), None).unwrap();
        assert!(layout.prepare().unwrap_err().to_string().contains("nothing was changed"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_stale_run_file_does_not_count_as_running() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::resolve(Some(&directory.path().join("d")), None).unwrap();
        layout.prepare().unwrap();
        let state = RunState {
            pid: std::process::id(),
            cloud_endpoint: String::new(),
            control_endpoint: String::new(),
            project: String::new(),
            account: String::new(),
            platform_dir: layout.platform().to_owned(),
            etcd_endpoints: Vec::new(),
        };
        write_private(&layout.run_file(), &serde_json::to_vec(&state).unwrap()).unwrap();
        assert!(layout.running().unwrap().is_none(), "this test's process serves no sandbox");
    }
}
