use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use base::FakeClock;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::watch;

use super::*;

const KEY: &str = "projects/p/locations/l/keyRings/r/cryptoKeys/k";

/// A KMS that turns bytes round, as long as it is enabled.
struct Kms {
    enabled: AtomicBool,
    version: AtomicU32,
    _changes: watch::Sender<u64>,
    asked: AtomicU32,
}

impl Kms {
    fn start() -> (Arc<Self>, KeyService) {
        let (sender, changes) = watch::channel(0);
        let kms = Arc::new(Self {
            enabled: AtomicBool::new(true),
            version: AtomicU32::new(1),
            _changes: sender,
            asked: AtomicU32::new(0),
        });
        let asked = kms.clone();
        (kms, KeyService::in_process(move |question| std::future::ready(asked.answer(question)), changes))
    }

    fn answer(&self, question: KeyQuestion) -> Result<KeyAnswer, String> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (KeyQuestion::Encrypt { key, plaintext: data } | KeyQuestion::Decrypt { key, ciphertext: data }) = question;
        let version = format!("{key}/cryptoKeyVersions/{}", self.version.load(Ordering::SeqCst));
        if !self.enabled.load(Ordering::SeqCst) {
            return Err(format!("{version} is not enabled, current state is: DISABLED."));
        }
        let turned: Vec<u8> = STANDARD.decode(data).unwrap().into_iter().map(|byte| !byte).collect();
        Ok(KeyAnswer { version, data: STANDARD.encode(turned) })
    }
}

fn entropy() -> Entropy {
    Entropy::new(|buffer| aws_lc_rs::rand::fill(buffer).expect("random bytes"))
}

async fn server(keys: &KeyService, key: &str, clock: &FakeClock) -> Arc<Encryption> {
    Encryption::start(keys.clone(), key, clock.clock(), entropy()).await
}

fn name(of: &str) -> Bytes {
    Bytes::from(format!("{SECRETS}default/{of}"))
}

async fn read(server: &Encryption, of: &str, stored: &Bytes) -> Result<Bytes, String> {
    let (key, mut value) = (name(of), stored.clone());
    server.open(&key, &mut value, &mut BTreeMap::new()).await;
    server.failure(&key).map_or(Ok(value), Err)
}

fn clock() -> FakeClock {
    FakeClock::new(Timestamp::from_unix_seconds(1_000_000))
}

#[tokio::test]
async fn secrets_are_sealed_and_nothing_else_and_every_server_of_the_cluster_reads_them() {
    let (kms, keys) = Kms::start();
    let clock = clock();
    let one = server(&keys, KEY, &clock).await;
    let plain = Bytes::from_static(b"{\"kind\":\"Secret\"}");
    let stored = one.seal(&name("s"), plain.clone()).unwrap();
    assert!(stored.starts_with(b"k8s:enc:kms:v2:cloudkms:"));
    let other = Bytes::from_static(b"/registry/configmaps/default/s");
    assert_eq!(one.seal(&other, plain.clone()).unwrap(), plain);
    let asked = kms.asked.load(Ordering::SeqCst);
    assert_eq!(read(&one, "s", &stored).await, Ok(plain.clone()));
    assert_eq!(kms.asked.load(Ordering::SeqCst), asked, "its own DEK it knows");
    let two = server(&keys, KEY, &clock).await;
    assert_eq!(read(&two, "s", &stored).await, Ok(plain.clone()));
    assert_eq!(read(&two, "other", &stored).await, Err("cipher: message authentication failed".to_owned()));
    assert_eq!(read(&two, "s", &plain).await, Ok(plain.clone()), "what was stored before it was on");
    let foreign = Bytes::from_static(b"k8s:enc:aescbc:v1:key1:xyz");
    assert_eq!(read(&two, "s", &foreign).await, Err("no matching prefix found".to_owned()));
    // Switched off, it still reads.
    let off = server(&keys, "", &clock).await;
    assert_eq!(off.seal(&name("s"), plain.clone()).unwrap(), plain);
    assert_eq!(read(&off, "s", &stored).await, Ok(plain));
    assert!(off.is_fresh(b"{}") && !off.is_fresh(&stored) && one.is_fresh(&stored) && !one.is_fresh(b"{}"));
}

#[tokio::test]
async fn a_key_that_is_disabled_ends_writes_and_after_a_restart_reads_until_it_is_enabled() {
    let (kms, keys) = Kms::start();
    let clock = clock();
    let running = server(&keys, KEY, &clock).await;
    let stored = running.seal(&name("s"), Bytes::from_static(b"x")).unwrap();
    kms.enabled.store(false, Ordering::SeqCst);
    assert!(!running.probe().await);
    let refused = running.seal(&name("t"), Bytes::from_static(b"y")).unwrap_err();
    assert!(refused.starts_with("encryptedDEKSource with keyID hash \"sha256:"), "{refused}");
    assert!(refused.ends_with("expired at 1970-01-12T13:46:40Z (current time is 1970-01-12T13:46:40Z)"), "{refused}");
    assert_eq!(read(&running, "s", &stored).await.unwrap(), "x");

    let restarted = server(&keys, KEY, &clock).await;
    assert_eq!(read(&restarted, "s", &stored).await, Err(NO_DEK.to_owned()));
    assert_eq!(restarted.failure_below(SECRETS).map(|(key, _)| key), Some(format!("{SECRETS}default/s")));
    assert_eq!(restarted.seal(&name("t"), Bytes::from_static(b"y")), Err(NO_DEK.to_owned()));

    kms.enabled.store(true, Ordering::SeqCst);
    assert!(restarted.probe().await && running.probe().await);
    assert_eq!(read(&restarted, "s", &stored).await.unwrap(), "x");
    assert_eq!(restarted.failure_below(SECRETS), None);
    assert!(restarted.seal(&name("t"), Bytes::from_static(b"y")).is_ok());
    assert!(running.seal(&name("t"), Bytes::from_static(b"y")).is_ok());
}

#[tokio::test]
async fn a_new_version_gets_a_new_dek_and_a_new_key_makes_everything_stale() {
    let (kms, keys) = Kms::start();
    let clock = clock();
    let server = server(&keys, KEY, &clock).await;
    let first = server.seal(&name("s"), Bytes::from_static(b"x")).unwrap();
    kms.version.store(2, Ordering::SeqCst);
    assert!(server.probe().await);
    let second = server.seal(&name("s"), Bytes::from_static(b"x")).unwrap();
    let version = |stored: &Bytes| EncryptedObject::parse(stored.strip_prefix(PREFIX).unwrap()).unwrap().key_id;
    assert_eq!(version(&first), format!("{KEY}/cryptoKeyVersions/1"));
    assert_eq!(version(&second), format!("{KEY}/cryptoKeyVersions/2"));
    assert!(server.is_fresh(&first), "rotation stores nothing anew");
    let other = format!("{KEY}2");
    server.set_key(&other);
    assert!(!server.is_fresh(&second) && server.probe().await);
    let third = server.seal(&name("s"), Bytes::from_static(b"x")).unwrap();
    assert!(server.is_fresh(&third));
    assert_eq!(read(&server, "s", &first).await.unwrap(), "x");
}

#[tokio::test]
async fn a_kms_that_is_silent_is_waited_for_as_long_as_upstream_does() {
    let clock = clock();
    let (kms, keys) = Kms::start();
    let server = server(&keys, KEY, &clock).await;
    clock.advance(WRITE_TTL.saturating_sub(Duration::from_secs(1)));
    assert!(server.seal(&name("s"), Bytes::from_static(b"x")).is_ok());
    clock.advance(Duration::from_secs(1));
    assert!(server.seal(&name("s"), Bytes::from_static(b"x")).is_err());
    assert!(server.probe().await && server.seal(&name("s"), Bytes::from_static(b"x")).is_ok());
    drop(kms);
}
