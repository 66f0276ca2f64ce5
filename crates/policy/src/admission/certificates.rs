//! CertificateApproval and CertificateSigning: rights over a signer, not only over the request object.

use machinery::{Status, Value};

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
