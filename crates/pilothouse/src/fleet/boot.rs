//! Verified start: a process of a cluster gets its key only when the program and the cluster's record are those that were
//! accepted, and every start leaves an event that says so.
//!
//! ```text
//! PLATFORM/boot/signing.sealed   the key that signs statements, sealed by the platform key
//! PLATFORM/boot/program.json     the program that was accepted
//! PLATFORM/boot/<id>.json        the record of a cluster, as the fleet last wrote it
//! DATA/logs/boot.log             one integrity event a line
//! ```
//!
//! The program is opened once, measured from that descriptor, and executed from it: whatever is put in its place later
//! is neither measured nor run. The one who measures is this same program: what this finds is a change that somebody made
//! without saying so, not a program that lies about itself (docs/security.md).

mod events;
mod statement;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use aws_lc_rs::digest::{self, SHA256};
use base::{Clock, Entropy};
use disk::{DiskError, Platform};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::layout::{Layout, make_directory, write_private};
use events::{Events, Part};
use statement::{Signer, Statement};

const DIRECTORY: &str = "boot";
const SIGNING_KEY: &str = "signing.sealed";
/// What the signing key is sealed for.
const CONTEXT: &str = "boot/signing";
const PROGRAM: &str = "program.json";
/// Fits into the caches of a processor, and is few system calls for a program of some megabytes.
const PIECE_BYTES: usize = 256 * 1024;

/// A SHA-256 in hexadecimal digits, as sha256sum prints it.
pub(crate) type Digest = String;

/// Who starts.
#[derive(Clone, Copy)]
pub(crate) struct Starting<'a> {
    pub(crate) cluster_id: &'a str,
    pub(crate) location: &'a str,
    /// The instance, or `signer`.
    pub(crate) process: &'a str,
}

/// Knows what was accepted, and measures what is there.
pub(crate) struct Verifier {
    directory: PathBuf,
    /// The program that runs, open: children are started from here.
    program: File,
    measuring: Mutex<Option<JoinHandle<std::io::Result<Digest>>>>,
    judged: OnceCell<Judged>,
    signer: Signer,
    /// Of a new sandbox: kept once everything that it begins with is stated, so that a start that was cut off begins anew.
    new_seed: Option<Zeroizing<Vec<u8>>>,
    /// The user said that the program is another one on purpose.
    accept_program: bool,
    records: Mutex<BTreeMap<String, Record>>,
    events: Events,
    clock: Clock,
}

/// What was found of the program or of a record.
#[derive(Debug, Clone)]
struct Judged {
    actual: Digest,
    accepted: Vec<Digest>,
    refused: Option<String>,
}

/// A cluster's record: what lies on the disk, and what was found when it was read.
struct Record {
    on_disk: Digest,
    judged: Judged,
}

impl Verifier {
    /// Opens what was accepted, and begins to measure the program in the background. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the program cannot be opened, or the signing key cannot be opened or made.
    pub(crate) fn open(
        layout: &Layout,
        project: &str,
        platform: &Platform,
        (clock, entropy): (Clock, Entropy),
        accept_program: bool,
    ) -> Result<Self> {
        let directory = layout.platform().join(DIRECTORY);
        make_directory(&directory)?;
        let (seed, is_new) = signing_key(&directory, platform, &entropy)?;
        let new_seed = is_new.then(|| seed.clone());
        let program = File::open("/proc/self/exe").context("this program cannot be opened to be measured")?;
        let reader = program.try_clone()?;
        let measuring = tokio::task::spawn_blocking(move || measure(reader));
        Ok(Self {
            signer: Signer::new(&seed)?,
            events: Events::new(layout.log("boot"), project.to_owned(), clock.clone(), entropy),
            directory,
            program,
            measuring: Mutex::new(Some(measuring)),
            judged: OnceCell::new(),
            new_seed,
            accept_program,
            records: Mutex::default(),
            clock,
        })
    }

    /// Where to start this very program from, whatever lies under its name by now. The path is good in a child too: it
    /// inherits the descriptor until it has executed it.
    pub(crate) fn program(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.program.as_raw_fd()))
    }

    /// Lets a process start, or says why not. Call it before its key is unwrapped.
    ///
    /// # Errors
    /// When the program or the cluster's record is not the one that was accepted.
    pub(crate) async fn admit(&self, starting: Starting<'_>) -> Result<()> {
        let program = self.judged.get_or_init(|| self.judge_program()).await;
        self.events.write(starting, Part::Early, &program.actual, &program.accepted, program.refused.is_none());
        if let Some(why) = &program.refused {
            bail!("{why}");
        }
        let record = self.records().get(starting.cluster_id).map(|record| record.judged.clone());
        let record = record.context("the cluster's record was not measured")?;
        self.events.write(starting, Part::Late, &record.actual, &record.accepted, record.refused.is_none());
        match record.refused {
            Some(why) => Err(anyhow!(why)),
            None => Ok(()),
        }
    }

    /// What `inspect hardening` says of it.
    pub(crate) fn finding(&self, cluster_id: &str) -> (bool, String) {
        let records = self.records();
        let record = records.get(cluster_id).map(|record| &record.judged);
        match (self.judged.get(), record) {
            (Some(program), Some(record)) if program.refused.is_none() && record.refused.is_none() => (
                true,
                format!(
                    "program {} and record {} are those that were accepted",
                    short(&program.actual),
                    short(&record.actual)
                ),
            ),
            (Some(Judged { refused: Some(why), .. }), _) | (_, Some(Judged { refused: Some(why), .. })) => {
                (false, why.clone())
            }
            _ => (false, "nothing was measured yet".to_owned()),
        }
    }

    /// Measures a cluster's record, whose text was just read from `path`.
    ///
    /// # Errors
    /// When a new sandbox' first statement cannot be written.
    pub(crate) fn measure_record(&self, cluster_id: &str, path: &Path, text: &[u8]) -> Result<()> {
        let actual = pki::sha256(text);
        if self.new_seed.is_some() {
            self.state_record(cluster_id, std::slice::from_ref(&actual))?;
        }
        let statement = Statement::load(&self.statement_of(cluster_id), &self.signer);
        let judged = judge(actual.clone(), statement, |accepted| {
            format!(
                "{} (SHA-256 {actual}) is not what the fleet wrote ({accepted}): somebody changed it; put it back, or \
                 delete the cluster",
                path.display()
            )
        });
        if let Some(why) = &judged.refused {
            tracing::error!(target: "boot", "{why}");
        }
        self.records().insert(cluster_id.to_owned(), Record { on_disk: actual, judged });
        Ok(())
    }

    /// Accepts a new text of a cluster's record, which `write` puts on the disk. Until it is there, both count: a crash
    /// may come between.
    ///
    /// # Errors
    /// When the statement or the record cannot be written.
    pub(crate) fn record_changes(
        &self,
        cluster_id: &str,
        text: &[u8],
        write: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut records = self.records();
        let new = pki::sha256(text);
        let before = records.get(cluster_id);
        // What was found changed is not made good by changing it once more.
        if let Some(why) = before.and_then(|record| record.judged.refused.as_ref()) {
            bail!("{why}");
        }
        let mut accepted: Vec<Digest> = before.map(|record| record.on_disk.clone()).into_iter().collect();
        if !accepted.contains(&new) {
            accepted.push(new.clone());
        }
        self.state_record(cluster_id, &accepted)?;
        write()?;
        let judged = Judged { actual: new.clone(), accepted: vec![new.clone()], refused: None };
        records.insert(cluster_id.to_owned(), Record { on_disk: new, judged });
        Ok(())
    }

    /// Forgets a cluster that was deleted.
    pub(crate) fn forget(&self, cluster_id: &str) {
        self.records().remove(cluster_id);
        let _ = fs::remove_file(self.statement_of(cluster_id));
    }

    /// Seals the signing key with the platform's current key.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub(crate) fn reseal(&self, platform: &Platform) -> Result<()> {
        let path = self.directory.join(SIGNING_KEY);
        match platform.open_file(&path, CONTEXT) {
            Ok(seed) => Ok(platform.seal_file(&path, CONTEXT, &seed)?),
            Err(DiskError::Missing { .. }) if self.new_seed.is_some() => Ok(()),
            Err(other) => Err(other.into()),
        }
    }

    /// Waits for the program to be measured, and keeps the key of a new sandbox: from the next start on, only what was
    /// stated until now counts.
    ///
    /// # Errors
    /// When the key cannot be written.
    pub(crate) async fn settle(&self, platform: &Platform) -> Result<()> {
        self.judged.get_or_init(|| self.judge_program()).await;
        if let Some(seed) = &self.new_seed {
            platform.seal_file(&self.directory.join(SIGNING_KEY), CONTEXT, seed)?;
        }
        Ok(())
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<String, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn statement_of(&self, cluster_id: &str) -> PathBuf {
        self.directory.join(format!("{}.json", &cluster_id[..cluster_id.len().min(16)]))
    }

    fn state_record(&self, cluster_id: &str, accepted: &[Digest]) -> Result<()> {
        let statement =
            Statement::of(&format!("cluster {cluster_id}"), accepted, "written by the fleet", self.clock.now());
        write_private(&self.statement_of(cluster_id), &statement.signed(&self.signer)?)
    }

    async fn judge_program(&self) -> Judged {
        let measuring = self.measuring.lock().unwrap_or_else(PoisonError::into_inner).take();
        let measured = match measuring {
            Some(measuring) => measuring.await.map_err(|e| e.to_string()).and_then(|m| m.map_err(|e| e.to_string())),
            None => Err("it was measured before".to_owned()),
        };
        match measured {
            Ok(actual) => self.judge_digest(actual),
            Err(why) => Judged {
                actual: String::new(),
                accepted: Vec::new(),
                refused: Some(format!("the program cannot be measured: {why}")),
            },
        }
    }

    fn judge_digest(&self, actual: Digest) -> Judged {
        let path = self.directory.join(PROGRAM);
        if self.new_seed.is_some() || self.accept_program {
            let why = if self.new_seed.is_some() { "found when the sandbox was made" } else { "--accept-new-binary" };
            let statement = Statement::of("pilothouse", std::slice::from_ref(&actual), why, self.clock.now());
            let written = statement.signed(&self.signer).and_then(|text| write_private(&path, &text));
            if let Err(error) = written {
                return Judged { actual, accepted: Vec::new(), refused: Some(format!("{error:#}")) };
            }
        }
        judge(actual.clone(), Statement::load(&path, &self.signer), |accepted| {
            format!(
                "this program (SHA-256 {actual}) is not the one that the sandbox accepted ({accepted}); if you built or \
                 installed another one, say so with `pilothouse up --accept-new-binary` \
                 (PILOTHOUSE_ACCEPT_NEW_BINARY=true says it always)"
            )
        })
    }
}

fn judge(actual: Digest, statement: Result<Statement>, refusal: impl FnOnce(&str) -> String) -> Judged {
    match statement {
        Ok(statement) => {
            let accepted = statement.accepted();
            let refused = (!accepted.contains(&actual)).then(|| refusal(&accepted.join(" or ")));
            Judged { actual, accepted, refused }
        }
        Err(error) => Judged { actual, accepted: Vec::new(), refused: Some(crate::failure::line(&error)) },
    }
}

/// The seed of the signing key, and whether it is a new one.
fn signing_key(directory: &Path, platform: &Platform, entropy: &Entropy) -> Result<(Zeroizing<Vec<u8>>, bool)> {
    let path = directory.join(SIGNING_KEY);
    match platform.open_file(&path, CONTEXT) {
        Ok(seed) => Ok((seed, false)),
        Err(DiskError::Missing { .. }) => {
            let mut seed = Zeroizing::new(vec![0; 32]);
            entropy.fill(&mut seed);
            Ok((seed, true))
        }
        Err(other) => Err(other.into()),
    }
}

fn measure(mut program: File) -> std::io::Result<Digest> {
    let mut context = digest::Context::new(&SHA256);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match program.read(&mut piece) {
            Ok(0) => return Ok(hex(context.finish().as_ref())),
            Ok(length) => context.update(&piece[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

#[cfg(test)]
mod tests;
