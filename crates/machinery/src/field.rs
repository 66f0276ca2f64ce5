//! Validation errors that name the field at fault, in the words of `k8s.io/apimachinery/pkg/util/validation/field`.

use std::fmt;

use crate::Value;

/// Where a value stands in an object: `spec.containers[0].name`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FieldPath(String);

impl FieldPath {
    /// The path of a top-level field; the empty path is the object itself.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// A field of the value at this path.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self::new(name) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// An element of the list at this path.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// An entry of the map at this path.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldErrorKind {
    Invalid,
    TypeInvalid,
    Required,
    Duplicate,
    NotFound,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
}

impl FieldErrorKind {
    const fn text(self) -> &'static str {
        match self {
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::NotFound => "Not found",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }

    /// The `reason` of a `StatusCause`.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "FieldValueInvalid",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotFound => "FieldValueNotFound",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
        }
    }
}

/// One field's error.
#[derive(Clone, PartialEq, Debug)]
pub struct FieldError {
    pub kind: FieldErrorKind,
    pub field: String,
    /// The offending value as Go would print it; empty for kinds that do not show it.
    pub value: String,
    pub detail: String,
}

/// All errors of one object, in field order.
pub type FieldErrors = Vec<FieldError>;

impl FieldError {
    fn new(kind: FieldErrorKind, path: &FieldPath, value: String, detail: impl Into<String>) -> Self {
        Self { kind, field: path.to_string(), value, detail: detail.into() }
    }

    /// The value breaks a rule.
    pub fn invalid(path: &FieldPath, value: &Value, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Invalid, path, go_value(value), detail)
    }

    /// The value has the wrong JSON type.
    pub fn type_invalid(path: &FieldPath, value: &Value, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::TypeInvalid, path, go_value(value), detail)
    }

    /// The value is missing.
    pub fn required(path: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, path, String::new(), detail)
    }

    /// The value stands twice where it must be unique.
    pub fn duplicate(path: &FieldPath, value: &Value) -> Self {
        Self::new(FieldErrorKind::Duplicate, path, go_value(value), "")
    }

    /// The value names something that is not there.
    pub fn not_found(path: &FieldPath, value: &Value) -> Self {
        Self::new(FieldErrorKind::NotFound, path, go_value(value), "")
    }

    /// The value is none of the known ones (listed in the given order).
    pub fn not_supported(path: &FieldPath, value: &Value, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|s| crate::go::quote(s)).collect();
        let detail = if quoted.is_empty() { String::new() } else { format!("supported values: {}", quoted.join(", ")) };
        Self::new(FieldErrorKind::NotSupported, path, go_value(value), detail)
    }

    /// As [`FieldError::not_supported`] of a list of texts, printed as Go's `[]string`.
    pub fn not_supported_list(path: &FieldPath, values: &[impl AsRef<str>], supported: &[&str]) -> Self {
        let shown: Vec<String> = values.iter().map(|v| crate::go::quote(v.as_ref())).collect();
        let mut error = Self::not_supported(path, &Value::Null, supported);
        error.value = format!("[]string{{{}}}", shown.join(", "));
        error
    }

    /// The field must not be set here.
    pub fn forbidden(path: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, path, String::new(), detail)
    }

    /// Not the field is wrong, but what should have judged it.
    pub fn internal(path: &FieldPath, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Internal, path, String::new(), detail)
    }

    /// The text is longer than `max_bytes`.
    pub fn too_long(path: &FieldPath, max_bytes: usize) -> Self {
        Self::new(FieldErrorKind::TooLong, path, String::new(), format!("may not be more than {max_bytes} bytes"))
    }

    /// The list has `actual` items where `max` are allowed.
    pub fn too_many(path: &FieldPath, actual: usize, max: usize) -> Self {
        Self::new(FieldErrorKind::TooMany, path, actual.to_string(), format!("must have at most {max} items"))
    }

    /// The error without the field's name, as `StatusCause.message` has it.
    pub fn body(&self) -> String {
        let mut body = self.kind.text().to_owned();
        for part in [&self.value, &self.detail] {
            if !part.is_empty() {
                body.push_str(": ");
                body.push_str(part);
            }
        }
        body
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// Go quotes text and prints trees in its own syntax.
fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "\"null\"".to_owned(),
        Value::String(s) => crate::go::quote(s),
        Value::Float(n) => crate::go::float(*n),
        Value::Array(_) | Value::Object(_) => crate::go::syntax(value),
        Value::Bool(_) | Value::Int(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_kubernetes_prints_them() {
        let path = FieldPath::new("spec").child("containers").index(0).child("name");
        let cases = [
            (FieldError::required(&path, ""), "spec.containers[0].name: Required value"),
            (
                FieldError::invalid(&path, &"A".into(), "must be lower case"),
                "spec.containers[0].name: Invalid value: \"A\": must be lower case",
            ),
            (
                FieldError::not_supported(&path, &"x".into(), &["a", "b"]),
                "spec.containers[0].name: Unsupported value: \"x\": supported values: \"a\", \"b\"",
            ),
            (FieldError::too_long(&path, 63), "spec.containers[0].name: Too long: may not be more than 63 bytes"),
            (FieldError::too_many(&path, 3, 1), "spec.containers[0].name: Too many: 3: must have at most 1 items"),
            (FieldError::duplicate(&path.key("k"), &5.into()), "spec.containers[0].name[k]: Duplicate value: 5"),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }
}
