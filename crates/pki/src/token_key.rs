//! The key that signs service-account tokens (RFC 7515, RFC 7518), published as a JWK set (RFC 7517). A cluster's own is
//! RSA-2048, RS256; an API server on its own takes RSA and EC keys that others made, as kube-apiserver does, and several that
//! verify.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair as _, RSA_PKCS1_SHA256,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use crate::{SignerError, pem};

/// `alg` of service-account tokens, by the key that signs (`pkg/serviceaccount/jwt.go`).
pub const TOKEN_ALGORITHMS: [&str; 4] = ["RS256", "ES256", "ES384", "ES512"];

/// The curves, as JOSE, RFC 5480 and the crypto library name them; bytes of a coordinate.
const CURVES: [(&str, &str, &str, usize, &EcdsaSigningAlgorithm); 3] = [
    ("ES256", "P-256", "1.2.840.10045.3.1.7", 32, &ECDSA_P256_SHA256_FIXED_SIGNING),
    ("ES384", "P-384", "1.3.132.0.34", 48, &ECDSA_P384_SHA384_FIXED_SIGNING),
    ("ES512", "P-521", "1.3.132.0.35", 66, &ECDSA_P521_SHA512_FIXED_SIGNING),
];
/// What can be verified: RSA keys of 2048 to 8192 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// A signing key with its public half.
pub(crate) struct TokenKey {
    pair: Pair,
    /// The public half: `kid`, `alg` and the numbers.
    jwk: Value,
}

enum Pair {
    Rsa(KeyPair),
    Curve(EcdsaKeyPair),
}

impl TokenKey {
    /// Takes some tenths of a second of computing: never on a start path.
    pub(crate) fn generate() -> Result<Self, SignerError> {
        let key = KeyPair::generate(KeySize::Rsa2048).map_err(|e| SignerError::KeyGeneration(e.to_string()))?;
        Self::new(Pair::Rsa(key))
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub(crate) fn from_bytes(pkcs8: &[u8]) -> Result<Self, SignerError> {
        Self::new(Pair::Rsa(KeyPair::from_pkcs8(pkcs8).map_err(|_| SignerError::DamagedState)?))
    }

    /// Reads an RSA or EC key that another program made (`--service-account-signing-key-file`): the first block that is one.
    /// Others, such as `EC PARAMETERS`, are passed over (`keyutil.ParsePrivateKeyPEM`).
    ///
    /// # Errors
    /// When the text holds none.
    pub(crate) fn from_pem(text: &str) -> Result<Self, SignerError> {
        let read = |(label, der): (String, Vec<u8>)| {
            let key = match label.as_str() {
                "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(der.into()),
                "EC PRIVATE KEY" => PrivateKeyDer::Sec1(der.into()),
                "PRIVATE KEY" => PrivateKeyDer::Pkcs8(der.into()),
                _ => return None,
            };
            Pair::of(&key)
        };
        let pair = pem::sections(text)
            .into_iter()
            .find_map(read)
            .ok_or_else(|| SignerError::BadKey("data does not contain a valid RSA or ECDSA private key".to_owned()))?;
        Self::new(pair)
    }

    fn new(pair: Pair) -> Result<Self, SignerError> {
        let der = pair.public_der().ok_or(SignerError::DamagedState)?;
        let jwk = jwk(&der)?.ok_or(SignerError::DamagedState)?;
        Ok(Self { pair, jwk })
    }

    /// PKCS #8, to be sealed and written.
    pub(crate) fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, SignerError> {
        let failed = |e: aws_lc_rs::error::Unspecified| SignerError::KeyGeneration(e.to_string());
        let der = match &self.pair {
            Pair::Rsa(key) => {
                let der: Pkcs8V1Der<'_> = key.as_der().map_err(failed)?;
                der.as_ref().to_vec()
            }
            Pair::Curve(key) => key.to_pkcs8v1().map_err(failed)?.as_ref().to_vec(),
        };
        Ok(Zeroizing::new(der))
    }

    /// A signed token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> Result<String, SignerError> {
        let mut token = unsigned_token(&self.jwk, claims);
        let signature = self.signature(token.as_bytes())?;
        token.push('.');
        token.push_str(&signature);
        Ok(token)
    }

    /// The third part of a token whose other two are signed.
    fn signature(&self, signed: &[u8]) -> Result<String, SignerError> {
        let failed = |e: aws_lc_rs::error::Unspecified| SignerError::KeyGeneration(e.to_string());
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, signed, &mut signature).map_err(failed)?;
                signature
            }
            Pair::Curve(key) => key.sign(&random, signed).map_err(failed)?.as_ref().to_vec(),
        };
        Ok(URL_SAFE_NO_PAD.encode(signature))
    }

    /// The public half as a JWK set.
    pub(crate) fn jwks(&self) -> Value {
        json!({"keys": [self.jwk]})
    }
}

impl Pair {
    fn of(key: &PrivateKeyDer<'_>) -> Option<Self> {
        let curve = |read: &dyn Fn(&'static EcdsaSigningAlgorithm) -> Option<EcdsaKeyPair>| {
            CURVES.iter().find_map(|(.., algorithm)| read(algorithm)).map(Self::Curve)
        };
        match key {
            PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()).ok().map(Self::Rsa),
            PrivateKeyDer::Sec1(der) => {
                curve(&|algorithm| EcdsaKeyPair::from_private_key_der(algorithm, der.secret_sec1_der()).ok())
            }
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                let rsa = KeyPair::from_pkcs8(der).ok().map(Self::Rsa);
                rsa.or_else(|| curve(&|algorithm| EcdsaKeyPair::from_pkcs8(algorithm, der).ok()))
            }
            _ => None,
        }
    }

    /// The public half, a SubjectPublicKeyInfo in DER form.
    fn public_der(&self) -> Option<Vec<u8>> {
        let der: PublicKeyX509Der<'_> = match self {
            Self::Rsa(key) => key.public_key().as_der(),
            Self::Curve(key) => key.public_key().as_der(),
        }
        .ok()?;
        Some(der.as_ref().to_vec())
    }
}

/// What a key, given as JWK, has to sign of a token with these claims.
pub(crate) fn unsigned_token(jwk: &Value, claims: &Value) -> String {
    let header = json!({"alg": jwk["alg"], "kid": jwk["kid"]});
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(&header), part(claims))
}

/// The JWK set of all keys in PEM texts (`--service-account-key-file`): public keys, certificates, and the public halves of
/// private keys, in their order. Other blocks are passed over, and so are EC keys in PKCS #8, as `keyutil.ParsePublicKeysPEM`
/// does it.
///
/// # Errors
/// When one of the texts holds none, or a key that cannot verify tokens here.
pub(crate) fn verification_keys(texts: &[String]) -> Result<Value, SignerError> {
    let mut keys = Vec::new();
    for text in texts {
        let before = keys.len();
        for (_, der) in pem::sections(text) {
            keys.extend(public_half(&der)?);
        }
        if keys.len() == before {
            let what = "data does not contain any valid RSA or ECDSA public keys".to_owned();
            return Err(SignerError::BadKey(what));
        }
    }
    Ok(json!({"keys": keys}))
}

/// By content; labels are not looked at.
fn public_half(der: &[u8]) -> Result<Option<Value>, SignerError> {
    let private = PrivateKeyDer::try_from(der).ok().and_then(|key| {
        let pair = Pair::of(&key)?;
        (matches!(pair, Pair::Rsa(_)) || !matches!(key, PrivateKeyDer::Pkcs8(_))).then_some(pair)
    });
    if let Some(public) = private.and_then(|pair| pair.public_der()) {
        return jwk(&public);
    }
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => jwk(certificate.public_key().raw),
        Err(_) => jwk(der),
    }
}

/// A public key (SubjectPublicKeyInfo) as JWK, named by the hash of its DER form (`keyIDFromPublicKey`); nothing when it is
/// neither RSA nor EC.
///
/// # Errors
/// When it is, and of a size or on a curve that is not for tokens.
fn jwk(der: &[u8]) -> Result<Option<Value>, SignerError> {
    let info = match SubjectPublicKeyInfo::from_der(der) {
        Ok(([], info)) => info,
        _ => return Ok(None),
    };
    let kid = URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der));
    let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let bad = |what: &str| Err(SignerError::BadKey(what.to_owned()));
    match info.parsed() {
        Ok(PublicKey::RSA(rsa)) => {
            let strip = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
            let (n, e) = (strip(rsa.modulus), strip(rsa.exponent));
            if !RSA_BYTES.contains(&n.len()) || e.is_empty() {
                return bad("an RSA key must have 2048 to 8192 bits");
            }
            Ok(Some(json!({"use": "sig", "kty": "RSA", "kid": kid, "alg": "RS256", "n": number(&n), "e": number(&e)})))
        }
        Ok(PublicKey::EC(point)) => {
            let named =
                info.algorithm.parameters.as_ref().and_then(|name| name.as_oid().ok()).map(|oid| oid.to_id_string());
            let Some((alg, curve, _, size, _)) = CURVES.iter().find(|(_, _, oid, ..)| named.as_deref() == Some(oid))
            else {
                return bad("unknown private key curve, must be 256, 384, or 521");
            };
            // Go reads no compressed points.
            let Some(coordinates) = point.data().strip_prefix(&[4]).filter(|rest| rest.len() == 2 * size) else {
                return Ok(None);
            };
            let (x, y) = coordinates.split_at(*size);
            let (x, y) = (number(x), number(y));
            Ok(Some(json!({"use": "sig", "kty": "EC", "kid": kid, "crv": curve, "alg": alg, "x": x, "y": y})))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::EcPrivateKeyRfc5915Der;

    use super::*;
    use crate::pem::encode;
    use crate::verify_jwt;

    /// What stands before an RSA-2048 key in PKCS #8.
    const PKCS8_HEAD_BYTES: usize = 26;
    const PARAMETERS: &str = "-----BEGIN EC PARAMETERS-----\nBgU=\n-----END EC PARAMETERS-----\n";

    const P224: &str = "-----BEGIN PUBLIC KEY-----\n\
        ME4wEAYHKoZIzj0CAQYFK4EEACEDOgAEmQWDfuNQtv+gPpjircTidSpoZRJCOwdv\n\
        Qz01qmcI2Bqyx2OC9qc1pXQXmF3ROc460Lp6NZB4ITo=\n\
        -----END PUBLIC KEY-----\n";
    const RSA1024: &str = "-----BEGIN PUBLIC KEY-----\n\
        MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDBODGD1FbXK1XfHbxXaVNEbVEx\n\
        75lhFAgpH47FWUc/wcSy/Rl9TxhPCgWZwARqNS/UfvRk/5UhQmPAyi1CRh0GIj11\n\
        HTyEV11x1t7HYoDq2h2xIQYF3FnJWg/ShgRZsc4W1sTdTJ+seEmfGIMsyIPx7umW\n\
        ABlxp7xj4ef/mfF5zwIDAQAB\n\
        -----END PUBLIC KEY-----\n";

    fn spki(key: &TokenKey) -> String {
        encode("PUBLIC KEY", &key.pair.public_der().unwrap())
    }

    fn curves() -> Vec<TokenKey> {
        let made = CURVES.iter().map(|(.., algorithm)| EcdsaKeyPair::generate(algorithm).unwrap());
        made.map(|pair| TokenKey::new(Pair::Curve(pair)).unwrap()).collect()
    }

    fn sec1(key: &TokenKey) -> String {
        let Pair::Curve(pair) = &key.pair else { panic!("a curve") };
        let der: EcPrivateKeyRfc5915Der<'_> = pair.private_key().as_der().unwrap();
        encode("EC PRIVATE KEY", der.as_ref())
    }

    fn pkcs8(key: &TokenKey) -> String {
        encode("PRIVATE KEY", &key.to_bytes().unwrap())
    }

    fn count(texts: &[String]) -> Result<usize, String> {
        let set = verification_keys(texts).map_err(|error| error.to_string())?;
        Ok(set["keys"].as_array().map_or(0, Vec::len))
    }

    #[test]
    fn keys_from_elsewhere_sign_and_are_verified_by_their_own_half() {
        let (rsa, other, curves) = (TokenKey::generate().unwrap(), TokenKey::generate().unwrap(), curves());
        let pkcs1 = encode("RSA PRIVATE KEY", &rsa.to_bytes().unwrap()[PKCS8_HEAD_BYTES..]);
        // What signs, and the files with its public half.
        let mut table = vec![(pkcs8(&rsa), vec![pkcs8(&rsa), spki(&rsa)]), (pkcs1.clone(), vec![pkcs1, spki(&rsa)])];
        for key in &curves {
            table.push((pkcs8(key), vec![sec1(key), spki(key)]));
            table.push((PARAMETERS.to_owned() + &sec1(key), vec![PARAMETERS.to_owned() + &sec1(key)]));
        }
        let all: Vec<String> = [spki(&other) + &spki(&rsa), curves.iter().map(spki).collect()].into();
        let all = verification_keys(&all).unwrap();
        for (private, files) in table {
            let key = TokenKey::from_pem(&private).unwrap();
            let token = key.sign(&json!({"sub": "x"})).unwrap();
            for file in files {
                assert_eq!(verification_keys(&[file]).unwrap(), key.jwks());
            }
            for set in [&key.jwks(), &all] {
                assert_eq!(verify_jwt(&token, set, &TOKEN_ALGORITHMS), Some(json!({"sub": "x"})));
            }
            assert_eq!(verify_jwt(&token, &other.jwks(), &TOKEN_ALGORITHMS), None);
        }
        let algs: Vec<_> = all["keys"].as_array().unwrap().iter().map(|key| key["alg"].as_str().unwrap()).collect();
        assert_eq!(algs, ["RS256", "RS256", "ES256", "ES384", "ES512"]);
    }

    #[test]
    fn files_without_a_usable_key_are_refused() {
        let (rsa, curves) = (TokenKey::generate().unwrap(), curves());
        let der = rsa.to_bytes().unwrap();
        let none = "data does not contain a valid RSA or ECDSA private key";
        for bad in [String::new(), spki(&rsa), encode("EC PRIVATE KEY", &der), encode("PRIVATE KEY", &der[1..])] {
            assert!(TokenKey::from_pem(&bad).err().unwrap().to_string().contains(none), "{bad}");
            // What is no key does not hide one.
            assert!(TokenKey::from_pem(&(bad + &pkcs8(&curves[1]))).is_ok());
        }
        let none = "data does not contain any valid RSA or ECDSA public keys";
        let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().public_key_pem();
        for bad in [String::new(), "x".to_owned(), encode("PUBLIC KEY", &der[1..]), pkcs8(&curves[0]), ed25519] {
            assert!(count(&[spki(&rsa), bad.clone()]).unwrap_err().contains(none), "{bad}");
            assert_eq!(count(&[bad + &spki(&curves[0])]), Ok(1));
        }
        // P-224, and RSA of 1024 bits, made by openssl.
        for (bad, what) in [(P224, "unknown private key curve"), (RSA1024, "2048 to 8192 bits")] {
            assert!(count(&[spki(&rsa) + bad]).unwrap_err().contains(what), "{what}");
        }
    }

    #[test]
    fn mutated_key_files_are_read_or_refused() {
        let (rsa, curves) = (TokenKey::generate().unwrap(), curves());
        let seeds = [spki(&rsa) + &spki(&curves[0]), sec1(&curves[1]), pkcs8(&rsa), pkcs8(&curves[2])];
        let words = [
            "-----BEGIN PUBLIC KEY-----\n",
            "-----END PUBLIC KEY-----\n",
            "-----",
            "EC PRIVATE KEY",
            "=",
            "\0",
            "Proc-Type: 4\n",
        ];
        fuzz::Fuzz::of(seeds).words(words).costly(4).run(|bytes| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            if let Ok(key) = TokenKey::from_pem(&text) {
                let token = key.sign(&json!({"sub": "x"})).unwrap();
                assert!(verify_jwt(&token, &key.jwks(), &TOKEN_ALGORITHMS).is_some());
            }
            let Ok(set) = verification_keys(&[text]) else { return };
            let keys = set["keys"].as_array().unwrap();
            assert!(!keys.is_empty() && keys.iter().all(|key| TOKEN_ALGORITHMS.iter().any(|alg| key["alg"] == **alg)));
            // No number of a private half is shown.
            assert!(
                keys.iter().all(|key| ["d", "p", "q", "dp", "dq", "qi", "k"].iter().all(|name| key[name].is_null()))
            );
        });
    }

    #[test]
    fn a_header_does_not_choose_what_a_key_is_for() {
        let (rsa, curves) = (TokenKey::generate().unwrap(), curves());
        let keys: Vec<&TokenKey> = [&rsa].into_iter().chain(&curves).collect();
        let files: Vec<String> = keys.iter().map(|key| spki(key)).collect();
        let set = verification_keys(&files).unwrap();
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        for (key, file) in keys.iter().zip(&files) {
            let token = key.sign(&json!({"sub": "x"})).unwrap();
            let [_, claims, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
            let own = key.jwk["alg"].as_str().unwrap();
            for alg in ["RS256", "RS384", "PS256", "ES256", "ES384", "ES512", "HS256", "none", "None", ""] {
                for kid in keys.iter().map(|other| &other.jwk["kid"]).chain([&Value::Null]) {
                    let text = format!("{}.{claims}", part(&json!({"alg": alg, "kid": kid}).to_string()));
                    let mac = |secret: &[u8]| {
                        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
                        URL_SAFE_NO_PAD.encode(aws_lc_rs::hmac::sign(&key, text.as_bytes()))
                    };
                    let der = key.pair.public_der().unwrap();
                    for forged in [signature, "", &mac(file.as_bytes()), &mac(file.trim().as_bytes()), &mac(&der)] {
                        let forged = format!("{text}.{forged}");
                        if forged == token {
                            continue;
                        }
                        assert_eq!(verify_jwt(&forged, &set, &TOKEN_ALGORITHMS), None, "{own} as {alg} of {kid}");
                    }
                    // The key itself signing under another name.
                    let signed = key.signature(text.as_bytes()).unwrap();
                    let good = alg == own && (kid.is_null() || *kid == key.jwk["kid"]);
                    let found = verify_jwt(&format!("{text}.{signed}"), &set, &TOKEN_ALGORITHMS);
                    assert_eq!(found.is_some(), good, "{own} as {alg} of {kid}");
                }
            }
        }
    }
}
