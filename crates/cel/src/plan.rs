//! A checked tree made ready to run: names become places, calls their functions, constants are computed. What counts
//! as one step is cel-go's (`interpreter/planner.go`), because steps are what is charged.

use std::sync::Arc;

use crate::ast::{Expr, Fold as FoldExpr, Kind};
use crate::check::{Checked, Reference};
use crate::cost::{self, Cost};
use crate::environment::Environment;
use crate::eval::run_constant;
use crate::functions::{Overload, Pattern, library};
use crate::types::Type;
use crate::value::{Key, Val};

/// A step.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Const(Val<'static>),
    Attribute(Box<Attribute>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Equal {
        sides: Box<[Node; 2]>,
        is_negated: bool,
    },
    Call(Box<Call>),
    /// `x in [constants]`
    Member {
        value: Box<Node>,
        set: Arc<[Key]>,
    },
    /// `or` and `orValue`, which look at their second part only when they need it.
    Otherwise {
        sides: Box<[Node; 2]>,
        unwraps: bool,
    },
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    /// Values of a type that cannot be made here.
    Struct {
        name: String,
        values: Vec<Node>,
    },
    Fold(Box<Fold>),
    /// `accumulator + [element]`, the list of the fold growing in place.
    Append {
        slot: usize,
        element: Box<Node>,
    },
    /// `cel.@mapInsert(accumulator, …)`, likewise.
    Insert {
        slot: usize,
        args: Vec<Node>,
    },
}

/// A variable or a value, and what is selected from it.
#[derive(Clone, Debug)]
pub(crate) struct Attribute {
    pub(crate) base: Base,
    pub(crate) qualifiers: Vec<Qualifier>,
    /// Is it only asked whether the last one is there?
    pub(crate) is_test: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Base {
    Slot(usize),
    Value(Node),
    Conditional { condition: Node, yes: Box<Attribute>, no: Box<Attribute> },
}

#[derive(Clone, Debug)]
pub(crate) struct Qualifier {
    pub(crate) key: QualifierKey,
    pub(crate) is_optional: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum QualifierKey {
    Const(Val<'static>),
    /// As above, for `has()`.
    Test(Val<'static>),
    Attribute(Attribute),
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) overloads: Vec<&'static Overload>,
    pub(crate) args: Vec<Node>,
    pub(crate) cost: Cost,
    pub(crate) special: Option<Special>,
}

/// Calls that the evaluator does itself.
#[derive(Clone, Debug)]
pub(crate) enum Special {
    NotStrictlyFalse,
    /// An authorizer's question.
    Check,
    Matches(Pattern),
    Find(Pattern),
    FindAll(Pattern),
}

#[derive(Clone, Debug)]
pub(crate) struct Fold {
    pub(crate) range: Node,
    pub(crate) slot: usize,
    pub(crate) has_two: bool,
    pub(crate) init: Node,
    pub(crate) condition: Node,
    pub(crate) step: Node,
    pub(crate) result: Node,
}

/// Makes a program's steps.
///
/// # Errors
/// What cel-go finds wrong only now: constants that cannot be computed, types without values.
pub(crate) fn plan(checked: &Checked, environment: &Environment) -> Result<Node, String> {
    let scope = environment.names().map(str::to_owned).collect();
    Planner { checked, scope }.node(&checked.root)
}

struct Planner<'p> {
    checked: &'p Checked,
    /// The variables by their places; a fold's accumulator, then its variables.
    scope: Vec<String>,
}

impl Planner<'_> {
    fn node(&mut self, expr: &Expr) -> Result<Node, String> {
        match &expr.kind {
            Kind::Unspecified => Err("unsupported expr".to_owned()),
            Kind::Literal(value) => Ok(Node::Const(value.clone())),
            Kind::Ident(_) => self.name(expr.id),
            Kind::Select { operand, field, is_test } => {
                if self.checked.reference(expr.id).is_some() {
                    return self.name(expr.id);
                }
                let mut attribute = self.attribute(operand)?;
                let key = Val::from_string(field);
                let key = if *is_test { QualifierKey::Test(key) } else { QualifierKey::Const(key) };
                attribute.qualify(&Qualifier { key, is_optional: false });
                attribute.is_test = *is_test;
                Ok(Node::Attribute(Box::new(attribute)))
            }
            Kind::Call { target, function, args } => self.call(expr, target.as_deref(), function, args),
            Kind::List(elements) => {
                let nodes = elements.iter().map(|e| Ok((self.node(&e.value)?, e.is_optional)));
                let nodes = nodes.collect::<Result<Vec<_>, String>>()?;
                let is_constant = nodes.iter().all(|(node, _)| matches!(node, Node::Const(_)));
                constant(Node::List(nodes), is_constant)
            }
            Kind::Map(entries) => {
                let nodes = entries.iter().map(|e| Ok((self.node(&e.key)?, self.node(&e.value)?, e.is_optional)));
                let nodes = nodes.collect::<Result<Vec<_>, String>>()?;
                let is_const = |node: &Node| matches!(node, Node::Const(_));
                let is_constant = nodes.iter().all(|(key, value, _)| is_const(key) && is_const(value));
                constant(Node::Map(nodes), is_constant)
            }
            Kind::Struct { name, fields } => {
                let values = fields.iter().map(|field| self.node(&field.value)).collect::<Result<_, _>>()?;
                Ok(Node::Struct { name: name.trim_start_matches('.').to_owned(), values })
            }
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    fn name(&self, id: u32) -> Result<Node, String> {
        match self.checked.reference(id) {
            Some(Reference::Variable(name)) => {
                let slot = self.scope.iter().rposition(|other| other == name).ok_or("undeclared variable")?;
                let attribute = Attribute { base: Base::Slot(slot), qualifiers: Vec::new(), is_test: false };
                Ok(Node::Attribute(Box::new(attribute)))
            }
            Some(Reference::Type(Type::Struct(name))) => Err(format!("reference to undefined type: {name}")),
            Some(Reference::Type(known)) => Ok(Node::Const(Val::Type(known.clone()))),
            _ => Err("unsupported expr".to_owned()),
        }
    }

    /// The attribute an expression is, or one whose base is its value.
    fn attribute(&mut self, expr: &Expr) -> Result<Attribute, String> {
        Ok(match self.node(expr)? {
            Node::Attribute(attribute) => *attribute,
            other => Attribute { base: Base::Value(other), qualifiers: Vec::new(), is_test: false },
        })
    }

    fn call(&mut self, expr: &Expr, target: Option<&Expr>, function: &str, args: &[Expr]) -> Result<Node, String> {
        let (overloads, name, target) = match self.checked.reference(expr.id) {
            Some(Reference::Call { overloads, name, is_namespaced }) => {
                (overloads.clone(), name.clone(), target.filter(|_| !is_namespaced))
            }
            _ => (Vec::new(), function.to_owned(), target),
        };
        match (name.as_str(), args) {
            ("_[_]", [operand, index]) => return self.index(operand, index, false),
            ("_[?_]" | "_?._", [operand, index]) => return self.index(operand, index, true),
            ("_?_:_", [condition, yes, no]) => return self.conditional(condition, yes, no),
            _ => {}
        }
        let nodes = target.into_iter().chain(args).map(|arg| self.node(arg)).collect::<Result<Vec<_>, _>>()?;
        let pair = |nodes: Vec<Node>| -> Result<Box<[Node; 2]>, String> {
            nodes.try_into().map(Box::new).map_err(|_| "unsupported expr".to_owned())
        };
        match name.as_str() {
            "_&&_" => return Ok(Node::And(pair(nodes)?)),
            "_||_" => return Ok(Node::Or(pair(nodes)?)),
            "_==_" => return Ok(Node::Equal { sides: pair(nodes)?, is_negated: false }),
            "_!=_" => return Ok(Node::Equal { sides: pair(nodes)?, is_negated: true }),
            "or" => return Ok(Node::Otherwise { sides: pair(nodes)?, unwraps: false }),
            "orValue" => return Ok(Node::Otherwise { sides: pair(nodes)?, unwraps: true }),
            _ => {}
        }
        let overload = if let [one] = overloads[..] { one.id } else { "" };
        if overload == "in_list"
            && let Some(member) = membership(&nodes)
        {
            return Ok(member);
        }
        let special = special(&name, &nodes)?;
        let is_conversion = matches!(
            name.as_str(),
            "bool" | "bytes" | "double" | "duration" | "dyn" | "int" | "string" | "timestamp" | "type" | "uint"
        );
        let is_constant = is_conversion && matches!(nodes[..], [Node::Const(_)]);
        let cost = cost::of(&name, overload);
        let overloads = if overloads.len() == 1 { overloads } else { all_of(&name, target.is_some(), nodes.len()) };
        constant(Node::Call(Box::new(Call { name, overloads, args: nodes, cost, special })), is_constant)
    }

    fn index(&mut self, operand: &Expr, index: &Expr, is_optional: bool) -> Result<Node, String> {
        let mut attribute = self.attribute(operand)?;
        let key = match self.node(index)? {
            Node::Const(key) => QualifierKey::Const(key),
            Node::Attribute(key) => QualifierKey::Attribute(*key),
            other => {
                QualifierKey::Attribute(Attribute { base: Base::Value(other), qualifiers: Vec::new(), is_test: false })
            }
        };
        attribute.qualify(&Qualifier { key, is_optional });
        Ok(Node::Attribute(Box::new(attribute)))
    }

    fn conditional(&mut self, condition: &Expr, yes: &Expr, no: &Expr) -> Result<Node, String> {
        let condition = self.node(condition)?;
        let (yes, no) = (Box::new(self.attribute(yes)?), Box::new(self.attribute(no)?));
        let base = Base::Conditional { condition, yes, no };
        Ok(Node::Attribute(Box::new(Attribute { base, qualifiers: Vec::new(), is_test: false })))
    }

    fn fold(&mut self, fold: &FoldExpr) -> Result<Node, String> {
        let range = self.node(&fold.range)?;
        let init = self.node(&fold.init)?;
        let slot = self.scope.len();
        self.scope.push(fold.accumulator.clone());
        self.scope.push(fold.variable.clone());
        // The place of the second variable is there in any case, so that places are known.
        self.scope.push(fold.second.clone().unwrap_or_default());
        let condition = self.node(&fold.condition)?;
        let step = in_place(self.node(&fold.step)?, slot);
        self.scope.truncate(slot + 1);
        let result = self.node(&fold.result)?;
        self.scope.truncate(slot);
        let has_two = fold.second.is_some();
        Ok(Node::Fold(Box::new(Fold { range, slot, has_two, init, condition, step, result })))
    }
}

impl Attribute {
    /// Selects further; from each branch of a conditional.
    fn qualify(&mut self, qualifier: &Qualifier) {
        match &mut self.base {
            Base::Conditional { yes, no, .. } => {
                yes.qualify(qualifier);
                no.qualify(qualifier);
            }
            _ => self.qualifiers.push(qualifier.clone()),
        }
    }

    /// The variable this is, when nothing is selected from it.
    fn slot(&self) -> Option<usize> {
        match self.base {
            Base::Slot(slot) if self.qualifiers.is_empty() => Some(slot),
            _ => None,
        }
    }
}

fn all_of(name: &str, is_member: bool, count: usize) -> Vec<&'static Overload> {
    let all = library().get(name).map(Vec::as_slice).unwrap_or_default();
    all.iter().filter(|o| o.is_member == is_member && o.args.len() == count).collect()
}

/// The value of what is made of constants alone.
fn constant(node: Node, is_constant: bool) -> Result<Node, String> {
    if is_constant { run_constant(&node).map(Node::Const) } else { Ok(node) }
}

fn membership(nodes: &[Node]) -> Option<Node> {
    let [value, Node::Const(Val::List(list))] = nodes else { return None };
    if list.is_empty() {
        return Some(Node::Const(Val::Bool(false)));
    }
    let key = |item: Val<'_>| match item {
        Val::Double(d) => crate::number::whole(d).map(Key::Int).or_else(|| item.as_key()),
        Val::Null => None,
        _ => item.as_key(),
    };
    let mut set = list.iter().map(key).collect::<Option<Vec<Key>>>()?;
    set.sort();
    Some(Node::Member { value: Box::new(value.clone()), set: set.into() })
}

fn special(name: &str, nodes: &[Node]) -> Result<Option<Special>, String> {
    let pattern = || match nodes.get(1) {
        Some(Node::Const(Val::String(pattern))) => Pattern::new(pattern).map(Some),
        _ => Ok(None),
    };
    Ok(match name {
        "@not_strictly_false" => Some(Special::NotStrictlyFalse),
        "check" => Some(Special::Check),
        "matches" => pattern()?.map(Special::Matches),
        "find" => pattern()?.map(Special::Find),
        "findAll" => pattern()?.map(Special::FindAll),
        _ => None,
    })
}

/// Lets what is gathered in `slot` grow where it is, instead of being copied for each element.
fn in_place(node: Node, slot: usize) -> Node {
    let is_gathered = |node: &Node| matches!(node, Node::Attribute(a) if a.slot() == Some(slot));
    match node {
        Node::Call(mut call) if call.args.first().is_some_and(is_gathered) => {
            match (call.name.as_str(), call.args.len()) {
                ("_+_", 2) => match call.args.pop() {
                    Some(Node::List(mut elements)) if elements.len() == 1 && !elements[0].1 => {
                        let (element, _) = elements.remove(0);
                        Node::Append { slot, element: Box::new(element) }
                    }
                    Some(other) => {
                        call.args.push(other);
                        Node::Call(call)
                    }
                    None => Node::Call(call),
                },
                ("cel.@mapInsert", _) => Node::Insert { slot, args: call.args.split_off(1) },
                _ => Node::Call(call),
            }
        }
        Node::Attribute(mut attribute) => {
            if let Base::Conditional { yes, .. } = &mut attribute.base
                && let Base::Value(step) = &mut yes.base
            {
                *step = in_place(std::mem::replace(step, Node::Const(Val::Null)), slot);
            }
            Node::Attribute(attribute)
        }
        other => other,
    }
}
