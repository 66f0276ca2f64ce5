//! Running a program. Errors are values that `&&`, `||` and comprehensions may overcome; running out of budget, or an
//! authorizer's question without an answer, ends all.

use std::sync::Arc;

use crate::cost;
use crate::functions::{
    Decision, NO_SUCH_OVERLOAD, Question, insert_entries, no_such_overload, not_strictly_false, question,
};
use crate::number::whole;
use crate::opaque::Opaque;
use crate::plan::{Attribute, Base, Call, Fold, Node, QualifierKey, Special};
use crate::value::{Entries, Key, List, Map, Val};

/// Why a program has no value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// An error of the expression, or of its budget, in cel-go's words.
    Error(String),
    /// It asks something that was not answered.
    Need(Box<Question>),
}

impl std::error::Error for Fault {}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(text) => f.write_str(text),
            Self::Need(question) => write!(f, "not answered: {question:?}"),
        }
    }
}

/// A value or an error of the expression.
type Evaluated<'a> = Result<Val<'a>, String>;
/// What ends the whole evaluation, or what came of a part.
type Step<T> = Result<T, Fault>;

enum Slot<'a> {
    Ready(Evaluated<'a>),
    /// A fold's accumulator before its first use.
    Pending(&'a Node),
}

/// A run.
pub(crate) struct Run<'a> {
    slots: Vec<Slot<'a>>,
    cost: u64,
    limit: u64,
    answers: &'a [(Question, Decision)],
}

/// Runs `node` with these values of the environment's variables; the value, and what it cost.
pub(crate) fn run<'a>(
    node: &'a Node,
    variables: Vec<Val<'a>>,
    answers: &'a [(Question, Decision)],
    limit: u64,
) -> (Result<Val<'a>, Fault>, u64) {
    let slots = variables.into_iter().map(|value| Slot::Ready(Ok(value))).collect();
    let mut run = Run { slots, cost: 0, limit, answers };
    let outcome = match run.node(node) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Fault::Error(error)),
        Err(fault) => Err(fault),
    };
    (outcome, run.cost)
}

/// The value of a node without variables.
pub(crate) fn run_constant(node: &Node) -> Result<Val<'static>, String> {
    match run(node, Vec::new(), &[], u64::MAX).0 {
        Ok(value) => Ok(value.into_owned()),
        Err(fault) => Err(fault.to_string()),
    }
}

impl<'a> Run<'a> {
    fn charge(&mut self, cost: u64) -> Step<()> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit {
            return Err(Fault::Error("operation cancelled: actual cost limit exceeded".to_owned()));
        }
        Ok(())
    }

    fn node(&mut self, node: &'a Node) -> Step<Evaluated<'a>> {
        match node {
            Node::Const(value) => Ok(Ok(value.clone())),
            Node::Attribute(attribute) => self.observed(attribute),
            Node::And(sides) => self.logic(sides, false),
            Node::Or(sides) => self.logic(sides, true),
            Node::Equal { sides, is_negated } => self.equal(sides, *is_negated),
            Node::Call(call) => self.call(call),
            Node::Member { value, set } => {
                let value = self.node(value)?;
                Ok(value.map(|value| Val::Bool(is_member(set, &value))))
            }
            Node::Otherwise { sides, unwraps } => match self.node(&sides[0])? {
                Ok(Val::Optional(None)) => self.node(&sides[1]),
                Ok(Val::Optional(Some(inner))) if *unwraps => Ok(Ok((*inner).clone())),
                other => Ok(other),
            },
            Node::List(elements) => {
                let list = self.list(elements)?;
                self.charge(cost::LIST)?;
                Ok(list)
            }
            Node::Map(entries) => {
                let map = self.map(entries)?;
                self.charge(cost::MAP)?;
                Ok(map)
            }
            Node::Struct { name, values } => self.message(name, values),
            Node::Fold(fold) => self.fold(fold),
            Node::Append { slot, element } => self.append(*slot, element),
            Node::Insert { slot, args } => self.insert(*slot, args),
        }
    }

    /// An attribute that is looked at as a whole, which is charged; a choice costs only what it chooses.
    fn observed(&mut self, attribute: &'a Attribute) -> Step<Evaluated<'a>> {
        let value = self.resolve(attribute)?;
        let is_choice = matches!(attribute.base, Base::Conditional { .. });
        match (is_choice, attribute.is_test) {
            (true, true) => self.cost = self.cost.wrapping_sub(cost::SELECT),
            (false, false) => self.charge(cost::SELECT)?,
            _ => {}
        }
        if !attribute.is_test {
            return Ok(value);
        }
        Ok(value.map(|value| match value {
            Val::Optional(inner) => Val::Bool(inner.is_some()),
            other => other,
        }))
    }

    fn resolve(&mut self, attribute: &'a Attribute) -> Step<Evaluated<'a>> {
        let value = match &attribute.base {
            Base::Slot(slot) => self.slot(*slot)?,
            Base::Value(node) => self.node(node)?,
            Base::Conditional { condition, yes, no } => {
                return match self.node(condition)? {
                    Ok(Val::Bool(true)) => self.resolve(yes),
                    Ok(Val::Bool(false)) => self.resolve(no),
                    Ok(_) => Ok(Err(NO_SUCH_OVERLOAD.to_owned())),
                    Err(error) => Ok(Err(error)),
                };
            }
        };
        match value {
            Ok(value) if !attribute.qualifiers.is_empty() => self.qualify(attribute, value),
            other => Ok(other),
        }
    }

    fn slot(&mut self, slot: usize) -> Step<Evaluated<'a>> {
        if let Slot::Pending(init) = self.slots[slot] {
            let value = self.node(init)?;
            self.slots[slot] = Slot::Ready(value);
        }
        Ok(match &self.slots[slot] {
            Slot::Ready(value) => value.clone(),
            Slot::Pending(_) => Err("no such attribute".to_owned()),
        })
    }

    /// Follows the qualifiers; once one is optional, what is absent ends in an empty optional.
    fn qualify(&mut self, attribute: &'a Attribute, value: Val<'a>) -> Step<Evaluated<'a>> {
        let (mut value, mut is_optional) = match value {
            Val::Optional(None) => return Ok(Ok(Val::Optional(None))),
            Val::Optional(Some(inner)) => ((*inner).clone(), true),
            other => (other, false),
        };
        for qualifier in &attribute.qualifiers {
            is_optional = is_optional || qualifier.is_optional;
            let (key, is_test) = match &qualifier.key {
                QualifierKey::Const(key) => (key.clone(), false),
                QualifierKey::Test(key) => (key.clone(), true),
                QualifierKey::Attribute(key) => match self.resolve(key)? {
                    Ok(key) => (key, false),
                    Err(error) => {
                        self.charge_unless(is_optional)?;
                        return Ok(Err(error));
                    }
                },
            };
            let found = match select(&value, &key, is_optional || is_test) {
                Ok(found) => found,
                Err(error) => {
                    self.charge_unless(is_optional)?;
                    return Ok(Err(error));
                }
            };
            if is_optional && found.is_none() {
                return Ok(Ok(Val::Optional(None)));
            }
            self.charge(cost::SELECT)?;
            value = match found {
                found if is_test && !is_optional => Val::Bool(found.is_some()),
                found => found.unwrap_or(Val::Null),
            };
        }
        Ok(Ok(if is_optional { Val::some(value) } else { value }))
    }

    /// A failed selection is charged, unless it was only tried.
    fn charge_unless(&mut self, is_optional: bool) -> Step<()> {
        if is_optional { Ok(()) } else { self.charge(cost::SELECT) }
    }

    /// `||` ends with true, `&&` with false; an error counts only when the other side does not decide.
    fn logic(&mut self, sides: &'a [Node; 2], decides: bool) -> Step<Evaluated<'a>> {
        let mut error = None;
        for side in sides {
            match self.node(side)? {
                Ok(Val::Bool(b)) if b == decides => return Ok(Ok(Val::Bool(b))),
                Ok(Val::Bool(_)) => {}
                Ok(_) => error = error.or_else(|| Some(NO_SUCH_OVERLOAD.to_owned())),
                Err(why) => error = error.or(Some(why)),
            }
        }
        Ok(error.map_or(Ok(Val::Bool(!decides)), Err))
    }

    fn equal(&mut self, sides: &'a [Node; 2], is_negated: bool) -> Step<Evaluated<'a>> {
        let (left, right) = (self.node(&sides[0])?, self.node(&sides[1])?);
        let price = if is_negated { cost::Cost::Smaller } else { cost::Cost::Equality };
        let cost = price.charge(&[left.as_ref().ok(), right.as_ref().ok()], None);
        self.charge(cost)?;
        Ok(match (left, right) {
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(left), Ok(right)) => match left.try_equals(&right) {
                Some(is_equal) => Ok(Val::Bool(is_equal != is_negated)),
                None if is_negated => Ok(Val::Bool(true)),
                None => Err(NO_SUCH_OVERLOAD.to_owned()),
            },
        })
    }

    fn call(&mut self, call: &'a Call) -> Step<Evaluated<'a>> {
        let mut args = Vec::with_capacity(call.args.len());
        for node in &call.args {
            let value = self.node(node)?;
            // Of three or more arguments the first error ends the call, uncharged.
            if value.is_err() && call.args.len() > 2 {
                return Ok(value);
            }
            args.push(value);
        }
        if matches!(call.special, Some(Special::NotStrictlyFalse)) {
            self.charge(1)?;
            return Ok(Ok(not_strictly_false(args.remove(0))));
        }
        let result = match args.iter().position(Result::is_err) {
            Some(wrong) => args[wrong].clone(),
            None => {
                let values: Vec<Val<'a>> = args.iter().flatten().cloned().collect();
                self.apply(call, &values)?
            }
        };
        let given: Vec<Option<&Val<'_>>> = args.iter().map(|arg| arg.as_ref().ok()).collect();
        let cost = call.cost.charge(&given, result.as_ref().ok());
        self.charge(cost)?;
        Ok(result)
    }

    fn apply(&self, call: &Call, values: &[Val<'a>]) -> Step<Evaluated<'a>> {
        match &call.special {
            Some(Special::Matches(pattern)) => return Ok(pattern.matches(&values[0])),
            Some(Special::Find(pattern)) => return Ok(pattern.find(&values[0])),
            Some(Special::FindAll(pattern)) => return Ok(pattern.find_all(&values[0], values.get(2))),
            _ => {}
        }
        let Some(overload) = call.overloads.iter().find(|overload| overload.takes(values)) else {
            return Ok(Err(no_such_overload(&call.name, values)));
        };
        if matches!(call.special, Some(Special::Check)) {
            return Ok(match question(values) {
                Err(error) => Err(error),
                Ok(asked) => match self.answers.iter().find(|(other, _)| *other == asked) {
                    Some((_, decision)) => Ok(Val::from_opaque(Opaque::Decision(decision.clone()))),
                    None => return Err(Fault::Need(Box::new(asked))),
                },
            });
        }
        Ok((overload.call)(values))
    }

    fn list(&mut self, elements: &'a [(Node, bool)]) -> Step<Evaluated<'a>> {
        let mut items = Vec::with_capacity(elements.len());
        for (node, is_optional) in elements {
            match (self.node(node)?, is_optional) {
                (Err(error), _) => return Ok(Err(error)),
                (Ok(Val::Optional(inner)), true) => items.extend(inner.map(|inner| (*inner).clone())),
                (Ok(value), true) => {
                    let text = format!("cannot initialize optional list element from non-optional value {value}");
                    return Ok(Err(text));
                }
                (Ok(value), false) => items.push(value),
            }
        }
        Ok(Ok(Val::from_list(items)))
    }

    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Step<Evaluated<'a>> {
        let mut map = Entries::default();
        for (key, value, is_optional) in entries {
            let key = match self.node(key)? {
                Ok(key) => key,
                error => return Ok(error),
            };
            let value = match (self.node(value)?, is_optional) {
                (Err(error), _) => return Ok(Err(error)),
                (Ok(Val::Optional(None)), true) => {
                    map.remove(&key);
                    continue;
                }
                (Ok(Val::Optional(Some(inner))), true) => (*inner).clone(),
                (Ok(value), true) => {
                    let text = format!("cannot initialize optional entry '{key}' from non-optional value {value}");
                    return Ok(Err(text));
                }
                (Ok(value), false) => value,
            };
            if let Err(error) = map.insert(key, value) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(Val::Map(Map::Shared(Arc::new(map)))))
    }

    fn message(&mut self, name: &str, values: &'a [Node]) -> Step<Evaluated<'a>> {
        for value in values {
            if let Err(error) = self.node(value)? {
                self.charge(cost::STRUCT)?;
                return Ok(Err(error));
            }
        }
        self.charge(cost::STRUCT)?;
        Ok(Err(format!("unknown type '{name}'")))
    }

    fn fold(&mut self, fold: &'a Fold) -> Step<Evaluated<'a>> {
        let range = match self.node(&fold.range)? {
            Ok(range) => range,
            error => return Ok(error),
        };
        let outside = fold.slot;
        debug_assert!(self.slots.len() >= outside, "a fold's places follow those around it");
        self.slots.truncate(outside);
        self.slots.push(Slot::Pending(&fold.init));
        let result = match &range {
            Val::List(list) => self.fold_list(fold, list)?,
            Val::Map(map) => self.fold_map(fold, map)?,
            other => {
                let name = go_name(other);
                Some(Err(if fold.has_two {
                    format!("unsupported comprehension range type: {name}")
                } else {
                    format!("got '{name}', expected iterable type")
                }))
            }
        };
        let result = match result {
            Some(error) => error,
            None => {
                self.slots.truncate(outside + 1);
                self.node(&fold.result)?
            }
        };
        self.slots.truncate(outside);
        Ok(result)
    }

    fn fold_list(&mut self, fold: &'a Fold, list: &List<'a>) -> Step<Option<Evaluated<'a>>> {
        for (i, item) in list.iter().enumerate() {
            let (first, second) = if fold.has_two { (Val::Int(i as i64), item) } else { (item, Val::Null) };
            if !self.turn(fold, first, second)? {
                break;
            }
        }
        Ok(None)
    }

    fn fold_map(&mut self, fold: &'a Fold, map: &Map<'a>) -> Step<Option<Evaluated<'a>>> {
        for (key, value) in map.iter() {
            if !self.turn(fold, key, value)? {
                break;
            }
        }
        Ok(None)
    }

    /// One turn of a fold; false when its condition ends it.
    fn turn(&mut self, fold: &'a Fold, first: Val<'a>, second: Val<'a>) -> Step<bool> {
        self.slots.truncate(fold.slot + 1);
        self.slots.push(Slot::Ready(Ok(first)));
        self.slots.push(Slot::Ready(Ok(second)));
        if matches!(self.node(&fold.condition)?, Ok(Val::Bool(false))) {
            return Ok(false);
        }
        let step = self.node(&fold.step)?;
        self.slots[fold.slot] = Slot::Ready(step);
        Ok(true)
    }

    /// Takes what was gathered so far out of its place.
    fn gathered(&mut self, slot: usize) -> Step<Evaluated<'a>> {
        let before = self.slot(slot)?;
        self.charge(cost::SELECT)?;
        self.slots[slot] = Slot::Ready(Ok(Val::Null));
        Ok(before)
    }

    fn append(&mut self, slot: usize, element: &'a Node) -> Step<Evaluated<'a>> {
        let before = self.gathered(slot)?;
        let element = self.node(element)?;
        self.charge(cost::LIST)?;
        self.charge(1)?;
        Ok(match (before, element) {
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(Val::List(List::Shared(mut items))), Ok(element)) => {
                Arc::make_mut(&mut items).push(element);
                Ok(Val::List(List::Shared(items)))
            }
            (Ok(_), Ok(_)) => Err(NO_SUCH_OVERLOAD.to_owned()),
        })
    }

    fn insert(&mut self, slot: usize, args: &'a [Node]) -> Step<Evaluated<'a>> {
        let before = self.gathered(slot)?;
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            values.push(self.node(arg)?);
        }
        self.charge(1)?;
        let values = match values.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(values) => values,
            Err(error) => return Ok(before.and(Err(error))),
        };
        Ok(before.and_then(|map| match <[Val<'a>; 2]>::try_from(values) {
            Ok([key, value]) => insert_entries(map, [(key, value)]),
            Err(values) => match values.into_iter().next() {
                Some(Val::Map(more)) => insert_entries(map, more.iter()),
                _ => Err(NO_SUCH_OVERLOAD.to_owned()),
            },
        }))
    }
}

/// What is found under a key; `None` only where absence may be.
fn select<'a>(from: &Val<'a>, key: &Val<'_>, may_be_absent: bool) -> Result<Option<Val<'a>>, String> {
    let found = match from {
        Val::Map(map) => map.get(key),
        Val::List(list) => {
            let index = match key {
                Val::Int(i) => i128::from(*i),
                Val::Uint(u) => i128::from(*u),
                Val::Double(d) => whole(*d).ok_or_else(|| format!("unsupported index value {key} in list"))?,
                other => return Err(format!("unsupported index type '{}' in list", other.type_name())),
            };
            match usize::try_from(index).ok().and_then(|index| list.get(index)) {
                None if !may_be_absent => return Err(format!("index out of bounds: {key}")),
                found => found,
            }
        }
        _ => None,
    };
    if found.is_none() && !may_be_absent {
        return Err(format!("no such key: {key}"));
    }
    Ok(found)
}

fn is_member(set: &[Key], value: &Val<'_>) -> bool {
    let key = match value {
        Val::Double(d) => whole(*d).map(Key::Int).or_else(|| value.as_key()),
        _ => value.as_key(),
    };
    key.is_some_and(|key| set.binary_search(&key).is_ok())
}

/// What Go's `%T` prints.
const fn go_name(value: &Val<'_>) -> &'static str {
    match value {
        Val::Null => "types.Null",
        Val::Bool(_) => "types.Bool",
        Val::Int(_) => "types.Int",
        Val::Uint(_) => "types.Uint",
        Val::Double(_) => "types.Double",
        Val::String(_) => "types.String",
        Val::Bytes(_) => "types.Bytes",
        Val::Timestamp(_) => "types.Timestamp",
        Val::Duration(_) => "types.Duration",
        Val::List(_) => "traits.Lister",
        Val::Map(_) => "traits.Mapper",
        Val::Type(_) => "*types.Type",
        Val::Optional(_) => "*types.Optional",
        Val::Opaque(_) => "cel.Opaque",
    }
}
