//! Label selectors: the query syntax `a=b,c in (d,e),!f`, and `metav1.LabelSelector`.

mod parser;

use std::fmt;

use crate::{CompactString, Value, names};

/// How a label is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    DoubleEquals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One comparison of a label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Requirement {
    key: CompactString,
    operator: Operator,
    values: Vec<CompactString>,
}

/// A conjunction of comparisons, sorted by key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// What is wrong with a label's key.
pub fn validate_label_name(key: &str) -> Vec<String> {
    names::is_qualified_name(key)
}

/// What is wrong with a label's value.
pub fn validate_label_value(value: &str) -> Vec<String> {
    names::is_valid_label_value(value)
}

impl Requirement {
    /// Checks and makes a comparison.
    ///
    /// # Errors
    /// In the words of `labels.NewRequirement`.
    pub fn new(key: &str, operator: Operator, values: Vec<CompactString>) -> Result<Self, String> {
        let mut errors = Vec::new();
        let bad = validate_label_name(key);
        if !bad.is_empty() {
            errors.push(format!("key: Invalid value: {}: {}", crate::go::quote(key), bad.join("; ")));
        }
        if let Some(detail) = count_error(operator, values.len()) {
            let list: Vec<String> = values.iter().map(|v| crate::go::quote(v)).collect();
            errors.push(format!("values: Invalid value: []string{{{}}}: {detail}", list.join(", ")));
        }
        if matches!(operator, Operator::GreaterThan | Operator::LessThan) {
            for (i, value) in values.iter().enumerate().filter(|(_, v)| parse_int(v).is_none()) {
                let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(format!("values[{i}]: Invalid value: {}: {detail}", crate::go::quote(value)));
            }
        }
        for (i, value) in values.iter().enumerate() {
            let bad = validate_label_value(value);
            if !bad.is_empty() {
                let value = crate::go::quote(value);
                errors.push(format!("values[{i}][{key}]: Invalid value: {value}: {}", bad.join("; ")));
            }
        }
        match errors.len() {
            0 => Ok(Self { key: key.into(), operator, values }),
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }

    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it is compared.
    pub const fn operator(&self) -> Operator {
        self.operator
    }

    /// With what it is compared.
    pub fn values(&self) -> &[CompactString] {
        &self.values
    }

    fn matches(&self, value: Option<&str>) -> bool {
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(|v| self.has(v)),
            Operator::NotIn | Operator::NotEquals => value.is_none_or(|v| !self.has(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let bound = self.values.first().and_then(|v| parse_int(v));
                let (Some(value), Some(bound)) = (value.and_then(parse_int), bound) else { return false };
                if self.operator == Operator::GreaterThan { value > bound } else { value < bound }
            }
        }
    }

    fn has(&self, value: &str) -> bool {
        self.values.iter().any(|v| v == value)
    }
}

fn parse_int(text: &str) -> Option<i64> {
    text.parse().ok()
}

fn count_error(operator: Operator, count: usize) -> Option<&'static str> {
    match operator {
        Operator::In | Operator::NotIn if count == 0 => Some("for 'in', 'notin' operators, values set can't be empty"),
        Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if count != 1 => {
            Some("exact-match compatibility requires one single value")
        }
        Operator::Exists | Operator::DoesNotExist if count != 0 => {
            Some("values set must be empty for exists and does not exist")
        }
        Operator::GreaterThan | Operator::LessThan if count != 1 => {
            Some("for 'Gt', 'Lt' operators, exactly one value is required")
        }
        _ => None,
    }
}

impl Selector {
    /// Matches every object.
    pub const fn everything() -> Self {
        Self { requirements: Vec::new(), nothing: false }
    }

    /// Matches no object.
    pub const fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// A selector of given comparisons.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// Reads the query syntax.
    ///
    /// # Errors
    /// In the words of `labels.Parse`.
    pub fn parse(text: &str) -> Result<Self, String> {
        parser::parse(text).map(Self::new)
    }

    /// Equality with every member of an object of texts (a Service's `spec.selector`).
    pub fn from_set(labels: &Value) -> Self {
        let equals = |(key, value): (&str, &Value)| Requirement {
            key: key.into(),
            operator: Operator::Equals,
            values: vec![value.as_str().unwrap_or_default().into()],
        };
        Self { requirements: labels.members().map(equals).collect(), nothing: false }
    }

    /// From a `metav1.LabelSelector`: null matches nothing, the empty one everything.
    ///
    /// # Errors
    /// In the words of `metav1.LabelSelectorAsSelector`.
    pub fn from_label_selector(selector: &Value) -> Result<Self, String> {
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        for (key, value) in selector["matchLabels"].members() {
            let value = value.as_str().unwrap_or_default().into();
            requirements.push(Requirement::new(key, Operator::Equals, vec![value])?);
        }
        for expression in selector["matchExpressions"].items() {
            let operator = match expression.str_at(&["operator"]) {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{} is not a valid label selector operator", crate::go::quote(other))),
            };
            let values = expression["values"].items().iter().filter_map(Value::as_str).map(Into::into).collect();
            requirements.push(Requirement::new(expression.str_at(&["key"]), operator, values)?);
        }
        Ok(Self::new(requirements))
    }

    /// Does an object with these labels (an object of texts) match?
    pub fn matches(&self, labels: Option<&Value>) -> bool {
        !self.nothing
            && self.requirements.iter().all(|r| r.matches(labels.and_then(|l| l.get(&r.key)).and_then(Value::as_str)))
    }

    /// Does it restrict nothing?
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// The comparisons, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            fmt::Display::fmt(requirement, f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let mut values: Vec<&str> = self.values.iter().map(CompactString::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        match self.operator {
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn parses_prints_and_refuses_as_upstream_does() {
        let cases = [
            ("x notin (b,a),y,!z,w=1", Ok("w=1,x notin (a,b),y,!z")),
            ("x in (,)", Ok("x in ()")),
            ("x in ()", Ok("x in ()")),
            ("a==", Ok("a==")),
            ("", Ok("")),
            ("a b", Err("unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt")),
            ("a in (x", Err("unable to parse requirement: found '', expected: ',' or ')'")),
            ("a in x", Err("unable to parse requirement: found 'x' expected: '('")),
            ("!a=b", Err("found '=', expected: ',' or 'end of string'")),
            (
                "x>a",
                Err(
                    "unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators, the value must be an integer",
                ),
            ),
            ("a=b c", Err("found 'c', expected: ',' or 'end of string'")),
            ("a=b,", Err("found '', expected: identifier after ','")),
            ("=", Err("found '=', expected: !, identifier, or 'end of string'")),
        ];
        for (text, expect) in cases {
            let got = Selector::parse(text).map(|s| s.to_string());
            assert_eq!(got, expect.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn matches_as_kubernetes_does() {
        let labels = json!({"a": "1", "b": "x"});
        for (text, expect) in [
            ("a=1", true),
            ("a!=1", false),
            ("c!=1", true),
            ("a in (1,2),b", true),
            ("!b", false),
            ("c notin (x)", true),
            ("a>0,a<2", true),
            ("a>1", false),
            ("b>1", false),
        ] {
            assert_eq!(Selector::parse(text).unwrap().matches(Some(&labels)), expect, "{text}");
        }
    }

    #[test]
    fn a_label_selector_of_null_matches_nothing_and_the_empty_one_everything() {
        let none = Selector::from_label_selector(&Value::Null).unwrap();
        let all = Selector::from_label_selector(&json!({})).unwrap();
        assert!(!none.matches(None) && all.matches(None) && all.is_empty() && !none.is_empty());
        let s = json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]});
        assert_eq!(Selector::from_label_selector(&s).unwrap().to_string(), "a=1,b");
        let bad = json!({"matchExpressions": [{"key": "b", "operator": "Near"}]});
        assert_eq!(
            Selector::from_label_selector(&bad),
            Err("\"Near\" is not a valid label selector operator".to_owned())
        );
    }
}
