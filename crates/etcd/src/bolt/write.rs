//! Writes a file from sorted entries, page after page. The first pages name the last ones, so it is done twice: once to
//! count, once to write; both times nothing is held but a page per level.

use std::io::{self, Write};

use super::{
    BRANCH, BUCKET_BYTES, ELEMENT_BYTES, FREELIST, IS_BUCKET, LEAF, MAGIC, META, META_BYTES, PAGE_BYTES,
    PAGE_HEAD_BYTES, VERSION, fnv1a,
};

/// The pages before the data: two metas and an empty freelist.
const FIRST_PAGES: u64 = 3;
/// A bucket up to this size stands in its parent (bbolt's `maxInlineBucketSize`).
const INLINE_BYTES_MAX: usize = PAGE_BYTES / 4;
/// A branch has as many children at least, however long their keys are: with one each, no level would be the last.
const BRANCH_CHILDREN_MIN: usize = 2;

/// What the first pages of a file say about the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    root: u64,
    pages: u64,
}

impl Plan {
    /// The file's size.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.pages * PAGE_BYTES as u64
    }
}

/// Lays out a file: `fill` adds its buckets, and must add the same ones again in [`write`].
///
/// # Errors
/// Only those of `fill`.
pub(crate) fn plan(fill: impl Fn(&mut Buckets<'_>) -> io::Result<()>) -> io::Result<Plan> {
    body(&mut io::sink(), fill)
}

/// Writes a file that [`plan`] laid out.
///
/// # Errors
/// Those of `fill` and `out`.
pub(crate) fn write(
    plan: Plan,
    out: &mut dyn Write,
    fill: impl Fn(&mut Buckets<'_>) -> io::Result<()>,
) -> io::Result<()> {
    for (page, transaction) in [(0, 2), (1, 1)] {
        out.write_all(&meta(plan, page, transaction))?;
    }
    let mut freelist = page_head(FIRST_PAGES - 1, FREELIST, 0, 0).to_vec();
    freelist.resize(PAGE_BYTES, 0);
    out.write_all(&freelist)?;
    let written = body(out, fill)?;
    assert!(written == plan, "the same entries have the same layout");
    Ok(())
}

fn body(out: &mut dyn Write, fill: impl Fn(&mut Buckets<'_>) -> io::Result<()>) -> io::Result<Plan> {
    let mut buckets = Buckets { pages: Pages { out, next: FIRST_PAGES }, entries: Vec::new() };
    fill(&mut buckets)?;
    let Buckets { mut pages, entries } = buckets;
    let mut tree = Tree::default();
    for (name, bucket) in &entries {
        tree.add(&mut pages, IS_BUCKET, name.as_bytes(), bucket)?;
    }
    let root = tree.finish(&mut pages)?;
    Ok(Plan { root, pages: pages.next })
}

fn meta(plan: Plan, page: u64, transaction: u64) -> Vec<u8> {
    let mut meta = Vec::with_capacity(PAGE_BYTES);
    for number in [MAGIC, VERSION, PAGE_BYTES as u32, 0] {
        meta.extend_from_slice(&number.to_le_bytes());
    }
    for number in [plan.root, 0, FIRST_PAGES - 1, plan.pages, transaction] {
        meta.extend_from_slice(&number.to_le_bytes());
    }
    debug_assert_eq!(meta.len(), META_BYTES);
    meta.extend_from_slice(&fnv1a(&meta).to_le_bytes());
    let mut out = page_head(page, META, 0, 0).to_vec();
    out.append(&mut meta);
    out.resize(PAGE_BYTES, 0);
    out
}

fn page_head(id: u64, kind: u16, count: u16, overflow: u32) -> [u8; PAGE_HEAD_BYTES] {
    let mut head = [0; PAGE_HEAD_BYTES];
    head[..8].copy_from_slice(&id.to_le_bytes());
    head[8..10].copy_from_slice(&kind.to_le_bytes());
    head[10..12].copy_from_slice(&count.to_le_bytes());
    head[12..].copy_from_slice(&overflow.to_le_bytes());
    head
}

/// Takes the buckets of a file, in the order of their names.
pub(crate) struct Buckets<'a> {
    pages: Pages<'a>,
    /// Name and stored form of those that are done.
    entries: Vec<(&'static str, Vec<u8>)>,
}

impl Buckets<'_> {
    /// Adds a bucket with these keys and values, in the order of the keys.
    ///
    /// # Errors
    /// When the pages cannot be written.
    ///
    /// # Panics
    /// When names or keys are not in order, or a key is empty: bbolt has no such keys.
    pub(crate) fn add(
        &mut self,
        name: &'static str,
        entries: &mut dyn Iterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> io::Result<()> {
        assert!(self.entries.last().is_none_or(|(last, _)| *last < name), "buckets come in the order of their names");
        let mut tree = Tree::default();
        for (key, value) in entries {
            tree.add(&mut self.pages, 0, &key, &value)?;
        }
        let stored = match tree.inline() {
            Some(page) => [&[0; BUCKET_BYTES], &page[..]].concat(),
            None => {
                let mut bucket = tree.finish(&mut self.pages)?.to_le_bytes().to_vec();
                bucket.resize(BUCKET_BYTES, 0);
                bucket
            }
        };
        self.entries.push((name, stored));
        Ok(())
    }
}

/// Where pages go, and the number of the next one.
struct Pages<'a> {
    out: &'a mut dyn Write,
    next: u64,
}

/// One bucket's tree, built from its leaves up. Each level holds the page that is being filled.
#[derive(Default)]
struct Tree {
    leaf: Page,
    branches: Vec<Page>,
    last: Vec<u8>,
}

/// A page being filled.
#[derive(Default)]
struct Page {
    elements: Vec<Element>,
    /// Keys, each followed by its value.
    data: Vec<u8>,
}

struct Element {
    flags: u32,
    key_len: usize,
    value_len: usize,
    /// The child, in a branch.
    child: u64,
}

impl Tree {
    fn add(&mut self, pages: &mut Pages<'_>, flags: u32, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert!(!key.is_empty() && self.last[..] < *key, "keys come in their order and none is empty");
        self.last.clear();
        self.last.extend_from_slice(key);
        if !self.leaf.has_room(key.len() + value.len()) {
            self.write_leaf(pages)?;
        }
        self.leaf.push(Element { flags, key_len: key.len(), value_len: value.len(), child: 0 }, key, value);
        Ok(())
    }

    /// The whole tree as a page in its parent, if it is small enough.
    fn inline(&self) -> Option<Vec<u8>> {
        let small = self.branches.is_empty() && self.leaf.size_bytes() <= INLINE_BYTES_MAX;
        small.then(|| self.leaf.encode(LEAF, 0, 0))
    }

    /// Writes what is left, and returns the root.
    fn finish(mut self, pages: &mut Pages<'_>) -> io::Result<u64> {
        self.write_leaf(pages)?;
        let mut level = 0;
        loop {
            let is_top = level + 1 == self.branches.len();
            if let ([only], true) = (&self.branches[level].elements[..], is_top) {
                return Ok(only.child);
            }
            self.write_branch(pages, level)?;
            level += 1;
        }
    }

    fn write_leaf(&mut self, pages: &mut Pages<'_>) -> io::Result<()> {
        let page = std::mem::take(&mut self.leaf);
        let id = page.write(LEAF, pages)?;
        self.add_child(pages, 0, page.first_key(), id)
    }

    fn write_branch(&mut self, pages: &mut Pages<'_>, level: usize) -> io::Result<()> {
        let page = std::mem::take(&mut self.branches[level]);
        let id = page.write(BRANCH, pages)?;
        self.add_child(pages, level + 1, page.first_key(), id)
    }

    fn add_child(&mut self, pages: &mut Pages<'_>, level: usize, key: &[u8], child: u64) -> io::Result<()> {
        if level == self.branches.len() {
            self.branches.push(Page::default());
        } else if self.branches[level].elements.len() >= BRANCH_CHILDREN_MIN
            && !self.branches[level].has_room(key.len())
        {
            self.write_branch(pages, level)?;
        }
        self.branches[level].push(Element { flags: 0, key_len: key.len(), value_len: 0, child }, key, &[]);
        Ok(())
    }
}

impl Page {
    fn size_bytes(&self) -> usize {
        PAGE_HEAD_BYTES + self.elements.len() * ELEMENT_BYTES + self.data.len()
    }

    /// Whether another element fits; the first one always does, if need be on several pages.
    fn has_room(&self, bytes: usize) -> bool {
        self.elements.is_empty() || self.size_bytes() + ELEMENT_BYTES + bytes <= PAGE_BYTES
    }

    fn push(&mut self, element: Element, key: &[u8], value: &[u8]) {
        self.elements.push(element);
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
    }

    fn first_key(&self) -> &[u8] {
        self.elements.first().map_or(&[], |first| &self.data[..first.key_len])
    }

    fn write(&self, kind: u16, pages: &mut Pages<'_>) -> io::Result<u64> {
        let id = pages.next;
        let count = self.size_bytes().div_ceil(PAGE_BYTES);
        let overflow = u32::try_from(count - 1).expect("an entry is smaller than 16 TiB");
        let mut bytes = self.encode(kind, id, overflow);
        bytes.resize(count * PAGE_BYTES, 0);
        pages.out.write_all(&bytes)?;
        pages.next += count as u64;
        Ok(id)
    }

    fn encode(&self, kind: u16, id: u64, overflow: u32) -> Vec<u8> {
        let count = u16::try_from(self.elements.len()).expect("a page has room for a few hundred");
        let mut bytes = Vec::with_capacity(self.size_bytes().next_multiple_of(PAGE_BYTES));
        bytes.extend_from_slice(&page_head(id, kind, count, overflow));
        let length = |length: usize| u32::try_from(length).expect("an entry is smaller than 4 GiB");
        let mut at = self.elements.len() * ELEMENT_BYTES;
        for (number, element) in self.elements.iter().enumerate() {
            let pos = length(at - number * ELEMENT_BYTES);
            let Element { flags, key_len, value_len, child } = *element;
            if kind == LEAF {
                for field in [flags, pos, length(key_len), length(value_len)] {
                    bytes.extend_from_slice(&field.to_le_bytes());
                }
            } else {
                bytes.extend_from_slice(&pos.to_le_bytes());
                bytes.extend_from_slice(&length(key_len).to_le_bytes());
                bytes.extend_from_slice(&child.to_le_bytes());
            }
            at += key_len + value_len;
        }
        bytes.extend_from_slice(&self.data);
        bytes
    }
}
