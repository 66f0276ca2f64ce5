//! The authority behind the names of DNS endpoints: made when it is first needed, sealed in a directory of the sandbox's own,
//! its certificate in a file that users may trust.

use std::sync::Arc;

use anyhow::{Context, Result};
use base::{Clock, Entropy};
use disk::{DataDir, Platform};
use pki::{PublicAuthority, Vault};
use tokio::sync::OnceCell;

use crate::fleet::{SealedDirectory, key};
use crate::layout::{Layout, write_private};

/// The domain of all names, and of nothing else.
const DOMAIN: &str = "gke.goog";
/// Whose directory it is: no cluster's.
const OWNER: &str = "sandbox";
const PART: &str = "front-end";
const FILE: &str = "public-root";

/// The authority, once somebody asked for it.
pub(crate) struct PublicRoot {
    layout: Layout,
    platform: Platform,
    clock: Clock,
    entropy: Entropy,
    authority: OnceCell<Arc<PublicAuthority>>,
}

impl PublicRoot {
    pub(crate) fn new(layout: Layout, platform: Platform, clock: Clock, entropy: Entropy) -> Self {
        Self { layout, platform, clock, entropy, authority: OnceCell::new() }
    }

    /// The authority; the file for users is there when this returns.
    ///
    /// # Errors
    /// When its directory cannot be read or written.
    pub(crate) async fn authority(&self) -> Result<&Arc<PublicAuthority>> {
        self.authority.get_or_try_init(async || self.open().map(Arc::new)).await
    }

    /// A serving certificate for a name.
    ///
    /// # Errors
    /// As [`PublicRoot::authority`].
    pub(crate) async fn issue(&self, name: &str) -> Result<pki::Identity> {
        Ok(self.authority().await?.issue(name, &self.clock, &self.entropy)?)
    }

    fn open(&self) -> Result<PublicAuthority> {
        let directory = self.layout.front_end();
        let data_key = key::unwrap(&directory, OWNER, PART, &self.platform)?;
        let vault = SealedDirectory::open(&directory, OWNER, PART, &data_key, self.entropy.clone())?;
        let authority = match vault.load(FILE).map_err(anyhow::Error::msg)? {
            Some(kept) => PublicAuthority::from_bytes(&kept)
                .with_context(|| format!("{} is damaged", directory.join(FILE).display()))?,
            None => {
                let made = PublicAuthority::create(DOMAIN, &self.clock, &self.entropy)?;
                vault.save(FILE, &made.to_bytes()).map_err(anyhow::Error::msg)?;
                tracing::info!("made the authority for the names of DNS endpoints");
                made
            }
        };
        write_private(&self.layout.public_root(), authority.certificate_pem().as_bytes())?;
        Ok(authority)
    }

    /// Gives the directory a new data key, wrapped with the platform's current key, and seals it anew; how many keys that is.
    ///
    /// # Errors
    /// When a key cannot be read or written.
    pub(crate) fn rotate(&self) -> Result<usize> {
        let directory = self.layout.front_end();
        if !DataDir::is_made(&directory) {
            return Ok(0);
        }
        let new = key::rotate(&directory, OWNER, PART, &self.platform)?;
        let rotated = usize::from(new.is_some());
        let data_key = key::unwrap(&directory, OWNER, PART, &self.platform)?;
        let vault = SealedDirectory::open(&directory, OWNER, PART, &data_key, self.entropy.clone())?;
        vault.reseal_files()?;
        vault.forget_earlier_keys()?;
        Ok(rotated)
    }

    /// Wraps the directory's key with the platform's current key.
    ///
    /// # Errors
    /// As [`PublicRoot::rotate`].
    pub(crate) fn rewrap(&self) -> Result<()> {
        let directory = self.layout.front_end();
        if DataDir::is_made(&directory) { key::rewrap(&directory, OWNER, PART, &self.platform) } else { Ok(()) }
    }
}
