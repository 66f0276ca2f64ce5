//! Certificates and keys made for a test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// An authority for servers and clients.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate") }
    }

    fn leaf(&self, name: &str, hosts: &[&str]) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("good names");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &*self.issuer).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8");
        (vec![leaf.der().clone()], key)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a certificate");
        roots
    }

    /// A server that wants a client certificate.
    pub(crate) fn server(&self, hosts: &[&str]) -> ServerConfig {
        let (chain, key) = self.leaf("server", hosts);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider.clone());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("known versions").with_client_cert_verifier(verifier.build().expect("a root"));
        let mut config = builder.with_single_cert(chain, key).expect("a pair");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// A client with this common name.
    pub(crate) fn client(&self, name: &str) -> ClientConfig {
        let (chain, key) = self.leaf(name, &[]);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("known versions").with_root_certificates(self.roots());
        builder.with_client_auth_cert(chain, key).expect("a pair")
    }
}

/// Files with the two halves of a key.
pub(crate) struct JwtKeys {
    pub(crate) private: PathBuf,
    pub(crate) public: PathBuf,
}

/// A P-256 key for signed tokens.
pub(crate) fn jwt_keys(dir: &Path) -> JwtKeys {
    std::fs::create_dir_all(dir).expect("writable");
    let key = KeyPair::generate().expect("a key");
    let keys = JwtKeys { private: dir.join("jwt.key"), public: dir.join("jwt.pub") };
    std::fs::write(&keys.private, key.serialize_pem()).expect("writable");
    std::fs::write(&keys.public, key.public_key_pem()).expect("writable");
    keys
}
