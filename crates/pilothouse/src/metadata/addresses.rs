//! Where the metadata servers of a cluster's instances are: an alias for each, chosen once and remembered.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result};
use base::Entropy;
use tracing::info;

use crate::fleet::listen_on_alias;
use crate::layout::write_private;

const FILE_NAME: &str = "metadata.json";
const HTTP: u16 = 80;

/// One listener for each instance. An address that another program took meanwhile is given up for a new one: only the
/// instance itself comes here, and it is told.
///
/// # Errors
/// When no address can be had, or not be remembered.
pub(super) fn bind(directory: &Path, instances: usize, entropy: &Entropy) -> Result<Vec<TcpListener>> {
    let file = directory.join(FILE_NAME);
    let before: Vec<SocketAddr> = match fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; delete it to choose new addresses", file.display()))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", file.display())),
    };
    let mut listeners = Vec::new();
    for place in 0..instances {
        let again = before.get(place).map(|address| (address, TcpListener::bind(address)));
        listeners.push(match again {
            Some((_, Ok(listener))) => listener,
            Some((address, Err(error))) => {
                info!(%address, %error, "a metadata server moves to another address");
                listen_on_alias(HTTP, entropy)?
            }
            None => listen_on_alias(HTTP, entropy)?,
        });
    }
    let now: Vec<SocketAddr> = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
    if now != before {
        write_private(&file, &serde_json::to_vec_pretty(&now)?)?;
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_remembered_and_given_up_when_they_are_taken() {
        let (directory, entropy) = (tempfile::tempdir().unwrap(), crate::system::entropy());
        let addresses = |listeners: &[TcpListener]| -> Vec<SocketAddr> {
            listeners.iter().map(|listener| listener.local_addr().unwrap()).collect()
        };
        let first = bind(directory.path(), 3, &entropy).unwrap();
        let chosen = addresses(&first);
        let second = bind(directory.path(), 3, &entropy).unwrap();
        assert!(addresses(&second).iter().all(|address| !chosen.contains(address)));
        let moved = addresses(&second);
        drop((first, second));
        assert_eq!(addresses(&bind(directory.path(), 3, &entropy).unwrap()), moved);
    }
}
