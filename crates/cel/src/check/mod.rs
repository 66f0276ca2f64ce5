//! The type checker: every node gets a type, every call its overloads, in cel-go's words where it does not fit.

mod assign;
mod rules;

use crate::ast::{Expr, Field, Fold, Id, Kind};
use crate::environment::Environment;
use crate::functions::{Overload, library};
use crate::parser::Parsed;
use crate::source::Findings;
use crate::types::Type;
use crate::value::Val;
use assign::Mapping;
pub(crate) use rules::check_literals;

/// What a name or a call means.
#[derive(Clone)]
pub(crate) enum Reference {
    /// A variable, by its full name.
    Variable(String),
    /// The name of a type.
    Type(Type),
    /// The overloads that may be meant; `is_namespaced` when the target is part of the function's name.
    Call { overloads: Vec<&'static Overload>, name: String, is_namespaced: bool },
}

/// A tree whose types are known.
pub(crate) struct Checked {
    pub(crate) root: Expr,
    pub(crate) places: Vec<Option<usize>>,
    types: Vec<Option<Type>>,
    references: Vec<Option<Reference>>,
}

impl Checked {
    pub(crate) fn type_of(&self, id: Id) -> &Type {
        self.types[id as usize].as_ref().unwrap_or(&Type::Error)
    }

    pub(crate) fn reference(&self, id: Id) -> Option<&Reference> {
        self.references[id as usize].as_ref()
    }
}

/// Finds the types of all nodes, and what is wrong with them.
pub(crate) fn check(parsed: Parsed, environment: &Environment) -> (Checked, Findings) {
    let Parsed { root, places } = parsed;
    let count = places.len();
    let mut checker = Checker {
        environment,
        places: &places,
        scopes: Vec::new(),
        types: vec![None; count],
        references: vec![None; count],
        mapping: Mapping::default(),
        found: Findings::default(),
    };
    checker.check(&root);
    let Checker { mut types, references, mapping, found, .. } = checker;
    for known in types.iter_mut().flatten() {
        *known = mapping.substitute(known, true);
    }
    (Checked { root, places, types, references }, found)
}

struct Checker<'c> {
    environment: &'c Environment,
    places: &'c [Option<usize>],
    /// Variables of comprehensions, innermost last.
    scopes: Vec<(String, Type)>,
    types: Vec<Option<Type>>,
    references: Vec<Option<Reference>>,
    mapping: Mapping,
    found: Findings,
}

impl Checker<'_> {
    fn report(&mut self, id: Id, message: String) {
        self.found.report(self.places[id as usize], message);
    }

    fn undeclared(&mut self, id: Id, name: &str) {
        self.report(id, format!("undeclared reference to '{name}' (in container '')"));
        self.set(id, Type::Error);
    }

    fn set(&mut self, id: Id, known: Type) {
        self.types[id as usize] = Some(known);
    }

    fn get(&self, expr: &Expr) -> Type {
        self.types[expr.id as usize].clone().unwrap_or(Type::Error)
    }

    fn refer(&mut self, id: Id, reference: Reference) {
        self.references[id as usize] = Some(reference);
    }

    fn mismatch(&mut self, id: Id, expected: &Type, actual: &Type) {
        self.report(id, format!("expected type '{expected}' but found '{actual}'"));
    }

    fn check(&mut self, expr: &Expr) {
        match &expr.kind {
            Kind::Unspecified => self.set(expr.id, Type::Error),
            Kind::Literal(value) => self.set(expr.id, value.type_of()),
            Kind::Ident(name) => {
                if !self.resolve(expr.id, name) {
                    self.undeclared(expr.id, name);
                }
            }
            Kind::Select { operand, field, is_test } => self.select(expr, operand, field, *is_test),
            Kind::Call { target, function, args } => self.call(expr, target.as_deref(), function, args),
            Kind::List(elements) => {
                let mut joined = None;
                for element in elements {
                    self.check(&element.value);
                    let found = self.element_type(&element.value, element.is_optional);
                    joined = Some(self.join(joined, found));
                }
                let element = joined.unwrap_or_else(|| self.mapping.fresh());
                self.set(expr.id, Type::list(element));
            }
            Kind::Map(entries) => {
                let (mut keys, mut values) = (None, None);
                for entry in entries {
                    self.check(&entry.key);
                    let found = self.get(&entry.key);
                    keys = Some(self.join(keys, found));
                    self.check(&entry.value);
                    let found = self.element_type(&entry.value, entry.is_optional);
                    values = Some(self.join(values, found));
                }
                let key = keys.unwrap_or_else(|| self.mapping.fresh());
                let value = values.unwrap_or_else(|| self.mapping.fresh());
                self.set(expr.id, Type::map(key, value));
            }
            Kind::Struct { name, fields } => self.message(expr, name, fields),
            Kind::Fold(fold) => self.fold(expr, fold),
        }
    }

    /// The type of an element; of an optional one what is inside.
    fn element_type(&mut self, value: &Expr, is_optional: bool) -> Type {
        let found = self.get(value);
        if !is_optional {
            return found;
        }
        match found.unwrap_optional() {
            Some(inner) => inner.clone(),
            None => {
                if !found.is_dyn() {
                    self.mismatch(value.id, &Type::optional(found.clone()), &found);
                }
                found
            }
        }
    }

    fn join(&mut self, before: Option<Type>, next: Type) -> Type {
        let Some(before) = before else { return next };
        if self.mapping.is_assignable(&before, &next) {
            return assign::most_general(before, next);
        }
        // Lists and maps of several types are refused later, where they are not formatted (`check_literals`).
        Type::Dyn
    }

    /// Notes what a name means, if anything.
    fn resolve(&mut self, id: Id, name: &str) -> bool {
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some((_, known)) = self.scopes.iter().rev().find(|(scoped, _)| scoped == name) {
            let known = known.clone();
            self.set(id, known);
            self.refer(id, Reference::Variable(name.to_owned()));
            return true;
        }
        if let Some(known) = self.environment.variable(name) {
            self.set(id, known.clone());
            self.refer(id, Reference::Variable(name.to_owned()));
            return true;
        }
        if let Some(known) = self.environment.type_named(name) {
            self.set(id, Type::type_of(known.clone()));
            self.refer(id, Reference::Type(known));
            return true;
        }
        false
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, is_test: bool) {
        if expr.qualified_name().is_some_and(|name| self.resolve(expr.id, &name)) {
            return;
        }
        let found = self.field(expr.id, operand, field, false);
        let found = if is_test { Type::Bool } else { self.mapping.substitute(&found, false) };
        self.set(expr.id, found);
    }

    fn field(&mut self, id: Id, operand: &Expr, field: &str, is_optional: bool) -> Type {
        self.check(operand);
        let operand = self.mapping.substitute(&self.get(operand), false);
        let (target, is_optional) = match operand.unwrap_optional() {
            Some(inner) => (inner, true),
            None => (&operand, is_optional),
        };
        let found = match target {
            Type::Map(pair) => pair.1.clone(),
            Type::Struct(name) => self.struct_field(id, name, field),
            Type::Var(_) => {
                let _ = self.mapping.is_assignable(&Type::Dyn, target);
                Type::Dyn
            }
            _ => {
                if !target.is_dyn() && *target != Type::Error {
                    self.report(id, format!("type '{target}' does not support field selection"));
                }
                Type::Dyn
            }
        };
        if is_optional { Type::optional(found) } else { found }
    }

    fn struct_field(&mut self, id: Id, name: &str, field: &str) -> Type {
        match self.environment.struct_type(name).map(|fields| fields.get(field)) {
            None => self.report(id, format!("unexpected failed resolution of '{name}'")),
            Some(None) => self.report(id, format!("undefined field '{field}'")),
            Some(Some(known)) => return known.clone(),
        }
        Type::Error
    }

    fn call(&mut self, expr: &Expr, target: Option<&Expr>, function: &str, args: &[Expr]) {
        if function == "_?._" {
            if let [operand, Expr { kind: Kind::Literal(Val::String(field)), .. }] = args {
                let found = self.field(expr.id, operand, field, true);
                let found = self.mapping.substitute(&found, false);
                self.set(expr.id, found);
            }
            return;
        }
        args.iter().for_each(|arg| self.check(arg));
        let Some(target) = target else {
            let name = function.strip_prefix('.').unwrap_or(function);
            return match library().get(name) {
                None => self.undeclared(expr.id, function),
                Some(overloads) => self.overloads(expr, name, overloads, None, args, false),
            };
        };
        if let Some(prefix) = target.qualified_name() {
            let name = format!("{prefix}.{function}");
            let name = name.strip_prefix('.').unwrap_or(&name);
            if let Some(overloads) = library().get(name) {
                return self.overloads(expr, name, overloads, None, args, true);
            }
        }
        self.check(target);
        match library().get(function) {
            None => self.undeclared(expr.id, function),
            Some(overloads) => self.overloads(expr, function, overloads, Some(target), args, false),
        }
    }

    fn overloads(
        &mut self,
        expr: &Expr,
        name: &str,
        overloads: &'static [Overload],
        target: Option<&Expr>,
        args: &[Expr],
        is_namespaced: bool,
    ) {
        if matches!(name, "_&&_" | "_||_") {
            return self.logic(expr, name, overloads, args);
        }
        let mut given: Vec<Type> = target.into_iter().chain(args).map(|arg| self.get(arg)).collect();
        let (mut result, mut matching) = (None, Vec::new());
        for overload in overloads.iter().filter(|o| o.is_member == target.is_some()) {
            let (wanted, yields) = self.mapping.instantiate(overload);
            if !self.mapping.is_assignable_list(&given, &wanted) {
                continue;
            }
            matching.push(overload);
            let yields = self.mapping.substitute(&yields, false);
            result = Some(match result {
                None => yields,
                Some(before) if Type::is_dyn(&before) || before == yields => before,
                Some(_) => Type::Dyn,
            });
        }
        match result {
            Some(result) => {
                self.set(expr.id, result);
                self.refer(expr.id, Reference::Call { overloads: matching, name: name.to_owned(), is_namespaced });
            }
            None => {
                given.iter_mut().for_each(|t| *t = self.mapping.substitute(t, true));
                let (receiver, args) =
                    if target.is_some() { (Some(&given[0]), &given[1..]) } else { (None, &given[..]) };
                let receiver = receiver.map(|t| format!("{t}.")).unwrap_or_default();
                let args: Vec<String> = args.iter().map(ToString::to_string).collect();
                let args = args.join(", ");
                let text = format!("found no matching overload for '{name}' applied to '{receiver}({args})'");
                self.report(expr.id, text);
                self.set(expr.id, Type::Error);
            }
        }
    }

    /// `&&` and `||` complain about each operand by itself.
    fn logic(&mut self, expr: &Expr, name: &str, overloads: &'static [Overload], args: &[Expr]) {
        let mut is_wrong = false;
        for arg in args {
            let given = self.get(arg);
            if !self.mapping.is_assignable(&given, &Type::Bool) {
                self.mismatch(arg.id, &Type::Bool, &given);
                is_wrong = true;
            }
        }
        if is_wrong {
            return self.set(expr.id, Type::Error);
        }
        self.set(expr.id, Type::Bool);
        let overloads = overloads.iter().collect();
        self.refer(expr.id, Reference::Call { overloads, name: name.to_owned(), is_namespaced: false });
    }

    fn message(&mut self, expr: &Expr, name: &str, fields: &[Field]) {
        let plain = name.strip_prefix('.').unwrap_or(name);
        if !self.resolve(expr.id, plain) {
            return self.undeclared(expr.id, name);
        }
        let known = self.get(expr);
        let made = match &known {
            Type::Type(Some(inner)) if matches!(**inner, Type::Struct(_)) => (**inner).clone(),
            Type::Type(Some(inner)) => {
                self.report(expr.id, format!("'{}' is not a message type", inner.name()));
                Type::Error
            }
            other => {
                self.report(expr.id, format!("'{}' is not a type", other.name()));
                Type::Error
            }
        };
        self.set(expr.id, made.clone());
        for field in fields {
            self.check(&field.value);
            let wanted = match &made {
                Type::Struct(name) => self.struct_field(field.id, name, &field.name),
                _ => Type::Error,
            };
            let given = self.element_type(&field.value, field.is_optional);
            if !self.mapping.is_assignable(&wanted, &given) {
                let name = &field.name;
                let text = format!("expected type of field '{name}' is '{wanted}' but provided type is '{given}'");
                self.report(field.id, text);
            }
        }
    }

    fn fold(&mut self, expr: &Expr, fold: &Fold) {
        self.check(&fold.range);
        self.check(&fold.init);
        let range = self.mapping.substitute(&self.get(&fold.range), false);
        let gathered = self.get(&fold.init);
        let has_two = fold.second.is_some();
        let (first, second) = match &range {
            Type::List(element) if has_two => (Type::Int, (**element).clone()),
            Type::List(element) => ((**element).clone(), Type::Error),
            Type::Map(pair) => (pair.0.clone(), pair.1.clone()),
            Type::Dyn | Type::Error | Type::Var(_) => {
                let _ = self.mapping.is_assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            _ => {
                let text = format!(
                    "expression of type '{range}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report(fold.range.id, text);
                (Type::Error, Type::Error)
            }
        };
        let outside = self.scopes.len();
        self.scopes.push((fold.accumulator.clone(), gathered.clone()));
        self.scopes.push((fold.variable.clone(), first));
        if let Some(name) = &fold.second {
            self.scopes.push((name.clone(), second));
        }
        self.check(&fold.condition);
        self.assert(&fold.condition, &Type::Bool);
        self.check(&fold.step);
        self.assert(&fold.step, &gathered);
        self.scopes.truncate(outside + 1);
        self.check(&fold.result);
        self.scopes.truncate(outside);
        let found = self.mapping.substitute(&self.get(&fold.result), false);
        self.set(expr.id, found);
    }

    fn assert(&mut self, expr: &Expr, wanted: &Type) {
        let given = self.get(expr);
        if !self.mapping.is_assignable(wanted, &given) {
            self.mismatch(expr.id, wanted, &given);
        }
    }
}
