//! Walking an object while complaining: [`At`] is a value with its path, [`Errors`] collects complaints.

pub(crate) mod addresses;
pub(crate) mod container;
pub(crate) mod go;
pub(crate) mod metadata;
pub(crate) mod pod_spec;
pub(crate) mod resources;
pub(crate) mod scheduling;
pub(crate) mod volumes;

use machinery::{FieldError, FieldErrors, FieldPath, Value, names};

/// `field is immutable`
pub(crate) const IMMUTABLE: &str = "field is immutable";
/// `must be greater than or equal to 0`
pub(crate) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
/// `must be greater than zero`
pub(crate) const POSITIVE: &str = "must be greater than zero";

static NULL: Value = Value::Null;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct At<'a> {
    pub(crate) value: &'a Value,
    pub(crate) path: FieldPath,
}

impl<'a> At<'a> {
    /// The whole object.
    pub(crate) fn root(value: &'a Value) -> Self {
        Self { value, path: FieldPath::default() }
    }

    /// A member; null when absent.
    pub(crate) fn field(&self, name: &str) -> Self {
        Self { value: self.value.get(name).unwrap_or(&NULL), path: self.path.child(name) }
    }

    /// A member of a member.
    pub(crate) fn at(&self, names: &[&str]) -> Self {
        names.iter().fold(self.clone(), |at, name| at.field(name))
    }

    /// The same value complained about elsewhere.
    pub(crate) fn renamed(&self, path: FieldPath) -> Self {
        Self { value: self.value, path }
    }

    /// The elements of a list.
    pub(crate) fn items(&self) -> Vec<Self> {
        let at = |(i, value)| Self { value, path: self.path.index(i) };
        self.value.items().iter().enumerate().map(at).collect()
    }

    /// The entries of a map, their paths as `map[key]`.
    pub(crate) fn entries(&self) -> Vec<(&'a str, Self)> {
        self.value.members().map(|(key, value)| (key, Self { value, path: self.path.key(key) })).collect()
    }

    /// The text; empty when absent.
    pub(crate) fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// The integer.
    pub(crate) fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// The boolean; false when absent.
    pub(crate) fn truth(&self) -> bool {
        self.value.as_bool() == Some(true)
    }

    /// Is it there (not null)?
    pub(crate) fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Is it absent, empty text, an empty list or an empty map, as Go's `len(x) == 0`?
    pub(crate) fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(s) => s.is_empty(),
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => false,
        }
    }
}

/// Complaints about one object, in the order they were found.
#[derive(Debug, Default)]
pub(crate) struct Errors(pub(crate) FieldErrors);

impl Errors {
    pub(crate) fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    pub(crate) fn required(&mut self, at: &At<'_>, detail: &str) {
        self.0.push(FieldError::required(&at.path, detail));
    }

    pub(crate) fn invalid(&mut self, at: &At<'_>, detail: impl Into<String>) {
        // Go prints the zero value of an unset field, and texts are by far the most of those that can be wrong unset.
        let value = if at.value.is_null() { &Value::String("".into()) } else { at.value };
        self.0.push(FieldError::invalid(&at.path, value, detail));
    }

    pub(crate) fn invalid_value(&mut self, at: &At<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.0.push(FieldError::invalid(&at.path, &value.into(), detail));
    }

    /// `Invalid value` with the value printed as the given Go text.
    pub(crate) fn invalid_as(&mut self, at: &At<'_>, go_text: String, detail: impl Into<String>) {
        let mut error = FieldError::invalid(&at.path, &Value::Null, detail);
        error.value = go_text;
        self.0.push(error);
    }

    /// `Invalid value` that shows no value.
    pub(crate) fn invalid_bare(&mut self, at: &At<'_>, detail: &str) {
        self.invalid_as(at, String::new(), detail);
    }

    pub(crate) fn forbidden(&mut self, at: &At<'_>, detail: impl Into<String>) {
        self.0.push(FieldError::forbidden(&at.path, detail));
    }

    pub(crate) fn duplicate(&mut self, at: &At<'_>) {
        self.0.push(FieldError::duplicate(&at.path, at.value));
    }

    pub(crate) fn not_supported(&mut self, at: &At<'_>, supported: &[&str]) {
        let value = if at.value.is_null() { &Value::String("".into()) } else { at.value };
        self.0.push(FieldError::not_supported(&at.path, value, supported));
    }

    /// One `Invalid value` per complaint.
    pub(crate) fn all_invalid(&mut self, at: &At<'_>, complaints: Vec<String>) {
        for complaint in complaints {
            self.invalid(at, complaint);
        }
    }

    /// Unset is required, anything else but the listed words unsupported. The words are printed in the order given.
    pub(crate) fn one_of_required(&mut self, at: &At<'_>, supported: &[&str]) {
        if at.is_empty() {
            self.required(at, "");
        } else if !supported.contains(&at.text()) {
            self.not_supported(at, supported);
        }
    }

    /// Anything but the listed words (also unset) is unsupported.
    pub(crate) fn one_of(&mut self, at: &At<'_>, supported: &[&str]) {
        if !supported.contains(&at.text()) {
            self.not_supported(at, supported);
        }
    }

    /// Set and below zero is invalid.
    pub(crate) fn not_negative(&mut self, at: &At<'_>) {
        if at.int().is_some_and(|n| n < 0) {
            self.invalid(at, NOT_NEGATIVE);
        }
    }

    /// Changed is invalid.
    pub(crate) fn immutable(&mut self, new: &At<'_>, old: &At<'_>) {
        if !same(new.value, old.value) {
            self.push(FieldError::invalid(&new.path, new.value, IMMUTABLE));
        }
    }

    /// A changed list of texts, of Go's type `[]type_name`, is invalid.
    pub(crate) fn immutable_strings(&mut self, new: &At<'_>, old: &At<'_>, type_name: &str) {
        if !same(new.value, old.value) {
            self.invalid_as(new, go::strings(type_name, new.value), IMMUTABLE);
        }
    }

    /// A changed label selector is invalid.
    pub(crate) fn immutable_selector(&mut self, new: &At<'_>, old: &At<'_>) {
        if !same(new.value, old.value) {
            self.invalid_as(new, go::selector(new.value), IMMUTABLE);
        }
    }

    /// DNS-1123 label.
    pub(crate) fn dns_label(&mut self, at: &At<'_>) {
        self.all_invalid(at, names::is_dns1123_label(at.text()));
    }

    /// DNS-1123 subdomain.
    pub(crate) fn dns_subdomain(&mut self, at: &At<'_>) {
        self.all_invalid(at, names::is_dns1123_subdomain(at.text()));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Equal as Go's `Semantic.DeepEqual`: absent, null, empty lists and empty maps are the same.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| same(v, y.get(k).unwrap_or(&NULL)))
                && y.iter().all(|(k, v)| x.contains_key(k) || is_void(v))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b)),
        _ => a == b || (is_void(a) && is_void(b)),
    }
}

fn is_void(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.iter().all(|(_, v)| is_void(v)),
        Value::String(s) => s.is_empty(),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => false,
    }
}

/// Label keys and values, all complaints at the map itself, as upstream has it.
pub(crate) fn labels(at: &At<'_>, errors: &mut Errors) {
    for (key, value) in at.entries() {
        for complaint in names::is_qualified_name(key) {
            errors.invalid_value(at, key, complaint);
        }
        for complaint in names::is_valid_label_value(value.text()) {
            errors.invalid_value(at, value.text(), complaint);
        }
    }
}

/// A `metav1.LabelSelector`.
pub(crate) fn label_selector(at: &At<'_>, errors: &mut Errors) {
    labels(&at.field("matchLabels"), errors);
    for expression in at.field("matchExpressions").items() {
        let (operator, values) = (expression.field("operator"), expression.field("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.invalid(&operator, "not a valid selector operator"),
        }
        let key = expression.field("key");
        errors.all_invalid(&key, names::is_qualified_name(key.text()));
        for value in values.items() {
            errors.all_invalid(&value, names::is_valid_label_value(value.text()));
        }
    }
}

#[cfg(test)]
mod tests;
