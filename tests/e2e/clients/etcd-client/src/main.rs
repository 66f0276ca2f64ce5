//! What the `etcd-client` crate can do, done to a store, and printed: the end-to-end tests hold what our store and a real
//! etcd say against each other.
//!
//! `etcdclient one URL…`: everything, on a store with nothing in it. `etcdclient three URL URL URL`: what needs several
//! members. With CA (and CERT and KEY) in the environment, paths of PEM files, the connection is TLS.

mod admin;
mod keys;
mod leases;
mod members;
mod transcript;
mod watches;

use anyhow::{Context, Result, bail};
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};

/// How a client connects, whoever it is.
#[derive(Clone)]
struct Store {
    endpoints: Vec<String>,
    tls: Option<TlsOptions>,
}

impl Store {
    fn options(&self) -> ConnectOptions {
        let options = ConnectOptions::new()
            .with_require_leader(true)
            .with_keep_alive(std::time::Duration::from_secs(10), std::time::Duration::from_secs(10));
        match &self.tls {
            Some(tls) => options.with_tls(tls.clone()),
            None => options,
        }
    }

    async fn connect(&self) -> Result<Client, etcd_client::Error> {
        Client::connect(&self.endpoints, Some(self.options())).await
    }

    async fn connect_as(&self, name: &str, password: &str) -> Result<Client, etcd_client::Error> {
        Client::connect(&self.endpoints, Some(self.options().with_user(name, password))).await
    }

    async fn connect_to(&self, endpoint: &str) -> Result<Client, etcd_client::Error> {
        Client::connect([endpoint], Some(self.options())).await
    }
}

fn tls() -> Result<Option<TlsOptions>> {
    let pem = |name: &str| -> Result<Option<Vec<u8>>> {
        let Some(path) = std::env::var_os(name) else { return Ok(None) };
        Ok(Some(std::fs::read(&path).with_context(|| format!("{name}={}", path.display()))?))
    };
    let Some(authority) = pem("CA")? else { return Ok(None) };
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(authority)).domain_name("localhost");
    if let (Some(certificate), Some(key)) = (pem("CERT")?, pem("KEY")?) {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Ok(Some(tls))
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().context("one or three?")?;
    let store = Store { endpoints: arguments.collect(), tls: tls()? };
    let client = store.connect().await?;
    match what.as_str() {
        "one" => {
            keys::run(client.clone()).await?;
            watches::run(client.clone()).await?;
            leases::run(client.clone()).await?;
            admin::run(client, &store).await
        }
        "three" => members::run(client, &store).await,
        other => bail!("one or three, not {other}"),
    }
}
