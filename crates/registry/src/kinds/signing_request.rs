//! CertificateSigningRequests: the spec is the requester's, approval and certificate come by subresources.

use machinery::{FieldError, Value, names};

use crate::context::{Context, Subresource};
use crate::strategy::{Strategy, text};
use crate::validation::{At, Errors, go, same};

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";

pub(crate) static STRATEGY: Strategy = Strategy {
    name: crate::names::any,
    selectable: &[text("spec.signerName")],
    prepare_create: |request, cx| {
        let spec = request.at_mut(&["spec"]);
        for member in ["username", "uid", "groups", "extra"] {
            spec.remove(member);
        }
        spec.set("username", cx.user.as_str());
        if !cx.user_uid.is_empty() {
            spec.set("uid", cx.user_uid.as_str());
        }
        if !cx.groups.is_empty() {
            spec.set("groups", cx.groups.clone());
        }
    },
    prepare_update: |new, old, _| {
        if let Some(spec) = old.get("spec") {
            new.set("spec", spec.clone());
        }
    },
    prepare_subresource,
    validate: |at, _, errors| request(at, errors),
    validate_update: Some(|_, _, _, _| {}),
    validate_subresource: |new, old, cx, errors| {
        if cx.subresource == Subresource::Status {
            for kind in [APPROVED, DENIED] {
                if !same(&of_kind(new.value, kind), &of_kind(old.value, kind)) {
                    let at = new.at(&["status", "conditions"]);
                    errors.forbidden(&at, format!("updates may not modify a condition of type {kind:?}"));
                }
            }
        }
        conditions(&new.at(&["status", "conditions"]), errors);
    },
    ..Strategy::PLAIN
};

fn of_kind(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].items().iter();
    all.filter(|c| c.str_at(&["type"]) == kind).cloned().collect()
}

fn prepare_subresource(new: &mut Value, old: &Value, cx: &Context) {
    if let Some(spec) = old.get("spec") {
        new.set("spec", spec.clone());
    }
    if cx.subresource == Subresource::Approval {
        let conditions = new["status"]["conditions"].clone();
        let mut status = old.get("status").cloned().unwrap_or_else(Value::object);
        if conditions.is_null() {
            status.remove("conditions");
        } else {
            status.set("conditions", conditions);
        }
        new.set("status", status);
    } else {
        // Approval stands: a status write that leaves it out gets it back.
        for kind in [APPROVED, DENIED] {
            let (kept, given) = (of_kind(old, kind), of_kind(new, kind));
            if given.items().is_empty() && !kept.items().is_empty() {
                let list = new.at_mut(&["status", "conditions"]);
                let mut all = kept.items().to_vec();
                all.extend(list.items().iter().cloned());
                *list = Value::Array(all);
            }
        }
    }
    let now = cx.now.rfc3339();
    for condition in new.at_mut(&["status"]).get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        if condition["lastUpdateTime"].is_null() {
            condition.set("lastUpdateTime", now.as_str());
        }
        if condition["lastTransitionTime"].is_null() {
            let kind = condition.str_at(&["type"]).to_owned();
            let before = of_kind(old, &kind);
            let unchanged = before[0].str_at(&["status"]) == condition.str_at(&["status"]);
            let since = if unchanged { before[0]["lastTransitionTime"].clone() } else { now.as_str().into() };
            condition.set("lastTransitionTime", since);
        }
    }
}

fn conditions(at: &At<'_>, errors: &mut Errors) {
    let has = |kind: &str| at.items().iter().any(|c| c.field("type").text() == kind);
    for condition in at.items() {
        let (kind, status) = (condition.field("type"), condition.field("status"));
        if kind.is_empty() {
            errors.required(&kind, "");
        }
        match (kind.text(), status.text()) {
            (_, "") => errors.required(&status, ""),
            ("Approved" | "Denied" | "Failed", "True") => {}
            ("Approved" | "Denied" | "Failed", _) => errors.not_supported(&status, &["True"]),
            (_, "True" | "False" | "Unknown") => {}
            _ => errors.not_supported(&status, &["False", "True", "Unknown"]),
        }
    }
    if has(APPROVED) && has(DENIED) {
        errors.push(FieldError::invalid(
            &at.path,
            &DENIED.into(),
            "Approved and Denied conditions are mutually exclusive",
        ));
    }
}

fn request(at: &At<'_>, errors: &mut Errors) {
    let spec = at.field("spec");
    let pem = super::from_base64(spec.field("request").text()).unwrap_or_default();
    if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE REQUEST-----") {
        errors.invalid_as(&spec.field("request"), go::bytes(&pem), "PEM block type must be CERTIFICATE REQUEST");
    }
    let usages = spec.field("usages");
    if usages.is_empty() {
        errors.required(&usages, "");
    }
    for (i, usage) in usages.items().iter().enumerate() {
        if !USAGES.contains(&usage.text()) {
            errors.not_supported(usage, &USAGES);
        }
        if usages.items()[..i].iter().any(|u| u.text() == usage.text()) {
            errors.duplicate(usage);
        }
    }
    let signer = spec.field("signerName");
    if signer.text() == "kubernetes.io/legacy-unknown" {
        errors.invalid(&signer, "the legacy signerName is not allowed via this API version");
    } else {
        signer_name(&signer, errors);
    }
    let seconds = spec.field("expirationSeconds");
    if seconds.int().is_some_and(|s| s < 600) {
        errors.invalid(&seconds, "may not specify a duration less than 600 seconds (10 minutes)");
    }
}

fn signer_name(at: &At<'_>, errors: &mut Errors) {
    if at.is_empty() {
        errors.required(at, "");
        return;
    }
    let Some((domain, path)) = at.text().split_once('/') else {
        errors.invalid(at, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
        return;
    };
    let complaints = names::is_dns1123_subdomain(domain);
    if domain.split('.').count() < 2 {
        errors.invalid(at, "should be a domain with at least two segments separated by dots");
    }
    errors.all_invalid(at, complaints);
    errors.all_invalid(at, names::is_dns1123_subdomain(path));
}
