//! From the start of an etcd's process to its first healthy answer, and what it holds in memory then.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::phase::{Server, micros, now};
use crate::process;

const RETRY: Duration = Duration::from_micros(500);
const PATIENCE: Duration = Duration::from_secs(60);
/// What a process made for its start is given back in this time.
const SETTLE: Duration = Duration::from_secs(2);

/// Starts the shell command, waits until `endpoint` (`http://IP:PORT`) is healthy, and ends it with SIGTERM.
pub(crate) fn run(server: &Server, endpoint: &str, label: &str, command: &str) -> Result<()> {
    let address: SocketAddr = endpoint.strip_prefix("http://").context("an http:// endpoint")?.parse()?;
    let began = now();
    let mut child = Command::new("sh").args(["-c", &format!("exec {command}")]).spawn()?;
    let measured = healthy(address, &mut child).and_then(|()| {
        server.say(&format!("{label}: start to healthy"), micros(began.elapsed()) / 1000.0, "ms");
        std::thread::sleep(SETTLE);
        process::pss_bytes(&[child.id()])
    });
    let ended = Command::new("kill").arg(child.id().to_string()).status();
    child.wait()?;
    ensure!(ended?.success(), "the member was gone already");
    server.say(&format!("{label}: memory (PSS)"), measured? as f64 / 1_048_576.0, "MiB");
    Ok(())
}

fn healthy(address: SocketAddr, child: &mut Child) -> Result<()> {
    let began = now();
    while began.elapsed() < PATIENCE {
        if ask(address).is_ok_and(|answer| answer.contains("\"health\":\"true\"")) {
            return Ok(());
        }
        ensure!(child.try_wait()?.is_none(), "it ended");
        std::thread::sleep(RETRY);
    }
    anyhow::bail!("it is not healthy after {} s", PATIENCE.as_secs())
}

fn ask(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
