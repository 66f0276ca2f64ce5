//! What a signer, an instance or the cloud's process gives up before it does anything, and what it says of that.
//!
//! ```text
//! privileges ─► memory ─► namespaces ─► capabilities ─► files (Landlock) ─► system calls (seccomp) ─► first message, keys
//! ```
//!
//! Each step is the best that the kernel and the user's rights allow. Nothing here ends the process: what could not be had
//! is in the report, which goes to the fleet with the first answer and to the reader of `inspect hardening`.

mod calls;
mod capability;
mod cloud;
mod files;
mod memory;
pub(crate) mod namespaces;

use std::path::Path;

pub(crate) use cloud::confine_cloud;
pub(crate) use memory::keep_from_others;
use rustix::thread::{CapabilitySet, set_no_new_privs};
use serde::{Deserialize, Serialize};

/// Which process it is: the signer needs less than an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Signer,
    Instance,
}

/// How far something holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Enforced {
    None,
    Partial,
    Full,
}

impl Enforced {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Partial => "partial",
            Self::Full => "full",
        }
    }
}

/// What the process says of one thing that it gave up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GaveUp {
    pub(crate) attribute: String,
    pub(crate) enforced: Enforced,
    pub(crate) why: String,
}

impl GaveUp {
    pub(crate) fn new(attribute: &str, enforced: Enforced, why: impl Into<String>) -> Self {
        Self { attribute: attribute.to_owned(), enforced, why: why.into() }
    }
}

/// A process that has given up what it could. Keep it as long as the process lives.
pub(crate) struct Confined {
    pub(crate) report: Vec<GaveUp>,
    _own_process: Option<files::OwnProcess>,
}

/// Confines this process to its directory, which must exist. Must run before there is a second thread: the rules of the
/// file system hold for the thread that makes them and for those that it starts.
pub(crate) fn confine(role: Role, directory: &Path) -> Confined {
    let mut report = vec![privileges()];
    // Limits are raised by a right that a user namespace takes.
    report.extend(memory::limits());
    report.push(memory::locked(role));
    let had = capability::held();
    let entered = namespaces::enter(role);
    report.push(drop_capabilities(had));
    report.extend(entered.report);
    let (from_files, own_process) = files::restrict(role, directory);
    report.extend(from_files);
    let calls = calls::restrict(role);
    let no_sockets = calls.iter().all(|gave_up| gave_up.enforced == Enforced::Full);
    if let Some((enforced, why)) = entered.network.as_ref().and_then(|own| namespaces::network(own, no_sockets)) {
        // Stricter than Landlock, and on kernels of before too.
        report.retain(|gave_up| gave_up.attribute != files::NETWORK);
        report.push(GaveUp::new(files::NETWORK, enforced, why));
    }
    report.extend(calls);
    Confined { report, _own_process: own_process }
}

/// No program that is started from here gains rights that this one has not (prctl(2), PR_SET_NO_NEW_PRIVS).
fn privileges() -> GaveUp {
    match set_no_new_privs(true) {
        Ok(()) => GaveUp::new("no new privileges", Enforced::Full, "NoNewPrivs is 1"),
        Err(error) => GaveUp::new("no new privileges", Enforced::None, error.to_string()),
    }
}

/// Root without capabilities is a user like others, who owns root's files. Ports below 1024 are the fleet's to open.
fn drop_capabilities(had: CapabilitySet) -> GaveUp {
    let attribute = "capabilities";
    match capability::keep_only(CapabilitySet::empty()) {
        Err(error) => GaveUp::new(attribute, Enforced::None, format!("they cannot be dropped: {error}")),
        Ok(_) if had.is_empty() => GaveUp::new(attribute, Enforced::Full, "the user has none"),
        Ok(true) => GaveUp::new(attribute, Enforced::Full, "all were dropped, also from the bounding set"),
        Ok(false) => GaveUp::new(attribute, Enforced::Full, "all were dropped"),
    }
}
