//! Upstream's defaults of built-in kinds, interpreted from the table `facts::Set::defaults`.
//!
//! The head of the table explains its syntax. A rule belongs to a type; `use` hands a part of the object to the rules
//! of another type, so a PodSpec is defaulted by the same lines wherever it occurs.
//!
//! ```
//! # use machinery::{GroupVersionKind, json};
//! let defaults = registry::defaults::Defaults::parse("core/v1.Secret type zero \"Opaque\"");
//! let mut secret = json!({"data": {}});
//! registry::defaults::apply(&defaults, &GroupVersionKind::new("", "v1", "Secret"), &mut secret);
//! assert_eq!(secret.str_at(&["type"]), "Opaque");
//! ```

use std::collections::BTreeMap;

use machinery::{GroupVersionKind, Value};

mod function;
mod rule;

use rule::{Action, Rule, Segment};

/// The table, ready to be applied.
#[derive(Debug)]
pub struct Defaults {
    rules: BTreeMap<&'static str, Vec<Rule>>,
    gates: BTreeMap<&'static str, bool>,
}

/// Fills in what the writer of a built-in object left out, as a kube-apiserver does on every decode. Kinds without
/// rules stay as they are. Members of the wrong JSON type are left alone: decoding has refused them before.
pub fn apply(defaults: &Defaults, gvk: &GroupVersionKind, object: &mut Value) {
    defaults.apply(&type_name(gvk), object);
}

/// A kind's name in the facts: "core/v1.Pod", "networking/v1.Ingress".
fn type_name(gvk: &GroupVersionKind) -> String {
    let group = gvk.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    format!("{group}/{}.{}", gvk.version, gvk.kind)
}

impl Defaults {
    /// Reads the table.
    ///
    /// # Panics
    /// When a line of the table is malformed: it is part of this program.
    pub fn parse(text: &'static str) -> Self {
        let mut defaults = Self { rules: BTreeMap::new(), gates: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(gate) = line.strip_prefix("gate ") {
                let (name, on) = gate.split_once(' ').expect("a gate has a name and a default");
                defaults.gates.insert(name, on == "true");
            } else {
                let (name, rule) = Rule::parse(line).unwrap_or_else(|| panic!("defaults: malformed rule: {line}"));
                defaults.rules.entry(name).or_default().push(rule);
            }
        }
        defaults
    }

    /// Overrides the feature gate `name`, when a rule depends on it.
    pub fn set_gate(&mut self, name: &str, on: bool) {
        if let Some(gate) = self.gates.get_mut(name) {
            *gate = on;
        }
    }

    /// Applies the rules of a type, named as in the facts ("core/v1.PodSpec"), to an object of that type.
    pub fn apply(&self, type_name: &str, object: &mut Value) {
        for rule in self.rules.get(type_name).map_or(&[][..], Vec::as_slice) {
            self.apply_rule(rule, object);
        }
    }

    fn apply_rule(&self, rule: &Rule, object: &mut Value) {
        if !rule.holds(object, &|gate| self.gates.get(gate).copied().unwrap_or(false)) {
            return;
        }
        let set = |object: &mut Value, value: Value| {
            visit(object, &rule.path, &mut |target| {
                if rule.wants(target) {
                    *target = value.clone();
                }
            });
        };
        match &rule.action {
            Action::Set(value) => set(object, value.clone()),
            Action::Delete => set(object, Value::Null),
            Action::Copy(from) => {
                if let Some(value) = from.get(object).cloned() {
                    set(object, value);
                }
            }
            Action::Fill(from) => {
                if let Some(source) = from.get(object).cloned() {
                    visit(object, &rule.path, &mut |target| fill(target, &source));
                }
            }
            Action::Use(name) => visit(object, &rule.path, &mut |target| self.apply(name, target)),
            Action::Round => visit(object, &rule.path, &mut function::round),
            Action::Function(function, from) => {
                if let Some(value) = function.call(from.get(object)) {
                    set(object, value);
                }
            }
        }
    }
}

/// Copies the members that `target` lacks.
fn fill(target: &mut Value, source: &Value) {
    for (key, value) in source.members() {
        if target.is_null() {
            *target = Value::object();
        }
        if target.get(key).is_none()
            && let Some(map) = target.as_object_mut()
        {
            map.insert(key, value.clone());
        }
    }
}

/// Walks to every place a path names and calls `act` there; what `act` leaves null is removed again.
fn visit(node: &mut Value, path: &[Segment], act: &mut dyn FnMut(&mut Value)) {
    let Some((segment, rest)) = path.split_first() else {
        return act(node);
    };
    match segment {
        Segment::Each(name) => {
            for element in node.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten() {
                visit(element, rest, act);
            }
        }
        Segment::Optional(name) => {
            if let Some(child) = node.get_mut(name).filter(|child| !child.is_null()) {
                visit(child, rest, act);
            }
        }
        Segment::Member(name) => {
            if node.is_null() {
                *node = Value::object();
            }
            let Some(members) = node.as_object_mut() else { return };
            let child = members.entry(name);
            visit(child, rest, act);
            if child.is_null() {
                members.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests;
