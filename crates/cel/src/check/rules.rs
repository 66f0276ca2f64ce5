//! What Kubernetes checks beyond types: literals of durations, timestamps, expressions and formats, and lists and maps
//! whose elements are of one type (cel-go's `cel/validator.go`).

use super::{Checked, Reference};
use crate::ast::{Expr, Id, Kind};
use crate::functions::{Pattern, check_format_literal, library};
use crate::source::Findings;
use crate::types::Type;
use crate::value::Val;

/// Notes what is wrong with the literals of a tree that is right otherwise.
pub(crate) fn check_literals(checked: &Checked, found: &mut Findings) {
    checked.root.walk(&mut |expr| {
        call(checked, expr, found);
        aggregate(checked, expr, found);
    });
}

fn report(checked: &Checked, id: Id, message: String, found: &mut Findings) {
    found.report(checked.places[id as usize], message);
}

fn call(checked: &Checked, expr: &Expr, found: &mut Findings) {
    let Kind::Call { target, function, args } = &expr.kind else { return };
    if let (Some(target), "format", [list]) = (target, function.as_str(), &args[..]) {
        format(checked, expr, target, list, found);
    }
    let Some(Expr { id, kind: Kind::Literal(value) }) = args.first() else { return };
    let is_right = match function.as_str() {
        "duration" | "timestamp" => {
            let all = library().get(function.as_str()).map(Vec::as_slice).unwrap_or_default();
            let values = [value.clone()];
            all.iter().find(|overload| overload.takes(&values)).is_none_or(|overload| (overload.call)(&values).is_ok())
        }
        "matches" => value.as_str().is_none_or(|pattern| Pattern::new(pattern).is_ok()),
        _ => true,
    };
    if !is_right {
        report(checked, *id, format!("invalid {function} argument"), found);
    }
}

fn format(checked: &Checked, expr: &Expr, target: &Expr, list: &Expr, found: &mut Findings) {
    let is_meant = match checked.reference(expr.id) {
        Some(Reference::Call { overloads, .. }) => overloads.iter().any(|overload| overload.id == "string_format"),
        _ => false,
    };
    let (Kind::Literal(Val::String(text)), Kind::List(elements), true) = (&target.kind, &list.kind, is_meant) else {
        return;
    };
    let types: Vec<&Type> = elements.iter().map(|element| checked.type_of(element.value.id)).collect();
    if let Err(fault) = check_format_literal(text, &types) {
        let at = fault.argument.map_or(expr.id, |argument| elements[argument].value.id);
        report(checked, at, fault.message, found);
    }
}

/// The checker lets elements differ where one is `dyn`; Kubernetes does not, except in what is formatted.
fn aggregate(checked: &Checked, expr: &Expr, found: &mut Findings) {
    let inner = |value: &Expr, is_optional: bool| {
        let known = checked.type_of(value.id);
        if is_optional { known.unwrap_optional().unwrap_or(known).clone() } else { known.clone() }
    };
    let mut compare = |first: &mut Option<Type>, value: &Expr, known: Type| match first {
        None => {
            *first = Some(known);
            true
        }
        Some(expected) if expected.is_equivalent(&known) => true,
        Some(expected) => {
            if !is_exempt(checked, expr) {
                report(checked, value.id, format!("expected type '{expected}' but found '{known}'"), found);
            }
            false
        }
    };
    match &expr.kind {
        Kind::List(elements) => {
            let mut first = None;
            let mut elements = elements.iter();
            let _ = elements.all(|e| compare(&mut first, &e.value, inner(&e.value, e.is_optional)));
        }
        Kind::Map(entries) => {
            let (mut keys, mut values) = (None, None);
            for entry in entries {
                compare(&mut keys, &entry.key, inner(&entry.key, false));
                compare(&mut values, &entry.value, inner(&entry.value, entry.is_optional));
            }
        }
        _ => {}
    }
}

/// Does it stand within a call of `format`?
fn is_exempt(checked: &Checked, wanted: &Expr) -> bool {
    let mut is_within = false;
    checked.root.walk(&mut |expr| {
        if matches!(&expr.kind, Kind::Call { function, .. } if function == "format") {
            expr.walk(&mut |inner| is_within = is_within || inner.id == wanted.id);
        }
    });
    is_within
}
