//! Namespaces: a user of its own in the kernel's eyes, and a network, IPC and host name that nobody else is in.
//!
//! What a user namespace gives: the process traces nobody outside it, whoever the other belongs to, and any right that it might
//! gain counts in there alone. What it does not give: to files and signals the process is still the user it was. No map of
//! users is written: files keep their owners all the same, inside everybody has the number 65534, and without a map there is
//! nobody to become, no file that a right of this namespace counts for, and no further namespace to be made. The map would also
//! have to be written through `/proc`, where the cloud's process lets none of its children write.
//!
//! Facts: user_namespaces(7), network_namespaces(7); `kernel/user_namespace.c`, `cap_ptrace_access_check` in
//! `security/commoncap.c`.

use std::fs;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, capabilities};

use super::{Enforced, GaveUp, Role};

/// What a process entered, and what it says of it.
pub(crate) struct Entered {
    /// The signer's network namespace, or why it has none; an instance is in that of everybody.
    pub(crate) network: Option<Result<String, String>>,
    pub(crate) report: Vec<GaveUp>,
}

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    User,
    Network,
    Ipc,
    HostName,
}

impl Kind {
    const fn flag(self) -> CloneFlags {
        match self {
            Self::User => CloneFlags::CLONE_NEWUSER,
            Self::Network => CloneFlags::CLONE_NEWNET,
            Self::Ipc => CloneFlags::CLONE_NEWIPC,
            Self::HostName => CloneFlags::CLONE_NEWUTS,
        }
    }

    /// Its name in `/proc/PID/ns`.
    const fn link(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Network => "net",
            Self::Ipc => "ipc",
            Self::HostName => "uts",
        }
    }

    /// What limits how many there may be.
    const fn limit(self) -> &'static str {
        match self {
            Self::User => "user/max_user_namespaces",
            Self::Network => "user/max_net_namespaces",
            Self::Ipc => "user/max_ipc_namespaces",
            Self::HostName => "user/max_uts_namespaces",
        }
    }
}

/// Enters them. Must run before there is a second thread (a process of several may make no user namespace), and before
/// rights are dropped: a new user namespace gives all of those that count in it.
pub(crate) fn enter(role: Role) -> Entered {
    // Inside, the kernel no longer tells it.
    let number = geteuid().as_raw();
    let privileged = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    let user = match refused_before(privileged, &setting) {
        Some(why) => Err(why),
        None => enter_one(Kind::User),
    };
    // Root gets these without a user namespace too; nobody else does.
    let network = (role == Role::Signer).then(|| enter_one(Kind::Network));
    let rest = [enter_one(Kind::Ipc), enter_one(Kind::HostName)];
    Entered { network, report: vec![own_user(user, number), own_ipc(rest), own_numbers()] }
}

/// Enters a namespace, and looks whether it is another one now. Its name, or why not.
fn enter_one(kind: Kind) -> Result<String, String> {
    let link = PathBuf::from("/proc/self/ns").join(kind.link());
    let name = || fs::read_link(&link).map(|name| name.display().to_string());
    let before = name().ok();
    unshare(kind.flag()).map_err(|error| refusal(kind, error, &setting))?;
    match name() {
        Ok(after) if Some(&after) != before.as_ref() => Ok(after),
        Ok(same) => Err(format!("the kernel agreed and changed nothing: still {same}")),
        Err(error) => Err(format!("it cannot be told whether it was entered: {}: {error}", link.display())),
    }
}

/// A setting of the kernel, by its path under `/proc/sys`.
fn setting(name: &str) -> Option<String> {
    fs::read_to_string(PathBuf::from("/proc/sys").join(name)).ok().map(|text| text.trim().to_owned())
}

/// Where the kernel would agree and then give nothing: the namespace would be entered for good, and whatever else AppArmor
/// takes away in it (Ubuntu from 23.10) with it.
fn refused_before(privileged: bool, setting: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let restricted = setting("kernel/apparmor_restrict_unprivileged_userns").is_some_and(|value| value != "0");
    (restricted && !privileged).then(|| {
        "AppArmor restricts user namespaces of unprivileged programs (kernel.apparmor_restrict_unprivileged_userns)"
            .to_owned()
    })
}

/// Why the kernel refused, by what it is set to.
fn refusal(kind: Kind, error: Errno, setting: &dyn Fn(&str) -> Option<String>) -> String {
    let limit = || format!("{} is {}", kind.limit().replace('/', "."), setting(kind.limit()).unwrap_or_default());
    match error {
        Errno::ENOSPC | Errno::EUSERS => format!("there may be no more: {} ({error:?})", limit()),
        Errno::EPERM if setting("kernel/unprivileged_userns_clone").is_some_and(|value| value == "0") => {
            "kernel.unprivileged_userns_clone is 0".to_owned()
        }
        Errno::EPERM => "not permitted here: a container's filter, a changed root, or no right (EPERM)".to_owned(),
        Errno::EINVAL | Errno::ENOSYS => format!("this kernel has none, or there is a second thread ({error:?})"),
        other => format!("{other:?}"),
    }
}

/// Never more than partial: it is the namespace that is its own, not the number.
fn own_user(entered: Result<String, String>, number: u32) -> GaveUp {
    let attribute = "own user";
    match entered {
        Ok(name) => GaveUp::new(
            attribute,
            Enforced::Partial,
            format!(
                "a user namespace of its own ({name}): it traces nobody outside it, and rights count in there alone; to \
                 files and signals it is still user {number}, from whose others Landlock keeps it"
            ),
        ),
        Err(why) => GaveUp::new(
            attribute,
            Enforced::None,
            format!("it runs as user {number}, without a user namespace of its own: {why}"),
        ),
    }
}

fn own_ipc(entered: [Result<String, String>; 2]) -> GaveUp {
    let attribute = "own IPC and host name";
    match entered {
        [Ok(ipc), Ok(host_name)] => {
            let why = format!("{ipc}, {host_name}: shared memory, message queues and host name are nobody else's");
            GaveUp::new(attribute, Enforced::Full, why)
        }
        [Ok(one), Err(why)] | [Err(why), Ok(one)] => GaveUp::new(attribute, Enforced::Partial, format!("{one}; {why}")),
        [Err(why), Err(_)] => GaveUp::new(attribute, Enforced::None, why),
    }
}

/// Not done, and why.
fn own_numbers() -> GaveUp {
    let why = "only a child can be the first of a PID namespace: another process would have to stand between it and the \
               fleet; whom it may signal, trace or look up in /proc is Landlock's and seccomp's to say";
    GaveUp::new("own process numbers", Enforced::None, why)
}

/// What a signer's network is worth: its own namespace, where no interface is up, and no socket to be made.
pub(super) fn network(own: &Result<String, String>, no_sockets: bool) -> Option<(Enforced, String)> {
    match (own, no_sockets) {
        (Ok(name), true) => Some((
            Enforced::Full,
            format!("it can make no socket, and its network is its own ({name}), where no interface is up"),
        )),
        (Ok(name), false) => {
            Some((Enforced::Full, format!("its network is its own ({name}), where no interface is up")))
        }
        (Err(why), true) => {
            Some((Enforced::Full, format!("it can make no socket; it has no network of its own: {why}")))
        }
        (Err(_), false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(settings: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| settings.iter().find(|(one, _)| *one == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn where_apparmor_restricts_them_none_is_entered_but_by_who_may() {
        let restricted = [("kernel/apparmor_restrict_unprivileged_userns", "1")];
        assert!(refused_before(false, &of(&restricted)).unwrap().contains("AppArmor"));
        assert_eq!(refused_before(true, &of(&restricted)), None);
        assert_eq!(refused_before(false, &of(&[("kernel/apparmor_restrict_unprivileged_userns", "0")])), None);
        assert_eq!(refused_before(false, &of(&[])), None);
    }

    #[test]
    fn a_refusal_names_the_setting_that_is_the_cause() {
        let why = |kind, error, settings: &[(&str, &str)]| refusal(kind, error, &of(settings));
        let none = [("user/max_user_namespaces", "0"), ("user/max_net_namespaces", "7")];
        assert!(why(Kind::User, Errno::ENOSPC, &none).contains("user.max_user_namespaces is 0"));
        assert!(why(Kind::Network, Errno::ENOSPC, &none).contains("user.max_net_namespaces is 7"));
        let debian = [("kernel/unprivileged_userns_clone", "0")];
        assert_eq!(why(Kind::User, Errno::EPERM, &debian), "kernel.unprivileged_userns_clone is 0");
        assert!(why(Kind::User, Errno::EPERM, &[]).contains("not permitted here"));
        assert!(why(Kind::User, Errno::EINVAL, &[]).contains("EINVAL"));
    }

    #[test]
    fn what_was_not_entered_is_not_claimed() {
        let (yes, no) = (|| Ok("user:[1]".to_owned()), || Err("because".to_owned()));
        assert_eq!(own_user(yes(), 7).enforced, Enforced::Partial);
        let none = own_user(no(), 7);
        assert!(none.enforced == Enforced::None && none.why.contains("because"), "{none:?}");
        assert_eq!(own_ipc([yes(), yes()]).enforced, Enforced::Full);
        assert_eq!(own_ipc([no(), yes()]).enforced, Enforced::Partial);
        assert_eq!(own_ipc([no(), no()]).enforced, Enforced::None);
        assert_eq!(network(&no(), false), None);
        assert!(network(&no(), true).unwrap().1.contains("because"));
        assert!(network(&yes(), false).unwrap().1.contains("user:[1]"));
    }
}
