//! TLS of the client port: who may come in, and a certificate that changes under way.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber};
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::command::{Running, port, read};
use crate::rig::PATIENCE;

struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed");
        std::fs::write(dir.join("ca.pem"), certificate.pem()).expect("written");
        Self { dir: dir.to_owned(), certificate: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// Writes `name.pem` and `name-key.pem` for a host.
    fn issue(&self, name: &str, host: &str, serial: u64) {
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from(serial));
        self.write(name, params);
    }

    /// As [`Authority::issue`], with a common name.
    fn issue_named(&self, name: &str, common: &str) {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, common);
        self.write(name, params);
    }

    fn write(&self, name: &str, params: CertificateParams) {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        std::fs::write(self.path(&format!("{name}-key.pem")), key.serialize_pem()).expect("written");
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("written");
    }

    fn revoke(&self, serial: u64) {
        let date = time::OffsetDateTime::UNIX_EPOCH;
        let params = rcgen::CertificateRevocationListParams {
            this_update: date,
            next_update: date + time::Duration::days(36_500),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![rcgen::RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date,
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("signed");
        std::fs::write(self.path("revoked.crl"), list.der()).expect("written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn flag(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.path(name).display())
    }

    /// Asks for the version as this client, or as nobody; the server's certificate, when there is an answer.
    async fn ask(&self, port: u16, client: Option<&str>) -> Option<CertificateDer<'static>> {
        self.ask_for("/version", port, client).await
    }

    async fn ask_for(&self, path: &str, port: u16, client: Option<&str>) -> Option<CertificateDer<'static>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let chain = CertificateDer::pem_file_iter(self.path(&format!("{name}.pem"))).expect("a file");
                let chain = chain.collect::<Result<_, _>>().expect("certificates");
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}-key.pem"))).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("they fit")
            }
        };
        let attempt = async {
            let stream = loop {
                match TcpStream::connect(("127.0.0.1", port)).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            let name = ServerName::try_from("localhost").expect("a name");
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok()?;
            answer.starts_with(b"HTTP/1.1 200").then_some(())?;
            stream.get_ref().1.peer_certificates()?.first().map(|certificate| certificate.clone().into_owned())
        };
        tokio::time::timeout(PATIENCE, attempt).await.expect("in time")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_let_in_by_certificate_name_and_list_of_revoked() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(dir.path());
    authority.issue("server", "localhost", 1);
    authority.issue("good", "good.example", 2);
    authority.issue("revoked", "good.example", 3);
    authority.issue("other", "other.example", 4);
    authority.revoke(3);
    let port = port().await;
    let running = Running::start(read(
        dir.path(),
        &[
            format!("--listen-client-urls=https://127.0.0.1:{port}"),
            format!("--advertise-client-urls=https://127.0.0.1:{port}"),
            authority.flag("cert-file", "server.pem"),
            authority.flag("key-file", "server-key.pem"),
            // As in etcd, this is enough for certificates to be asked for.
            authority.flag("trusted-ca-file", "ca.pem"),
            authority.flag("client-crl-file", "revoked.crl"),
            "--client-cert-allowed-hostname=good.example".to_owned(),
        ],
    ));
    let first = authority.ask(port, Some("good")).await.expect("let in");
    assert!(authority.ask(port, None).await.is_none(), "no certificate");
    assert!(authority.ask(port, Some("revoked")).await.is_none(), "revoked");
    assert!(authority.ask(port, Some("other")).await.is_none(), "another name");
    authority.revoke(2);
    assert!(authority.ask(port, Some("good")).await.is_none(), "the list is read at each connection");
    assert!(authority.ask(port, Some("revoked")).await.is_some());
    authority.issue("server", "localhost", 1_000_000);
    let second = authority.ask(port, Some("revoked")).await.expect("let in");
    assert_ne!(first, second, "the new certificate is shown without a restart");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_made_when_there_is_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let port = port().await;
    let running = Running::start(read(
        dir.path(),
        &[
            format!("--listen-client-urls=https://localhost:{port}"),
            format!("--advertise-client-urls=https://localhost:{port}"),
            "--auto-tls".to_owned(),
        ],
    ));
    assert!(Authority::new(dir.path()).ask(port, None).await.is_none(), "nobody vouches for it");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let config = builder.expect("versions").dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = TlsConnector::from(Arc::new(config.with_no_client_auth()));
    let stream = connector.connect(name.clone(), stream).await.expect("a handshake");
    let shown = stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone();
    let shown = rustls::server::ParsedCertificate::try_from(&shown).expect("readable");
    rustls::client::verify_server_name(&shown, &name).expect("made for the host that is listened on");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_shows_etcd_its_own_certificate_and_asks_its_clients_for_theirs() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new(dir.path());
    authority.issue("server", "localhost", 1);
    authority.issue("client", "client.example", 2);
    authority.issue("revoked", "client.example", 3);
    authority.revoke(3);
    let (member, proxy) = (port().await, port().await);
    let running = Running::start(read(
        dir.path(),
        &[
            format!("--listen-client-urls=https://127.0.0.1:{member}"),
            format!("--advertise-client-urls=https://127.0.0.1:{member}"),
            authority.flag("cert-file", "server.pem"),
            authority.flag("key-file", "server-key.pem"),
            authority.flag("trusted-ca-file", "ca.pem"),
        ],
    ));
    authority.ask(member, Some("client")).await.expect("the member is there");
    let flags = |certificate: &str| {
        let flags = [
            "grpc-proxy".to_owned(),
            "start".to_owned(),
            format!("--listen-addr=127.0.0.1:{proxy}"),
            format!("--advertise-client-url=localhost:{proxy}"),
            format!("--endpoints=https://localhost:{member}"),
            authority.flag("cacert", "ca.pem"),
            authority.flag("cert", &format!("{certificate}.pem")),
            authority.flag("key", &format!("{certificate}-key.pem")),
            authority.flag("cert-file", "server.pem"),
            authority.flag("key-file", "server-key.pem"),
            authority.flag("trusted-ca-file", "ca.pem"),
            authority.flag("client-crl-file", "revoked.crl"),
        ];
        etcd::command(flags.iter().map(std::ffi::OsString::from).collect(), |_| None).expect("good flags")
    };
    let through = Running::start(flags("client"));
    for path in ["/health", "/proxy/health", "/metrics"] {
        assert!(authority.ask_for(path, proxy, Some("client")).await.is_some(), "{path}");
    }
    assert!(authority.ask_for("/health", proxy, None).await.is_none(), "no certificate");
    assert!(authority.ask_for("/health", proxy, Some("revoked")).await.is_none(), "revoked");
    through.stop().await;
    authority.issue_named("named", "a user");
    let (clock, entropy) = (crate::rig::clock(), crate::rig::entropy());
    let refused = etcd::run_command(flags("named"), clock, entropy, std::future::pending()).await;
    let text = refused.expect_err("every client would be that user").to_string();
    assert!(text.starts_with("cert has non empty Common Name (a user): "), "{text}");
    running.stop().await;
}

/// Believes every server, as `curl -k` does.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
