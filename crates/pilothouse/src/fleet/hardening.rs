//! `inspect hardening`: how far each process of a cluster is confined, as the kernel tells it from outside.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;

/// Something that should hold of a process, and how far it does.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attribute {
    pub(crate) cluster: String,
    /// The instance's name, or `signer`.
    pub(crate) process: String,
    pub(crate) attribute: String,
    /// `full`, `partial` or `none`.
    pub(crate) enforced: String,
    pub(crate) why: String,
}

/// What was found of one attribute.
type Finding = (&'static str, &'static str, String);

/// Looks at every process of every cluster.
pub(crate) fn look(fleet: &Fleet) -> Vec<Attribute> {
    let mut all = Vec::new();
    for cluster in fleet.clusters() {
        let instances = cluster.instances.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        for instance in instances {
            let Some(pid) = instance.pid else { continue };
            let separate = !fleet.in_process();
            for (attribute, enforced, why) in findings(pid, separate, &instance.data_dir) {
                all.push(Attribute {
                    cluster: cluster.spec().name.clone(),
                    process: instance.name.clone(),
                    attribute: attribute.to_owned(),
                    enforced: enforced.to_owned(),
                    why,
                });
            }
        }
    }
    all
}

fn findings(pid: u32, separate: bool, directory: &Path) -> Vec<Finding> {
    let proc = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let (status, limits) = (proc("status"), proc("limits"));
    let is_root = rustix::process::geteuid().is_root();
    vec![
        process(separate),
        own_directory(directory),
        no_new_privileges(&status),
        core_dumps(&limits),
        memory(fs::File::open(format!("/proc/{pid}/environ")).map(drop), is_root),
        system_calls(&status),
        ("files", "none", "Landlock is not applied: it can open what its user can".to_owned()),
        ("swap", "none", "memory is not locked; keys are wiped when they are dropped".to_owned()),
        ("verified start", "none", "program and configuration are not checked against a manifest".to_owned()),
    ]
}

fn process(separate: bool) -> Finding {
    if separate {
        ("one cluster per process", "full", "an own process with an own channel to the fleet".to_owned())
    } else {
        ("one cluster per process", "none", "--in-process puts everything into one".to_owned())
    }
}

fn own_directory(directory: &Path) -> Finding {
    let mode = fs::metadata(directory).map(|found| found.permissions().mode() & 0o777);
    match mode {
        Ok(0o700) => ("own directory", "full", "mode 0700, sealed with its own key, refused elsewhere".to_owned()),
        Ok(mode) => ("own directory", "partial", format!("sealed with its own key, but its mode is {mode:04o}")),
        Err(error) => ("own directory", "none", error.to_string()),
    }
}

/// The value after `name:` in a file of /proc.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn no_new_privileges(status: &str) -> Finding {
    match field(status, "NoNewPrivs") {
        Some("1") => ("no new privileges", "full", "NoNewPrivs is 1".to_owned()),
        other => ("no new privileges", "none", format!("NoNewPrivs is {}", other.unwrap_or("not told here"))),
    }
}

fn core_dumps(limits: &str) -> Finding {
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    let values: Vec<&str> = limit.unwrap_or_default().split_whitespace().take(2).collect();
    match values[..] {
        ["0", "0"] => ("no core dumps", "full", "the limit is 0, soft and hard".to_owned()),
        ["0", hard] => ("no core dumps", "partial", format!("the limit is 0, but may be raised to {hard}")),
        _ => ("no core dumps", "none", "there is no limit of 0".to_owned()),
    }
}

fn memory(environment: std::io::Result<()>, is_root: bool) -> Finding {
    match environment {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            ("memory kept from others", "full", "other processes of the user may not look into it".to_owned())
        }
        Ok(()) if is_root => {
            ("memory kept from others", "partial", "the user is root, who may look anywhere".to_owned())
        }
        Ok(()) => ("memory kept from others", "none", "processes of the same user can look into it".to_owned()),
        Err(error) => ("memory kept from others", "none", error.to_string()),
    }
}

fn system_calls(status: &str) -> Finding {
    match field(status, "Seccomp") {
        Some("2") => ("system calls", "full", "a filter is applied".to_owned()),
        _ => ("system calls", "none", "no filter is applied".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enforced(finding: Finding) -> &'static str {
        finding.1
    }

    #[test]
    fn never_more_is_said_than_the_kernel_says() {
        assert_eq!(enforced(no_new_privileges("Name:\tx\nNoNewPrivs:\t1\n")), "full");
        assert_eq!(enforced(no_new_privileges("NoNewPrivs:\t0\n")), "none");
        assert_eq!(enforced(no_new_privileges("")), "none");
        assert_eq!(enforced(system_calls("Seccomp:\t2\nSeccomp_filters:\t1\n")), "full");
        assert_eq!(enforced(system_calls("Seccomp:\t0\n")), "none");
        let limits =
            |soft: &str, hard: &str| format!("Max core file size        {soft}                    {hard}      bytes\n");
        assert_eq!(enforced(core_dumps(&limits("0", "0"))), "full");
        assert_eq!(enforced(core_dumps(&limits("0", "unlimited"))), "partial");
        assert_eq!(enforced(core_dumps(&limits("unlimited", "unlimited"))), "none");
        assert_eq!(enforced(core_dumps("")), "none");
        assert_eq!(enforced(memory(Err(ErrorKind::PermissionDenied.into()), false)), "full");
        assert_eq!(enforced(memory(Ok(()), true)), "partial");
        assert_eq!(enforced(memory(Ok(()), false)), "none");
        assert_eq!(enforced(own_directory(Path::new("/nowhere"))), "none");
    }
}
