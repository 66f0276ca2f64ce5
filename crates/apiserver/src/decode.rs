//! From a request's body to an object of the row's kind.

use machinery::{FieldError, FieldPath, GroupVersionKind, Status, Value, meta, protobuf, schema};
use registry::{Resource, SchemaRef};

use crate::info::FieldValidation;
use crate::message::Body;
use crate::server::{Call, Inner};

/// Media types an object may come in.
const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// What is said of a body that lacks the magic number of protobuf.
pub(crate) const NO_PROTOBUF: &str =
    "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]";

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

/// A body that was read: the tree, what was wrong with it so far, and its text where that is JSON.
pub(crate) struct Parsed<'a> {
    pub(crate) value: &'a mut Value,
    pub(crate) found: Vec<String>,
    pub(crate) json: Option<&'a [u8]>,
}

/// The media type without its parameters.
pub(crate) fn media_type(header: &str) -> String {
    header.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(crate) fn media_of(header: &str) -> Result<Media, Status> {
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
        let (mut value, twice) = self.read(&expected, v != FieldValidation::Ignore)?;
        let warnings = self
            .server
            .shape(row, &expected, self.parsed(&mut value, twice), v)
            .map_err(|e| unreadable(&expected, &e))?;
        Ok((value, warnings))
    }

    /// The body as an object of a facts type.
    pub(crate) fn object_as(
        &self,
        expected: &Expected<'_>,
        v: FieldValidation,
    ) -> Result<(Value, Vec<String>), Status> {
        let (mut value, twice) = self.read(expected, v != FieldValidation::Ignore)?;
        let parsed = self.parsed(&mut value, twice);
        let warnings = self.server.normalize(expected, parsed, v).map_err(|e| unreadable(expected, &e))?;
        Ok((value, warnings))
    }

    /// Typed JSON is complained about in the order in which it is read; YAML is searched for what stands twice first.
    fn parsed<'p>(&'p self, value: &'p mut Value, found: Vec<String>) -> Parsed<'p> {
        let json = match &self.body {
            Body::Bytes(bytes) if media_of(self.content_type()).ok() == Some(Media::Json) => Some(&**bytes),
            _ => None,
        };
        Parsed { value, found, json }
    }

    /// Reads the body in whatever form it came, checking apiVersion and kind; the members that stand twice, as far as they
    /// are asked for.
    fn read(&self, expected: &Expected<'_>, twice: bool) -> Result<(Value, Vec<String>), Status> {
        let mut found = Vec::new();
        let value = self.parse(expected, twice.then_some(&mut found))?;
        Ok((value, found))
    }

    fn parse(&self, expected: &Expected<'_>, twice: Option<&mut Vec<String>>) -> Result<Value, Status> {
        let check_kind = |tree| self.server.check_kind(tree, expected);
        let bytes = match &self.body {
            Body::Tree(tree) => return check_kind(tree.clone()),
            Body::Bytes(bytes) => bytes.clone(),
            Body::Empty => bytes::Bytes::new(),
        };
        match media_of(self.content_type())? {
            Media::Json => {
                let refused = |e| no_json(expected, &bytes, &json_error(&bytes, &e));
                let tree = match twice {
                    Some(twice) => {
                        let (tree, found) = Value::from_slice_checked(&bytes).map_err(refused)?;
                        *twice = found;
                        tree
                    }
                    None => Value::from_slice(&bytes).map_err(refused)?,
                };
                if tree.as_object().is_none() && !tree.is_null() {
                    return Err(no_json(expected, &bytes, &not_of_kind(&tree)));
                }
                if expected.type_name.is_empty() && tree.str_at(&["kind"]).is_empty() {
                    let why = format!("Object 'Kind' is missing in '{}'", String::from_utf8_lossy(&bytes));
                    return Err(unrecognized(expected, &bytes, &why));
                }
                check_kind(tree)
            }
            Media::Yaml => {
                let tree = machinery::yaml::to_value(&bytes)
                    .map_err(|e| unreadable(expected, &format!("error converting YAML to JSON: {e}")))?;
                check_kind(tree)
            }
            Media::Protobuf => {
                if !bytes.starts_with(protobuf::MAGIC) {
                    return Err(unrecognized(expected, &bytes, NO_PROTOBUF));
                }
                let unknown = protobuf::unwrap_unknown(&bytes).map_err(|e| unreadable(expected, &e))?;
                if unknown.content_type == "application/json" || expected.type_name.is_empty() {
                    if expected.type_name.is_empty() && unknown.content_type != "application/json" {
                        return Err(Status::unsupported_media_type(
                            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/apply-patch+yaml",
                        ));
                    }
                    let tree = Value::from_slice(unknown.raw).map_err(|e| unreadable(expected, &e.to_string()))?;
                    return check_kind(tree);
                }
                if !unknown.kind.is_empty() {
                    let got = GroupVersionKind::of(&unknown.api_version, &unknown.kind);
                    if got != *expected.gvk {
                        return Err(self.server.wrong_kind(&got, "", expected));
                    }
                }
                let tree = protobuf::decode_object(&self.server.types, expected.type_name, &unknown)
                    .map_err(|e| unreadable(expected, &e))?;
                check_kind(tree)
            }
        }
    }
}

impl Inner {
    /// Brings a tree into the form of its kind; unknown fields, and what was `found` while parsing, are errors, warnings
    /// or nothing.
    pub(crate) fn shape(
        &self,
        row: &Resource,
        expected: &Expected<'_>,
        Parsed { value, mut found, json }: Parsed<'_>,
        v: FieldValidation,
    ) -> Result<Vec<String>, String> {
        match &row.schema {
            SchemaRef::Builtin(_) => self.normalize(expected, Parsed { value, found, json }, v),
            SchemaRef::Structural(schema) => {
                if let Some(metadata) = value.get_mut("metadata").filter(|m| !m.is_null()) {
                    let decoded = schema::decode(&self.types, "meta/v1.ObjectMeta", metadata)?;
                    let at = |error: String| error.replacen("field \"", "field \"metadata.", 1);
                    found.extend(decoded.strict.into_iter().map(at));
                }
                found.extend(crate::custom::prune_and_default(schema, value));
                strict(found, v)
            }
        }
    }

    /// As [`Inner::shape`] for a facts type.
    pub(crate) fn normalize(
        &self,
        expected: &Expected<'_>,
        Parsed { value, mut found, json }: Parsed<'_>,
        v: FieldValidation,
    ) -> Result<Vec<String>, String> {
        let decoded = schema::decode(&self.types, expected.type_name, value)?;
        value.set("apiVersion", expected.gvk.api_version());
        value.set("kind", expected.gvk.kind.as_str());
        let twice = !found.is_empty();
        found.extend(decoded.strict);
        if let Some(json) = json.filter(|_| twice) {
            Value::sort_complaints(json, &mut found);
        }
        strict(found, v)
    }

    fn check_kind(&self, mut tree: Value, expected: &Expected<'_>) -> Result<Value, Status> {
        if tree.is_null() && !expected.type_name.is_empty() {
            tree = Value::object();
        }
        if tree.as_object().is_none() {
            let what = if tree.is_null() { "null" } else { tree.type_name() };
            let why = format!("json: cannot unmarshal {what} into Go value of type map[string]interface {{}}");
            return Err(unreadable(expected, &why));
        }
        let given = (tree.str_at(&["apiVersion"]), tree.str_at(&["kind"]));
        if given != ("", "") {
            let api_version = if given.0.is_empty() { expected.gvk.api_version() } else { given.0.to_owned() };
            let kind = if given.1.is_empty() { expected.gvk.kind.as_str() } else { given.1 };
            let got = GroupVersionKind::of(&api_version, kind);
            if got != *expected.gvk {
                return Err(self.wrong_kind(&got, meta::name(&tree), expected));
            }
        }
        if tree["metadata"].as_object().is_none() && !tree["metadata"].is_null() {
            let (what, kind) = (tree["metadata"].type_name(), &expected.gvk.kind);
            let of = if expected.type_name.is_empty() {
                "Go value".to_owned()
            } else {
                format!("Go struct field {kind}.metadata")
            };
            return Err(unreadable(
                expected,
                &format!("json: cannot unmarshal {what} into {of} of type v1.ObjectMeta"),
            ));
        }
        tree.set("apiVersion", expected.gvk.api_version());
        tree.set("kind", expected.gvk.kind.as_str());
        Ok(tree)
    }

    /// Does the scheme of built-in kinds know it?
    fn is_registered(&self, gvk: &GroupVersionKind) -> bool {
        let registry = self.registry.load();
        registry
            .rows_of(&gvk.group, &gvk.version)
            .any(|row| row.custom.is_none() && (row.gvk.kind == gvk.kind || row.list_kind() == gvk.kind.as_str()))
    }

    /// What a body of another kind is told. Custom resources are not converted: any kind of their version is read, and
    /// refused as a value of the field.
    fn wrong_kind(&self, got: &GroupVersionKind, name: &str, expected: &Expected<'_>) -> Status {
        let want = expected.gvk;
        let (kind, version) = (&got.kind, &got.version);
        let refused = |why: String| {
            Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {}: {why}", want.kind))
        };
        let custom = expected.type_name.is_empty();
        if custom && got.api_version() == want.api_version() {
            let error =
                FieldError::invalid(&FieldPath::new("kind"), &kind.as_str().into(), format!("must be {}", want.kind));
            return Status::invalid(&want.group, kind, name, &vec![error]);
        }
        if !custom && (!self.is_registered(got) || got.group == want.group) {
            return refused(self.why_not(got, want));
        }
        Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            got.api_version(),
            want.api_version()
        ))
    }

    /// Why one kind is not read as another.
    pub(crate) fn why_not(&self, got: &GroupVersionKind, want: &GroupVersionKind) -> String {
        let (kind, api_version) = (got.kind.as_str(), got.api_version());
        if !self.is_registered(got) || (got.group == want.group && got.version != want.version) {
            return format!(
                "no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/runtime/scheme.go:110\""
            );
        }
        let internal = want.group.split('.').next().filter(|g| !g.is_empty()).unwrap_or("core");
        format!("converting ({}.{kind}) to ({internal}.{}): unknown conversion", got.version, want.kind)
    }
}

fn strict(errors: Vec<String>, v: FieldValidation) -> Result<Vec<String>, String> {
    if errors.is_empty() || v == FieldValidation::Ignore {
        return Ok(Vec::new());
    }
    if v == FieldValidation::Warn {
        return Ok(errors);
    }
    Err(format!("strict decoding error: {}", errors.join(", ")))
}

fn unreadable(expected: &Expected<'_>, why: &str) -> Status {
    let GroupVersionKind { kind, version, .. } = expected.gvk;
    Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
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
        "the object provided is unrecognized (must be of type {}): {why} ({shown})",
        expected.gvk.kind
    ))
}

/// What Go says of JSON that has no kind, as it is no object.
pub(crate) fn not_of_kind(tree: &Value) -> String {
    format!(
        "json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
        go_word(tree)
    )
}

/// What Go calls a JSON value.
pub(crate) fn go_word(value: &Value) -> &'static str {
    match value.type_name() {
        "integer" => "number",
        "boolean" => "bool",
        other => other,
    }
}

fn no_json(expected: &Expected<'_>, bytes: &[u8], why: &str) -> Status {
    unrecognized(expected, bytes, &format!("couldn't get version/kind; json parse error: {why}"))
}

/// Go's words for the two mistakes people make.
pub(crate) fn json_error(bytes: &[u8], error: &machinery::serde_json::Error) -> String {
    if bytes.is_empty() || error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    error.to_string()
}
