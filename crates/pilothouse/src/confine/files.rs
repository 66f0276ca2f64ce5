//! Landlock: which files a process may open, whom it may talk to, whom it may signal.
//!
//! Facts: `landlock_create_ruleset(2)`, Documentation/userspace-api/landlock.rst. ABI 1 knows files, 2 renames between
//! directories, 3 truncation, 4 TCP ports, 5 devices, 6 signals and abstract sockets.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::{Enforced, GaveUp, Role};

/// The attribute that seccomp knows of too.
pub(super) const NETWORK: &str = "network";
/// The newest rules that were tried here; an older kernel applies those that it knows.
pub(super) const KNOWN: ABI = ABI::V6;

/// What libraries look at: numbers of processors (C library, sled), limits of memory (sled), whether this is a copy of
/// a virtual machine (AWS-LC), the time of boot (the store's metrics).
pub(super) const SYSTEM: &[&str] = &[
    "/dev/sysgenid",
    "/proc/stat",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
];

/// What the C library reads to find the host of a webhook or of an issuer of tokens.
const NAMES: &[&str] =
    &["/etc/gai.conf", "/etc/host.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/services"];

/// Keeps the entry of this process in `/proc` the one that a rule was made for.
pub(super) struct OwnProcess {
    _entry: PathFd,
}

/// Restricts this thread and those it starts.
pub(super) fn restrict(role: Role, directory: &Path) -> (Vec<GaveUp>, Option<OwnProcess>) {
    let own_process = PathFd::new("/proc/self").ok();
    let status = apply(role, directory, own_process.as_ref());
    let own_process = own_process.map(|entry| OwnProcess { _entry: entry });
    let (abi, why_not) = applied(status);
    (of_abi(role, abi, &why_not), own_process)
}

fn apply(role: Role, directory: &Path, own: Option<&PathFd>) -> Result<RestrictionStatus, String> {
    let failed = |error: RulesetError| error.to_string();
    let directory = PathFd::new(directory).map_err(|e| e.to_string())?;
    let write = own_directory_rights();
    let mut rules = ruleset(role).map_err(failed)?.add_rule(PathBeneath::new(directory, write)).map_err(failed)?;
    if let Some(own) = own {
        rules = rules.add_rule(PathBeneath::new(own, AccessFs::ReadFile | AccessFs::ReadDir)).map_err(failed)?;
    }
    for path in readable(role) {
        // What is not there cannot be read either.
        let Ok(opened) = PathFd::new(&path) else { continue };
        let rights = if path.is_dir() { AccessFs::ReadFile | AccessFs::ReadDir } else { AccessFs::ReadFile.into() };
        rules = rules.add_rule(PathBeneath::new(opened, rights)).map_err(failed)?;
    }
    rules.restrict_self().map_err(failed)
}

/// Everything is forbidden that no rule allows. An instance connects to webhooks and issuers and listens for its kubelets,
/// at ports that are not known yet; a signer has no use for the network.
fn ruleset(role: Role) -> Result<RulesetCreated, RulesetError> {
    let rules = Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?.scope(Scope::from_all(KNOWN))?;
    match role {
        Role::Signer => rules.handle_access(AccessNet::from_all(KNOWN))?.create(),
        Role::Instance => rules.create(),
    }
}

/// Files and directories of its own; no devices, sockets, pipes or links, and nothing to be executed.
pub(super) fn own_directory_rights() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}

fn readable(role: Role) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    // For the names in a backtrace.
    all.extend(std::env::current_exe());
    if role == Role::Instance {
        all.extend(names());
    }
    all
}

/// How names are resolved.
pub(super) fn names() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = NAMES.iter().map(PathBuf::from).collect();
    // Managers of networks replace the file that the link names: the directory that they keep for it may be read.
    let kept = std::fs::canonicalize("/etc/resolv.conf").ok();
    let kept = kept.as_deref().and_then(Path::parent).filter(|parent| parent.starts_with("/run"));
    all.extend(kept.filter(|parent| parent.components().count() > 2).map(Path::to_owned));
    all
}

/// The ABI of the rules that were applied, or 0 and why none were.
pub(super) fn applied(status: Result<RestrictionStatus, String>) -> (i32, String) {
    let why_not = match &status {
        Err(error) => format!("Landlock: {error}"),
        Ok(status) => match status.landlock {
            LandlockStatus::NotEnabled => "Landlock is not enabled in this kernel (lsm=)".to_owned(),
            LandlockStatus::NotImplemented => "this kernel has no Landlock (5.13 or later, as configured)".to_owned(),
            LandlockStatus::Available { .. } => "Landlock was not applied".to_owned(),
        },
    };
    let applied = status.as_ref().is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced);
    let abi = match status.as_ref().map(|status| status.landlock) {
        Ok(LandlockStatus::Available { effective_abi, .. }) if applied => effective_abi as i32,
        _ => 0,
    };
    (abi, why_not)
}

/// What rules of an ABI do not know that those of a later one do.
pub(super) fn old(abi: i32, first: i32, what: &str) -> String {
    format!("Landlock of this kernel (ABI {abi}) does not know {what}; ABI {first} does")
}

/// What the rules of an ABI mean for a role; 0: none were applied.
fn of_abi(role: Role, abi: i32, why_not: &str) -> Vec<GaveUp> {
    let old = |first: i32, what: &str| match abi {
        0 => why_not.to_owned(),
        _ => self::old(abi, first, what),
    };
    let files = match abi {
        0 => GaveUp::new("files", Enforced::None, why_not),
        1 | 2 => {
            GaveUp::new("files", Enforced::Partial, format!("its own directory only, but: {}", old(3, "truncation")))
        }
        _ => GaveUp::new("files", Enforced::Full, files_why(role)),
    };
    let execution = match abi {
        0 => GaveUp::new("nothing is executed", Enforced::None, why_not),
        _ => GaveUp::new("nothing is executed", Enforced::Full, "no file may be executed, its own directory's neither"),
    };
    let network = match (role, abi) {
        (Role::Signer, 4..) => GaveUp::new(NETWORK, Enforced::Full, "it can neither listen nor connect by TCP"),
        (Role::Signer, _) => GaveUp::new(NETWORK, Enforced::None, old(4, "TCP")),
        (Role::Instance, _) => {
            GaveUp::new(NETWORK, Enforced::None, "by design: webhooks and issuers of tokens are anywhere")
        }
    };
    let others = match abi {
        6.. => GaveUp::new("signals", Enforced::Full, "it reaches no process but itself, nor its abstract sockets"),
        _ => GaveUp::new("signals", Enforced::None, old(6, "signals")),
    };
    vec![files, execution, network, others]
}

fn files_why(role: Role) -> &'static str {
    match role {
        Role::Signer => "reads and writes its own directory, reads what the system tells of itself",
        Role::Instance => {
            "reads and writes its own directory, reads what the system tells of itself and how names are resolved"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_kernel_is_not_said_to_do_what_it_cannot() {
        let said = |role, abi| -> Vec<&'static str> {
            of_abi(role, abi, "no Landlock").iter().map(|gave_up| gave_up.enforced.name()).collect()
        };
        assert_eq!(said(Role::Signer, 0), ["none"; 4]);
        assert_eq!(said(Role::Signer, 1), ["partial", "full", "none", "none"]);
        assert_eq!(said(Role::Signer, 3), ["full", "full", "none", "none"]);
        assert_eq!(said(Role::Signer, 4), ["full", "full", "full", "none"]);
        assert_eq!(said(Role::Signer, 6), ["full"; 4]);
        assert_eq!(said(Role::Instance, 7), ["full", "full", "none", "full"]);
    }

    #[test]
    fn a_directory_that_is_not_there_is_reported() {
        let restricted = std::thread::spawn(|| {
            let (report, _) = restrict(Role::Signer, Path::new("/nowhere/at/all"));
            (report[0].enforced, std::fs::read_dir("/"))
        });
        let (files, others) = restricted.join().unwrap();
        assert_eq!(files, Enforced::None);
        assert!(others.is_ok(), "nothing was applied");
    }
}
