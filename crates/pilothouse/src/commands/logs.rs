//! `pilothouse logs`: what the sandbox's processes wrote.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cli::LogsArgs;
use crate::layout::Layout;

const FOLLOW_POLL: Duration = Duration::from_millis(200);

/// Prints the logs to standard output.
///
/// # Errors
/// When there is no such log.
pub(crate) fn run(args: &LogsArgs) -> Result<()> {
    let layout = Layout::resolve(args.data.data_dir.as_deref(), None)?;
    let files = files(&layout, args.process.as_deref())?;
    let mut offsets = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        print(file, files.len() > 1, last_lines(&text, args.tail))?;
        offsets.push(text.len() as u64);
    }
    if args.follow { follow(&files, &mut offsets) } else { Ok(()) }
}

/// Prints what is added to the files, until the process is ended.
fn follow(files: &[PathBuf], offsets: &mut [u64]) -> Result<()> {
    loop {
        std::thread::sleep(FOLLOW_POLL);
        for (file, offset) in files.iter().zip(offsets.iter_mut()) {
            let mut opened = File::open(file)?;
            opened.seek(SeekFrom::Start(*offset))?;
            let mut added = String::new();
            opened.read_to_string(&mut added)?;
            *offset += added.len() as u64;
            print(file, files.len() > 1, &added)?;
        }
    }
}

fn files(layout: &Layout, process: Option<&str>) -> Result<Vec<PathBuf>> {
    let mut all: Vec<PathBuf> = match fs::read_dir(layout.logs()) {
        Ok(entries) => entries.filter_map(|e| Some(e.ok()?.path())).collect(),
        Err(_) => bail!("no logs at {}; start a sandbox with `pilothouse up`", layout.logs().display()),
    };
    all.sort();
    let Some(process) = process else { return Ok(all) };
    let names: Vec<String> = all.iter().filter_map(|f| Some(f.file_stem()?.to_str()?.to_owned())).collect();
    match names.iter().position(|n| n == process) {
        Some(i) => Ok(vec![all.swap_remove(i)]),
        None => bail!("no log of {process:?}; there are: {}", names.join(", ")),
    }
}

fn last_lines(text: &str, count: Option<usize>) -> &str {
    let Some(count) = count else { return text };
    let body = text.strip_suffix('\n').unwrap_or(text);
    match body.rmatch_indices('\n').nth(count.saturating_sub(1)) {
        Some((i, _)) if count > 0 => &text[i + 1..],
        None if count > 0 => text,
        _ => "",
    }
}

fn print(file: &std::path::Path, named: bool, text: &str) -> Result<()> {
    let name = file.file_stem().and_then(|n| n.to_str()).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    for line in text.lines() {
        let written = if named { writeln!(out, "{name}: {line}") } else { writeln!(out, "{line}") };
        match written {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_counts_whole_lines() {
        let cases = [(None, "a\nb\nc\n"), (Some(0), ""), (Some(1), "c\n"), (Some(2), "b\nc\n"), (Some(9), "a\nb\nc\n")];
        for (count, want) in cases {
            assert_eq!(last_lines("a\nb\nc\n", count), want, "{count:?}");
        }
    }
}
