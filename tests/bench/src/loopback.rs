//! What the machine takes to wake another thread by a packet and be woken by its answer: the least that any call can take on it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::phase::{Server, micros, now};

/// About what a put of 256 bytes is on the wire.
const PACKET_BYTES: usize = 320;

/// Sends packets to a thread that sends each back; prints the median time of one there and back.
///
/// # Errors
/// When there are no loopback sockets.
pub(crate) fn run(server: &Server) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening on loopback")?;
    let mut here = TcpStream::connect(listener.local_addr()?)?;
    let (mut there, _) = listener.accept()?;
    here.set_nodelay(true)?;
    there.set_nodelay(true)?;
    let echo = thread::spawn(move || -> std::io::Result<()> {
        let mut packet = [0; PACKET_BYTES];
        while there.read_exact(&mut packet).is_ok() {
            there.write_all(&packet)?;
        }
        Ok(())
    });
    let (began, mut times, mut packet) = (now(), Vec::<Duration>::new(), [0x5a; PACKET_BYTES]);
    while began.elapsed() < server.duration {
        let sent = now();
        here.write_all(&packet)?;
        here.read_exact(&mut packet)?;
        times.push(sent.elapsed());
    }
    drop(here);
    echo.join().expect("the echo does not panic")?;
    times.sort_unstable();
    server.say(&format!("loopback: {PACKET_BYTES} B there and back: p50"), micros(times[times.len() / 2]), "µs");
    Ok(())
}
