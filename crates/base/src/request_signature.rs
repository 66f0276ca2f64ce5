//! The self-signature of a signing request, taken from keys as short as Go takes them.

use aws_lc_rs::signature::{
    RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY, UnparsedPublicKey,
};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::error::X509Error;
use x509_parser::oid_registry::{OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA512WITHRSA};

/// Is the request signed by the key it is for? RSA keys count from 1024 bits up, as in Go's `crypto/rsa` (x509-parser: from
/// 2048); with SHA-384 from 2048, as aws-lc-rs has no other.
///
/// # Errors
/// When it is not, or nobody here knows the algorithm.
pub fn verify(request: &X509CertificationRequest<'_>) -> Result<(), X509Error> {
    let oid = &request.signature_algorithm.algorithm;
    let algorithm = if *oid == OID_PKCS1_SHA256WITHRSA {
        &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY
    } else if *oid == OID_PKCS1_SHA512WITHRSA {
        &RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY
    } else {
        return request.verify_signature();
    };
    let asked = &request.certification_request_info;
    UnparsedPublicKey::new(algorithm, &asked.subject_pki.subject_public_key.data)
        .verify(asked.raw, &request.signature_value.data)
        .map_err(|_| X509Error::SignatureVerificationError)
}
