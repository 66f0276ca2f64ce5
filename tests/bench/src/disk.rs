//! What the disk itself takes: the least that an acknowledged write can take on it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::phase::{Server, micros, now};

const VALUE_BYTES: usize = 256;

/// Appends values to a file in `directory`, each made durable before the next; prints the median time of one.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn run(server: &Server, directory: &Path) -> Result<()> {
    let path = directory.join("fdatasync");
    let mut file = OpenOptions::new().create(true).append(true).open(&path).context("opening a file to sync")?;
    let (began, mut times) = (now(), Vec::<Duration>::new());
    while began.elapsed() < server.duration {
        let sent = now();
        file.write_all(&[0x5a; VALUE_BYTES])?;
        file.sync_data()?;
        times.push(sent.elapsed());
    }
    std::fs::remove_file(&path)?;
    times.sort_unstable();
    server.say(&format!("disk: {VALUE_BYTES} B appended and synced: p50"), micros(times[times.len() / 2]), "µs");
    Ok(())
}
