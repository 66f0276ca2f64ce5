//! Signatures of JWTs against JWK sets (RFC 7515, 7518): asymmetric algorithms only, and only those the caller names. What
//! kind of key a set holds decides what an `alg` may mean; a header alone decides nothing.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// Every algorithm that can be verified.
pub const SIGNING_ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"];

/// A token that is longer is none.
const TOKEN_BYTES_MAX: usize = 1024 * 1024;

/// Checks a token against a JWK set; its claims when a signature by one of the algorithms holds. Times, issuer and audience
/// are the caller's to judge.
pub fn verify_jwt(token: &str, jwks: &Value, algorithms: &[impl AsRef<str>]) -> Option<Value> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let mut parts = token.split('.');
    let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let head: Value = serde_json::from_slice(&decode(header)?).ok()?;
    let algorithm = algorithms.iter().map(AsRef::as_ref).find(|name| head["alg"] == **name)?;
    // A header that must be understood is not: none is known here (RFC 7515 §4.1.11).
    if !head["crit"].is_null() {
        return None;
    }
    let signature = decode(signature)?;
    let signed = &token.as_bytes()[..header.len() + 1 + claims.len()];
    // An empty name is none, as in go-oidc: every key is tried.
    let is_unnamed = head["kid"].is_null() || head["kid"] == "";
    let fits = |key: &&Value| {
        (is_unnamed || key["kid"] == head["kid"])
            && (key["alg"].is_null() || key["alg"] == algorithm)
            && (key["use"].is_null() || key["use"] == "sig")
    };
    let holds = jwks["keys"].as_array()?.iter().filter(fits).any(|key| holds(key, algorithm, signed, &signature));
    if holds { serde_json::from_slice(&decode(claims)?).ok() } else { None }
}

fn decode(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

fn holds(key: &Value, algorithm: &str, signed: &[u8], signature: &[u8]) -> bool {
    let number = |name: &str| key[name].as_str().and_then(decode).filter(|bytes| !bytes.is_empty());
    match algorithm {
        "RS256" => rsa(key, number, &RSA_PKCS1_2048_8192_SHA256, signed, signature),
        "RS384" => rsa(key, number, &RSA_PKCS1_2048_8192_SHA384, signed, signature),
        "RS512" => rsa(key, number, &RSA_PKCS1_2048_8192_SHA512, signed, signature),
        "PS256" => rsa(key, number, &RSA_PSS_2048_8192_SHA256, signed, signature),
        "PS384" => rsa(key, number, &RSA_PSS_2048_8192_SHA384, signed, signature),
        "PS512" => rsa(key, number, &RSA_PSS_2048_8192_SHA512, signed, signature),
        "ES256" => curve(key, number, ("P-256", 32), &ECDSA_P256_SHA256_FIXED, signed, signature),
        "ES384" => curve(key, number, ("P-384", 48), &ECDSA_P384_SHA384_FIXED, signed, signature),
        "ES512" => curve(key, number, ("P-521", 66), &ECDSA_P521_SHA512_FIXED, signed, signature),
        _ => false,
    }
}

fn rsa(
    key: &Value,
    number: impl Fn(&str) -> Option<Vec<u8>>,
    parameters: &'static RsaParameters,
    signed: &[u8],
    signature: &[u8],
) -> bool {
    let (Some(n), Some(e)) = (number("n"), number("e")) else { return false };
    key["kty"] == "RSA" && RsaPublicKeyComponents { n: &n, e: &e }.verify(parameters, signed, signature).is_ok()
}

fn curve(
    key: &Value,
    number: impl Fn(&str) -> Option<Vec<u8>>,
    (name, size): (&str, usize),
    algorithm: &'static dyn VerificationAlgorithm,
    signed: &[u8],
    signature: &[u8],
) -> bool {
    let (Some(x), Some(y)) = (number("x"), number("y")) else { return false };
    if key["kty"] != "EC" || key["crv"] != name || x.len() != size || y.len() != size {
        return false;
    }
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    UnparsedPublicKey::new(algorithm, point).verify(signed, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaKeyPair,
    };
    use serde_json::json;

    use super::*;

    fn part(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn unsigned(head: &Value) -> String {
        format!("{}.{}", part(head.to_string()), part(r#"{"sub":"x"}"#))
    }

    #[test]
    fn each_kind_of_key_verifies_its_own_algorithms_and_no_others() {
        let random = SystemRandom::new();
        let curve = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = curve.public_key().as_ref();
        let ec = json!({"kty": "EC", "crv": "P-256", "kid": "e", "x": part(&point[1..33]), "y": part(&point[33..])});
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let (n, e) = (rsa.public_key().modulus(), rsa.public_key().exponent());
        let n = part(n.big_endian_without_leading_zero());
        let rsa_jwk = json!({"kty": "RSA", "kid": "r", "n": n, "e": part(e.big_endian_without_leading_zero())});
        let set = json!({"keys": [ec, rsa_jwk]});
        let by_curve = |head: Value| {
            let text = unsigned(&head);
            let signature = curve.sign(&random, text.as_bytes()).unwrap();
            format!("{text}.{}", part(signature))
        };
        let by_rsa = |head: Value, scheme: &'static dyn aws_lc_rs::signature::RsaEncoding| {
            let text = unsigned(&head);
            let mut signature = vec![0; rsa.public_modulus_len()];
            rsa.sign(scheme, &random, text.as_bytes(), &mut signature).unwrap();
            format!("{text}.{}", part(signature))
        };
        let good = |token: &str, algorithms: &[&str]| verify_jwt(token, &set, algorithms).is_some();
        let all = &SIGNING_ALGORITHMS[..];
        let es = by_curve(json!({"alg": "ES256", "kid": "e"}));
        assert!(good(&es, all) && !good(&es, &["RS256"]));
        assert!(good(&by_curve(json!({"alg": "ES256"})), all), "without kid every key is tried");
        assert!(good(&by_curve(json!({"alg": "ES256", "kid": ""})), all), "an empty kid is none");
        assert!(!good(&by_curve(json!({"alg": "ES256", "kid": "r"})), all), "the other key's name");
        assert!(good(&by_rsa(json!({"alg": "RS512"}), &RSA_PKCS1_SHA512), all));
        assert!(good(&by_rsa(json!({"alg": "PS256", "kid": "r"}), &RSA_PSS_SHA256), all));
        assert!(!good(&by_rsa(json!({"alg": "RS256"}), &RSA_PSS_SHA256), all), "another scheme");
        assert!(!good(&by_curve(json!({"alg": "ES256", "crit": ["b64"]})), all));
        for alg in ["none", "HS256", "es256", ""] {
            assert!(!good(&format!("{}.", unsigned(&json!({"alg": alg}))), all), "{alg}");
        }
        // HS256 with the public key as the secret: there is no such algorithm here, whoever is allowed to name it.
        let text = unsigned(&json!({"alg": "HS256", "kid": "r"}));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, n.as_bytes());
        let forged = format!("{text}.{}", part(aws_lc_rs::hmac::sign(&key, text.as_bytes())));
        assert!(!good(&forged, all) && !good(&forged, &["HS256"]));
    }
}
