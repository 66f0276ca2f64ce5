//! The whole way of a request that switches protocols, before an API server that does: ours has nothing to switch to yet.

use gke::EndpointSettings;
use pki::{MemoryVault, Requester, SignerCore, api_server_names, client_config, request_identity};
use policy::GoogleIdentity;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;
use crate::edge::{Denials, EndpointDeny, Ground};
use crate::layout::Layout;

const NAME: &str = "gke-0123456789abcdef0123456789abcdef0123-42.us-central1-a.gke.goog";

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

/// Switches once, then says `pong` for four bytes; gives back what it was asked with.
async fn switching_api_server(listener: TcpListener, tls: TlsAcceptor) -> (bool, String) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = tls.accept(stream).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().is_some();
    let asked = head(&mut stream).await;
    stream
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        .await
        .unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    stream.write_all(b"pong").await.unwrap();
    stream.shutdown().await.unwrap();
    (shown, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_switches_protocols_flows_both_ways() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, entropy) = (crate::system::clock(), crate::system::entropy());
    let layout = Layout::resolve(Some(&directory.path().join("data")), None).unwrap();
    layout.prepare().unwrap();
    let platform = disk::Platform::open(layout.platform(), entropy.clone()).unwrap();
    let root = Arc::new(PublicRoot::new(layout, platform, clock.clone(), entropy.clone()));
    let core =
        Arc::new(SignerCore::open("id", Arc::new(MemoryVault::default()), clock.clone(), entropy.clone()).unwrap());

    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let internal = upstream.local_addr().unwrap();
    let names = api_server_names([10, 0, 0, 1].into(), &[internal.ip()]);
    let serving = request_identity(&Signer::InProcess(core.clone(), Requester::Instance), &names, None).await.unwrap();
    let serving = ServingCertificate::new(&serving).unwrap();
    let tls = server_config(serving, ClientCertificates::Requested, &[b"http/1.1"], &clock).unwrap();
    let api_server = tokio::spawn(switching_api_server(upstream, TlsAcceptor::from(tls)));

    let denials = Arc::new(Denials::new(EndpointDeny::Drop));
    let ground = Ground { places: Arc::default(), denials, clock: clock.clone() };
    let settings = EndpointSettings { dns: true, ..EndpointSettings::default() };
    let (_changed, changes) = watch::channel(0);
    let resolve = Arc::new(|token: &str| {
        let roles = vec!["roles/container.clusterViewer".to_owned()];
        (token == "good").then(|| GoogleIdentity { roles, ..GoogleIdentity::default() })
    });
    let (_signer, signer) = watch::channel(Some(Signer::InProcess(core, Requester::Fleet)));
    let site = Site {
        name: NAME.to_owned(),
        resource: String::new(),
        internal,
        gate: Arc::new(Gate::new("id", "demo", settings, ground)),
        signer,
        tokens: Arc::new(OnceLock::from(TokenDoor { resolve, keys: Arc::new(|_, _| Err(String::new())), changes })),
        root: Arc::clone(&root),
        shown: Arc::default(),
        clock: clock.clone(),
        entropy,
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(site, listener, std::future::pending()));

    let authority = root.authority().await.unwrap().certificate_pem();
    let tls = TlsConnector::from(client_config(&authority, None, &[b"http/1.1"], &clock).unwrap());
    let name = ServerName::try_from(NAME).unwrap();
    let mut stream = tls.connect(name, TcpStream::connect(address).await.unwrap()).await.unwrap();
    let request = "POST /api/v1/namespaces/default/pods/x/exec?command=ls HTTP/1.1\r\nHost: x\r\n\
                   Authorization: Bearer good\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-Remote-User: admin\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("http/1.1 101") && answer.contains("upgrade: echo"), "{answer}");
    stream.write_all(b"ping").await.unwrap();
    let mut said = [0; 4];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"pong");
    let (shown, asked) = api_server.await.unwrap();
    assert!(shown, "mutual TLS");
    assert!(asked.starts_with("post /api/v1/namespaces/default/pods/x/exec?command=ls http/1.1"), "{asked}");
    assert!(asked.contains("authorization: bearer good") && asked.contains("upgrade: echo"), "{asked}");
    assert!(!asked.contains("x-remote-user"), "{asked}");
}
