//! A vault without a disk.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroizing;

use crate::Vault;

/// Keeps a signer's state for as long as it lives itself, unsealed: for tests, and for signers whose cluster dies with them.
#[derive(Default)]
pub struct MemoryVault(Mutex<BTreeMap<String, Zeroizing<Vec<u8>>>>);

impl Vault for MemoryVault {
    fn load(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned())
    }

    fn save(&self, name: &str, content: &[u8]) -> Result<(), String> {
        let content = Zeroizing::new(content.to_vec());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), content);
        Ok(())
    }
}
