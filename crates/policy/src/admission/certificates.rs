//! CertificateApproval, CertificateSigning: rights over a signer, not only over the request object.
//! CertificateSubjectRestriction: the API makes nobody an administrator by certificate.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::{Status, Value};
use registry::certificate_request::{self, CLIENT_SIGNER};

use super::{AdmissionRequest, Operation, Reader};
use crate::Attributes;

const GROUP: &str = "certificates.k8s.io";

/// May the user `verb` for this signer, by its name or by `domain/*`?
fn may(request: &AdmissionRequest<'_>, verb: &str, signer: &str) -> bool {
    let attributes = Attributes::resource(request.user, verb, GROUP, "signers");
    let wildcard = signer.split_once('/').map_or_else(String::new, |(domain, _)| format!("{domain}/*"));
    (request.may)(&attributes.named(signer)) || !wildcard.is_empty() && (request.may)(&attributes.named(&wildcard))
}

pub(super) fn approval(request: &AdmissionRequest<'_>, _: &dyn Reader) -> Result<(), Status> {
    if request.operation != Operation::Update || !request.is_sub(GROUP, "certificatesigningrequests", "approval") {
        return Ok(());
    }
    let signer = request.old().str_at(&["spec", "signerName"]);
    if may(request, "approve", signer) {
        return Ok(());
    }
    Err(request.forbidden(None, format!("user not permitted to approve requests with signerName {signer:?}")))
}

pub(super) fn signing(request: &AdmissionRequest<'_>, _: &dyn Reader) -> Result<(), Status> {
    if request.operation != Operation::Update || !request.is_sub(GROUP, "certificatesigningrequests", "status") {
        return Ok(());
    }
    let failed = |csr: &Value| {
        csr["status"]["conditions"]
            .items()
            .iter()
            .filter(|c| c.str_at(&["type"]) == "Failed")
            .cloned()
            .collect::<Vec<_>>()
    };
    let (new, old) = (request.object(), request.old());
    if new["status"]["certificate"] == old["status"]["certificate"] && failed(new) == failed(old) {
        return Ok(());
    }
    let signer = old.str_at(&["spec", "signerName"]);
    if may(request, "sign", signer) {
        return Ok(());
    }
    Err(request.forbidden(None, format!("user not permitted to sign requests with signerName {signer:?}")))
}

/// Reads the request of a CertificateSigningRequest.
pub(super) fn parsed(object: &Value) -> Result<certificate_request::CertificateRequest, String> {
    let pem = STANDARD.decode(object.str_at(&["spec", "request"])).unwrap_or_default();
    certificate_request::parse(&pem)
}

pub(super) fn subject_restriction(request: &AdmissionRequest<'_>, _: &dyn Reader) -> Result<(), Status> {
    let object = request.object();
    if request.operation != Operation::Create
        || !request.is(GROUP, "certificatesigningrequests")
        || object.str_at(&["spec", "signerName"]) != CLIENT_SIGNER
    {
        return Ok(());
    }
    let refuse = |why: String| Err(request.forbidden(Some(object), why));
    match parsed(object) {
        Err(why) => refuse(format!("failed to parse CSR: {why}")),
        Ok(asked) if asked.organizations.iter().any(|group| group == crate::user::MASTERS) => {
            refuse(format!("use of {CLIENT_SIGNER} signer with system:masters group is not allowed"))
        }
        Ok(_) => Ok(()),
    }
}
