//! What a signer or an instance gives up before it does anything, and what it says of that.
//!
//! ```text
//! privileges ─► memory ─► capabilities ─► files (Landlock) ─► system calls (seccomp) ─► first message, keys
//! ```
//!
//! Each step is the best that the kernel and the user's rights allow. Nothing here ends the process: what could not be had
//! is in the report, which goes to the fleet with the first answer and to the reader of `inspect hardening`.

mod calls;
mod files;
mod memory;
#[cfg(test)]
mod tests;

use std::path::Path;

pub(crate) use memory::{keep_from_others, many_files};
use rustix::process::geteuid;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};
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
    report.extend(memory::keep(role));
    report.push(drop_capabilities());
    report.push(own_user());
    let (from_files, own_process) = files::restrict(role, directory);
    report.extend(from_files);
    let calls = calls::restrict(role);
    if role == Role::Signer && calls.iter().all(|gave_up| gave_up.enforced == Enforced::Full) {
        // Stricter than Landlock, and on kernels of before too.
        report.retain(|gave_up| gave_up.attribute != files::NETWORK);
        report.push(GaveUp::new(files::NETWORK, Enforced::Full, "it can make no socket, neither listen nor connect"));
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
fn drop_capabilities() -> GaveUp {
    let attribute = "capabilities";
    let before = capabilities(None).map(|sets| sets.effective | sets.permitted).unwrap_or(CapabilitySet::empty());
    let none = CapabilitySet::empty();
    // The bounding set first: it takes a capability to lower it. Without privilege it stays, and grants nothing.
    let kept = (0..u64::BITS)
        .map(|bit| CapabilitySet::from_bits_retain(1 << bit))
        .filter(|one| matches!(remove_capability_from_bounding_set(*one), Err(rustix::io::Errno::PERM)))
        .count();
    let _ = clear_ambient_capability_set();
    match set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }) {
        Err(error) => GaveUp::new(attribute, Enforced::None, format!("they cannot be dropped: {error}")),
        Ok(()) if before.is_empty() => GaveUp::new(attribute, Enforced::Full, "the user has none"),
        Ok(()) if kept == 0 => GaveUp::new(attribute, Enforced::Full, "all were dropped, also from the bounding set"),
        Ok(()) => GaveUp::new(attribute, Enforced::Full, "all were dropped"),
    }
}

/// Not done, and why.
fn own_user() -> GaveUp {
    let why = if geteuid().is_root() {
        "it runs as root without capabilities; another user's number could not own the directory that root made"
    } else {
        "it runs as the user who started the sandbox, who may not take another one's number"
    };
    GaveUp::new("own user", Enforced::None, why)
}
