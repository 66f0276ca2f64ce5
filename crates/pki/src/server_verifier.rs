//! Servers of an authority, and servers that show the very certificate that was configured as one.
//!
//! `openssl req -x509` makes certificates that may sign others, and people serve with them and hand them out as the
//! authority to trust. webpki takes no authority for a server (`CaUsedAsEndEntity`); Go's `crypto/x509` does, when the
//! certificate itself is among the roots: the chain is then that one certificate.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::SignerError;

/// What webpki says of an authority's certificate that a server shows as its own; rustls hands it on as "other".
const CA_AS_SERVER: &str = "CaUsedAsEndEntity";

/// Judges the certificates of servers.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    webpki: Arc<WebPkiServerVerifier>,
    anchors: Vec<CertificateDer<'static>>,
}

impl ServerVerifier {
    /// For servers of these authorities.
    ///
    /// # Errors
    /// When one of them is no certificate, or there is none.
    pub(crate) fn new(
        anchors: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<Self>, SignerError> {
        let bad = |why: String| SignerError::BadRequest(why);
        let mut roots = RootCertStore::empty();
        for anchor in &anchors {
            roots.add(anchor.clone()).map_err(|error| bad(error.to_string()))?;
        }
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        Ok(Arc::new(Self { webpki: webpki.build().map_err(|error| bad(error.to_string()))?, anchors }))
    }

    /// A certificate that is trusted as it is must still be for this name, for now, and for a server.
    fn check_anchor(leaf: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<(), rustls::Error> {
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now < certificate.validity().not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > certificate.validity().not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
        let purposes = certificate.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
        if purposes.is_some_and(|purposes| !purposes.value.server_auth && !purposes.value.any) {
            return Err(CertificateError::InvalidPurpose.into());
        }
        verify_server_name(&ParsedCertificate::try_from(leaf)?, name)
    }
}

fn is_ca_as_server(error: &rustls::Error) -> bool {
    matches!(error, rustls::Error::InvalidCertificate(CertificateError::Other(why)) if why.to_string() == CA_AS_SERVER)
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.webpki.verify_server_cert(leaf, intermediates, name, ocsp_response, now) {
            Err(error) if is_ca_as_server(&error) && self.anchors.iter().any(|anchor| anchor == leaf) => {
                Self::check_anchor(leaf, name, now)?;
                Ok(ServerCertVerified::assertion())
            }
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};

    use super::*;
    use crate::Identity;

    /// As `openssl req -x509 -addext subjectAltName=DNS:localhost` makes it, good for the year 2027.
    fn self_signed(purposes: &[ExtendedKeyUsagePurpose]) -> Identity {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.extended_key_usages = purposes.to_vec();
        (params.not_before, params.not_after) = (date_time_ymd(2027, 1, 1), date_time_ymd(2028, 1, 1));
        let key = KeyPair::generate().unwrap();
        Identity::from_pem(&params.self_signed(&key).unwrap().pem(), &key.serialize_pem()).unwrap()
    }

    fn judge(anchor: &Identity, shown: &Identity, name: &str, year: i32) -> Result<(), rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = ServerVerifier::new(anchor.chain().to_vec(), provider).unwrap();
        let now = u64::try_from(date_time_ymd(year, 6, 1).unix_timestamp()).unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(&shown.chain()[0], &[], &name, &[], now).map(drop)
    }

    #[test]
    fn a_server_may_show_the_authority_itself_for_its_name_and_in_its_time() {
        let (trusted, stranger) = (self_signed(&[]), self_signed(&[]));
        assert_eq!(judge(&trusted, &trusted, "localhost", 2027), Ok(()));
        let refused = |shown, name, year| judge(&trusted, shown, name, year).unwrap_err().to_string();
        assert!(refused(&trusted, "example.com", 2027).contains("not valid for name"));
        assert!(refused(&trusted, "localhost", 2028).contains("expired"));
        assert!(refused(&trusted, "localhost", 2026).contains("not valid yet"));
        // The same name and another key: what counts are the bytes.
        assert!(refused(&stranger, "localhost", 2027).contains(CA_AS_SERVER));
        let server = self_signed(&[ExtendedKeyUsagePurpose::ServerAuth]);
        assert_eq!(judge(&server, &server, "localhost", 2027), Ok(()));
        let client = self_signed(&[ExtendedKeyUsagePurpose::ClientAuth]);
        assert!(judge(&client, &client, "localhost", 2027).is_err());
    }

    /// 2027-05-22, by both sides' clock.
    #[tokio::test]
    async fn a_handshake_with_the_authority_itself_succeeds() {
        let trusted = self_signed(&[]);
        let clock = base::FakeClock::new(base::Timestamp::from_unix_seconds(1_811_000_000)).clock();
        let serving = crate::ServingCertificate::new(&trusted).unwrap();
        let server = crate::server_config(serving, crate::ClientCertificates::None, &[], &clock).unwrap();
        let client = crate::client_config(&trusted.certificate_pem(), None, &[], &clock).unwrap();
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let accepted = tokio_rustls::TlsAcceptor::from(server).accept(far);
        let connected = tokio_rustls::TlsConnector::from(client).connect(name, near);
        let (accepted, connected) = tokio::join!(accepted, connected);
        assert!(accepted.is_ok() && connected.is_ok());
    }
}
