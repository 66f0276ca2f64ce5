//! Certificates that never leave the control plane. A test gets them as only who has both the sealed directory of a cluster's
//! signer and the platform's key could: it opens a copy of the one with the other and signs with the cluster's own authorities,
//! under the signer's rules for an instance or the fleet.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use base::{Entropy, FakeClock, Timestamp};
use disk::{DataDir, Platform};
use e2e::Sandbox;
use pki::{HeldAuthority, Profile, Requester, Signer, SignerCore, Vault, request_identity};
use serde_json::Value;
use zeroize::Zeroizing;

/// The signer of a sandbox's first cluster, opened beside the running one.
pub(crate) struct OpenedSigner {
    core: Arc<SignerCore>,
    clock: base::Clock,
    entropy: Entropy,
    runtime: tokio::runtime::Runtime,
    _copy: tempfile::TempDir,
}

/// What the signer keeps, to read.
struct Sealed(DataDir);

impl Vault for Sealed {
    fn load(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
        self.0.data_key().open_file(&self.0.join(name)).map(Some).map_err(|error| error.to_string())
    }

    fn save(&self, name: &str, _: &[u8]) -> Result<(), String> {
        Err(format!("{name} is there and is not written"))
    }
}

fn entropy() -> Entropy {
    Entropy::new(|buffer| {
        let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(buffer));
        read.expect("the system has randomness");
    })
}

fn directory(cluster: &Value, name: &str) -> Result<PathBuf> {
    let instances = cluster["instances"].as_array().context("instances")?;
    let found = instances.iter().find(|instance| instance["role"] == name).with_context(|| format!("no {name}"))?;
    Ok(PathBuf::from(found["dataDir"].as_str().context("a directory")?))
}

impl OpenedSigner {
    pub(crate) fn of(sandbox: &Sandbox) -> Result<Self> {
        let kept = directory(&sandbox.status()?["clusters"][0], "signer")?;
        let (copy, entropy) = (tempfile::tempdir()?, entropy());
        for entry in std::fs::read_dir(&kept)? {
            let from = entry?.path();
            let name = from.file_name().context("a name")?;
            if from.is_file() {
                std::fs::copy(&from, copy.path().join(name))?;
            }
        }
        let platform = Platform::load(&sandbox.data_dir().join("platform"), entropy.clone())?;
        let opened = DataDir::open(copy.path(), &DataDir::identity_of(copy.path())?, &platform)?;
        // The sandbox runs by the machine's clock: the time of a file that was written just now.
        let written = sandbox.file("now", "")?;
        let now = std::fs::metadata(Path::new(&written))?.modified()?.duration_since(std::time::UNIX_EPOCH)?;
        let clock = FakeClock::new(Timestamp::from_unix_seconds(i64::try_from(now.as_secs())?)).clock();
        let core = Arc::new(SignerCore::open("copy", Arc::new(Sealed(opened)), clock.clone(), entropy.clone())?);
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        Ok(Self { core, clock, entropy, runtime, _copy: copy })
    }

    /// Files with certificate and key, as the requester would get them.
    pub(crate) fn issue(
        &self,
        sandbox: &Sandbox,
        name: &str,
        requester: Requester,
        profile: &Profile,
    ) -> Result<(String, String)> {
        let signer = Signer::InProcess(Arc::clone(&self.core), requester);
        let identity = self.runtime.block_on(request_identity(&signer, profile, None))?;
        files(sandbox, name, &identity)
    }

    /// The same of the etcd API CA, whose key instances hold while they start.
    pub(crate) fn issue_for_store(&self, sandbox: &Sandbox, name: &str, profile: &Profile) -> Result<(String, String)> {
        let signer = Signer::InProcess(Arc::clone(&self.core), Requester::Metadata);
        let authority = pki::Authority::EtcdApi;
        let certificate = self.runtime.block_on(signer.certificate(authority))?;
        let key = self.runtime.block_on(signer.authority_key(authority))?;
        let held = HeldAuthority::new(authority, &certificate, &key, self.clock.clone(), self.entropy.clone())?;
        files(sandbox, name, &held.issue(profile, None)?)
    }
}

fn files(sandbox: &Sandbox, name: &str, identity: &pki::Identity) -> Result<(String, String)> {
    let certificate = sandbox.file(&format!("{name}.crt"), &identity.certificate_pem())?;
    Ok((certificate, sandbox.file(&format!("{name}.key"), &identity.key_pem())?))
}

/// Names as those of the control plane's serving certificates.
pub(crate) fn loopback() -> Vec<IpAddr> {
    vec![IpAddr::from([127, 0, 0, 1])]
}
