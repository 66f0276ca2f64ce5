//! Guests that try to get out: this test program starts itself again, confines itself as a signer or an instance does, and
//! tries. Nothing of it is in the program that is shipped.

use std::fs::{self, File};
use std::io::{ErrorKind, Result as IoResult};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::{Confined, Enforced, Role, confine};

/// Names the guest's role to the second start of this program.
const ROLE: &str = "PILOTHOUSE_TEST_GUEST";
/// What the guest's surroundings are: its own directory, a foreign one beside it, and who watches.
const PLACE: &str = "PILOTHOUSE_TEST_PLACE";

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

/// Not a test: what the second start of this program runs.
#[test]
fn guest() {
    let (Ok(role), Some(place)) = (std::env::var(ROLE), std::env::var_os(PLACE)) else { return };
    let (place, role) = (PathBuf::from(place), if role == "signer" { Role::Signer } else { Role::Instance });
    let (own, foreign) = (place.join("own"), place.join("foreign"));
    let watcher = rustix::process::getppid().unwrap().as_raw_nonzero().get().unsigned_abs();
    let confined: Confined = confine(role, &own);
    let said = try_everything(&own, &foreign, watcher);
    let report = serde_json::to_string(&confined.report).unwrap();
    // The test program's own output is captured: what a guest says goes to its directory.
    fs::write(own.join("said"), format!("{said}REPORT {report}\n")).unwrap();
}

/// Lets a guest try; what it said, and what it reported.
fn let_in(role: &str) -> (String, Vec<super::GaveUp>) {
    let place = tempfile::tempdir().unwrap();
    let (own, foreign) = (place.path().join("own"), place.path().join("foreign"));
    fs::create_dir_all(own.join("new")).unwrap();
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("key"), "secret").unwrap();
    fs::copy("/bin/true", own.join("program")).unwrap();
    fs::set_permissions(own.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink(foreign.join("key"), own.join("link")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    fs::write(own.join("port"), listener.local_addr().unwrap().port().to_string()).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "confine::tests::guest", "--test-threads=1"])
        .env(ROLE, role)
        .env(PLACE, place.path())
        .output()
        .unwrap();
    let said = fs::read_to_string(own.join("said"))
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)));
    assert_eq!(fs::read(foreign.join("key")).unwrap(), b"secret");
    assert!(!foreign.join("planted").exists());
    let (tries, report) = said.split_once("REPORT ").unwrap();
    (tries.to_owned(), serde_json::from_str(report).unwrap())
}

fn enforced(report: &[super::GaveUp], attribute: &str) -> Enforced {
    report.iter().find(|one| one.attribute == attribute).unwrap_or_else(|| panic!("no {attribute}")).enforced
}

/// What must be refused, by which attribute, and what must go on.
fn check(role: &str, only: &[(&str, &str, &[&str])]) {
    let (said, report) = let_in(role);
    let of = |name: &str| {
        let prefix = format!("GUEST {name}: ");
        let line = said.lines().find_map(|line| line.strip_prefix(prefix.as_str()));
        line.unwrap_or_else(|| panic!("no {name} in {said}")).to_owned()
    };
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
        match enforced(&report, attribute) {
            Enforced::Full => assert!(refusals.contains(&of(name).as_str()), "{name}: {}", of(name)),
            // An older kernel: what is not claimed is not tested.
            Enforced::Partial | Enforced::None => {}
        }
    }
    for attribute in ["no new privileges", "no core dumps", "memory kept from others", "capabilities"] {
        assert_eq!(enforced(&report, attribute), Enforced::Full, "{report:?}");
    }
}

#[test]
fn a_guest_in_an_instance_stays_in_it() {
    check("instance", &[("a socket in its directory", "files", &["EACCES"])]);
}

#[test]
fn a_guest_in_the_signer_stays_in_it_and_reaches_nobody() {
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

#[test]
fn an_instance_listens_and_connects() {
    let (said, _) = let_in("instance");
    for name in ["listen", "connect", "send by UDP"] {
        assert!(said.contains(&format!("GUEST {name}: done\n")), "{said}");
    }
}

#[test]
fn a_directory_that_is_not_there_is_reported() {
    let (report, _) =
        std::thread::spawn(|| super::files::restrict(Role::Signer, Path::new("/nowhere/at/all"))).join().unwrap();
    assert_eq!(enforced(&report, "files"), Enforced::None);
    assert!(matches!(fs::read("/nowhere").unwrap_err().kind(), ErrorKind::NotFound), "nothing was applied");
}
