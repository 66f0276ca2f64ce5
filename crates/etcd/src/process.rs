//! What the system knows of this process, for the `process_*` metrics.

use std::fs;

/// Numbers of this process.
pub(crate) struct Process {
    pub(crate) cpu_seconds: f64,
    pub(crate) open_fds: usize,
    pub(crate) max_fds: u64,
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    /// Since 1970.
    pub(crate) start_seconds: f64,
}

/// Reads them from `/proc`; nothing where there is none.
pub(crate) fn read() -> Option<Process> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let open_fds = fs::read_dir("/proc/self/fd").ok()?.count();
    let ticks = rustix::param::clock_ticks_per_second();
    let page = rustix::param::page_size() as u64;
    let mut process = parse(&stat, boot, ticks, page)?;
    // The descriptor that reads the list is on it.
    process.open_fds = open_fds.saturating_sub(1);
    process.max_fds = limit.current.unwrap_or(u64::MAX);
    Some(process)
}

/// Reads the line of `/proc/self/stat`. The program's name comes second and may hold anything.
fn parse(stat: &str, boot_seconds: f64, ticks: u64, page_bytes: u64) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // `man 5 proc` counts from one; the fields here begin with the third.
    let field = |number: usize| -> Option<u64> { fields.get(number - 3)?.parse().ok() };
    let seconds = |ticks_passed: u64| ticks_passed as f64 / ticks as f64;
    Some(Process {
        cpu_seconds: seconds(field(14)? + field(15)?),
        open_fds: 0,
        max_fds: 0,
        resident_bytes: field(24)? * page_bytes,
        virtual_bytes: field(23)?,
        start_seconds: boot_seconds + seconds(field(22)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 250 50 0 0 20 0 4 0 1000 8192 3 18446744073709551615";
        let process = parse(stat, 100.0, 100, 4096).expect("a line of stat");
        assert!((process.cpu_seconds - 3.0).abs() < 1e-9);
        assert!((process.start_seconds - 110.0).abs() < 1e-9);
        assert_eq!((process.virtual_bytes, process.resident_bytes), (8192, 3 * 4096));
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let process = read().expect("Linux");
        assert!(process.resident_bytes > 1 << 20);
        assert!(process.open_fds > 0 && process.max_fds >= process.open_fds as u64);
    }
}
