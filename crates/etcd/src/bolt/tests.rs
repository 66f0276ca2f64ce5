//! What is written reads back; what was damaged is refused or reads back, and never panics.

use std::collections::BTreeMap;
use std::io::Cursor;

use proptest::prelude::*;

use super::*;

type Bucket = BTreeMap<Vec<u8>, Vec<u8>>;
type Content = BTreeMap<&'static str, Bucket>;

fn file(content: &Content) -> Vec<u8> {
    let fill = |buckets: &mut Buckets<'_>| {
        content.iter().try_for_each(|(name, entries)| buckets.add(name, &mut entries.clone().into_iter()))
    };
    let plan = plan(fill).expect("nothing fails");
    let mut bytes = Vec::new();
    write(plan, &mut bytes, fill).expect("memory takes everything");
    assert_eq!(bytes.len() as u64, plan.size_bytes());
    bytes
}

fn read(bytes: &[u8]) -> Result<BTreeMap<Vec<u8>, Bucket>, BoltError> {
    let mut reader = Reader::open(Cursor::new(bytes), bytes.len() as u64)?;
    assert_eq!(reader.size_bytes() % 512, 0);
    let mut content = BTreeMap::new();
    reader.walk(|Entry { bucket, key, value }| {
        let entries: &mut Bucket = content.entry(bucket.to_vec()).or_default();
        entries.insert(key.to_vec(), value.to_vec());
        Ok::<_, BoltError>(())
    })?;
    Ok(content)
}

fn check_reads_back(content: &Content) {
    let full = content.iter().filter(|(_, entries)| !entries.is_empty());
    let expect: BTreeMap<_, _> = full.map(|(name, entries)| (name.as_bytes().to_vec(), entries.clone())).collect();
    assert_eq!(read(&file(content)).expect("our own file"), expect);
}

fn entries(count: u32, length: usize) -> Bucket {
    (0..count).map(|n| (n.to_be_bytes().to_vec(), vec![n as u8; length])).collect()
}

#[test]
fn trees_of_every_shape_read_back() {
    check_reads_back(&Content::new());
    check_reads_back(&Content::from([("a", BTreeMap::new()), ("b", entries(1, 0)), ("c", entries(3, 10))]));
    // One leaf; a branch; two levels of branches; long values; long keys in branches.
    for (count, length) in [(100, 30), (1000, 100), (40_000, 100), (5, 4096), (3, 1 << 20)] {
        check_reads_back(&Content::from([("empty", BTreeMap::new()), ("key", entries(count, length))]));
    }
    let long = (0..50).map(|n: u8| ([&[n], &[b'k'; 5000][..]].concat(), vec![n])).collect();
    check_reads_back(&Content::from([("long", long)]));
}

#[test]
fn a_file_says_what_it_is() {
    let bytes = file(&Content::from([("key", entries(1000, 100))]));
    assert_eq!((u32::from_le_bytes(bytes[16..20].try_into().unwrap()), bytes.len() % PAGE_BYTES), (MAGIC, 0));
    let cut = &bytes[..bytes.len() - PAGE_BYTES];
    assert!(matches!(read(cut), Err(BoltError::Short { .. })));
    assert!(matches!(read(b""), Err(BoltError::NoMeta)));
    assert!(matches!(read(&[7; 100_000]), Err(BoltError::NoMeta)));
    // Either meta is enough.
    for page in [0, 1] {
        let mut bytes = bytes.clone();
        bytes[page * PAGE_BYTES + 20] ^= 1;
        assert_eq!(read(&bytes).expect("the other meta").len(), 1);
    }
}

#[test]
fn what_contradicts_itself_is_named() {
    let good = file(&Content::from([("key", entries(1000, 100))]));
    let check = |at: usize, byte: u8, expect: &str| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        let error = read(&bytes).expect_err(expect).to_string();
        assert!(error.contains(expect), "{error}");
    };
    let leaf = 3 * PAGE_BYTES;
    check(leaf, 9, "page 3 (offset 12288) is damaged: its number is another");
    check(leaf + 8, 4, "neither leaf nor branch");
    check(leaf + 11, 0xff, "more elements than room");
    check(leaf + 14, 0xff, "longer than the file");
    check(leaf + 16, 1, "holds what is no value");
    check(leaf + 22, 0xff, "an entry lies outside of it");
    check(leaf + 24, 0, "keys are not in order");
    check(leaf + 12, 1, "two places refer to it");
    check(2 * PAGE_BYTES + 8, 2, "no list of free pages");
    // The free list names a page that is in use.
    let mut bytes = good.clone();
    bytes[2 * PAGE_BYTES + 10] = 1;
    bytes[2 * PAGE_BYTES + 16] = 3;
    assert!(read(&bytes).expect_err("refused").to_string().contains("page 3 (offset 12288) is damaged: it is in use"));
}

proptest! {
    #[test]
    fn any_content_reads_back(
        first in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..40), prop::collection::vec(any::<u8>(), 0..300), 0..200),
        second in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..40), prop::collection::vec(any::<u8>(), 0..9000), 0..9),
    ) {
        check_reads_back(&Content::from([("first", first), ("second", second)]));
    }

    #[test]
    fn damage_is_refused_or_harmless(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = file(&Content::from([("alarm", BTreeMap::new()), ("key", entries(500, 50)), ("meta", entries(3, 9))]));
        for (at, byte) in flips {
            // Most of the file is values; what matters are heads and elements.
            let page = at.index(bytes.len() / PAGE_BYTES) * PAGE_BYTES;
            bytes[page + at.index(160)] = byte;
        }
        let length = cut.map_or(bytes.len(), |cut| cut.index(bytes.len()));
        let _ = read(&bytes[..length]);
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        prop_assert!(read(&bytes).is_err());
    }
}
