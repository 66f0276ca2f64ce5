//! From a request's body to an object of the row's kind.

use machinery::{GroupVersionKind, Status, Value, protobuf, schema};
use registry::{Resource, SchemaRef};

use crate::info::FieldValidation;
use crate::message::Body;
use crate::server::{Call, Inner};

/// Media types an object may come in.
const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// How a body is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Media {
    Json,
    Yaml,
    Protobuf,
}

/// What the body should hold.
pub(crate) struct Expected<'a> {
    pub(crate) gvk: &'a GroupVersionKind,
    /// The facts type; empty for custom resources.
    pub(crate) type_name: &'a str,
}

/// The media type without its parameters.
pub(crate) fn media_type(header: &str) -> String {
    header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn media_of(header: &str) -> Result<Media, Status> {
    match media_type(header).as_str() {
        "" | "application/json" | "*/*" => Ok(Media::Json),
        "application/yaml" => Ok(Media::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Media::Protobuf),
        _ => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: {ACCEPTED}"
        ))),
    }
}

impl Call<'_> {
    pub(crate) fn content_type(&self) -> &str {
        self.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// The body as an object of the row's kind, in Go's printed form; texts for `Warning` headers.
    pub(crate) fn object_of(&self, row: &Resource, v: FieldValidation) -> Result<(Value, Vec<String>), Status> {
        let expected = Expected { gvk: &row.gvk, type_name: row.type_name() };
        let mut value = self.tree(&expected)?;
        let warnings = self.server.shape(row, &expected, &mut value, v)?;
        Ok((value, warnings))
    }

    /// The body as an object of a facts type.
    pub(crate) fn object_as(
        &self,
        expected: &Expected<'_>,
        v: FieldValidation,
    ) -> Result<(Value, Vec<String>), Status> {
        let mut value = self.tree(expected)?;
        let warnings = self.server.normalize(expected, &mut value, v)?;
        Ok((value, warnings))
    }

    /// Reads the body in whatever form it came, checking apiVersion and kind.
    pub(crate) fn tree(&self, expected: &Expected<'_>) -> Result<Value, Status> {
        let bytes = match &self.body {
            Body::Tree(tree) => return check_kind(tree.clone(), expected),
            Body::Bytes(bytes) => bytes.clone(),
            Body::Empty => bytes::Bytes::new(),
        };
        match media_of(self.content_type())? {
            Media::Json => {
                let tree =
                    Value::from_slice(&bytes).map_err(|e| unrecognized(expected, &bytes, &json_error(&bytes, &e)))?;
                if tree.as_object().is_none() && !tree.is_null() {
                    let why = format!(
                        "json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
                        tree.type_name()
                    );
                    return Err(unrecognized(expected, &bytes, &why));
                }
                check_kind(tree, expected)
            }
            Media::Yaml => {
                let tree = machinery::yaml::to_value(&bytes)
                    .map_err(|e| unreadable(expected, &format!("error converting YAML to JSON: {e}")))?;
                check_kind(tree, expected)
            }
            Media::Protobuf => {
                let unknown = protobuf::unwrap_unknown(&bytes).map_err(|e| unreadable(expected, &e))?;
                if unknown.content_type == "application/json" || expected.type_name.is_empty() {
                    if expected.type_name.is_empty() && unknown.content_type != "application/json" {
                        return Err(Status::unsupported_media_type(
                            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/apply-patch+yaml",
                        ));
                    }
                    let tree = Value::from_slice(unknown.raw).map_err(|e| unreadable(expected, &e.to_string()))?;
                    return check_kind(tree, expected);
                }
                if !unknown.kind.is_empty() {
                    let got = GroupVersionKind::of(&unknown.api_version, &unknown.kind);
                    if got != *expected.gvk {
                        return Err(wrong_kind(&got, expected));
                    }
                }
                let tree = protobuf::decode_object(&self.server.types, expected.type_name, &unknown)
                    .map_err(|e| unreadable(expected, &e))?;
                check_kind(tree, expected)
            }
        }
    }
}

impl Inner {
    /// Brings a tree into the form of its kind; unknown fields are errors, warnings or nothing.
    pub(crate) fn shape(
        &self,
        row: &Resource,
        expected: &Expected<'_>,
        value: &mut Value,
        v: FieldValidation,
    ) -> Result<Vec<String>, Status> {
        match &row.schema {
            SchemaRef::Builtin(_) => self.normalize(expected, value, v),
            SchemaRef::Structural(schema) => {
                let unknown = crate::custom::prune_and_default(schema, value);
                strict(expected, unknown, v)
            }
        }
    }

    /// As [`Inner::shape`] for a facts type.
    pub(crate) fn normalize(
        &self,
        expected: &Expected<'_>,
        value: &mut Value,
        v: FieldValidation,
    ) -> Result<Vec<String>, Status> {
        let decoded = schema::decode(&self.types, expected.type_name, value).map_err(|e| unreadable(expected, &e))?;
        value.set("apiVersion", expected.gvk.api_version());
        value.set("kind", expected.gvk.kind.as_str());
        strict(expected, decoded.strict, v)
    }
}

fn strict(expected: &Expected<'_>, errors: Vec<String>, v: FieldValidation) -> Result<Vec<String>, Status> {
    if errors.is_empty() || v == FieldValidation::Ignore {
        return Ok(Vec::new());
    }
    if v == FieldValidation::Warn {
        return Ok(errors);
    }
    Err(unreadable(expected, &format!("strict decoding error: {}", errors.join(", "))))
}

fn unreadable(expected: &Expected<'_>, why: &str) -> Status {
    let GroupVersionKind { kind, version, .. } = expected.gvk;
    Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
}

fn wrong_kind(got: &GroupVersionKind, expected: &Expected<'_>) -> Status {
    let want = expected.gvk;
    let (kind, version) = (&got.kind, &got.version);
    let refused = |why: String| {
        Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {}: {why}", want.kind))
    };
    if got.group != want.group {
        return Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            got.api_version(),
            want.api_version()
        ));
    }
    if got.version != want.version {
        let version = got.api_version();
        return refused(format!(
            "no kind {:?} is registered for version {version:?} in scheme \"pkg/runtime/scheme.go:110\"",
            kind.as_str()
        ));
    }
    let internal = want.group.split('.').next().filter(|g| !g.is_empty()).unwrap_or("core");
    refused(format!("converting ({version}.{kind}) to ({internal}.{}): unknown conversion", want.kind))
}

/// What is not even JSON, with its first bytes (`runtime.NewNotRegistered…`, `summarizeData`).
fn unrecognized(expected: &Expected<'_>, bytes: &[u8], why: &str) -> Status {
    const SHOWN_MAX: usize = 30;
    let cut = &bytes[..bytes.len().min(SHOWN_MAX)];
    let mut shown = match bytes.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(cut).into_owned(),
        Some(_) => cut.iter().map(|b| format!("{b:02x}")).collect(),
    };
    if bytes.len() > SHOWN_MAX {
        shown.push_str(" ...");
    }
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {why} ({shown})",
        expected.gvk.kind
    ))
}

/// Go's words for the two mistakes people make.
fn json_error(bytes: &[u8], error: &machinery::serde_json::Error) -> String {
    if bytes.is_empty() || error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    error.to_string()
}

fn check_kind(mut tree: Value, expected: &Expected<'_>) -> Result<Value, Status> {
    if tree.as_object().is_none() {
        return Err(unreadable(
            expected,
            &format!(
                "json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
                if tree.is_null() { "null" } else { tree.type_name() }
            ),
        ));
    }
    let given = (tree.str_at(&["apiVersion"]), tree.str_at(&["kind"]));
    if given != ("", "") {
        let api_version = if given.0.is_empty() { expected.gvk.api_version() } else { given.0.to_owned() };
        let kind = if given.1.is_empty() { expected.gvk.kind.as_str() } else { given.1 };
        let got = GroupVersionKind::of(&api_version, kind);
        if got != *expected.gvk {
            return Err(wrong_kind(&got, expected));
        }
    }
    if tree["metadata"].as_object().is_none() && !tree["metadata"].is_null() {
        let what = tree["metadata"].type_name();
        return Err(unreadable(
            expected,
            &format!(
                "json: cannot unmarshal {what} into Go struct field {}.metadata of type v1.ObjectMeta",
                expected.gvk.kind
            ),
        ));
    }
    tree.set("apiVersion", expected.gvk.api_version());
    tree.set("kind", expected.gvk.kind.as_str());
    Ok(tree)
}
