//! The file format of bbolt 1.4, in which etcd keeps and hands out its database (its `internal/common`): written in one
//! go, read with distrust.
//!
//! ```text
//! file   = meta | meta | page …                     pages of 4 KiB (read: of any size a meta states)
//! page   = id u64 | kind u16 | count u16 | overflow u32 | element … | keys and values
//! leaf   = { flags u32 | pos u32 | key len u32 | value len u32 }        pos counts from its element
//! branch = { pos u32 | key len u32 | page u64 }                         the key is the child's first
//! bucket = root page u64 | sequence u64             the value of an element with flag 1; root 0: the page follows here
//! meta   = magic u32 | version u32 | page size u32 | flags u32 | bucket | freelist u64 | pages u64 | txid u64 | FNV-1a u64
//! ```
//! Integers are in the byte order of the machine that wrote the file, which is little-endian wherever etcd is supported.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use read::{BoltError, Entry, Reader};
pub(crate) use write::{Buckets, plan, write};

/// Pages that are written; what `os.Getpagesize` gives bbolt on nearly every machine.
const PAGE_BYTES: usize = 4096;
const PAGE_HEAD_BYTES: usize = 16;
const ELEMENT_BYTES: usize = 16;
const BUCKET_BYTES: usize = 16;
/// A meta's bytes before its checksum.
const META_BYTES: usize = 56;
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREELIST: u16 = 0x10;
/// The flag of a leaf's element whose value is a bucket.
const IS_BUCKET: u32 = 1;
/// A meta's freelist when the free pages are not written down.
const NO_FREELIST: u64 = u64::MAX;

/// FNV-1a of 64 bits, a meta's checksum.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
