//! Guests that try to get out: this program starts itself again, confines itself as a signer, an instance or the cloud's process
//! does, and tries. It has a `main` of its own: a process of several threads, as those of the test harness, may enter no user
//! namespace. Nothing of it is in the program that is shipped.

#[expect(dead_code, unused_imports, reason = "what is for the program's other commands, and for tests of the harness")]
#[path = "../src/confine/mod.rs"]
mod confine;

use std::fs::{self, File};
use std::io::{Result as IoResult, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use confine::{Confined, Enforced, GaveUp, Role, confine, confine_cloud, namespaces};

/// Names the guest's role to the second start of this program.
const ROLE: &str = "PILOTHOUSE_TEST_GUEST";
/// What the guest's surroundings are: its own directory, a foreign one beside it, and who watches.
const PLACE: &str = "PILOTHOUSE_TEST_PLACE";

/// What is looked at, by name.
const CHECKS: &[(&str, fn())] = &[
    ("a_guest_in_the_cloud_stays_in_its_directories_and_starts_what_it_must", in_the_cloud),
    ("a_guest_in_an_instance_stays_in_it", in_an_instance),
    ("a_guest_in_the_signer_stays_in_it_and_reaches_nobody", in_the_signer),
    ("what_namespaces_close_is_open_without_them", outside),
    ("a_guest_in_namespaces_alone_traces_nobody_and_reaches_no_network", in_namespaces),
    ("where_namespaces_are_used_up_all_else_holds_and_it_is_said_why", without_namespaces),
    ("an_instance_listens_and_connects", an_instance_on_the_network),
];

fn main() -> ExitCode {
    if let (Ok(role), Some(place)) = (std::env::var(ROLE), std::env::var_os(PLACE)) {
        guest(&role, &PathBuf::from(place));
        return ExitCode::SUCCESS;
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let mut out = std::io::stdout();
    let (mut passed, mut failed) = (0, 0);
    for (name, check) in CHECKS.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|n| name.contains(*n))) {
        if words.iter().any(|word| word == "--list") {
            let _ = writeln!(out, "{name}: test");
            continue;
        }
        let holds = std::panic::catch_unwind(check).is_ok();
        let _ = writeln!(out, "test {name} ... {}", if holds { "ok" } else { "FAILED" });
        if holds { passed += 1 } else { failed += 1 }
    }
    // As the harness closes: `tests/run.sh` counts it.
    let result = if failed == 0 { "ok" } else { "FAILED" };
    let _ = writeln!(out, "test result: {result}. {passed} passed; {failed} failed; 0 ignored; 0 measured");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What came of a try.
fn outcome<T>(name: &str, tried: Result<T, impl std::fmt::Display>) -> String {
    match tried {
        Ok(_) => format!("GUEST {name}: done\n"),
        Err(error) => format!("GUEST {name}: {error}\n"),
    }
}

fn system<T>(tried: nix::Result<T>) -> Result<T, String> {
    tried.map_err(|errno: Errno| format!("{errno:?}"))
}

fn file<T>(tried: IoResult<T>) -> Result<T, String> {
    tried.map_err(|e| e.raw_os_error().map_or_else(|| e.to_string(), |raw| format!("{:?}", Errno::from_raw(raw))))
}

/// Both guests try all of this; what comes of it goes to standard error, which stays open.
fn try_everything(own: &Path, foreign: &Path, watcher: u32) -> String {
    let other = Pid::from_raw(i32::try_from(watcher).unwrap());
    let mut said = String::new();
    let mut tell = |name: &str, tried: Result<(), String>| said.push_str(&outcome(name, tried));
    // What it is for.
    tell("write its own file", file(fs::write(own.join("new/deep.txt"), "x")));
    tell("move its own file", file(fs::rename(own.join("new/deep.txt"), own.join("moved.txt"))));
    tell("read what the system says of it", file(fs::read("/proc/self/stat").map(drop)));
    tell(
        "start a thread",
        std::thread::Builder::new().spawn(|| {}).map(|t| t.join().unwrap()).map_err(|e| e.to_string()),
    );
    // Files.
    tell("read a foreign file", file(fs::read(foreign.join("key")).map(drop)));
    tell("list a foreign directory", file(fs::read_dir(foreign).map(drop)));
    tell("write a foreign file", file(fs::write(foreign.join("planted"), "x")));
    tell("move a file out", file(fs::rename(own.join("moved.txt"), foreign.join("planted"))));
    tell(
        "truncate a foreign file",
        file(File::options().write(true).truncate(true).open(foreign.join("key")).map(drop)),
    );
    tell("follow a link out", file(fs::read(own.join("link")).map(drop)));
    tell("make a link", file(symlink("/etc/shadow", own.join("link2"))));
    tell("read the user's files", file(fs::read("/etc/passwd").map(drop)));
    tell("read the memory of another", file(File::open(format!("/proc/{watcher}/mem")).map(drop)));
    tell("read the environment of another", file(fs::read(format!("/proc/{watcher}/environ")).map(drop)));
    // Programs and processes.
    tell("execute a file of its own", file(Command::new(own.join("program")).spawn().map(drop)));
    tell(
        "execute in place",
        file(Err(std::os::unix::process::CommandExt::exec(&mut Command::new(own.join("program"))))),
    );
    tell("fork", system(nix_fork()));
    tell("trace another", system(nix::sys::ptrace::attach(other)));
    tell("copy from another's memory", system(read_memory(other)));
    tell("signal another", system(nix::sys::signal::kill(other, Signal::SIGUSR1)));
    // The system.
    tell("mount", system(nix::mount::mount(Some("none"), own, Some("tmpfs"), MsFlags::empty(), None::<&str>)));
    tell("a user namespace", system(nix::sched::unshare(CloneFlags::CLONE_NEWUSER)));
    tell("another root", system(nix::unistd::chroot(own)));
    tell("another user", system(nix::unistd::setuid(nix::unistd::Uid::from_raw(65534))));
    tell("its rights back", rustix::thread::set_capabilities(None, every_capability()).map_err(named));
    tell(
        "be dumped",
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable).map_err(named),
    );
    // The network.
    let listener = TcpListener::bind("127.0.0.1:0");
    tell("listen", file(listener.map(drop)));
    let port: u16 = fs::read_to_string(own.join("port")).unwrap().parse().unwrap();
    tell("connect", file(TcpStream::connect(("127.0.0.1", port)).map(drop)));
    tell("send by UDP", file(UdpSocket::bind("127.0.0.1:0").map(drop)));
    tell("a socket in its directory", file(UnixListener::bind(own.join("socket")).map(drop)));
    tell("a pair of sockets", file(UnixStream::pair().map(drop)));
    said
}

fn named(error: rustix::io::Errno) -> String {
    format!("{:?}", Errno::from_raw(error.raw_os_error()))
}

fn every_capability() -> rustix::thread::CapabilitySets {
    let all = rustix::thread::CapabilitySet::all();
    rustix::thread::CapabilitySets { effective: all, permitted: all, inheritable: all }
}

/// Without `unsafe`: the standard library forks where it cannot spawn otherwise.
fn nix_fork() -> nix::Result<()> {
    let forked = Command::new("/bin/true").status();
    match forked {
        Ok(_) => Ok(()),
        Err(e) => Err(Errno::from_raw(e.raw_os_error().unwrap_or(0))),
    }
}

fn read_memory(other: Pid) -> nix::Result<()> {
    let mut buffer = [0; 8];
    let remote = nix::sys::uio::RemoteIoVec { base: 0x1000, len: 8 };
    nix::sys::uio::process_vm_readv(other, &mut [std::io::IoSliceMut::new(&mut buffer)], &[remote]).map(drop)
}

/// What the second start of this program runs.
fn guest(role: &str, place: &Path) {
    let (own, foreign) = (place.join("own"), place.join("foreign"));
    let watcher = rustix::process::getppid().unwrap().as_raw_nonzero().get().unsigned_abs();
    let confined = |role| {
        let confined: Confined = confine(role, &own);
        (try_everything(&own, &foreign, watcher), confined.report)
    };
    let (said, report) = match role {
        "signer" => confined(Role::Signer),
        "instance" => confined(Role::Instance),
        "cloud" => {
            let report = confine_cloud(&[&own]);
            (try_as_cloud(&own, &foreign), report)
        }
        "where namespaces are used up" => {
            // The limit counts in a namespace, for those below it.
            let entered = nix::sched::unshare(CloneFlags::CLONE_NEWUSER).is_ok();
            let limited = entered && fs::write("/proc/sys/user/max_user_namespaces", "0").is_ok();
            // Where there were none to begin with, there is nothing to limit.
            assert!(limited || !entered, "the limit cannot be set");
            confined(Role::Instance)
        }
        "in namespaces" => {
            let entered = namespaces::enter(Role::Signer);
            (try_past_namespaces(&own, &foreign), entered.report)
        }
        _ => (try_past_namespaces(&own, &foreign), Vec::new()),
    };
    let report = serde_json::to_string(&report).unwrap();
    // Where it may write in any case.
    fs::write(own.join("said"), format!("{said}REPORT {report}\n")).unwrap();
}

/// What namespaces alone keep from it, without a filter and without Landlock, and what they do not.
fn try_past_namespaces(own: &Path, foreign: &Path) -> String {
    let number = |name: &str| -> u32 { fs::read_to_string(own.join(name)).unwrap().parse().unwrap() };
    let sibling = Pid::from_raw(i32::try_from(number("sibling")).unwrap());
    let mut said = String::new();
    let mut tell = |name: &str, tried: Result<(), String>| said.push_str(&outcome(name, tried));
    tell("copy from a sibling's memory", system(read_memory(sibling)));
    tell("read a sibling's environment", file(fs::read(format!("/proc/{sibling}/environ")).map(drop)));
    tell("signal a sibling", system(nix::sys::signal::kill(sibling, None)));
    tell("read a file of the user", file(fs::read(foreign.join("key")).map(drop)));
    tell("write a file", file(fs::write(own.join("written"), "x")));
    tell("keep it to itself", file(fs::set_permissions(own.join("written"), fs::Permissions::from_mode(0o600))));
    tell("make another namespace", system(nix::sched::unshare(CloneFlags::CLONE_NEWUSER)));
    let port = u16::try_from(number("port")).unwrap();
    tell("connect", file(TcpStream::connect(("127.0.0.1", port)).map(drop)));
    let datagram = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"x", ("127.0.0.1", port)));
    tell("send by UDP", file(datagram.map(drop)));
    let name = fs::read_to_string(own.join("abstract")).unwrap();
    let abstract_name = SocketAddr::from_abstract_name(name);
    tell(
        "connect to an abstract socket",
        file(abstract_name.and_then(|name| UnixStream::connect_addr(&name)).map(drop)),
    );
    said
}

/// A guest in the cloud's process: what it must go on doing, with an instance started inside of it, and what it must not.
fn try_as_cloud(own: &Path, foreign: &Path) -> String {
    let number = fs::read_to_string(own.join("sibling")).unwrap();
    let sibling = Pid::from_raw(number.parse().unwrap());
    let mut said = String::new();
    let mut tell = |name: &str, tried: Result<(), String>| said.push_str(&outcome(name, tried));
    tell("write its own file", file(fs::write(own.join("new/deep.txt"), "x")));
    tell("move its own file", file(fs::rename(own.join("new/deep.txt"), own.join("moved.txt"))));
    tell("make a directory", file(fs::create_dir(own.join("more"))));
    tell("delete a directory", file(fs::remove_dir_all(own.join("more"))));
    tell("read who calls", file(fs::read("/proc/net/tcp").map(drop)));
    tell("measure its own program", file(File::open("/proc/self/exe").map(drop)));
    let port: u16 = fs::read_to_string(own.join("port")).unwrap().parse().unwrap();
    tell("listen", file(TcpListener::bind("127.0.0.1:0").map(drop)));
    tell("connect", file(TcpStream::connect(("127.0.0.1", port)).map(drop)));
    let mut inside = guest_command(&std::env::current_exe().unwrap(), "instance", &own.join("inner"));
    tell("start an instance", file(inside.stdout(Stdio::null()).stderr(Stdio::null()).status().map(drop)));
    let child = Command::new("/proc/self/exe")
        .arg("--list")
        .env_remove(ROLE)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    tell("end a child", file(child.and_then(|mut child| child.kill().and_then(|()| child.wait().map(drop)))));
    // Files.
    tell("read a foreign file", file(fs::read(foreign.join("key")).map(drop)));
    tell("list a foreign directory", file(fs::read_dir(foreign).map(drop)));
    tell("write a foreign file", file(fs::write(foreign.join("planted"), "x")));
    tell("move a file out", file(fs::rename(own.join("moved.txt"), foreign.join("planted"))));
    tell("follow a link out", file(fs::read(own.join("link")).map(drop)));
    tell("read the user's files", file(fs::read("/etc/passwd").map(drop)));
    tell("set the system", file(File::options().write(true).open("/proc/sys/kernel/hostname").map(drop)));
    tell("read the environment of another", file(fs::read(format!("/proc/{sibling}/environ")).map(drop)));
    // Programs and processes.
    tell("execute a file of its own", file(Command::new(own.join("program")).spawn().map(drop)));
    tell("execute another program", file(Command::new("/bin/true").spawn().map(drop)));
    tell("trace another", system(nix::sys::ptrace::attach(sibling)));
    tell("copy from another's memory", system(read_memory(sibling)));
    tell("signal another", system(nix::sys::signal::kill(sibling, None)));
    // The system.
    tell("mount", system(nix::mount::mount(Some("none"), own, Some("tmpfs"), MsFlags::empty(), None::<&str>)));
    tell("a mount namespace", system(nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)));
    tell("another root", system(nix::unistd::chroot(own)));
    tell("another user", system(nix::unistd::setuid(nix::unistd::Uid::from_raw(65534))));
    tell("a file in memory", rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::empty()).map(drop).map_err(named));
    let packets = rustix::net::socket(rustix::net::AddressFamily::PACKET, rustix::net::SocketType::RAW, None);
    tell("all packets", packets.map(drop).map_err(named));
    tell("its rights back", rustix::thread::set_capabilities(None, every_capability()).map_err(named));
    said
}

fn guest_command(program: &Path, role: &str, place: &Path) -> Command {
    let mut command = Command::new(program);
    command.env(ROLE, role).env(PLACE, place);
    command
}

/// What a guest finds at its place.
fn furnish(place: &Path, port: u16, abstract_name: &str, sibling: u32) {
    let (own, foreign) = (place.join("own"), place.join("foreign"));
    fs::create_dir_all(own.join("new")).unwrap();
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("key"), "secret").unwrap();
    fs::copy("/bin/true", own.join("program")).unwrap();
    fs::set_permissions(own.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink(foreign.join("key"), own.join("link")).unwrap();
    fs::write(own.join("port"), port.to_string()).unwrap();
    fs::write(own.join("abstract"), abstract_name).unwrap();
    fs::write(own.join("sibling"), sibling.to_string()).unwrap();
}

/// What a guest said, and what it reported.
type Said = (String, Vec<GaveUp>);

/// Lets a guest try.
fn let_in(role: &str) -> Said {
    let_in_both(role).0
}

/// Lets a guest try; and what the one said that it started inside of it.
fn let_in_both(role: &str) -> (Said, Option<Said>) {
    let place = tempfile::tempdir().unwrap();
    let (place, inner) = (place.path(), place.path().join("own/inner"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let name = format!("pilothouse-test-{}", place.display());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _abstract = UnixListener::bind_addr(&address).unwrap();
    // Waits for its input, which ends with this test.
    let mut sibling = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    furnish(place, port, &name, sibling.id());
    furnish(&inner, port, &name, sibling.id());
    let output = guest_command(&std::env::current_exe().unwrap(), role, place).output().unwrap();
    drop(sibling.stdin.take());
    sibling.wait().unwrap();
    let heard = |place: &Path| -> Option<Said> {
        assert_eq!(fs::read(place.join("foreign/key")).unwrap(), b"secret");
        assert!(!place.join("foreign/planted").exists());
        if let Ok(written) = fs::metadata(place.join("own/written")) {
            assert_eq!(written.uid(), rustix::process::geteuid().as_raw(), "files keep their owner");
        }
        let said = fs::read_to_string(place.join("own/said")).ok()?;
        let (tries, report) = said.split_once("REPORT ")?;
        Some((tries.to_owned(), serde_json::from_str(report).unwrap()))
    };
    let own = heard(place).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stdout)));
    (own, heard(&inner))
}

fn enforced(report: &[GaveUp], attribute: &str) -> Enforced {
    report.iter().find(|one| one.attribute == attribute).unwrap_or_else(|| panic!("no {attribute}")).enforced
}

/// What came of a guest's try.
fn came_of<'a>(said: &'a str, name: &str) -> &'a str {
    let prefix = format!("GUEST {name}: ");
    said.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_else(|| panic!("no {name} in {said}"))
}

/// What must be refused, by which attribute, and what must go on.
fn check(role: &str, only: &[(&str, &str, &[&str])]) {
    judge(&let_in(role), only);
}

fn judge((said, report): &Said, only: &[(&str, &str, &[&str])]) {
    let of = |name: &str| came_of(said, name).to_owned();
    for name in ["write its own file", "move its own file", "read what the system says of it", "start a thread"] {
        assert_eq!(of(name), "done", "{name}");
    }
    assert_eq!(of("a pair of sockets"), "done");
    let both: &[(&str, &str, &[&str])] = &[
        ("read a foreign file", "files", &["EACCES"]),
        ("list a foreign directory", "files", &["EACCES"]),
        ("write a foreign file", "files", &["EACCES"]),
        ("move a file out", "files", &["EACCES", "EXDEV"]),
        ("truncate a foreign file", "files", &["EACCES"]),
        ("follow a link out", "files", &["EACCES"]),
        ("make a link", "files", &["EACCES", "ENOSYS"]),
        ("read the user's files", "files", &["EACCES"]),
        ("read the memory of another", "files", &["EACCES"]),
        ("read the environment of another", "files", &["EACCES"]),
        ("execute a file of its own", "nothing is executed", &["EACCES", "EPERM", "ENOSYS"]),
        ("execute in place", "nothing is executed", &["EACCES", "EPERM"]),
        ("fork", "no other processes", &["EPERM", "ENOSYS"]),
        ("trace another", "no other processes", &["EPERM"]),
        ("copy from another's memory", "no other processes", &["EPERM"]),
        ("signal another", "no other processes", &["EPERM"]),
        ("mount", "system calls", &["EPERM"]),
        ("a user namespace", "system calls", &["EPERM"]),
        ("another root", "system calls", &["EPERM"]),
        ("another user", "system calls", &["EPERM"]),
        ("its rights back", "system calls", &["EPERM"]),
        ("be dumped", "system calls", &["EPERM"]),
    ];
    for (name, attribute, refusals) in both.iter().chain(only) {
        match enforced(report, attribute) {
            Enforced::Full => assert!(refusals.contains(&of(name).as_str()), "{name}: {}", of(name)),
            // An older kernel: what is not claimed is not tested.
            Enforced::Partial | Enforced::None => {}
        }
    }
    for attribute in ["no new privileges", "no core dumps", "memory kept from others", "capabilities"] {
        assert_eq!(enforced(report, attribute), Enforced::Full, "{report:?}");
    }
}

fn in_the_cloud() {
    let ((said, report), inside) = let_in_both("cloud");
    let goes_on =
        ["write its own file", "move its own file", "make a directory", "delete a directory", "read who calls"];
    let starts = ["measure its own program", "listen", "connect", "start an instance", "end a child"];
    for name in goes_on.iter().chain(&starts) {
        assert_eq!(came_of(&said, name), "done", "{name}");
    }
    let refused: &[(&str, &str, &[&str])] = &[
        ("read a foreign file", "files", &["EACCES"]),
        ("list a foreign directory", "files", &["EACCES"]),
        ("write a foreign file", "files", &["EACCES"]),
        ("move a file out", "files", &["EACCES", "EXDEV"]),
        ("follow a link out", "files", &["EACCES"]),
        ("read the user's files", "files", &["EACCES"]),
        ("set the system", "files", &["EACCES"]),
        ("read the environment of another", "files", &["EACCES"]),
        ("execute a file of its own", "nothing is executed", &["EACCES"]),
        ("execute another program", "nothing is executed", &["EACCES"]),
        ("signal another", "signals", &["EPERM"]),
        ("trace another", "no other processes", &["EPERM"]),
        ("copy from another's memory", "no other processes", &["EPERM"]),
        ("mount", "system calls", &["EPERM"]),
        ("a mount namespace", "system calls", &["EPERM"]),
        ("another root", "system calls", &["EPERM"]),
        ("another user", "system calls", &["EPERM"]),
        ("a file in memory", "system calls", &["EPERM"]),
        ("all packets", "system calls", &["EPERM"]),
        ("its rights back", "no new privileges", &["EPERM"]),
    ];
    for (name, attribute, refusals) in refused {
        if enforced(&report, attribute) != Enforced::None {
            assert!(refusals.contains(&came_of(&said, name)), "{name}: {}", came_of(&said, name));
        }
    }
    // An instance that is started inside confines itself as anywhere, and is as confined.
    let inside = inside.expect("the instance inside said something");
    judge(&inside, &[("a socket in its directory", "files", &["EACCES"])]);
    let outside = let_in("instance").1;
    // Root enters these without a user namespace too, but not as a child of the cloud, which has given that right up.
    let user_namespaces = enforced(&outside, "own user") != Enforced::None;
    let of = |report: &[GaveUp]| -> Vec<_> {
        let compared = report.iter().filter(|one| user_namespaces || one.attribute != "own IPC and host name");
        compared.map(|one| (one.attribute.clone(), one.enforced)).collect()
    };
    assert_eq!(of(&inside.1), of(&outside));
}

fn in_an_instance() {
    check("instance", &[("a socket in its directory", "files", &["EACCES"])]);
}

fn in_the_signer() {
    let refused: &[&str] = &["EPERM"];
    check(
        "signer",
        &[
            ("listen", "network", refused),
            ("connect", "network", refused),
            ("send by UDP", "network", refused),
            ("a socket in its directory", "network", refused),
        ],
    );
}

/// Without namespaces these are open to any process of the user (but where the kernel restricts tracing).
fn outside() {
    let (said, _) = let_in("outside");
    let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope.trim() != "0");
    if !yama {
        // Nothing lies at that address; it was allowed to look.
        assert_eq!(came_of(&said, "copy from a sibling's memory"), "EFAULT");
    }
    for name in ["read a sibling's environment", "connect", "send by UDP", "connect to an abstract socket"] {
        assert_eq!(came_of(&said, name), "done", "{name}");
    }
}

fn in_namespaces() {
    let (said, report) = let_in("in namespaces");
    // What a namespace is not: another user. Signals and files are kept by Landlock.
    for name in ["signal a sibling", "read a file of the user", "write a file", "keep it to itself"] {
        assert_eq!(came_of(&said, name), "done", "{name}");
    }
    if enforced(&report, "own user") == Enforced::None {
        let why = &report.iter().find(|one| one.attribute == "own user").unwrap().why;
        assert!(why.contains("without a user namespace of its own: "), "it is said why: {why}");
        return;
    }
    assert_eq!(came_of(&said, "copy from a sibling's memory"), "EPERM");
    assert_eq!(came_of(&said, "read a sibling's environment"), "EACCES");
    assert_eq!(came_of(&said, "make another namespace"), "EPERM");
    assert_eq!(came_of(&said, "connect"), "ENETUNREACH");
    assert_eq!(came_of(&said, "send by UDP"), "ENETUNREACH");
    assert_eq!(came_of(&said, "connect to an abstract socket"), "ECONNREFUSED");
    assert_eq!(enforced(&report, "own IPC and host name"), Enforced::Full, "{report:?}");
}

fn without_namespaces() {
    let guest = let_in("where namespaces are used up");
    judge(&guest, &[("a socket in its directory", "files", &["EACCES"])]);
    let own_user = guest.1.iter().find(|one| one.attribute == "own user").unwrap();
    assert_eq!(own_user.enforced, Enforced::None, "{own_user:?}");
    if enforced(&let_in("instance").1, "own user") != Enforced::None {
        assert!(own_user.why.ends_with("there may be no more: user.max_user_namespaces is 0 (ENOSPC)"), "{own_user:?}");
    }
}

fn an_instance_on_the_network() {
    let (said, _) = let_in("instance");
    for name in ["listen", "connect", "send by UDP"] {
        assert!(said.contains(&format!("GUEST {name}: done\n")), "{said}");
    }
}
