//! The `Disk` port and its real form: files of the operating system.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt as _, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// Files that are created, appended to and synced; nothing is ever overwritten in place.
pub trait Disk: Send + Sync + 'static {
    /// Makes a directory for the owner alone, with its parents.
    ///
    /// # Errors
    /// As the file system says.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a new file for the owner alone.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// A file's whole content.
    ///
    /// # Errors
    /// `NotFound`, or as the file system says.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// `NotFound`, or as the file system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Gives a file another name, replacing what had it.
    ///
    /// # Errors
    /// As the file system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// As the file system says.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As the file system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// A file open for appending.
pub trait DiskFile: Send {
    /// Appends all the bytes; after an error an unknown part of them is there.
    ///
    /// # Errors
    /// `StorageFull`, or as the file system says.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes the content durable. After an error nothing is known of what is.
    ///
    /// # Errors
    /// As the file system says.
    fn sync(&mut self) -> io::Result<()>;
    /// Makes the file this long, with zeros behind what was appended: what is appended next replaces them. A sync then need
    /// not note a new length, which costs a disk more than the bytes themselves.
    ///
    /// # Errors
    /// As the file system says, `Unsupported` where it cannot. The file can be used on.
    fn reserve(&mut self, length: u64) -> io::Result<()>;
    /// Gives back what was reserved and not used.
    ///
    /// # Errors
    /// As the file system says. The file can be used on.
    fn trim(&mut self) -> io::Result<()>;
}

/// The operating system's files: directories 0700, files 0600.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Box::new(RealFile { file, appended: 0 }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect::<io::Result<_>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

struct RealFile {
    file: File,
    /// Bytes appended so far.
    appended: u64,
}

impl DiskFile for RealFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.appended)?;
        self.appended += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn reserve(&mut self, length: u64) -> io::Result<()> {
        let more = length.saturating_sub(self.appended);
        if more == 0 {
            return Ok(());
        }
        Ok(fallocate(&self.file, FallocateFlags::empty(), self.appended, more)?)
    }

    fn trim(&mut self) -> io::Result<()> {
        self.file.set_len(self.appended)
    }
}
