//! CertificateSigningRequests: the spec is the requester's, approval and certificate come by subresources.

use machinery::{Value, names};

use crate::certificate_request;
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
const FAILED: &str = "Failed";

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
        if !cx.extra.is_empty() {
            let lists = cx.extra.iter().map(|(key, values)| (key.clone(), Value::from(values.clone())));
            spec.set("extra", lists.collect::<Value>());
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
    validate_subresource: |new, old, cx, errors| changes(new, old, cx.subresource, errors),
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
        // As many as before are those of before; another number is refused later.
        for kind in [APPROVED, DENIED] {
            let (kept, given) = (of_kind(old, kind), of_kind(new, kind));
            if given.items().len() == kept.items().len() {
                let mut kept = kept.items().iter();
                let conditions = new.at_mut(&["status"]).get_mut("conditions").and_then(Value::as_array_mut);
                for condition in conditions.into_iter().flatten().filter(|c| c.str_at(&["type"]) == kind) {
                    if let Some(before) = kept.next() {
                        *condition = before.clone();
                    }
                }
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

/// What an update of approval or status may change (`ValidateCertificateSigningRequest*Update`).
fn changes(new: &At<'_>, old: &At<'_>, subresource: Subresource, errors: &mut Errors) {
    conditions(&new.at(&["status", "conditions"]), &old.at(&["status", "conditions"]), errors);
    let at = new.at(&["status", "certificate"]);
    let (certificate, before) = (at.text(), old.at(&["status", "certificate"]));
    let replaced = certificate != before.text();
    if replaced && let Err(why) = issued(certificate) {
        errors.invalid_as(&at, "\"<certificate data>\"".to_owned(), why);
    }
    let list = new.at(&["status", "conditions"]);
    let lists = |kind: &str| (of_kind(new.value, kind), of_kind(old.value, kind));
    let lengths = |kind: &str| {
        let (now, then) = lists(kind);
        (now.items().len(), then.items().len())
    };
    for kind in [APPROVED, DENIED, FAILED] {
        let (now, then) = lengths(kind);
        if now < then {
            errors.forbidden(&list, format!("updates may not remove a condition of type {kind:?}"));
        }
    }
    if subresource != Subresource::Approval {
        for kind in [APPROVED, DENIED] {
            let ((now, then), (new, old)) = (lengths(kind), lists(kind));
            if now > then {
                errors.forbidden(&list, format!("updates may not add a condition of type {kind:?}"));
            } else if now == then && !same(&new, &old) {
                errors.forbidden(&list, format!("updates may not modify a condition of type {kind:?}"));
            }
        }
    }
    if replaced && subresource != Subresource::Status {
        errors.forbidden(&at, "updates may not set certificate content");
    } else if replaced && !before.is_empty() {
        errors.forbidden(&at, "updates may not modify existing certificate content");
    }
}

/// A certificate chain in PEM, as `status.certificate` may hold it.
fn issued(base64: &str) -> Result<(), String> {
    let Some(pem) = super::from_base64(base64) else { return Ok(()) };
    if pem.is_empty() { Ok(()) } else { certificate_request::check_chain(&pem) }
}

fn conditions(at: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    let both =
        |list: &Value| [APPROVED, DENIED].iter().all(|kind| list.items().iter().any(|c| c.str_at(&["type"]) == *kind));
    let tolerated = both(old.value);
    let mut seen: Vec<&str> = Vec::new();
    for condition in at.items() {
        let (kind, status) = (condition.field("type"), condition.field("status"));
        if kind.is_empty() {
            errors.required(&kind, "");
        }
        match (kind.text(), status.text()) {
            (_, "") => errors.required(&status, ""),
            (APPROVED | DENIED | FAILED, "True") => {}
            (APPROVED | DENIED | FAILED, _) => errors.not_supported(&status, &["True"]),
            (_, "True" | "False" | "Unknown") => {}
            _ => errors.not_supported(&status, &["False", "True", "Unknown"]),
        }
        let other = if kind.text() == APPROVED { DENIED } else { APPROVED };
        if !tolerated && matches!(kind.text(), APPROVED | DENIED) && seen.contains(&other) {
            errors.invalid(&kind, "Approved and Denied conditions are mutually exclusive");
        }
        if seen.contains(&kind.text()) {
            errors.duplicate(&kind);
        }
        seen.push(kind.text());
    }
}

fn request(at: &At<'_>, errors: &mut Errors) {
    let spec = at.field("spec");
    let pem = super::from_base64(spec.field("request").text()).unwrap_or_default();
    if let Err(why) = certificate_request::verify(&pem) {
        errors.invalid_as(&spec.field("request"), go::bytes(&pem), why);
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
    let segments: Vec<&str> = at.text().split('/').collect();
    let [domain, path] = segments[..] else {
        errors.invalid(at, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
        return;
    };
    // The first label that is wrong is enough.
    let labels = |errors: &mut Errors, segment: &str, complain: fn(&str) -> Vec<String>| {
        let wrong = segment.split('.').map(|label| (label, complain(label))).find(|(_, errors)| !errors.is_empty());
        for (label, why) in wrong.into_iter().flat_map(|(label, all)| all.into_iter().map(move |why| (label, why))) {
            errors.invalid_value(at, segment, format!("validating label {label:?}: {why}"));
        }
    };
    labels(errors, domain, names::is_dns1123_label);
    if domain.split('.').count() < 2 {
        errors.invalid_value(at, domain, "should be a domain with at least two segments separated by dots");
    }
    labels(errors, path, names::is_dns1123_subdomain);
}
