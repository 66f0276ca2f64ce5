//! Config maps, secrets and service accounts.

use machinery::{FieldError, FieldPath, Value, names};

use crate::strategy::{Strategy, text};
use crate::validation::{At, Errors, same};

/// Values of a config map or secret together.
const DATA_BYTES_MAX: usize = 1024 * 1024;

pub(crate) static CONFIG_MAP: Strategy = Strategy {
    validate: |at, _, errors| config_map(at, errors),
    validate_update: Some(|new, old, _, errors| {
        frozen(new, old, &["data", "binaryData"], errors);
        config_map(new, errors);
    }),
    ..Strategy::PLAIN
};

pub(crate) static SECRET: Strategy = Strategy {
    selectable: &[text("type")],
    prepare_create: |secret, _| string_data(secret),
    prepare_update: |new, old, _| {
        string_data(new);
        if new.str_at(&["type"]).is_empty() {
            new.set("type", old["type"].clone());
        }
    },
    validate: |at, _, errors| secret(at, errors),
    validate_update: Some(|new, old, _, errors| {
        errors.immutable(&new.field("type"), &old.field("type"));
        frozen(new, old, &["data"], errors);
        secret(new, errors);
    }),
    ..Strategy::PLAIN
};

/// `stringData` is a convenience of writing: it overwrites `data` and is never stored.
fn string_data(secret: &mut Value) {
    let Some(texts) = secret.remove("stringData") else { return };
    for (key, value) in texts.members() {
        *secret.at_mut(&["data", key]) = super::base64(value.as_str().unwrap_or_default().as_bytes()).into();
    }
}

fn frozen(new: &At<'_>, old: &At<'_>, members: &[&str], errors: &mut Errors) {
    const TEXT: &str = "field is immutable when `immutable` is set";
    if !old.field("immutable").truth() {
        return;
    }
    if !new.field("immutable").truth() {
        errors.forbidden(&new.field("immutable"), TEXT);
    }
    for member in members.iter().filter(|m| !same(new.field(m).value, old.field(m).value)) {
        errors.forbidden(&new.field(member), TEXT);
    }
}

fn config_map(at: &At<'_>, errors: &mut Errors) {
    let (data, binary) = (at.field("data"), at.field("binaryData"));
    let mut bytes = 0;
    for (key, value) in data.entries() {
        let at_key = value.path.clone();
        key_rules(key, &at_key, errors);
        if binary.field(key).is_set() {
            errors.push(FieldError::invalid(&at_key, &key.into(), "duplicate of key present in binaryData"));
        }
        bytes += value.text().len();
    }
    for (key, value) in binary.entries() {
        key_rules(key, &value.path, errors);
        bytes += decoded_len(value.text());
    }
    if bytes > DATA_BYTES_MAX {
        errors.push(FieldError::too_long(&FieldPath::new("[]"), DATA_BYTES_MAX));
    }
}

fn key_rules(key: &str, path: &FieldPath, errors: &mut Errors) {
    for complaint in names::is_config_map_key(key) {
        errors.push(FieldError::invalid(path, &key.into(), complaint));
    }
}

fn decoded_len(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}

fn secret(at: &At<'_>, errors: &mut Errors) {
    let data = at.field("data");
    let mut bytes = 0;
    for (key, value) in data.entries() {
        key_rules(key, &value.path, errors);
        bytes += decoded_len(value.text());
    }
    if bytes > DATA_BYTES_MAX {
        errors.push(FieldError::too_long(&data.path, DATA_BYTES_MAX));
    }
    let required = |key: &str, errors: &mut Errors| {
        if !data.value.as_object().is_some_and(|o| o.contains_key(key)) {
            errors.push(FieldError::required(&data.path.key(key), ""));
        }
    };
    match at.field("type").text() {
        "kubernetes.io/service-account-token" => {
            let annotations = at.at(&["metadata", "annotations"]);
            if annotations.field("kubernetes.io/service-account.name").is_empty() {
                errors.push(FieldError::required(&annotations.path.key("kubernetes.io/service-account.name"), ""));
            }
        }
        "kubernetes.io/dockercfg" => json_data(&data, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => json_data(&data, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth" if !["username", "password"].iter().any(|k| data.field(k).is_set()) => {
            required("username", errors);
            required("password", errors);
        }
        "kubernetes.io/ssh-auth" if data.field("ssh-privatekey").is_empty() => {
            errors.push(FieldError::required(&data.path.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => {
            required("tls.crt", errors);
            required("tls.key", errors);
        }
        _ => {}
    }
}

fn json_data(data: &At<'_>, key: &str, errors: &mut Errors) {
    let path = data.path.key(key);
    let value = data.field(key);
    if !value.is_set() {
        errors.push(FieldError::required(&path, ""));
        return;
    }
    let bytes = super::from_base64(value.text()).unwrap_or_default();
    let complaint = match Value::from_slice(&bytes) {
        Ok(Value::Object(_)) => return,
        Ok(other) => {
            format!("json: cannot unmarshal {} into Go value of type map[string]interface {{}}", other.type_name())
        }
        Err(_) if bytes.is_empty() => "unexpected end of JSON input".to_owned(),
        Err(_) => {
            let first = bytes.first().map_or('?', |b| char::from(*b));
            format!("invalid character '{first}' looking for beginning of value")
        }
    };
    errors.push(FieldError::invalid(&path, &"<secret contents redacted>".into(), complaint));
}
