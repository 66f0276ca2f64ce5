//! May a value of one type stand where another is wanted? And what do the unknown types then have to be?

use std::sync::Arc;

use crate::functions::Overload;
use crate::types::Type;

/// What is known of the types that are being found out.
#[derive(Clone, Default)]
pub(super) struct Mapping(Vec<Option<Type>>);

impl Mapping {
    /// A type of which nothing is known yet.
    pub(super) fn fresh(&mut self) -> Type {
        self.0.push(None);
        Type::Var((self.0.len() - 1) as u32)
    }

    /// The arguments and the result of an overload, with fresh types for its parameters.
    pub(super) fn instantiate(&mut self, overload: &'static Overload) -> (Vec<Type>, Type) {
        if overload.params.is_empty() {
            return (overload.args.clone(), overload.result.clone());
        }
        let fresh: Vec<(&str, Type)> = overload.params.iter().map(|name| (&**name, self.fresh())).collect();
        let replace = |t: &Type| replace(t, &fresh);
        (overload.args.iter().map(replace).collect(), replace(&overload.result))
    }

    pub(super) fn is_assignable(&mut self, to: &Type, from: &Type) -> bool {
        self.attempt(|mapping| mapping.fits(to, from))
    }

    pub(super) fn is_assignable_list(&mut self, to: &[Type], from: &[Type]) -> bool {
        self.attempt(|mapping| mapping.fits_all(to, from))
    }

    /// Keeps what was learnt only when it fits.
    fn attempt(&mut self, test: impl FnOnce(&mut Self) -> bool) -> bool {
        let before = self.clone();
        let fits = test(self);
        if !fits {
            *self = before;
        }
        fits
    }

    fn find(&self, t: &Type) -> Option<&Type> {
        match t {
            Type::Var(number) => self.0[*number as usize].as_ref(),
            _ => None,
        }
    }

    fn learn(&mut self, var: &Type, is: Type) {
        if let Type::Var(number) = var {
            self.0[*number as usize] = Some(is);
        }
    }

    /// With all that is known put in; `to_dyn` makes the rest dynamic.
    pub(super) fn substitute(&self, t: &Type, to_dyn: bool) -> Type {
        match t {
            Type::Var(_) => match self.find(t) {
                Some(known) => self.substitute(known, to_dyn),
                None if to_dyn => Type::Dyn,
                None => t.clone(),
            },
            Type::List(element) => Type::list(self.substitute(element, to_dyn)),
            Type::Map(pair) => Type::map(self.substitute(&pair.0, to_dyn), self.substitute(&pair.1, to_dyn)),
            Type::Opaque(name, params) if !params.is_empty() => {
                Type::Opaque(Arc::clone(name), params.iter().map(|p| self.substitute(p, to_dyn)).collect())
            }
            Type::Type(Some(inner)) => Type::type_of(self.substitute(inner, to_dyn)),
            _ => t.clone(),
        }
    }

    fn fits_all(&mut self, to: &[Type], from: &[Type]) -> bool {
        to.len() == from.len() && to.iter().zip(from).all(|(to, from)| self.fits(to, from))
    }

    fn fits(&mut self, a: &Type, b: &Type) -> bool {
        if matches!(b, Type::Var(_)) {
            let (is_valid, is_known) = self.try_var(a, b);
            if is_valid || is_known {
                return is_valid;
            }
        }
        if matches!(a, Type::Var(_)) {
            return self.try_var(b, a).0;
        }
        let is_any = |t: &Type| t.is_dyn() || *t == Type::Error;
        if is_any(a) || is_any(b) {
            return true;
        }
        match (a, b) {
            (Type::Null, other) | (other, Type::Null) => {
                matches!(other, Type::Null | Type::Opaque(..) | Type::Struct(_) | Type::Duration | Type::Timestamp)
            }
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) => self.fits(a, b),
            (Type::Map(a), Type::Map(b)) => self.fits(&a.0, &b.0) && self.fits(&a.1, &b.1),
            (Type::Opaque(a, x), Type::Opaque(b, y)) => a == b && self.fits_all(x, y),
            _ => a == b,
        }
    }

    /// Can the variable be that type? And was it known?
    fn try_var(&mut self, t: &Type, var: &Type) -> (bool, bool) {
        if t == var {
            return (true, true);
        }
        if let Some(known) = self.find(var).cloned() {
            if *t == known {
                return (true, true);
            }
            if !self.fits(t, &known) {
                return (false, true);
            }
            let general = most_general(t.clone(), known);
            if self.is_free_of(var, &general) {
                self.learn(var, general);
            }
            return (true, true);
        }
        let may = self.is_free_of(var, t);
        if may {
            self.learn(var, t.clone());
        }
        (may, false)
    }

    /// Does the variable occur nowhere inside? (A type cannot contain itself.)
    fn is_free_of(&self, var: &Type, within: &Type) -> bool {
        if var == within {
            return false;
        }
        match within {
            Type::Var(_) => self.find(within).is_none_or(|known| self.is_free_of(var, known)),
            Type::List(element) => self.is_free_of(var, element),
            Type::Map(pair) => self.is_free_of(var, &pair.0) && self.is_free_of(var, &pair.1),
            Type::Opaque(_, params) => params.iter().all(|param| self.is_free_of(var, param)),
            Type::Type(Some(inner)) => self.is_free_of(var, inner),
            _ => true,
        }
    }
}

fn replace(t: &Type, fresh: &[(&str, Type)]) -> Type {
    match t {
        Type::Param(name) => {
            fresh.iter().find(|(other, _)| **other == **name).map_or_else(|| t.clone(), |(_, t)| t.clone())
        }
        Type::List(element) => Type::list(replace(element, fresh)),
        Type::Map(pair) => Type::map(replace(&pair.0, fresh), replace(&pair.1, fresh)),
        Type::Opaque(name, params) => {
            Type::Opaque(Arc::clone(name), params.iter().map(|p| replace(p, fresh)).collect())
        }
        Type::Type(Some(inner)) => Type::type_of(replace(inner, fresh)),
        _ => t.clone(),
    }
}

/// The one that says less.
pub(super) fn most_general(a: Type, b: Type) -> Type {
    if is_equal_or_less_specific(&a, &b) { a } else { b }
}

fn is_equal_or_less_specific(a: &Type, b: &Type) -> bool {
    if a.is_dyn() || matches!(a, Type::Var(_)) {
        return true;
    }
    if b.is_dyn() || matches!(b, Type::Var(_)) {
        return false;
    }
    match (a, b) {
        (Type::List(a), Type::List(b)) => is_equal_or_less_specific(a, b),
        (Type::Map(a), Type::Map(b)) => is_equal_or_less_specific(&a.0, &b.0) && is_equal_or_less_specific(&a.1, &b.1),
        (Type::Opaque(a, x), Type::Opaque(b, y)) => {
            a == b && x.len() == y.len() && x.iter().zip(y.iter()).all(|(x, y)| is_equal_or_less_specific(x, y))
        }
        (Type::Type(_), Type::Type(_)) => true,
        _ => a == b,
    }
}
