//! What becomes of a process' memory: no core dumps, nobody looks into it, and the signer's is not swapped.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

use super::{Enforced, GaveUp, Role};

/// Sets the limits, and says what could not be had.
pub(super) fn limits() -> [GaveUp; 2] {
    many_files();
    [no_core_dumps(), not_dumpable()]
}

/// Each watch is a connection, each node has a metadata server, and each of these is a descriptor.
fn many_files() {
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
}

/// For a command that is not confined further: what it holds is kept out of core dumps, also of those that a program takes from
/// the kernel (no limit holds for them), and from others of the same user.
pub(crate) fn keep_from_others() {
    // A limit can always be lowered; what cannot be had is no reason not to serve.
    let _ = (no_core_dumps(), not_dumpable());
}

/// What a process holds is not written to core dumps: values and keys would lie there in the clear.
fn no_core_dumps() -> GaveUp {
    match setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        Ok(()) => GaveUp::new("no core dumps", Enforced::Full, "the limit is 0, soft and hard"),
        Err(error) => GaveUp::new("no core dumps", Enforced::None, error.to_string()),
    }
}

/// Others of the same user can neither trace it nor read its memory and environment (PR_SET_DUMPABLE).
fn not_dumpable() -> GaveUp {
    match set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        Ok(()) => GaveUp::new("memory kept from others", Enforced::Full, "it is not dumpable"),
        Err(error) => GaveUp::new("memory kept from others", Enforced::None, error.to_string()),
    }
}

/// Only with no limit at all: with one, the first allocation beyond it would fail instead of being swapped.
pub(super) fn locked(role: Role) -> GaveUp {
    let attribute = "no swap";
    if role == Role::Instance {
        let why =
            "its memory is not locked: caches would be locked with the keys; those are wiped when they are dropped";
        return GaveUp::new(attribute, Enforced::None, why);
    }
    let unlimited = Rlimit { current: None, maximum: None };
    if setrlimit(Resource::Memlock, unlimited).is_err() {
        let limit = getrlimit(Resource::Memlock).maximum.map_or_else(|| "none".to_owned(), |l| format!("{l} bytes"));
        let why = format!("the limit of locked memory is {limit} (ulimit -H -l); keys are wiped when they are dropped");
        return GaveUp::new(attribute, Enforced::None, why);
    }
    // On fault: what is not used takes no memory.
    match mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        Ok(()) => GaveUp::new(attribute, Enforced::Full, "all of its memory is locked once it is used"),
        Err(error) => GaveUp::new(attribute, Enforced::None, format!("its memory cannot be locked: {error}")),
    }
}
