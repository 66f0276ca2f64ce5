//! `inspect hardening`: how far the cloud's process and each process of a cluster is confined, as the kernel tells it from
//! outside.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::{DumpableBehavior, dumpable_behavior};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use crate::confine::{Enforced, GaveUp};
use crate::fleet::Fleet;

/// Something that should hold of a process, and how far it does.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attribute {
    /// Empty for the cloud's process, which serves all of them.
    pub(crate) cluster: String,
    /// The instance's name, `signer`, or `cloud`.
    pub(crate) process: String,
    pub(crate) attribute: String,
    /// `full`, `partial` or `none`.
    pub(crate) enforced: String,
    pub(crate) why: String,
}

/// What was found of one attribute.
type Finding = (&'static str, Enforced, String);

/// Looks at the cloud's process and at every process of every cluster.
pub(crate) fn look(fleet: &Fleet) -> Vec<Attribute> {
    let mut all = look_at_clusters(fleet);
    let said = fleet.gave_up.get().cloned().unwrap_or_default();
    all.extend(seen_and_said(&seen_of_cloud(), said).into_iter().map(|found| attribute("", "cloud", found)));
    all
}

/// Looks at every process of every cluster.
pub(crate) fn look_at_clusters(fleet: &Fleet) -> Vec<Attribute> {
    let mut all = Vec::new();
    for cluster in fleet.clusters() {
        let instances = cluster.instances.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        for instance in instances {
            let Some(pid) = instance.pid else { continue };
            let mut found = if fleet.in_process() {
                vec![
                    GaveUp::new("one cluster per process", Enforced::None, IN_PROCESS),
                    of(own_directory(&instance.data_dir)),
                ]
            } else {
                seen_and_said(&seen(pid, &instance.data_dir), instance.gave_up)
            };
            let (accepted, why) = fleet.boot().finding(&cluster.spec().id);
            // Not more: who measures the program is the program.
            let enforced = if accepted { Enforced::Partial } else { Enforced::None };
            found.push(GaveUp::new("verified start", enforced, why));
            all.extend(found.into_iter().map(|found| attribute(&cluster.spec().name, &instance.name, found)));
        }
    }
    all
}

fn attribute(cluster: &str, process: &str, GaveUp { attribute, enforced, why }: GaveUp) -> Attribute {
    let (cluster, process) = (cluster.to_owned(), process.to_owned());
    Attribute { cluster, process, attribute, enforced: enforced.name().to_owned(), why }
}

const IN_PROCESS: &str = "--in-process puts everything into one process, which gives up what the cloud's does";

/// What the kernel tells of this very process.
fn seen_of_cloud() -> Vec<Finding> {
    let proc = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let status = proc("status");
    // Nobody is shut out of his own environment; what others may, the kernel says.
    let kept = match dumpable_behavior() {
        Ok(DumpableBehavior::NotDumpable) => Err(ErrorKind::PermissionDenied.into()),
        _ => Ok(()),
    };
    vec![
        no_new_privileges(&status),
        core_dumps(&proc("limits")),
        memory(kept, rustix::process::geteuid().is_root()),
        capabilities_of_cloud(&status),
        system_calls(&status),
    ]
}

/// What the kernel and the file system tell of a process.
fn seen(pid: u32, directory: &Path) -> Vec<Finding> {
    let proc = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let (status, limits) = (proc("status"), proc("limits"));
    let is_root = rustix::process::geteuid().is_root();
    vec![
        ("one cluster per process", Enforced::Full, "an own process with an own channel to the fleet".to_owned()),
        own_directory(directory),
        no_new_privileges(&status),
        core_dumps(&limits),
        memory(fs::File::open(format!("/proc/{pid}/environ")).map(drop), is_root),
        capabilities(&status),
        system_calls(&status),
    ]
}

fn of((attribute, enforced, why): Finding) -> GaveUp {
    GaveUp::new(attribute, enforced, why)
}

/// What is seen from outside, and what the process says of itself: where both speak, the lesser counts.
fn seen_and_said(seen: &[Finding], said: Vec<GaveUp>) -> Vec<GaveUp> {
    let mut all: Vec<GaveUp> = seen.iter().cloned().map(of).collect();
    for one in said {
        match all.iter_mut().find(|other| other.attribute == one.attribute) {
            Some(other) if one.enforced <= other.enforced => *other = one,
            Some(_) => {}
            None => all.push(one),
        }
    }
    all
}

fn own_directory(directory: &Path) -> Finding {
    let mode = fs::metadata(directory).map(|found| found.permissions().mode() & 0o777);
    match mode {
        Ok(0o700) => {
            ("own directory", Enforced::Full, "mode 0700, sealed with its own key, refused elsewhere".to_owned())
        }
        Ok(mode) => {
            ("own directory", Enforced::Partial, format!("sealed with its own key, but its mode is {mode:04o}"))
        }
        Err(error) => ("own directory", Enforced::None, error.to_string()),
    }
}

/// The value after `name:` in a file of /proc.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn no_new_privileges(status: &str) -> Finding {
    match field(status, "NoNewPrivs") {
        Some("1") => ("no new privileges", Enforced::Full, "NoNewPrivs is 1".to_owned()),
        other => ("no new privileges", Enforced::None, format!("NoNewPrivs is {}", other.unwrap_or("not told here"))),
    }
}

fn core_dumps(limits: &str) -> Finding {
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    let values: Vec<&str> = limit.unwrap_or_default().split_whitespace().take(2).collect();
    match values[..] {
        ["0", "0"] => ("no core dumps", Enforced::Full, "the limit is 0, soft and hard".to_owned()),
        ["0", hard] => ("no core dumps", Enforced::Partial, format!("the limit is 0, but may be raised to {hard}")),
        _ => ("no core dumps", Enforced::None, "there is no limit of 0".to_owned()),
    }
}

fn memory(environment: std::io::Result<()>, is_root: bool) -> Finding {
    match environment {
        Err(error) if error.kind() != ErrorKind::PermissionDenied => {
            ("memory kept from others", Enforced::None, error.to_string())
        }
        // Also where this process may not: it has given up what others of root's have.
        Ok(()) | Err(_) if is_root => {
            ("memory kept from others", Enforced::Partial, "the user is root, who may look anywhere".to_owned())
        }
        Err(_) => {
            ("memory kept from others", Enforced::Full, "other processes of the user may not look into it".to_owned())
        }
        Ok(()) => ("memory kept from others", Enforced::None, "processes of the same user can look into it".to_owned()),
    }
}

fn capabilities(status: &str) -> Finding {
    let sets = ["CapEff", "CapPrm"].map(|name| field(status, name).map(|bits| bits.trim_start_matches('0').is_empty()));
    match sets {
        [Some(true), Some(true)] => ("capabilities", Enforced::Full, "it has none".to_owned()),
        [Some(_), Some(_)] => ("capabilities", Enforced::None, "it has some".to_owned()),
        _ => ("capabilities", Enforced::None, "they are not told here".to_owned()),
    }
}

/// Ports below 1024 are its to open, where it may.
fn capabilities_of_cloud(status: &str) -> Finding {
    let bits = |name| field(status, name).and_then(|bits| u64::from_str_radix(bits, 16).ok());
    let ports = CapabilitySet::NET_BIND_SERVICE.bits();
    match [bits("CapEff"), bits("CapPrm")] {
        [Some(0), Some(0)] => ("capabilities", Enforced::Full, "it has none".to_owned()),
        [Some(effective), Some(permitted)] if (effective | permitted) & !ports == 0 => {
            ("capabilities", Enforced::Partial, "it has the one for ports below 1024".to_owned())
        }
        [Some(_), Some(_)] => ("capabilities", Enforced::None, "it has some".to_owned()),
        _ => ("capabilities", Enforced::None, "they are not told here".to_owned()),
    }
}

fn system_calls(status: &str) -> Finding {
    match field(status, "Seccomp") {
        Some("2") => ("system calls", Enforced::Full, "a filter is applied".to_owned()),
        _ => ("system calls", Enforced::None, "no filter is applied".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enforced(finding: Finding) -> Enforced {
        finding.1
    }

    #[test]
    fn never_more_is_said_than_the_kernel_says() {
        assert_eq!(enforced(no_new_privileges("Name:\tx\nNoNewPrivs:\t1\n")), Enforced::Full);
        assert_eq!(enforced(no_new_privileges("NoNewPrivs:\t0\n")), Enforced::None);
        assert_eq!(enforced(no_new_privileges("")), Enforced::None);
        assert_eq!(enforced(system_calls("Seccomp:\t2\nSeccomp_filters:\t1\n")), Enforced::Full);
        assert_eq!(enforced(system_calls("Seccomp:\t0\n")), Enforced::None);
        let limits =
            |soft: &str, hard: &str| format!("Max core file size        {soft}                    {hard}      bytes\n");
        assert_eq!(enforced(core_dumps(&limits("0", "0"))), Enforced::Full);
        assert_eq!(enforced(core_dumps(&limits("0", "unlimited"))), Enforced::Partial);
        assert_eq!(enforced(core_dumps(&limits("unlimited", "unlimited"))), Enforced::None);
        assert_eq!(enforced(core_dumps("")), Enforced::None);
        assert_eq!(enforced(memory(Err(ErrorKind::PermissionDenied.into()), false)), Enforced::Full);
        assert_eq!(enforced(memory(Ok(()), true)), Enforced::Partial);
        assert_eq!(enforced(memory(Err(ErrorKind::PermissionDenied.into()), true)), Enforced::Partial);
        assert_eq!(enforced(memory(Ok(()), false)), Enforced::None);
        assert_eq!(enforced(capabilities("CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n")), Enforced::Full);
        assert_eq!(enforced(capabilities("CapPrm:\t0000000000000400\nCapEff:\t0000000000000000\n")), Enforced::None);
        let of_cloud = |bits: &str| enforced(capabilities_of_cloud(&format!("CapPrm:\t{bits}\nCapEff:\t{bits}\n")));
        assert_eq!(of_cloud("0000000000000000"), Enforced::Full);
        assert_eq!(of_cloud("0000000000000400"), Enforced::Partial);
        assert_eq!(of_cloud("0000000000000402"), Enforced::None);
        assert_eq!(enforced(capabilities_of_cloud("")), Enforced::None);
        assert_eq!(enforced(own_directory(Path::new("/nowhere"))), Enforced::None);
    }

    #[test]
    fn where_a_process_says_more_of_itself_than_is_seen_it_is_not_believed() {
        let seen = [("system calls", Enforced::None, "no filter".to_owned()), ("a", Enforced::Full, "seen".to_owned())];
        let said = vec![
            GaveUp::new("system calls", Enforced::Full, "said"),
            GaveUp::new("a", Enforced::Partial, "said"),
            GaveUp::new("files", Enforced::Full, "said"),
        ];
        let all = seen_and_said(&seen, said);
        let all: Vec<_> = all.iter().map(|one| (one.attribute.as_str(), one.enforced, one.why.as_str())).collect();
        let files = ("files", Enforced::Full, "said");
        assert_eq!(all, [("system calls", Enforced::None, "no filter"), ("a", Enforced::Partial, "said"), files]);
    }
}
