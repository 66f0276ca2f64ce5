//! What can go wrong with stored data, in words for the operator: one line that names the path.

use std::io;
use std::path::{Path, PathBuf};

/// A failure to store or to read back.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The operating system refused.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The refusal.
        #[source]
        source: io::Error,
    },
    /// Bytes that were written whole are not as they were written.
    #[error("{} is damaged at offset {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damage was noticed.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A part of the data is missing.
    #[error("{} is missing", path.display())]
    Missing {
        /// The file that should be there.
        path: PathBuf,
    },
    /// The key that opens the data is not where it should be. Nothing was changed.
    #[error("the key {} is missing: the data sealed with it cannot be opened; nothing was changed", path.display())]
    MissingKey {
        /// Where the key should be.
        path: PathBuf,
    },
    /// The data was sealed with another key. Nothing was changed.
    #[error("{} was sealed with another key than {}, or is damaged; nothing was changed", path.display(), key.display())]
    WrongKey {
        /// The sealed file.
        path: PathBuf,
        /// The key that was tried.
        key: PathBuf,
    },
    /// The data key was wrapped with another key of the user's, or with none. Nothing was changed.
    #[error("{} has a data key that another user-managed key wrapped, or is damaged; nothing was changed", path.display())]
    WrongUserKey {
        /// The file that states the key.
        path: PathBuf,
    },
    /// The directory belongs to another instance.
    #[error("instance identity mismatch: {} belongs to {found}, not to {expected}; nothing was changed", path.display())]
    IdentityMismatch {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who wanted it.
        expected: String,
    },
    /// The directory holds something that is not ours.
    #[error("{} is not empty and not a data directory of pilothouse; nothing was changed", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// The directory was written by a later version.
    #[error("{} has format {found}, this version reads up to {known}; nothing was changed", path.display())]
    Newer {
        /// The file that states the format.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known.
        known: u32,
    },
    /// Another process uses the directory.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A rotation of its key goes on.
    #[error("{} is still being sealed anew with the key of the last rotation; try again when it is done", path.display())]
    Resealing {
        /// The directory.
        path: PathBuf,
    },
    /// A sync failed earlier: what is on disk is unknown until the log is opened again.
    #[error("an earlier sync of {} failed: the log must be opened again", path.display())]
    Poisoned {
        /// The log's directory.
        path: PathBuf,
    },
    /// The embedded view failed; it can be wiped and built again.
    #[error("view {}: {what}", path.display())]
    View {
        /// The view's directory.
        path: PathBuf,
        /// The failure.
        what: String,
    },
}

impl DiskError {
    /// For `map_err` on I/O.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }

    pub(crate) fn damaged(path: &Path, offset: u64, what: &'static str) -> Self {
        Self::Damaged { path: path.to_owned(), offset, what }
    }

    /// Whether there was no space (or quota) left: the same call may succeed later.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}
