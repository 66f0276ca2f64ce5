//! seccomp: which system calls a process may make.
//!
//! Two filters. The first knows the calls that are used: every other one fails as on a kernel that does not have it
//! (ENOSYS), so that a newer C library falls back as it does there. The second, whose answer counts where both refuse,
//! says EPERM to what a guest would try: other programs, other processes, mounts, namespaces, keys, modules, and the
//! forms of allowed calls that go too far. Nothing is killed.
//!
//! The cloud's process has the second one only, without what its children need to start and to confine themselves: they
//! inherit it.

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn restrict(_role: super::Role) -> Vec<super::GaveUp> {
    use super::{Enforced, GaveUp};
    let why = format!("there is no filter for {}", std::env::consts::ARCH);
    vec![
        GaveUp::new("system calls", Enforced::None, why.clone()),
        GaveUp::new("no other processes", Enforced::None, why.clone()),
        GaveUp::new("no new code", Enforced::None, why),
    ]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn restrict_cloud() -> Vec<super::GaveUp> {
    restrict(super::Role::Instance)
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use filters::{restrict, restrict_cloud};

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod filters {
    use std::collections::BTreeMap;

    use libc::c_long;
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, TargetArch, apply_filter_all_threads,
    };

    use super::super::{Enforced, GaveUp, Role};

    type Rules = BTreeMap<i64, Vec<SeccompRule>>;

    /// Memory, threads, time, files that are open or in its directory, and what arrives over a socket.
    ///
    /// Held against what the program takes from the C library (`nm -D`), what that makes of it on both architectures, and the
    /// calls that are made past it (standard library, rustix, mimalloc, AWS-LC). Left out because whoever tries them falls back
    /// when they are missing: `clone3`, `faccessat2`, `fchmodat2`, `openat2`, `epoll_pwait2`, `sendfile` and `splice` (copies
    /// between files), `get_mempolicy` and `mbind` (large pages), `mseal`.
    const USED: &[c_long] = &[
        libc::SYS_brk,
        libc::SYS_clock_getres,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_clone,
        libc::SYS_close,
        libc::SYS_copy_file_range,
        libc::SYS_dup,
        libc::SYS_dup3,
        libc::SYS_epoll_create1,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_eventfd2,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_faccessat,
        libc::SYS_fadvise64,
        libc::SYS_fallocate,
        libc::SYS_fchmod,
        libc::SYS_fchmodat,
        libc::SYS_fcntl,
        libc::SYS_fdatasync,
        libc::SYS_flock,
        libc::SYS_fstat,
        libc::SYS_fstatfs,
        libc::SYS_fsync,
        libc::SYS_ftruncate,
        libc::SYS_futex,
        libc::SYS_getcpu,
        libc::SYS_getcwd,
        libc::SYS_getdents64,
        libc::SYS_getegid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getpeername,
        libc::SYS_getpid,
        libc::SYS_getppid,
        libc::SYS_getrandom,
        libc::SYS_getrlimit,
        libc::SYS_getrusage,
        libc::SYS_getsockname,
        libc::SYS_getsockopt,
        libc::SYS_gettid,
        libc::SYS_gettimeofday,
        libc::SYS_getuid,
        libc::SYS_ioctl,
        libc::SYS_lseek,
        libc::SYS_madvise,
        libc::SYS_membarrier,
        libc::SYS_mkdirat,
        libc::SYS_mlock,
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_munlock,
        libc::SYS_munmap,
        libc::SYS_nanosleep,
        libc::SYS_newfstatat,
        libc::SYS_openat,
        libc::SYS_pipe2,
        libc::SYS_ppoll,
        libc::SYS_prctl,
        libc::SYS_pread64,
        libc::SYS_preadv,
        libc::SYS_prlimit64,
        libc::SYS_pselect6,
        libc::SYS_pwrite64,
        libc::SYS_pwritev,
        libc::SYS_read,
        libc::SYS_readlinkat,
        libc::SYS_readv,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_renameat2,
        libc::SYS_restart_syscall,
        libc::SYS_rseq,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        // The second filter comes after the first, and forbids a third.
        libc::SYS_seccomp,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_yield,
        libc::SYS_sendmsg,
        libc::SYS_sendto,
        libc::SYS_set_robust_list,
        libc::SYS_setsockopt,
        libc::SYS_shutdown,
        libc::SYS_sigaltstack,
        libc::SYS_socketpair,
        libc::SYS_statx,
        libc::SYS_sync_file_range,
        libc::SYS_sysinfo,
        libc::SYS_tgkill,
        libc::SYS_times,
        libc::SYS_uname,
        libc::SYS_unlinkat,
        libc::SYS_write,
        libc::SYS_writev,
    ];

    /// Calls of before, which newer architectures do without.
    #[cfg(target_arch = "x86_64")]
    const USED_OF_OLD: &[c_long] = &[
        libc::SYS_access,
        libc::SYS_arch_prctl,
        libc::SYS_chmod,
        libc::SYS_dup2,
        libc::SYS_epoll_wait,
        libc::SYS_lstat,
        libc::SYS_mkdir,
        libc::SYS_open,
        // The standard library, where two threads end the process at once.
        libc::SYS_pause,
        libc::SYS_pipe,
        libc::SYS_poll,
        libc::SYS_readlink,
        libc::SYS_rename,
        libc::SYS_renameat,
        libc::SYS_rmdir,
        libc::SYS_select,
        libc::SYS_stat,
        libc::SYS_time,
        libc::SYS_unlink,
    ];
    #[cfg(target_arch = "aarch64")]
    const USED_OF_OLD: &[c_long] = &[libc::SYS_renameat];

    /// What an instance's API server, store and kubelets need of the network.
    const NETWORK: &[c_long] = &[
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_bind,
        libc::SYS_connect,
        libc::SYS_listen,
        libc::SYS_recvmmsg,
        libc::SYS_sendmmsg,
        libc::SYS_socket,
    ];

    /// Never, in no form.
    const FORBIDDEN: &[c_long] = &[
        // other programs and processes
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_kcmp,
        libc::SYS_kill,
        libc::SYS_pidfd_getfd,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_send_signal,
        libc::SYS_process_madvise,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_ptrace,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_tkill,
        // another view of the system
        libc::SYS_chroot,
        libc::SYS_fsconfig,
        libc::SYS_fsmount,
        libc::SYS_fsopen,
        libc::SYS_fspick,
        libc::SYS_mount,
        libc::SYS_mount_setattr,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_pivot_root,
        libc::SYS_setns,
        libc::SYS_umount2,
        libc::SYS_unshare,
        // another user, other rights
        libc::SYS_capset,
        libc::SYS_personality,
        libc::SYS_setgid,
        libc::SYS_setgroups,
        libc::SYS_setregid,
        libc::SYS_setresgid,
        libc::SYS_setresuid,
        libc::SYS_setreuid,
        libc::SYS_setuid,
        // files past their directories, new kinds of files
        libc::SYS_memfd_create,
        libc::SYS_mknodat,
        libc::SYS_name_to_handle_at,
        libc::SYS_open_by_handle_at,
        // large or rarely used doors into the kernel
        libc::SYS_add_key,
        libc::SYS_bpf,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_io_uring_setup,
        libc::SYS_keyctl,
        libc::SYS_perf_event_open,
        libc::SYS_request_key,
        libc::SYS_seccomp,
        libc::SYS_userfaultfd,
        // the machine
        libc::SYS_acct,
        libc::SYS_adjtimex,
        libc::SYS_clock_adjtime,
        libc::SYS_clock_settime,
        libc::SYS_delete_module,
        libc::SYS_finit_module,
        libc::SYS_init_module,
        libc::SYS_kexec_load,
        libc::SYS_quotactl,
        libc::SYS_reboot,
        libc::SYS_setdomainname,
        libc::SYS_sethostname,
        libc::SYS_settimeofday,
        libc::SYS_swapoff,
        libc::SYS_swapon,
        libc::SYS_syslog,
    ];
    #[cfg(target_arch = "x86_64")]
    const FORBIDDEN_OF_OLD: &[c_long] = &[
        libc::SYS_fork,
        libc::SYS_ioperm,
        libc::SYS_iopl,
        libc::SYS_kexec_file_load,
        libc::SYS_mknod,
        libc::SYS_modify_ldt,
        libc::SYS_vfork,
    ];
    #[cfg(target_arch = "aarch64")]
    const FORBIDDEN_OF_OLD: &[c_long] = &[libc::SYS_kexec_file_load];

    /// The cloud's process starts and ends others, which give up their rights, enter namespaces and make filters.
    const NEEDED_BY_CLOUD: &[c_long] = &[
        libc::SYS_capset,
        libc::SYS_execve,
        libc::SYS_kill,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_send_signal,
        libc::SYS_seccomp,
        libc::SYS_unshare,
    ];
    #[cfg(target_arch = "x86_64")]
    const NEEDED_BY_CLOUD_OF_OLD: &[c_long] = &[libc::SYS_fork, libc::SYS_vfork];
    #[cfg(target_arch = "aarch64")]
    const NEEDED_BY_CLOUD_OF_OLD: &[c_long] = &[];

    /// What may be asked of a descriptor: whether it blocks, how much has come, whether it is a terminal.
    const IOCTLS: &[u64] = &[0x5421, 0x5450, 0x5451, 0x541B, 0x5401, 0x5413, 0x802C_542A];
    /// PR_SET_NAME, PR_GET_NAME, PR_SET_NO_NEW_PRIVS, PR_SET_VMA (names of memory areas).
    const PRCTLS: &[u64] = &[15, 16, 38, 0x5356_4d41];
    const PROT_EXEC: u64 = 4;
    const CLONE_THREAD: u64 = 0x0001_0000;
    /// Namespaces that no process here makes: mounts, control groups, PIDs, time.
    const UNUSED_NAMESPACES: &[u64] = &[0x0002_0000, 0x0200_0000, 0x2000_0000, 0x80];
    /// Namespaces by `clone`, whose lowest byte is a signal: mounts, control groups, host name, IPC, users, PIDs, network.
    const CLONED_NAMESPACES: &[u64] =
        &[0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
    const EPERM: u32 = 1;
    const ENOSYS: u32 = 38;

    /// Filters what this process may ask of the kernel from here on, in all of its threads.
    pub(in super::super) fn restrict(role: Role) -> Vec<GaveUp> {
        let attributes = ["system calls", "no other processes", "no new code"];
        let applied = programs(role).map_err(|e| e.to_string()).and_then(|programs| {
            programs.iter().try_for_each(|program| apply_filter_all_threads(program).map_err(|e| e.to_string()))
        });
        match applied {
            Err(why) => attributes.map(|name| GaveUp::new(name, Enforced::None, format!("seccomp: {why}"))).into(),
            Ok(()) => {
                let count = USED.len() + USED_OF_OLD.len() + if role == Role::Instance { NETWORK.len() } else { 0 };
                let whys = [
                    format!("{count} are allowed, all others fail; refusals are not logged by the kernel"),
                    "it can start none, trace none and look into none".to_owned(),
                    "no memory becomes executable".to_owned(),
                ];
                attributes.into_iter().zip(whys).map(|(name, why)| GaveUp::new(name, Enforced::Full, why)).collect()
            }
        }
    }

    /// Filters what the cloud's process, and with it every one that it starts, may ask of the kernel.
    pub(in super::super) fn restrict_cloud() -> Vec<GaveUp> {
        let applied = cloud_programs().map_err(|e| e.to_string()).and_then(|programs| {
            programs.iter().try_for_each(|program| apply_filter_all_threads(program).map_err(|e| e.to_string()))
        });
        let (calls, others, code) = ("system calls", "no other processes", "no new code");
        let loader = GaveUp::new(code, Enforced::None, "its children's libraries are mapped to be executed");
        match applied {
            Err(why) => {
                let why = format!("seccomp: {why}");
                vec![GaveUp::new(calls, Enforced::None, &*why), GaveUp::new(others, Enforced::None, why), loader]
            }
            Ok(()) => {
                let refused = format!(
                    "{} are refused (mounts, tracing, keys, modules, io_uring and the like), the rest is allowed: \
                     signers and instances are born with its filter, and have their own besides",
                    cloud_forbidden().map_or(0, |rules| rules.len())
                );
                let starts = "it starts signers and instances, and ends them; it traces none and copies from none";
                vec![
                    GaveUp::new(calls, Enforced::Partial, refused),
                    GaveUp::new(others, Enforced::Partial, starts),
                    loader,
                ]
            }
        }
    }

    fn program(rules: Rules, mismatch: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, BackendError> {
        SeccompFilter::new(rules, mismatch, matched, TargetArch::try_from(std::env::consts::ARCH)?)?.try_into()
    }

    fn cloud_programs() -> Result<[BpfProgram; 2], BackendError> {
        // `clone3` keeps its flags in memory, where no filter sees them; the C library falls back to `clone`.
        let clone3 = Rules::from([(libc::SYS_clone3, Vec::new())]);
        let unknown = program(clone3, SeccompAction::Allow, SeccompAction::Errno(ENOSYS))?;
        let refused = program(cloud_forbidden()?, SeccompAction::Allow, SeccompAction::Errno(EPERM))?;
        Ok([unknown, refused])
    }

    fn cloud_forbidden() -> Result<Rules, BackendError> {
        let needed = [NEEDED_BY_CLOUD, NEEDED_BY_CLOUD_OF_OLD].concat();
        let all = [FORBIDDEN, FORBIDDEN_OF_OLD].concat().into_iter().filter(|call| !needed.contains(call));
        let mut rules: Rules = all.map(|call| (call, Vec::new())).collect();
        let flags = |bits: &[u64]| bits.iter().map(|bit| having(0, *bit, *bit)).collect::<Result<Vec<_>, _>>();
        rules.insert(libc::SYS_unshare, flags(UNUSED_NAMESPACES)?);
        rules.insert(libc::SYS_clone, flags(CLONED_NAMESPACES)?);
        rules.insert(libc::SYS_ioctl, vec![none_of(1, IOCTLS)?]);
        rules.insert(libc::SYS_socket, other_sockets()?);
        rules.insert(libc::SYS_socketpair, other_socket_pairs()?);
        Ok(rules)
    }

    fn programs(role: Role) -> Result<[BpfProgram; 2], BackendError> {
        let known = program(allowed(role), SeccompAction::Errno(ENOSYS), SeccompAction::Allow)?;
        let refused = program(forbidden(role)?, SeccompAction::Allow, SeccompAction::Errno(EPERM))?;
        Ok([known, refused])
    }

    fn allowed(role: Role) -> Rules {
        let network = if role == Role::Instance { NETWORK } else { &[] };
        [USED, USED_OF_OLD, network].concat().into_iter().map(|call| (call, Vec::new())).collect()
    }

    fn forbidden(role: Role) -> Result<Rules, BackendError> {
        let network = if role == Role::Signer { NETWORK } else { &[] };
        let mut rules: Rules =
            [FORBIDDEN, FORBIDDEN_OF_OLD, network].concat().into_iter().map(|call| (call, Vec::new())).collect();
        let own = u64::from(std::process::id());
        let executable = || having(2, PROT_EXEC, PROT_EXEC);
        rules.insert(libc::SYS_mmap, vec![executable()?]);
        rules.insert(libc::SYS_mprotect, vec![executable()?]);
        // A thread shares everything with this process; anything else that is cloned would be another one.
        rules.insert(libc::SYS_clone, vec![having(0, CLONE_THREAD, 0)?]);
        // `clone3` keeps its flags in memory, where no filter sees them; the C library falls back to `clone`.
        rules.insert(libc::SYS_ioctl, vec![none_of(1, IOCTLS)?]);
        rules.insert(libc::SYS_prctl, vec![none_of(0, PRCTLS)?]);
        rules.insert(libc::SYS_prlimit64, vec![none_of(0, &[0, own])?]);
        rules.insert(libc::SYS_tgkill, vec![none_of(0, &[own])?]);
        rules.insert(libc::SYS_socketpair, other_socket_pairs()?);
        if role == Role::Instance {
            rules.insert(libc::SYS_socket, other_sockets()?);
        }
        Ok(rules)
    }

    /// Sockets but of TCP, UDP, Unix and, as the C library asks by it which addresses there are to put a name's into order,
    /// the kernel's routing.
    fn other_sockets() -> Result<Vec<SeccompRule>, BackendError> {
        let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
        let route = u64::from(libc::NETLINK_ROUTE.unsigned_abs());
        let raw = u64::from(libc::SOCK_RAW.unsigned_abs());
        let inet = [libc::AF_INET, libc::AF_INET6].map(|family| u64::from(family.unsigned_abs()));
        let netlink = u64::from(libc::AF_NETLINK.unsigned_abs());
        let mut sockets = vec![none_of(0, &families.map(|family| u64::from(family.unsigned_abs())))?];
        sockets.push(SeccompRule::new(vec![equal(0, netlink)?, different(2, route)?])?);
        for family in inet {
            sockets.push(SeccompRule::new(vec![equal(0, family)?, masked(1, 0xf, raw)?])?);
        }
        Ok(sockets)
    }

    fn other_socket_pairs() -> Result<Vec<SeccompRule>, BackendError> {
        Ok(vec![none_of(0, &[u64::from(libc::AF_UNIX.unsigned_abs())])?])
    }

    fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
    }

    fn equal(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
        condition(argument, SeccompCmpOp::Eq, value)
    }

    fn different(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
        condition(argument, SeccompCmpOp::Ne, value)
    }

    fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
        condition(argument, SeccompCmpOp::MaskedEq(mask), value)
    }

    fn having(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, BackendError> {
        SeccompRule::new(vec![masked(argument, mask, value)?])
    }

    fn none_of(argument: u8, values: &[u64]) -> Result<SeccompRule, BackendError> {
        SeccompRule::new(values.iter().map(|value| different(argument, *value)).collect::<Result<_, _>>()?)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn nothing_is_both_used_and_forbidden_but_the_second_filter_itself() {
            for role in [Role::Signer, Role::Instance] {
                let both: Vec<i64> = allowed(role)
                    .into_keys()
                    .filter(|call| forbidden(role).unwrap().get(call).is_some_and(Vec::is_empty))
                    .collect();
                assert_eq!(both, [libc::SYS_seccomp]);
                programs(role).unwrap();
            }
        }

        #[test]
        fn what_signers_and_instances_use_the_cloud_that_starts_them_may_use_too() {
            let refused = cloud_forbidden().unwrap();
            let born_without: Vec<i64> = [USED, USED_OF_OLD, NETWORK, NEEDED_BY_CLOUD, NEEDED_BY_CLOUD_OF_OLD]
                .concat()
                .into_iter()
                .filter(|call| refused.get(call).is_some_and(Vec::is_empty))
                .collect();
            assert_eq!(born_without, [0; 0]);
            // The rest of what it is refused, they are refused too.
            let all = forbidden(Role::Instance).unwrap();
            assert!(refused.keys().all(|call| all.contains_key(call)), "{refused:?}");
            cloud_programs().unwrap();
        }
    }
}
