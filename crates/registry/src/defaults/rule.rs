//! One line of the table: where, when, what.

use machinery::Value;

use super::function::Function;

/// A parsed rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) path: Vec<Segment>,
    conditions: Vec<Condition>,
    pub(super) action: Action,
}

/// One step of a path.
#[derive(Debug)]
pub(super) enum Segment {
    /// `a`: made when missing.
    Member(&'static str),
    /// `a?`: followed only when there.
    Optional(&'static str),
    /// `a[]`: every element.
    Each(&'static str),
}

/// A plain path that is only read.
#[derive(Debug)]
pub(super) struct Place(Vec<&'static str>);

#[derive(Debug)]
enum Condition {
    TargetNil,
    TargetZero,
    Only(&'static str),
    Is(Place, Vec<&'static str>),
    Nil(Place, bool),
    Zero(Place, bool),
    Gate(&'static str),
}

/// What a rule does.
#[derive(Debug)]
pub(super) enum Action {
    Set(Value),
    Copy(Place),
    Fill(Place),
    Delete,
    Use(&'static str),
    Round,
    Function(Function, Place),
}

impl Rule {
    /// Reads `type path conditions action`; None when malformed.
    pub(super) fn parse(line: &'static str) -> Option<(&'static str, Self)> {
        let mut words = line.splitn(4, ' ');
        let (name, path, conditions, action) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let conditions = match conditions {
            "-" => Vec::new(),
            list => list.split(',').map(Condition::parse).collect::<Option<_>>()?,
        };
        Some((name, Self { path: segments(path), conditions, action: Action::parse(action)? }))
    }

    /// Do the conditions about the object (not those about the target) hold?
    pub(super) fn holds(&self, object: &Value, gate: &dyn Fn(&str) -> bool) -> bool {
        self.conditions.iter().all(|condition| match condition {
            Condition::TargetNil | Condition::TargetZero => true,
            Condition::Only(name) => object.members().all(|(key, value)| key == *name || value.is_null()),
            Condition::Is(place, texts) => match place.get(object) {
                Some(Value::Bool(b)) => texts.contains(&if *b { "true" } else { "false" }),
                Some(Value::String(s)) => texts.contains(&s.as_str()),
                _ => false,
            },
            Condition::Nil(place, wanted) => place.get(object).is_none() == *wanted,
            Condition::Zero(place, wanted) => place.get(object).is_none_or(is_zero) == *wanted,
            Condition::Gate(name) => gate(name),
        })
    }

    /// Do the conditions about the target hold?
    pub(super) fn wants(&self, target: &Value) -> bool {
        self.conditions.iter().all(|condition| match condition {
            Condition::TargetNil => target.is_null(),
            Condition::TargetZero => is_zero(target),
            _ => true,
        })
    }
}

impl Condition {
    fn parse(text: &'static str) -> Option<Self> {
        Some(match text.split_once(':') {
            Some(("only", name)) => Self::Only(name),
            Some(("gate", name)) => Self::Gate(name),
            Some(("has", place)) => Self::Nil(Place::parse(place), false),
            Some(("no", place)) => Self::Nil(Place::parse(place), true),
            Some(("some", place)) => Self::Zero(Place::parse(place), false),
            Some(("none", place)) => Self::Zero(Place::parse(place), true),
            Some(_) => return None,
            None => match text.split_once('=') {
                Some((place, texts)) => Self::Is(Place::parse(place), texts.split('|').collect()),
                None if text == "nil" => Self::TargetNil,
                None if text == "zero" => Self::TargetZero,
                None => return None,
            },
        })
    }
}

impl Action {
    fn parse(text: &'static str) -> Option<Self> {
        if let Some(place) = text.strip_prefix('=') {
            return Some(Self::Copy(Place::parse(place)));
        }
        if let Some(place) = text.strip_prefix("fill:") {
            return Some(Self::Fill(Place::parse(place)));
        }
        if let Some(name) = text.strip_prefix("use ") {
            return Some(Self::Use(name));
        }
        if let Some(call) = text.strip_prefix("fn:") {
            let (name, place) = call.split_once(' ')?;
            if name == "round" {
                return Some(Self::Round);
            }
            return Some(Self::Function(Function::named(name)?, Place::parse(place)));
        }
        if text == "delete" {
            return Some(Self::Delete);
        }
        Value::from_slice(text.as_bytes()).ok().map(Self::Set)
    }
}

impl Place {
    fn parse(text: &'static str) -> Self {
        let name = |segment| match segment {
            Segment::Member(name) | Segment::Optional(name) | Segment::Each(name) => name,
        };
        Self(segments(text).into_iter().map(name).collect())
    }

    /// What is there, unless absent or null.
    pub(super) fn get<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        object.at(&self.0).filter(|value| !value.is_null())
    }
}

fn segments(path: &'static str) -> Vec<Segment> {
    let mut found = Vec::new();
    let mut rest = path.trim_start_matches('.');
    while !rest.is_empty() {
        if let Some((key, after)) = rest.strip_prefix("[\"").and_then(|r| r.split_once("\"]")) {
            found.push(Segment::Member(key));
            rest = after.trim_start_matches('.');
            continue;
        }
        let bracket = rest.find("[\"").unwrap_or(rest.len());
        let end = rest.find('.').unwrap_or(rest.len()).min(bracket);
        let name = &rest[..end];
        found.push(if let Some(name) = name.strip_suffix("[]") {
            Segment::Each(name)
        } else if let Some(name) = name.strip_suffix('?') {
            Segment::Optional(name)
        } else {
            Segment::Member(name)
        });
        rest = rest[end..].trim_start_matches('.');
    }
    found
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) | Value::Int(0) => true,
        Value::Float(n) => *n == 0.0,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.iter().next().is_none(),
        Value::Bool(true) | Value::Int(_) => false,
    }
}
