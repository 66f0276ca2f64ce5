//! The mark of a log's newest segment: an empty file named after its number, beside the segments. Each segment states
//! where its predecessor ends, but nothing states that the newest exists: without the mark, a log that lost it would
//! open as a shorter one.
//!
//! The mark follows its segment: it is never newer than what is on disk. It is renamed without a sync of its own, as one
//! that lags says less but nothing wrong.

use std::path::{Path, PathBuf};

use crate::error::DiskError;
use crate::real::Disk;

const SUFFIX: &str = ".last";

/// The newest segment that the log is known to have had; 0 if none is.
pub(crate) fn read(disk: &dyn Disk, dir: &Path) -> Result<u64, DiskError> {
    Ok(marks(disk, dir)?.last().copied().unwrap_or(0))
}

/// Segment `number` is on disk. A mark that cannot be made is made with a later segment.
pub(crate) fn raise(disk: &dyn Disk, dir: &Path, number: u64) {
    let raised = marks(disk, dir).and_then(|marks| match marks.last() {
        Some(last) if *last >= number => Ok(()),
        Some(last) => {
            let path = mark_path(dir, *last);
            disk.rename(&path, &mark_path(dir, number)).map_err(DiskError::io("rename", &path))
        }
        None => {
            let path = mark_path(dir, number);
            disk.create(&path).map(drop).map_err(DiskError::io("create", &path))
        }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the log's newest segment is not marked");
    }
}

/// Segments after `number` are about to be removed: durably forgets that they were there.
pub(crate) fn lower(disk: &dyn Disk, dir: &Path, number: u64) -> Result<(), DiskError> {
    let newer: Vec<u64> = marks(disk, dir)?.into_iter().filter(|mark| *mark > number).collect();
    for mark in &newer {
        let path = mark_path(dir, *mark);
        disk.remove(&path).map_err(DiskError::io("remove", &path))?;
    }
    if newer.is_empty() { Ok(()) } else { disk.sync_dir(dir).map_err(DiskError::io("sync", dir)) }
}

/// Ascending; a crash between two names may leave more than one.
fn marks(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>, DiskError> {
    let names = disk.list(dir).map_err(DiskError::io("list", dir))?;
    let number = |name: &String| u64::from_str_radix(name.strip_suffix(SUFFIX)?, 16).ok();
    Ok(names.iter().filter_map(number).collect())
}

fn mark_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}{SUFFIX}"))
}
