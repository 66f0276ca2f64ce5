//! What a user of the log can rely on, crash after crash.

use base::Rng;

use super::*;
use crate::frame::SECTOR;
use crate::key::tests::fake_entropy;
use crate::real::RealDisk;
use crate::sim::SimDisk;

const DIR: &str = "/log";

fn open(disk: &SimDisk, key: &DataKey, entropy: &Entropy) -> Result<(Log, Vec<Record>), DiskError> {
    Log::open(Arc::new(disk.clone()), Path::new(DIR), key.clone(), entropy.clone())
}

fn contents(records: &[Record]) -> Vec<Vec<u8>> {
    records.iter().map(|record| record.bytes.to_vec()).collect()
}

fn segments(disk: &SimDisk) -> usize {
    segment_numbers(disk, Path::new(DIR)).unwrap().len()
}

fn record(rng: &mut Rng, number: usize) -> Vec<u8> {
    let mut bytes = format!("record {number} ").into_bytes();
    bytes.resize(bytes.len() + rng.below(1500) as usize, b'x');
    bytes
}

#[test]
fn synced_records_survive_any_number_of_crashes_in_order() {
    for seed in 0..200 {
        let (disk, entropy, mut rng) = (SimDisk::new(seed), fake_entropy(), Rng::new(seed));
        let key = DataKey::generate("test", &entropy);
        let (mut synced, mut written) = (Vec::new(), Vec::new());
        for life in 0..6 {
            let (mut log, found) = open(&disk, &key, &entropy).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            let found = contents(&found);
            assert!(found.len() >= synced.len(), "seed {seed}, life {life}: lost synced records");
            assert_eq!(found, written[..found.len()], "seed {seed}, life {life}: not a prefix of what was written");
            written = found;
            log.set_segment_bytes(4000);
            for _ in 0..rng.below(30) {
                let bytes = record(&mut rng, written.len());
                log.append(1, &bytes);
                written.push(bytes);
                if rng.one_in(3) {
                    log.sync().unwrap();
                    synced = written.clone();
                }
            }
            if rng.one_in(2) {
                disk.fail_sync_after(0);
                assert!(log.pending_bytes() == 0 || log.sync().is_err());
            }
            disk.crash();
        }
    }
}

#[test]
fn a_flipped_bit_is_named_by_file_and_offset() {
    let entropy = fake_entropy();
    let key = DataKey::generate("test", &entropy);
    let build = |killed: bool| {
        let disk = SimDisk::new(1);
        let (mut log, _) = open(&disk, &key, &entropy).unwrap();
        for text in ["first", "second", "third"] {
            log.append(1, text.as_bytes());
            log.sync().unwrap();
        }
        if killed {
            disk.crash();
        }
        disk
    };
    let path = segment_path(Path::new(DIR), 1);
    let length = |killed| build(killed).read(&path).unwrap().len() as u64;
    let (closed, killed) = (length(false), length(true));
    assert!(killed > closed, "space is reserved");
    let everywhere = (0..closed).map(|offset| (offset, false));
    // A byte that stands at the beginning of a sector that nothing was written to may be a torn write.
    let reserved = (closed..killed).filter(|offset| offset % SECTOR as u64 > 1).map(|offset| (offset, true));
    for (offset, killed) in everywhere.chain((0..closed).map(|offset| (offset, true))).chain(reserved) {
        let disk = build(killed);
        disk.flip_bit(&path, offset);
        match open(&disk, &key, &entropy) {
            Err(DiskError::Damaged { path: named, offset: at, .. }) => {
                assert_eq!(named, path);
                assert!(at <= offset, "flipped {offset}, named {at}");
            }
            // The length of the last frame: it seems to end beyond the file, as a torn write does.
            other => panic!("offset {offset}: {:?}", other.map(|(_, records)| records)),
        }
        assert_eq!(segments(&disk), 1, "nothing is changed");
    }
}

#[test]
fn a_missing_or_shortened_segment_is_noticed() {
    let entropy = fake_entropy();
    let key = DataKey::generate("test", &entropy);
    let build = || {
        let disk = SimDisk::new(1);
        let (mut log, _) = open(&disk, &key, &entropy).unwrap();
        log.set_segment_bytes(1);
        for text in ["first", "second", "third", "fourth"] {
            log.append(1, text.as_bytes());
            log.sync().unwrap();
        }
        disk
    };
    let (second, third) = (segment_path(Path::new(DIR), 2), segment_path(Path::new(DIR), 3));
    let disk = build();
    disk.remove(&second).unwrap();
    assert_eq!(open(&disk, &key, &entropy).unwrap_err().to_string(), "/log/0000000000000002.log is missing");
    let disk = build();
    let whole = disk.read(&second).unwrap();
    disk.remove(&second).unwrap();
    disk.create(&second).unwrap().append(&whole[..whole.len() - 40]).unwrap();
    let error = open(&disk, &key, &entropy).unwrap_err().to_string();
    assert!(error.contains("0000000000000002.log is damaged") && error.contains("shorter"), "{error}");
    for newest in [false, true] {
        let disk = build();
        let fourth = segment_path(Path::new(DIR), 4);
        disk.remove(&fourth).unwrap();
        if newest {
            disk.create(&fourth).unwrap();
        }
        let error = open(&disk, &key, &entropy).unwrap_err().to_string();
        assert!(error.starts_with("/log/0000000000000004.log is"), "{error}");
    }
    let disk = build();
    disk.rename(&third, &second).unwrap();
    assert!(open(&disk, &key, &entropy).is_err());
}

#[test]
fn a_full_disk_keeps_records_pending_until_there_is_room() {
    let (disk, entropy) = (SimDisk::new(3), fake_entropy());
    let key = DataKey::generate("test", &entropy);
    let (mut log, _) = open(&disk, &key, &entropy).unwrap();
    log.append(1, b"before");
    log.sync().unwrap();
    disk.set_capacity(Some(400));
    log.append(2, &[7; 100_000]);
    for _ in 0..3 {
        assert!(log.sync().unwrap_err().is_full());
    }
    disk.set_capacity(None);
    log.append(3, b"after");
    log.sync().unwrap();
    disk.crash();
    let (_, records) = open(&disk, &key, &entropy).unwrap();
    assert_eq!(records.iter().map(|record| record.kind).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn after_a_failed_sync_the_log_takes_nothing_more() {
    let (disk, entropy) = (SimDisk::new(3), fake_entropy());
    let key = DataKey::generate("test", &entropy);
    let (mut log, _) = open(&disk, &key, &entropy).unwrap();
    log.append(1, b"x");
    disk.fail_sync_after(0);
    assert!(log.sync().is_err());
    assert!(matches!(log.sync(), Err(DiskError::Poisoned { .. })));
}

#[test]
fn cutting_forgets_old_segments_only() {
    let (disk, entropy) = (SimDisk::new(3), fake_entropy());
    let key = DataKey::generate("test", &entropy);
    let (mut log, _) = open(&disk, &key, &entropy).unwrap();
    log.append(1, b"old");
    log.sync().unwrap();
    let next = log.roll().unwrap();
    log.append(1, b"new");
    assert_eq!(log.sync().unwrap(), next);
    log.cut(next).unwrap();
    disk.crash();
    let (mut log, records) = open(&disk, &key, &entropy).unwrap();
    assert_eq!(contents(&records), [b"new"]);
    assert_eq!(records[0].segment, next);
    log.cut(u64::MAX).unwrap();
    log.append(1, b"newest");
    log.sync().unwrap();
    assert_eq!(contents(&open(&disk, &key, &entropy).unwrap().1), [b"newest"]);
}

#[test]
fn idle_restarts_leave_one_segment() {
    let (disk, entropy) = (SimDisk::new(3), fake_entropy());
    let key = DataKey::generate("test", &entropy);
    for _ in 0..5 {
        open(&disk, &key, &entropy).unwrap();
    }
    assert_eq!(segments(&disk), 1);
}

#[test]
fn no_plaintext_reaches_real_files_and_another_key_is_refused() {
    let (dir, entropy) = (tempfile::tempdir().unwrap(), fake_entropy());
    let path = dir.path().join("log");
    let key = DataKey::generate("test", &entropy);
    let open = |key: &DataKey| Log::open(Arc::new(RealDisk), &path, key.clone(), entropy.clone());
    let (mut log, _) = open(&key).unwrap();
    log.append(1, b"PLAINTEXT-MARKER");
    log.sync().unwrap();
    drop(log);
    let stored = std::fs::read(segment_path(&path, 1)).unwrap();
    assert!(!stored.windows(9).any(|window| window == b"PLAINTEXT"));
    let error = open(&DataKey::generate("test", &entropy)).unwrap_err().to_string();
    assert!(error.contains("sealed with another key"), "{error}");
    assert_eq!(contents(&open(&key).unwrap().1), [b"PLAINTEXT-MARKER"]);
}

#[test]
fn large_batches_are_cut_into_frames() {
    let (disk, entropy) = (SimDisk::new(3), fake_entropy());
    let key = DataKey::generate("test", &entropy);
    let (mut log, _) = open(&disk, &key, &entropy).unwrap();
    let big = vec![vec![1; 700_000], vec![2; 3_000_000], vec![], vec![3; 600_000]];
    big.iter().for_each(|bytes| log.append(0, bytes));
    log.sync().unwrap();
    assert_eq!(contents(&open(&disk, &key, &entropy).unwrap().1), big);
}
