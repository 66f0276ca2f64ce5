//! What the kernel says a process used.

use std::fs;

use anyhow::{Context, Result};

/// Clock ticks a second, as Linux reports them to programs on every architecture.
const TICKS: f64 = 100.0;

/// User and system time of all processes, in seconds.
pub(crate) fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|pid| one(*pid)).sum()
}

fn one(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    // The name in parentheses may hold anything; fields are counted behind it (proc(5)).
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) / TICKS)
}

/// Proportional set size of all processes, in bytes.
pub(crate) fn pss_bytes(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).with_context(|| format!("process {pid}"))?;
        let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).unwrap_or_default();
        sum += line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024;
    }
    Ok(sum)
}
