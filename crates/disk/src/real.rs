//! The `Disk` port and its real form: files of the operating system.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

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
}

/// The operating system's files: directories 0700, files 0600.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?))
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

impl DiskFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
