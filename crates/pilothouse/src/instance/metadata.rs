//! What an instance gets from its metadata server, as the start-up script of an API server's machine does: the etcd API CA
//! with its key. It is used for what it is there for and wiped; no file ever has it. Where the user runs that authority there is
//! no key to be had, and the signer has each certificate made.

use std::net::TcpStream as StdTcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pki::{Authority, HeldAuthority, Identity, Profile, Signer, request_identity};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tracing::info;
use zeroize::Zeroizing;

use crate::fleet::message::InstanceStart;
use crate::system;

/// A signer that is being started again makes one wait.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Far longer than what an instance is told; all of it is in memory before the key comes, so that no copy of the key stays
/// behind where a buffer was before it grew.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The attributes that matter here.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Attributes {
    cluster_uid: String,
    kube_env: Zeroizing<String>,
}

/// Who signs for the store's clients and its client port.
pub(super) enum StoreAuthority {
    /// This instance, with the key it was given.
    Held(HeldAuthority),
    /// The user's authority, by the signer; its certificate, PEM.
    Outside(Signer, String),
}

impl StoreAuthority {
    pub(super) fn certificate_pem(&self) -> String {
        match self {
            Self::Held(authority) => authority.certificate_pem(),
            Self::Outside(_, certificate) => certificate.clone(),
        }
    }

    /// A key of this instance's with a certificate for a purpose.
    ///
    /// # Errors
    /// When the authority is another purpose's, or refuses.
    pub(super) async fn issue(&self, profile: &Profile) -> Result<Identity> {
        Ok(match self {
            Self::Held(authority) => authority.issue(profile, None)?,
            Self::Outside(signer, _) => request_identity(signer, profile, None).await?,
        })
    }
}

/// Asks the instance's metadata server by the socket that the instance was born with.
///
/// # Errors
/// When it does not answer, or speaks of another instance.
pub(super) async fn etcd_ca(start: &InstanceStart, socket: OwnedFd, signer: &Signer) -> Result<StoreAuthority> {
    let fetched = tokio::time::timeout(TIMEOUT, fetch(start, socket)).await;
    let body = fetched
        .context("it does not answer")
        .flatten()
        .with_context(|| format!("the metadata server of {} at {}", start.instance, start.metadata))?;
    let attributes: Attributes = serde_json::from_slice(&body).context("the metadata server's attributes")?;
    let env = |name| value(&attributes.kube_env, name);
    let own = attributes.cluster_uid == start.cluster.id && *env("ETCD_NAME")? == start.instance;
    ensure!(own, "the metadata server at {} is another instance's", start.metadata);
    let decoded = |name| -> Result<Zeroizing<String>> {
        let bytes = STANDARD.decode(env(name)?.as_bytes()).with_context(|| format!("{name} of kube-env"))?;
        let text = String::from_utf8(bytes).ok().with_context(|| format!("{name} of kube-env"))?;
        Ok(Zeroizing::new(text))
    };
    let certificate = decoded("ETCD_APISERVER_CA_CERT")?;
    if start.cluster.user_managed.contains_key(&Authority::EtcdApi) {
        return Ok(StoreAuthority::Outside(signer.clone(), String::clone(&certificate)));
    }
    let key = decoded("ETCD_APISERVER_CA_KEY")?;
    let held = HeldAuthority::new(Authority::EtcdApi, &certificate, &key, system::clock(), system::entropy())?;
    info!(server = %start.metadata, "took the etcd API CA from the metadata server");
    Ok(StoreAuthority::Held(held))
}

/// A line of `kube-env`.
fn value(kube_env: &str, name: &str) -> Result<Zeroizing<String>> {
    let line = kube_env.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let line = line.with_context(|| format!("kube-env has no {name}"))?;
    Ok(Zeroizing::new(serde_json::from_str(line).with_context(|| format!("{name} of kube-env"))?))
}

async fn fetch(start: &InstanceStart, socket: OwnedFd) -> Result<Zeroizing<Vec<u8>>> {
    let mut stream = connect(start, socket).await.context("it cannot be reached")?;
    let request = format!(
        "GET /computeMetadata/v1/instance/attributes/?recursive=true HTTP/1.1\r\nHost: {}\r\nMetadata-Flavor: Google\r\n\
         Connection: close\r\n\r\n",
        start.metadata
    );
    stream.write_all(request.as_bytes()).await.context("it hung up")?;
    let mut answer = Zeroizing::new(Vec::with_capacity(ANSWER_BYTES_MAX));
    (&mut stream).take(ANSWER_BYTES_MAX as u64).read_to_end(&mut answer).await.context("it hung up")?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("it hung up")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    if !head.starts_with("HTTP/1.1 200 ") {
        bail!("it says {}", head.lines().next().unwrap_or_default());
    }
    Ok(Zeroizing::new(answer[end + 4..].to_vec()))
}

async fn connect(start: &InstanceStart, socket: OwnedFd) -> std::io::Result<TcpStream> {
    // Not connected yet: the type is what the conversion wants.
    let socket = TcpSocket::from_std_stream(StdTcpStream::from(socket));
    let stream = socket.connect(start.metadata).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_environment_are_read_by_their_whole_name() {
        let env = "A: \"1\"\nAB: \"two \\\"words\\\"\"\nC: x\n";
        assert_eq!((value(env, "A").unwrap().as_str(), value(env, "AB").unwrap().as_str()), ("1", "two \"words\""));
        for missing in ["B", "C", ""] {
            assert!(value(env, missing).is_err(), "{missing}");
        }
    }
}
