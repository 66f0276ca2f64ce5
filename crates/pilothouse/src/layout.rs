//! Where things lie under the data directory.
//!
//! ```text
//! DATA/platform            the platform's keys (movable with --platform-dir)
//! DATA/cloud               the cloud's state
//! DATA/clusters/<id>/...   one directory a cluster: signer/, <instance>/, addresses.json, cluster.json
//! DATA/front-end           the authority behind the names of DNS endpoints, once it was needed
//! DATA/user/               what clients read: kubeconfig, tokens, etcdctl's certificates, gcloud's configuration
//! DATA/logs/               one file a process
//! DATA/pilothouse          the mark of a sandbox; locked by the process that runs it, whose number it holds
//! DATA/sandbox.json        what is remembered of the flags
//! DATA/run.json            the running sandbox
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::cli::{AuthMode, Profile};
use crate::config::ClusterName;
use crate::edge::EndpointDeny;

const MARK: &str = "A Pilothouse sandbox lives here; `pilothouse reset` removes it.";

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
    /// The default cluster.
    #[serde(default)]
    pub(crate) cluster: Option<ClusterName>,
    /// Its nodes in each zone when it was started.
    #[serde(default)]
    pub(crate) nodes: Option<u32>,
    /// `IP:PORT` of its API server.
    #[serde(default)]
    pub(crate) api_address: String,
    #[serde(default)]
    pub(crate) auth: AuthMode,
    #[serde(default)]
    pub(crate) in_process: bool,
    #[serde(default)]
    pub(crate) profile: Profile,
    #[serde(default)]
    pub(crate) endpoint_deny: EndpointDeny,
}

impl RunState {
    /// The state of a directory on which nothing runs.
    pub(crate) fn nothing(layout: &Layout) -> Self {
        Self {
            pid: 0,
            cloud_endpoint: String::new(),
            control_endpoint: String::new(),
            project: String::new(),
            account: String::new(),
            platform_dir: layout.platform().to_owned(),
            etcd_endpoints: Vec::new(),
            cluster: None,
            nodes: None,
            api_address: String::new(),
            auth: AuthMode::Strict,
            in_process: false,
            profile: Profile::Classic,
            endpoint_deny: EndpointDeny::Drop,
        }
    }
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

    pub(crate) fn with_platform(self, platform: PathBuf) -> Self {
        Self { platform, ..self }
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

    pub(crate) fn settings(&self) -> PathBuf {
        self.root.join("sandbox.json")
    }

    fn mark(&self) -> PathBuf {
        self.root.join("pilothouse")
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.user().join("kubeconfig")
    }

    pub(crate) fn front_end(&self) -> PathBuf {
        self.root.join("front-end")
    }

    /// The certificate that vouches for the names of DNS endpoints.
    pub(crate) fn public_root(&self) -> PathBuf {
        self.user().join("google-ca.crt")
    }

    /// That certificate and the system's, for clients that read one file.
    pub(crate) fn ca_bundle(&self) -> PathBuf {
        self.user().join("ca-bundle.crt")
    }

    pub(crate) fn access_token(&self) -> PathBuf {
        self.user().join("access-token")
    }

    pub(crate) fn control_token(&self) -> PathBuf {
        self.root.join("control-token")
    }

    /// Looks whether this can be a sandbox' directory, or become one; changes nothing.
    ///
    /// # Errors
    /// When it is something else, or somebody else's.
    pub(crate) fn check(&self) -> Result<()> {
        let root = self.root.display();
        let found = match fs::metadata(&self.root) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(refusal("use", &self.root, e)),
        };
        if !found.is_dir() {
            bail!("{root} is a file, not a directory; choose another --data-dir");
        }
        let user = rustix::process::geteuid().as_raw();
        if found.uid() != user {
            bail!(
                "{root} belongs to user {}, this is user {user}; start it as that user, or choose another --data-dir",
                found.uid()
            );
        }
        let mut entries = fs::read_dir(&self.root).map_err(|e| refusal("read", &self.root, e))?;
        if !self.mark().exists() && entries.next().is_some() {
            bail!(
                "{root} holds something that is not a Pilothouse sandbox; nothing was changed. Choose another --data-dir"
            );
        }
        Ok(())
    }

    /// Makes the directories that are missing, all 0700.
    ///
    /// # Errors
    /// When one cannot be made, or the place holds something else.
    pub(crate) fn prepare(&self) -> Result<()> {
        self.check()?;
        make_directory(&self.root)?;
        // Before anything else: what has the mark is ours, also when the rest could not be made.
        if !self.mark().exists() {
            write_private(&self.mark(), format!("{MARK}\n").as_bytes())?;
        }
        for directory in [&self.clusters(), &self.user(), &self.logs()] {
            make_directory(directory)?;
        }
        Ok(())
    }

    /// Does the directory bear a sandbox' mark?
    pub(crate) fn is_sandbox(&self) -> bool {
        self.mark().exists()
    }

    /// Does the directory hold the data of an earlier start?
    pub(crate) fn is_used(&self) -> bool {
        let entries = |path: PathBuf| fs::read_dir(path).is_ok_and(|mut found| found.next().is_some());
        entries(self.cloud()) || entries(self.clusters())
    }

    /// Takes the directory for this process, until the file is dropped.
    ///
    /// # Errors
    /// When another process has it.
    pub(crate) fn take(&self) -> Result<File> {
        let path = self.mark();
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).map_err(|e| refusal("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(self.in_use(self.holder())),
            Err(TryLockError::Error(e)) => return Err(refusal("lock", &path, e)),
        }
        file.set_len(0)
            .and_then(|()| (&file).write_all(format!("{MARK}\nprocess {}\n", std::process::id()).as_bytes()))
            .map_err(|e| refusal("write", &path, e))?;
        Ok(file)
    }

    /// The process that has taken the directory.
    pub(crate) fn holder(&self) -> Option<u32> {
        let path = self.mark();
        let file = File::open(&path).ok()?;
        if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
            return None;
        }
        let text = fs::read_to_string(&path).ok()?;
        text.lines().find_map(|line| line.strip_prefix("process ")?.parse().ok())
    }

    /// What to say when something starts, stops or runs on the directory.
    pub(crate) fn in_use(&self, holder: Option<u32>) -> anyhow::Error {
        let process = holder.map_or_else(String::new, |pid| format!(" (process {pid})"));
        anyhow!("a sandbox uses {}{process}; `pilothouse down` stops it", self.root.display())
    }

    /// The running sandbox, if one runs and is ready.
    ///
    /// # Errors
    /// When `run.json` is damaged.
    pub(crate) fn running(&self) -> Result<Option<RunState>> {
        let Some(holder) = self.holder() else { return Ok(None) };
        let file = self.run_file();
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(refusal("read", &file, e)),
        };
        let state: RunState = serde_json::from_slice(&text).with_context(|| {
            format!("{} is damaged; `pilothouse down` and `pilothouse up` write it anew", file.display())
        })?;
        Ok((state.pid == holder).then_some(state))
    }

    /// The running sandbox, or the line that says there is none.
    ///
    /// # Errors
    /// When none runs.
    pub(crate) fn must_run(&self) -> Result<RunState> {
        match (self.running()?, self.holder()) {
            (Some(state), _) => Ok(state),
            (None, Some(pid)) => bail!("the sandbox on {} is not ready yet (process {pid})", self.root.display()),
            (None, None) => bail!("no sandbox runs on {}; start one with `pilothouse up`", self.root.display()),
        }
    }
}

/// Why the operating system refused, in one line with the way out.
pub(crate) fn refusal(doing: &str, path: &Path, error: io::Error) -> anyhow::Error {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            anyhow!("no permission to {doing} {path}; choose another --data-dir, or give this user the right to it")
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            anyhow!("cannot {doing} {path}: the file system is read-only; choose another --data-dir")
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            anyhow!("cannot {doing} {path}: a part of the path is a file, not a directory; choose another --data-dir")
        }
        io::ErrorKind::IsADirectory => anyhow!("cannot {doing} {path}: it is a directory; move that away"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            anyhow!("cannot {doing} {path}: no space is left; free some, or choose another --data-dir")
        }
        _ => anyhow::Error::new(error).context(format!("cannot {doing} {path}")),
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
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| refusal("make the directory", path, e))
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
    write().map_err(|e| refusal("write", path, e))
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
    fn only_the_process_that_holds_the_directory_counts_as_running() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::resolve(Some(&directory.path().join("d")), None).unwrap();
        layout.prepare().unwrap();
        let state = RunState { pid: std::process::id(), ..RunState::nothing(&layout) };
        write_private(&layout.run_file(), &serde_json::to_vec(&state).unwrap()).unwrap();
        assert!(layout.running().unwrap().is_none(), "left behind by a process that was killed");
        let taken = layout.take().unwrap();
        assert_eq!(layout.holder(), Some(std::process::id()));
        assert!(layout.running().unwrap().is_some());
        let again = layout.take().map(drop).unwrap_err().to_string();
        assert!(again.contains("`pilothouse down` stops it"), "{again}");
        fs::write(layout.run_file(), "{").unwrap();
        assert!(layout.running().is_err());
        drop(taken);
        assert!(layout.running().unwrap().is_none(), "a damaged file of a process that is gone");
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "x").unwrap();
        for (path, named) in
            [(file.clone(), "is a file, not a directory"), (file.join("x"), "is a file, not a directory")]
        {
            let layout = Layout::resolve(Some(&path), None).unwrap();
            let text = layout.prepare().unwrap_err().to_string();
            assert!(text.contains(named) && text.contains("--data-dir"), "{text}");
        }
    }
}
