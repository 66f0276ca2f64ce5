//! Formats by name (`k8s.io/apiserver/pkg/cel/library/format.go`).

use machinery::names::{
    is_dns1035_label, is_dns1123_label, is_dns1123_subdomain, is_qualified_name, is_valid_label_value,
};
use machinery::schema::matches_format;

use super::url::request_uri;
use super::{NO_SUCH_OVERLOAD, Outcome, Row, row, text};
use crate::opaque::Opaque;
use crate::value::Val;

/// A format: what is wrong with a text that should have it.
#[derive(Debug)]
pub struct NamedFormat {
    key: &'static str,
    pub(crate) name: &'static str,
    validate: fn(&str) -> Vec<String>,
    /// How long the expression is thought to be, for what a check costs.
    pub(crate) regex_size: u64,
}

/// One row per format.
static FORMATS: &[NamedFormat] = &[
    NamedFormat { key: "dns1123Label", name: "DNS1123Label", validate: is_dns1123_label, regex_size: 30 },
    NamedFormat { key: "dns1123Subdomain", name: "DNS1123Subdomain", validate: is_dns1123_subdomain, regex_size: 60 },
    NamedFormat { key: "dns1035Label", name: "DNS1035Label", validate: is_dns1035_label, regex_size: 30 },
    NamedFormat { key: "qualifiedName", name: "QualifiedName", validate: is_qualified_name, regex_size: 60 },
    NamedFormat {
        key: "dns1123LabelPrefix",
        name: "DNS1123LabelPrefix",
        validate: |text| is_dns1123_label(&mask_dash(text)),
        regex_size: 30,
    },
    NamedFormat {
        key: "dns1123SubdomainPrefix",
        name: "DNS1123SubdomainPrefix",
        validate: |text| is_dns1123_subdomain(&mask_dash(text)),
        regex_size: 60,
    },
    NamedFormat {
        key: "dns1035LabelPrefix",
        name: "DNS1035LabelPrefix",
        validate: |text| is_dns1035_label(&mask_dash(text)),
        regex_size: 30,
    },
    NamedFormat { key: "labelValue", name: "LabelValue", validate: is_valid_label_value, regex_size: 40 },
    NamedFormat {
        key: "uri",
        name: "URI",
        validate: |text| request_uri(text).err().into_iter().collect(),
        regex_size: 1103,
    },
    NamedFormat {
        key: "uuid",
        name: "uuid",
        validate: |text| known("uuid", text, "does not match the UUID format"),
        regex_size: 71,
    },
    NamedFormat { key: "byte", name: "byte", validate: |text| known("byte", text, "invalid base64"), regex_size: 84 },
    NamedFormat { key: "date", name: "date", validate: |text| known("date", text, "invalid date"), regex_size: 69 },
    NamedFormat {
        key: "datetime",
        name: "datetime",
        validate: |text| known("datetime", text, "invalid datetime"),
        regex_size: 69,
    },
];

pub(super) const ROWS: &[Row] = &[
    row("kubernetes.NamedFormat::validate(string) -> optional(list(string))", "format-validate", validate),
    row("format.named(string) -> optional(kubernetes.NamedFormat)", "format-named", |args| {
        let found = named(text(&args[0])?);
        Ok(found.map_or(Val::Optional(None), Val::some))
    }),
    row("format.dns1123Label() -> kubernetes.NamedFormat", "format.dns1123Label", |_| get("dns1123Label")),
    row("format.dns1123Subdomain() -> kubernetes.NamedFormat", "format.dns1123Subdomain", |_| get("dns1123Subdomain")),
    row("format.dns1035Label() -> kubernetes.NamedFormat", "format.dns1035Label", |_| get("dns1035Label")),
    row("format.qualifiedName() -> kubernetes.NamedFormat", "format.qualifiedName", |_| get("qualifiedName")),
    row("format.dns1123LabelPrefix() -> kubernetes.NamedFormat", "format.dns1123LabelPrefix", |_| {
        get("dns1123LabelPrefix")
    }),
    row("format.dns1123SubdomainPrefix() -> kubernetes.NamedFormat", "format.dns1123SubdomainPrefix", |_| {
        get("dns1123SubdomainPrefix")
    }),
    row("format.dns1035LabelPrefix() -> kubernetes.NamedFormat", "format.dns1035LabelPrefix", |_| {
        get("dns1035LabelPrefix")
    }),
    row("format.labelValue() -> kubernetes.NamedFormat", "format.labelValue", |_| get("labelValue")),
    row("format.uri() -> kubernetes.NamedFormat", "format.uri", |_| get("uri")),
    row("format.uuid() -> kubernetes.NamedFormat", "format.uuid", |_| get("uuid")),
    row("format.byte() -> kubernetes.NamedFormat", "format.byte", |_| get("byte")),
    row("format.date() -> kubernetes.NamedFormat", "format.date", |_| get("date")),
    row("format.datetime() -> kubernetes.NamedFormat", "format.datetime", |_| get("datetime")),
];

/// A prefix may end in a dash, as more follows (`maskTrailingDash`).
fn mask_dash(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => text.to_owned(),
    }
}

fn known(format: &str, text: &str, complaint: &str) -> Vec<String> {
    if matches_format(format, text) { Vec::new() } else { vec![complaint.to_owned()] }
}

fn named<'a>(key: &str) -> Option<Val<'a>> {
    FORMATS.iter().find(|format| format.key == key).map(|format| Val::from_opaque(Opaque::Format(format)))
}

fn get<'a>(key: &str) -> Outcome<'a> {
    named(key).ok_or_else(|| NO_SUCH_OVERLOAD.to_owned())
}

fn validate<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let Val::Opaque(opaque) = &args[0] else { return Err(NO_SUCH_OVERLOAD.to_owned()) };
    let Opaque::Format(format) = &**opaque else { return Err(NO_SUCH_OVERLOAD.to_owned()) };
    let found = (format.validate)(text(&args[1])?);
    Ok(if found.is_empty() { Val::Optional(None) } else { Val::some(Val::from_texts(found)) })
}
