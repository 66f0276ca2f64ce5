//! Reads a file that anybody may have written: every number in it is checked before it is used.

use std::io::{self, Read, Seek, SeekFrom};

use super::{
    BRANCH, BUCKET_BYTES, ELEMENT_BYTES, FREELIST, IS_BUCKET, LEAF, MAGIC, META, META_BYTES, NO_FREELIST,
    PAGE_HEAD_BYTES, VERSION, fnv1a,
};

/// Sizes of pages that bbolt looks for a second meta at.
const PAGE_BYTES_KNOWN: [u32; 7] = [1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16];
/// bbolt's largest value; a page may be as long as one and a little more.
const VALUE_BYTES_MAX: u64 = (1 << 31) - 2;
/// A tree of the smallest pages with 2^64 entries is not deeper.
const DEPTH_MAX: usize = 64;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BoltError {
    /// The file system failed.
    #[error("reading it failed")]
    Io(#[from] io::Error),
    /// No usable meta.
    #[error("it is no bbolt database, or both of its first pages are damaged")]
    NoMeta,
    /// It ends before its last page.
    #[error("it is cut off: {length} bytes of {expected}")]
    Short {
        /// Its length.
        length: u64,
        /// What its meta says.
        expected: u64,
    },
    /// A page makes no sense.
    #[error("page {page} (offset {offset}) is damaged: {what}")]
    Page {
        /// The page.
        page: u64,
        /// Where it is.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// A key and value of a bucket.
pub(crate) struct Entry<'a> {
    pub(crate) bucket: &'a [u8],
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// A database file.
pub(crate) struct Reader<R> {
    file: R,
    meta: Meta,
    /// A bit for each page that was read.
    seen: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Meta {
    page_bytes: u64,
    root: u64,
    freelist: u64,
    pages: u64,
    transaction: u64,
}

impl<R: Read + Seek> Reader<R> {
    /// Finds the file's meta; `length` is how much of the file is the database.
    ///
    /// # Errors
    /// When there is none, or the file is shorter than it says.
    pub(crate) fn open(mut file: R, length: u64) -> Result<Self, BoltError> {
        let mut best = meta_at(&mut file, 0, length, None)?;
        let sizes = match best {
            Some(first) => vec![first.page_bytes],
            None => PAGE_BYTES_KNOWN.map(u64::from).to_vec(),
        };
        for size in sizes {
            let second = meta_at(&mut file, size, length, Some(size))?;
            let newer = |second: &Meta| best.is_none_or(|best| second.transaction > best.transaction);
            best = second.filter(newer).or(best);
        }
        let meta = best.ok_or(BoltError::NoMeta)?;
        let expected = meta.pages.saturating_mul(meta.page_bytes);
        if expected > length {
            return Err(BoltError::Short { length, expected });
        }
        let words = usize::try_from(meta.pages / 64 + 1).unwrap_or(usize::MAX);
        Ok(Self { file, meta, seen: vec![0; words] })
    }

    /// Bytes of the database.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.meta.pages * self.meta.page_bytes
    }

    /// Shows every entry of every bucket, in order.
    ///
    /// # Errors
    /// When a page makes no sense, or with what `visit` returns.
    pub(crate) fn walk<E: From<BoltError>>(
        &mut self,
        mut visit: impl FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buckets = Vec::new();
        let root = self.page(self.meta.root)?;
        self.tree(root, |page, element, key, value| {
            if element != IS_BUCKET || value.len() < BUCKET_BYTES {
                return Err(page.bad("there is something beside the buckets"));
            }
            buckets.push((page.place, key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        for (place, name, value) in buckets {
            let root = match u64_at(&value, 0) {
                0 => Page::inline(place, &value[BUCKET_BYTES..])?,
                id => self.page(id)?,
            };
            self.tree(root, |page, element, key, value| {
                if element != 0 {
                    return Err(page.bad("a bucket holds what is no value").into());
                }
                visit(Entry { bucket: &name, key, value })
            })?;
        }
        Ok(self.check_freelist()?)
    }

    /// Walks one tree. Its keys ascend from each to the next, and none lies outside of what its branches say.
    fn tree<E: From<BoltError>>(
        &mut self,
        root: Page,
        mut leaf: impl FnMut(&Page, u32, &[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut floor, mut last) = (Vec::new(), Vec::new());
        let mut stack = vec![(root, 0)];
        while let Some((page, next)) = stack.last_mut() {
            if *next == page.count {
                stack.pop();
                continue;
            }
            let element = page.element(*next)?;
            let key = &page.bytes[element.key.clone()];
            if key.is_empty() || *key < floor[..] || *key <= last[..] {
                return Err(page.bad("its keys are not in order").into());
            }
            *next += 1;
            if page.kind == LEAF {
                last.clear();
                last.extend_from_slice(key);
                leaf(page, element.flags, key, &page.bytes[element.value.clone()])?;
                continue;
            }
            floor.clear();
            floor.extend_from_slice(key);
            let child = element.child;
            if stack.len() == DEPTH_MAX {
                return Err(self.bad(child, "the tree is too deep").into());
            }
            stack.push((self.page(child)?, 0));
        }
        Ok(())
    }

    /// Reads a leaf or branch, with its overflow.
    fn page(&mut self, id: u64) -> Result<Page, BoltError> {
        let page = self.read(id)?;
        match page.kind {
            LEAF | BRANCH => Ok(page),
            _ => Err(page.bad("it is neither leaf nor branch")),
        }
    }

    fn read(&mut self, id: u64) -> Result<Page, BoltError> {
        if id < 2 || id >= self.meta.pages {
            return Err(self.bad(id, "there is no such page"));
        }
        self.file.seek(SeekFrom::Start(id * self.meta.page_bytes))?;
        let mut head = [0; PAGE_HEAD_BYTES];
        self.file.read_exact(&mut head)?;
        let pages = u64::from(u32_at(&head, 12)) + 1;
        if u64_at(&head, 0) != id {
            return Err(self.bad(id, "its number is another"));
        }
        if pages > self.meta.pages - id || pages > VALUE_BYTES_MAX / self.meta.page_bytes + 2 {
            return Err(self.bad(id, "it is longer than the file"));
        }
        for page in id..id + pages {
            if self.mark(page) {
                return Err(self.bad(page, "two places refer to it"));
            }
        }
        let mut bytes = head.to_vec();
        let rest = pages * self.meta.page_bytes - PAGE_HEAD_BYTES as u64;
        let read = self.file.by_ref().take(rest).read_to_end(&mut bytes)?;
        if read as u64 != rest {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Page::new((id, id * self.meta.page_bytes), bytes)
    }

    /// Free pages must be free.
    fn check_freelist(&mut self) -> Result<(), BoltError> {
        if self.meta.freelist == NO_FREELIST {
            return Ok(());
        }
        let page = self.read(self.meta.freelist)?;
        let ids = &page.bytes[PAGE_HEAD_BYTES..];
        // A count that does not fit its field stands before the list.
        let (skip, count) = match u16_at(&page.bytes, 10) {
            u16::MAX => (1, usize::try_from(u64_at(ids, 0)).unwrap_or(usize::MAX)),
            count => (0, usize::from(count)),
        };
        if page.kind != FREELIST || count > ids.len() / 8 - skip {
            return Err(page.bad("it is no list of free pages"));
        }
        let mut last = 1;
        for id in ids.chunks_exact(8).skip(skip).take(count).map(|id| u64_at(id, 0)) {
            if id <= last || id >= self.meta.pages {
                return Err(page.bad("its list of free pages makes no sense"));
            }
            if self.mark(id) {
                return Err(self.bad(id, "it is in use and free"));
            }
            last = id;
        }
        Ok(())
    }

    /// Whether the page was marked before.
    fn mark(&mut self, page: u64) -> bool {
        let (word, bit) = (usize::try_from(page / 64).unwrap_or(usize::MAX), 1 << (page % 64));
        let before = self.seen[word] & bit != 0;
        self.seen[word] |= bit;
        before
    }

    fn bad(&self, page: u64, what: &'static str) -> BoltError {
        BoltError::Page { page, offset: page.saturating_mul(self.meta.page_bytes), what }
    }
}

/// The meta at an offset, if it is whole; the one at offset 0 says itself how large pages are.
fn meta_at(file: &mut (impl Read + Seek), at: u64, length: u64, page_bytes: Option<u64>) -> io::Result<Option<Meta>> {
    let mut page = [0; PAGE_HEAD_BYTES + META_BYTES + 8];
    if at + page.len() as u64 > length {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut page)?;
    let meta = &page[PAGE_HEAD_BYTES..];
    let known = u16_at(&page, 8) == META
        && (u32_at(meta, 0), u32_at(meta, 4)) == (MAGIC, VERSION)
        && u64_at(meta, META_BYTES) == fnv1a(&meta[..META_BYTES])
        && PAGE_BYTES_KNOWN.contains(&u32_at(meta, 8))
        && page_bytes.is_none_or(|expected| expected == u64::from(u32_at(meta, 8)));
    Ok(known.then(|| Meta {
        page_bytes: u64::from(u32_at(meta, 8)),
        root: u64_at(meta, 16),
        freelist: u64_at(meta, 32),
        pages: u64_at(meta, 40),
        transaction: u64_at(meta, 48),
    }))
}

/// A page in memory.
struct Page {
    /// Number and offset in the file.
    place: (u64, u64),
    kind: u16,
    count: usize,
    bytes: Vec<u8>,
}

/// Where the parts of an element are.
struct Element {
    flags: u32,
    key: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
    child: u64,
}

impl Page {
    fn new(place: (u64, u64), bytes: Vec<u8>) -> Result<Self, BoltError> {
        let page = Self { place, kind: u16_at(&bytes, 8), count: usize::from(u16_at(&bytes, 10)), bytes };
        let is_tree = matches!(page.kind, LEAF | BRANCH);
        if is_tree && PAGE_HEAD_BYTES + page.count * ELEMENT_BYTES > page.bytes.len() {
            return Err(page.bad("it has more elements than room"));
        }
        Ok(page)
    }

    /// The page of a small bucket, which stands in the bucket's element.
    fn inline(place: (u64, u64), bytes: &[u8]) -> Result<Self, BoltError> {
        if bytes.len() < PAGE_HEAD_BYTES || u16_at(bytes, 8) != LEAF {
            let (page, offset) = place;
            return Err(BoltError::Page { page, offset, what: "a bucket in it has no page" });
        }
        Self::new(place, bytes.to_vec())
    }

    fn element(&self, number: usize) -> Result<Element, BoltError> {
        let start = PAGE_HEAD_BYTES + number * ELEMENT_BYTES;
        let field = |n: usize| u32_at(&self.bytes, start + n * 4) as usize;
        let (flags, pos, key_len, value_len, child) = if self.kind == LEAF {
            (u32_at(&self.bytes, start), field(1), field(2), field(3), 0)
        } else {
            (0, field(0), field(1), 0, u64_at(&self.bytes, start + 8))
        };
        // Four numbers of 32 bits: their sum does not overflow.
        let (key, value) = (start + pos, start + pos + key_len);
        let end = value + value_len;
        if end > self.bytes.len() || pos < ELEMENT_BYTES {
            return Err(self.bad("an entry lies outside of it"));
        }
        Ok(Element { flags, key: key..value, value: value..end, child })
    }

    fn bad(&self, what: &'static str) -> BoltError {
        BoltError::Page { page: self.place.0, offset: self.place.1, what }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
