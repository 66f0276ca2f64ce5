//! The cloud's process (cloud, fleet, edge and control API; with `--in-process` everything): what it gives up before it has a
//! second thread, and before it opens anything.
//!
//! Whatever it gives up, its children are born without: signers and instances confine themselves further, inside of this. So it
//! keeps what they need to do that, to start, and to be started again: its own program, the libraries and their loader,
//! the calls that make namespaces and filters.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    Access, AccessFs, BitFlags, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, Scope,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::CapabilitySet;

use super::{Enforced, GaveUp, calls, capability, files, memory, privileges};

/// What the loader reads besides the libraries.
const LOADER: &[&str] = &["/etc/ld.so.cache", "/etc/ld.so.preload"];

/// Confines this process to the directories of its sandbox, which must exist. Must run before there is a second thread.
pub(crate) fn confine_cloud(directories: &[&Path]) -> Vec<GaveUp> {
    // For the signers, who keep their memory from being swapped: where this may be raised, it is this process that may.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    let mut report = vec![privileges()];
    report.extend(memory::limits());
    let why = "its memory is not locked: state and caches would be locked with the keys; those are wiped when they are \
               dropped";
    report.push(GaveUp::new("no swap", Enforced::None, why));
    report.push(drop_capabilities());
    let why = "it opens ports below 1024 where it may, and its children make namespaces of their own";
    report.push(GaveUp::new("own user", Enforced::None, why));
    report.extend(of_files(&files::applied(restrict(directories))));
    report.extend(calls::restrict_cloud());
    report
}

/// All but the right to ports below 1024, where it has that: endpoints lie at 443, metadata servers at 80.
fn drop_capabilities() -> GaveUp {
    let had = capability::held();
    let kept = had & CapabilitySet::NET_BIND_SERVICE;
    match capability::keep_only(kept) {
        Err(error) => GaveUp::new("capabilities", Enforced::None, format!("they cannot be dropped: {error}")),
        Ok(_) if had.is_empty() => GaveUp::new("capabilities", Enforced::Full, "the user has none"),
        Ok(_) if kept.is_empty() => GaveUp::new("capabilities", Enforced::Full, "all were dropped"),
        Ok(_) => GaveUp::new(
            "capabilities",
            Enforced::Partial,
            "all were dropped but the one for ports below 1024 (CAP_NET_BIND_SERVICE), where endpoints lie",
        ),
    }
}

fn restrict(directories: &[&Path]) -> Result<RestrictionStatus, String> {
    let failed = |error: RulesetError| error.to_string();
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(files::KNOWN))
        .and_then(|rules| rules.scope(Scope::from_all(files::KNOWN)))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    for directory in directories {
        let opened = PathFd::new(directory).map_err(|e| e.to_string())?;
        rules = rules.add_rule(PathBeneath::new(opened, files::own_directory_rights())).map_err(failed)?;
    }
    for (path, rights) in readable() {
        // What is not there cannot be read either.
        let Ok(opened) = PathFd::new(&path) else { continue };
        let rights = if path.is_dir() { rights } else { rights & AccessFs::from_file(files::KNOWN) };
        rules = rules.add_rule(PathBeneath::new(opened, rights)).map_err(failed)?;
    }
    rules.restrict_self().map_err(failed)
}

/// What it reads, and executes, besides its own directories.
fn readable() -> Vec<(PathBuf, BitFlags<AccessFs>)> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut all: Vec<(PathBuf, BitFlags<AccessFs>)> = Vec::new();
    all.extend(files::SYSTEM.iter().chain(LOADER).map(|path| (PathBuf::from(path), read)));
    all.extend(files::names().into_iter().map(|path| (path, read)));
    // The sockets of callers, and what the kernel says of its children. What the kernel tells of others only to who may trace
    // them stays closed: it is out of this process' domain.
    all.push((PathBuf::from("/proc"), read));
    // Its children's standard output.
    all.push((PathBuf::from("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile));
    // This very program, whatever lies under its name later.
    all.push((PathBuf::from("/proc/self/exe"), AccessFs::ReadFile | AccessFs::Execute));
    let mapped = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let own = fs::read_link("/proc/self/exe").unwrap_or_default();
    for (directory, executes) in libraries(&mapped, &own) {
        all.push((directory, if executes { read | AccessFs::Execute } else { read }));
    }
    all
}

/// The directories of the libraries that are mapped, and whether the loader, which the kernel executes, lies there. Directories,
/// not files: a system that is updated replaces these.
fn libraries(mapped: &str, own: &Path) -> BTreeSet<(PathBuf, bool)> {
    let paths = mapped.lines().filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    let all: Vec<&Path> = paths.filter(|path| *path != own).collect();
    let loader = all.iter().find(|path| is_loader(path)).and_then(|path| path.parent());
    let directories = all.iter().filter_map(|path| path.parent());
    directories.map(|directory| (directory.to_owned(), Some(directory) == loader)).collect()
}

/// `ld-linux-x86-64.so.2`, `ld-musl-aarch64.so.1`, `ld64.so.2`.
fn is_loader(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("ld-") || name.starts_with("ld.") || name.starts_with("ld64.")
}

/// What the rules of an ABI mean for it.
fn of_files((abi, why_not): &(i32, String)) -> Vec<GaveUp> {
    let files = "reads and writes the directories of its sandbox, the platform's keys among them; reads what the system tells \
                 of itself and of processes, how names are resolved, and libraries; no other file of the user";
    let files = match abi {
        0 => GaveUp::new("files", Enforced::None, why_not),
        1 | 2 => {
            GaveUp::new("files", Enforced::Partial, format!("{files}, but: {}", files::old(*abi, 3, "truncation")))
        }
        _ => GaveUp::new("files", Enforced::Full, files),
    };
    let execution = match abi {
        0 => GaveUp::new("nothing is executed", Enforced::None, why_not),
        _ => GaveUp::new(
            "nothing is executed",
            Enforced::Partial,
            "its own program, to start signers and instances, and the libraries' loader, which runs what it is given",
        ),
    };
    let network = "by design: it serves endpoints, and asks those of its clusters";
    let signals = match abi {
        0 => GaveUp::new("signals", Enforced::None, why_not),
        1..6 => GaveUp::new("signals", Enforced::None, files::old(*abi, 6, "signals")),
        _ => GaveUp::new("signals", Enforced::Full, "it reaches itself and the processes that it started, nobody else"),
    };
    vec![files, execution, GaveUp::new(files::NETWORK, Enforced::None, network), signals]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_s_directory_is_the_one_to_execute_from() {
        let mapped = "\
55d0-55e0 r--p 00000000 fe:00 12    /opt/pilothouse\n\
7f00-7f10 r-xp 00000000 fe:00 13    /usr/lib/x86_64-linux-gnu/libc.so.6\n\
7f10-7f20 rw-p 00000000 00:00 0 \n\
7f20-7f30 r-xp 00000000 fe:00 14    /opt/gcc/lib/libgcc_s.so.1\n\
7f30-7f40 r-xp 00000000 fe:00 15    /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2\n\
7ffd-7ffe rw-p 00000000 00:00 0     [stack]\n";
        let found: Vec<_> = libraries(mapped, Path::new("/opt/pilothouse")).into_iter().collect();
        let expected = [("/opt/gcc/lib", false), ("/usr/lib/x86_64-linux-gnu", true)];
        assert_eq!(found, expected.map(|(path, executes)| (PathBuf::from(path), executes)));
        // A program that needs no loader.
        assert!(
            libraries("55d0-55e0 r--p 00000000 fe:00 12 /opt/pilothouse\n", Path::new("/opt/pilothouse")).is_empty()
        );
    }

    #[test]
    fn an_older_kernel_is_not_said_to_do_what_it_cannot() {
        let said = |abi: i32| -> Vec<&'static str> {
            of_files(&(abi, "no Landlock".to_owned())).iter().map(|gave_up| gave_up.enforced.name()).collect()
        };
        assert_eq!(said(0), ["none"; 4]);
        assert_eq!(said(2), ["partial", "partial", "none", "none"]);
        assert_eq!(said(6), ["full", "partial", "none", "full"]);
    }
}
