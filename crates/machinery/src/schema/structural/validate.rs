//! Validation of custom resources, with the checks, their order and their texts of `kube-openapi`'s validator.

use super::ratchet::{self, Link};
use super::{AdditionalProperties, Structural, formats};
use crate::{FieldError, FieldErrorKind, FieldErrors, FieldPath, Value, go};

pub(super) fn validate(schema: &Structural, value: &Value, old: Option<&Value>, path: &FieldPath) -> FieldErrors {
    let base = path.to_string();
    let prefix = if base == "<nil>" { String::new() } else { base };
    let mut outcome = Outcome { errors: Vec::new(), matches: 0, prefix };
    node(schema, value, old.map(|old| Link { schema, old, root: true }), "", &mut outcome);
    outcome.errors
}

/// Errors found, and how much matched: the alternative that matched most is the one reported.
struct Outcome {
    errors: FieldErrors,
    matches: usize,
    prefix: String,
}

impl Outcome {
    fn fresh(&self) -> Self {
        Self { errors: Vec::new(), matches: 0, prefix: self.prefix.clone() }
    }

    fn push(&mut self, error: FieldError) {
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    fn merge(&mut self, other: Self) {
        self.matches += other.matches;
        other.errors.into_iter().for_each(|e| self.push(e));
    }

    fn at(&self, path: &str) -> FieldPath {
        let path = path.trim_start_matches('.');
        match (self.prefix.is_empty(), path.is_empty()) {
            (true, true) => FieldPath::default(),
            (true, false) => FieldPath::new(path),
            (false, true) => FieldPath::new(&self.prefix),
            (false, false) => FieldPath::new(&self.prefix).child(path),
        }
    }

    fn invalid(&mut self, path: &str, value: &Value, text: &str) {
        let error = FieldError::invalid(&self.at(path), value, format!("{path} in body {text}"));
        self.push(error);
    }

    fn wrong_type(&mut self, path: &str, wanted: &str, found: &str) {
        let detail = format!("{path} in body must be of type {wanted}: {}", go::quote(found));
        let error = FieldError::type_invalid(&self.at(path), &found.into(), detail);
        self.push(error);
    }

    fn composite(&mut self, path: &str, text: &str) {
        let error = FieldError::invalid(&self.at(""), &"".into(), format!("{} {text}", go::quote(path)));
        self.push(error);
    }
}

fn wanted_types(schema: &Structural) -> &str {
    if schema.int_or_string { "integer,string" } else { &schema.kind }
}

/// A value is checked; what is wrong with it is nobody's fault when it was so before (`CRDValidationRatcheting`).
fn node(schema: &Structural, value: &Value, link: Option<Link<'_>>, path: &str, out: &mut Outcome) {
    let Some(link) = link else { return checks(schema, value, None, path, out) };
    let mut outcome = out.fresh();
    checks(schema, value, Some(link), path, &mut outcome);
    if !outcome.errors.is_empty() && ratchet::unchanged(link.schema, link.old, value) {
        outcome.errors.clear();
    }
    out.merge(outcome);
}

fn checks(schema: &Structural, value: &Value, link: Option<Link<'_>>, path: &str, out: &mut Outcome) {
    if value.is_null() {
        if !wanted_types(schema).is_empty() && !schema.nullable {
            out.wrong_type(path, wanted_types(schema), "null");
        }
        enumeration(schema, value, path, out);
        return;
    }
    if !wanted_types(schema).is_empty() || !schema.values.format.is_empty() {
        if type_matches(schema, value, path, out) {
            out.matches += 1;
        }
        out.matches += 1;
    }
    alternatives(schema, value, link, path, out);
    out.matches += 2;
    match value {
        Value::String(text) => {
            string(schema, text, path, out);
            out.matches += 1;
        }
        Value::Int(_) | Value::Float(_) => {
            number(schema, value, path, out);
            out.matches += 2;
        }
        Value::Array(items) => {
            list(schema, items, link, path, out);
            out.matches += 2;
        }
        Value::Null | Value::Bool(_) | Value::Object(_) => {}
    }
    enumeration(schema, value, path, out);
    out.matches += 1;
    if let Value::Object(_) = value {
        object(schema, value, link, path, out);
        out.matches += 1;
    }
    out.matches += 1;
}

fn type_matches(schema: &Structural, value: &Value, path: &str, out: &mut Outcome) -> bool {
    let wanted = wanted_types(schema);
    let has = |name: &str| wanted.split(',').any(|w| w == name);
    let found = value.type_name();
    let whole_float = matches!(value, Value::Float(n) if n.fract() == 0.0) && has("integer");
    let fits = has(found) || whole_float || (found == "integer" && has("number"));
    let numeric = has("number") || has("integer");
    if !numeric && !schema.values.format.is_empty() && matches!(value, Value::String(_) | Value::Array(_)) {
        return true;
    }
    if !schema.values.format.is_empty() && !matches!(value, Value::String(_) | Value::Array(_)) && !fits {
        let format = match value {
            Value::Int(_) => "int64",
            Value::Float(_) => "float64",
            _ => "",
        };
        out.wrong_type(path, &schema.values.format, format);
        return false;
    }
    if fits {
        return true;
    }
    out.wrong_type(path, wanted, found);
    false
}

fn alternatives(schema: &Structural, value: &Value, link: Option<Link<'_>>, path: &str, out: &mut Outcome) {
    let rules = &schema.values;
    let run = |alternative: &Structural, out: &Outcome| {
        let mut outcome = out.fresh();
        // An alternative itself is never let off, its members are.
        checks(alternative, value, link, path, &mut outcome);
        outcome
    };
    if !rules.any_of.is_empty() {
        let mut best: Option<Outcome> = None;
        for alternative in &rules.any_of {
            let outcome = run(alternative, out);
            let valid = outcome.errors.is_empty();
            if valid || best.as_ref().is_none_or(|b| outcome.matches > b.matches) {
                best = Some(outcome);
            }
            if valid {
                break;
            }
        }
        if best.as_ref().is_some_and(|b| !b.errors.is_empty()) {
            out.composite(path, "must validate at least one schema (anyOf)");
        }
        best.into_iter().for_each(|b| out.merge(b));
    }
    if !rules.one_of.is_empty() {
        one_of(rules.one_of.iter().map(|alternative| run(alternative, out)).collect(), path, out);
    }
    if !rules.all_of.is_empty() {
        let outcomes: Vec<Outcome> = rules.all_of.iter().map(|alternative| run(alternative, out)).collect();
        let valid = outcomes.iter().filter(|o| o.errors.is_empty()).count();
        let all = outcomes.len();
        outcomes.into_iter().for_each(|o| out.merge(o));
        if valid != all {
            let more = if valid == 0 { ". None validated" } else { "" };
            out.composite(path, &format!("must validate all the schemas (allOf){more}"));
        }
    }
    if rules.not.as_ref().is_some_and(|not| run(not, out).errors.is_empty()) {
        out.composite(path, "must not validate the schema (not)");
    }
}

fn one_of(outcomes: Vec<Outcome>, path: &str, out: &mut Outcome) {
    let valid = outcomes.iter().filter(|o| o.errors.is_empty()).count();
    if valid == 0 {
        out.composite(path, "must validate one and only one schema (oneOf). Found none valid");
        let mut best: Option<Outcome> = None;
        for outcome in outcomes {
            if best.as_ref().is_none_or(|b| outcome.matches > b.matches) {
                best = Some(outcome);
            }
        }
        best.into_iter().for_each(|b| out.merge(b));
    } else if valid == 1 {
        outcomes.into_iter().filter(|o| o.errors.is_empty()).for_each(|o| out.merge(o));
    } else {
        out.composite(
            path,
            &format!("must validate one and only one schema (oneOf). Found {valid} valid alternatives"),
        );
    }
}

fn string(schema: &Structural, text: &str, path: &str, out: &mut Outcome) {
    let rules = &schema.values;
    let value = Value::from(text);
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    if let Some(max) = rules.max_length.filter(|max| length > *max) {
        let error = FieldError::too_long(&out.at(path), usize::try_from(max).unwrap_or(0));
        out.push(error);
    } else if let Some(min) = rules.min_length.filter(|min| length < *min) {
        out.invalid(path, &value, &format!("should be at least {min} chars long"));
    } else if rules.regex.as_ref().is_some_and(|regex| !regex.is_match(text)) {
        out.invalid(path, &value, &format!("should match '{}'", rules.pattern));
    }
    if !rules.format.is_empty() && !formats::matches(&rules.format, text) {
        let detail = format!("{path} in body must be of type {}: {}", rules.format, go::quote(text));
        let error = FieldError::type_invalid(&out.at(path), &value, detail);
        out.push(error);
    }
}

fn number(schema: &Structural, value: &Value, path: &str, out: &mut Outcome) {
    let rules = &schema.values;
    let n = value.as_f64().unwrap_or(0.0);
    if let Some(factor) = rules.multiple_of.filter(|f| *f > 0.0) {
        let quotient = n / factor;
        if quotient.fract() != 0.0 {
            out.invalid(path, value, &format!("should be a multiple of {}", go::float(factor)));
        }
    }
    // Go compares integers with integers: the bound loses its fraction.
    let bound = |b: f64| if matches!(value, Value::Int(_)) { b.trunc() } else { b };
    if let Some(max) = rules.maximum.map(bound)
        && (n > max || (rules.exclusive_maximum && n >= max))
    {
        let how = if rules.exclusive_maximum { "less than" } else { "less than or equal to" };
        out.invalid(path, value, &format!("should be {how} {}", go::float(max)));
    }
    if let Some(min) = rules.minimum.map(bound)
        && (n < min || (rules.exclusive_minimum && n <= min))
    {
        let how = if rules.exclusive_minimum { "greater than" } else { "greater than or equal to" };
        out.invalid(path, value, &format!("should be {how} {}", go::float(min)));
    }
}

fn list(schema: &Structural, items: &[Value], link: Option<Link<'_>>, path: &str, out: &mut Outcome) {
    let rules = &schema.values;
    if let Some(inner) = &schema.items {
        for (i, item) in items.iter().enumerate() {
            node(inner, item, link.and_then(|l| l.item(item)), &format!("{path}[{i}]"), out);
        }
    }
    let size = i64::try_from(items.len()).unwrap_or(i64::MAX);
    if let Some(min) = rules.min_items.filter(|min| size < *min) {
        out.invalid(path, &size.into(), &format!("should have at least {min} items"));
    }
    if let Some(max) = rules.max_items.filter(|max| size > *max) {
        let error = FieldError::too_many(&out.at(path), items.len(), usize::try_from(max).unwrap_or(0));
        out.push(error);
    }
    if rules.unique_items {
        let mut texts: Vec<String> = items.iter().map(Value::to_string).collect();
        texts.sort_unstable();
        if texts.windows(2).any(|w| w[0] == w[1]) {
            out.invalid(path, &"".into(), "shouldn't contain duplicates");
        }
    }
}

fn enumeration(schema: &Structural, value: &Value, path: &str, out: &mut Outcome) {
    let allowed = &schema.values.enumeration;
    if allowed.is_empty() || allowed.iter().any(|a| converts_to(value, a)) {
        return;
    }
    let texts: Vec<String> = allowed.iter().map(|a| a.as_str().map_or_else(|| a.to_string(), str::to_owned)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let error = FieldError::not_supported(&out.at(path), value, &texts);
    out.push(error);
}

/// Go converts the value to the type of the allowed one before it compares: a fraction is cut off, a number becomes
/// the character of that code.
fn converts_to(value: &Value, allowed: &Value) -> bool {
    match (value, allowed) {
        (_, Value::Null) => false,
        (Value::Float(n), Value::Int(a)) => n.trunc() as i64 == *a,
        (Value::Int(n), Value::Float(a)) => *n as f64 == *a,
        (Value::Int(n), Value::String(a)) => {
            let c = u32::try_from(*n).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
            a.chars().eq([c])
        }
        _ => value == allowed,
    }
}

fn object(schema: &Structural, value: &Value, link: Option<Link<'_>>, path: &str, out: &mut Outcome) {
    let rules = &schema.values;
    let Some(object) = value.as_object() else { return };
    let size = i64::try_from(object.len()).unwrap_or(i64::MAX);
    if let Some(min) = rules.min_properties.filter(|min| size < *min) {
        out.invalid(path, &size.into(), &format!("should have at least {min} properties"));
    }
    if let Some(max) = rules.max_properties.filter(|max| size > *max) {
        let error = FieldError::too_many(&out.at(path), object.len(), usize::try_from(max).unwrap_or(0));
        out.push(error);
    }
    for (name, member) in object.iter() {
        if schema.property(name).is_some() {
            continue;
        }
        match &schema.additional_properties {
            Some(AdditionalProperties::Schema(inner)) => {
                node(inner, member, link.and_then(|l| l.member(name)), &format!("{path}.{name}"), out);
            }
            Some(AdditionalProperties::Allowed(false)) => {
                let detail = format!("{path}.{name} in body is a forbidden property");
                let error = FieldError::invalid(&out.at(path), &name.into(), detail);
                out.push(error);
            }
            _ => {}
        }
    }
    for (name, property) in &schema.properties {
        if let Some(member) = object.get(name) {
            let inner = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
            node(property, member, link.and_then(|l| l.member(name)), &inner, out);
        }
    }
    for name in &rules.required {
        if !object.contains_key(name) {
            let error = FieldError {
                kind: FieldErrorKind::Required,
                field: out.at(&format!("{path}.{name}")).to_string(),
                value: String::new(),
                detail: String::new(),
            };
            out.push(error);
        }
    }
}
