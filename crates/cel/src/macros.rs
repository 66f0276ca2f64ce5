//! Macros: calls that stand for something longer. One row per macro; what it expands to is cel-go's, node by node,
//! because costs are counted on it.

use crate::ast::{ACCUMULATOR, Element, Expr, Fold, Kind};
use crate::parser::{Parser, call};
use crate::value::Val;

type Expansion = fn(&mut Maker<'_, '_>, Expr, Vec<Expr>) -> Result<Expr, (Option<usize>, String)>;

struct Macro {
    name: &'static str,
    args: usize,
    expand: Expansion,
}

/// Those that are called on something.
const RECEIVER: &[Macro] = &[
    Macro { name: "all", args: 2, expand: all },
    Macro { name: "exists", args: 2, expand: exists },
    Macro { name: "exists_one", args: 2, expand: exists_one },
    Macro { name: "map", args: 2, expand: map },
    Macro { name: "map", args: 3, expand: map },
    Macro { name: "filter", args: 2, expand: filter },
    Macro { name: "all", args: 3, expand: all },
    Macro { name: "exists", args: 3, expand: exists },
    Macro { name: "existsOne", args: 3, expand: exists_one },
    Macro { name: "exists_one", args: 3, expand: exists_one },
    Macro { name: "transformList", args: 3, expand: transform_list },
    Macro { name: "transformList", args: 4, expand: transform_list },
    Macro { name: "transformMap", args: 3, expand: transform_map },
    Macro { name: "transformMap", args: 4, expand: transform_map },
    Macro { name: "transformMapEntry", args: 3, expand: transform_map_entry },
    Macro { name: "transformMapEntry", args: 4, expand: transform_map_entry },
    Macro { name: "optMap", args: 2, expand: opt_map },
    Macro { name: "optFlatMap", args: 2, expand: opt_flat_map },
];

/// The call, or what it stands for when it is a macro.
pub(crate) fn expand(
    parser: &mut Parser<'_>,
    id: u32,
    function: String,
    target: Option<Expr>,
    args: Vec<Expr>,
) -> Expr {
    let place = parser.place(id);
    let found = RECEIVER.iter().find(|m| m.name == function && m.args == args.len());
    let outcome = match (target, found) {
        (None, _) if function == "has" && args.len() == 1 => has(&mut Maker { parser, place }, args),
        (Some(target), Some(found)) => (found.expand)(&mut Maker { parser, place }, target, args),
        (target, _) => return Expr { id, kind: Kind::Call { target: target.map(Box::new), function, args } },
    };
    outcome.unwrap_or_else(|(at, message)| parser.fault(at, message))
}

/// Makes nodes whose place is that of the macro's call.
struct Maker<'m, 's> {
    parser: &'m mut Parser<'s>,
    place: Option<usize>,
}

impl Maker<'_, '_> {
    fn node(&mut self, kind: Kind) -> Expr {
        Expr { id: self.parser.id(self.place), kind }
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        let id = self.parser.id(self.place);
        call(id, function, args)
    }

    fn member(&mut self, function: &str, target: Expr) -> Expr {
        self.node(Kind::Call { target: Some(Box::new(target)), function: function.to_owned(), args: Vec::new() })
    }

    fn literal(&mut self, value: Val<'static>) -> Expr {
        self.node(Kind::Literal(value))
    }

    fn accumulator(&mut self) -> Expr {
        self.node(Kind::Ident(ACCUMULATOR.to_owned()))
    }

    fn list(&mut self, one: Expr) -> Expr {
        self.node(Kind::List(vec![Element { value: one, is_optional: false }]))
    }

    /// `filter ? step : accumulator`
    fn filtered(&mut self, filter: Expr, step: Expr) -> Expr {
        let otherwise = self.accumulator();
        self.call("_?_:_", vec![filter, step, otherwise])
    }

    /// The same tree with ids of its own.
    fn copy(&mut self, expr: &Expr) -> Expr {
        let mut copy = expr.clone();
        self.renumber(&mut copy);
        copy
    }

    fn renumber(&mut self, expr: &mut Expr) {
        let place = self.parser.place(expr.id);
        expr.id = self.parser.id(place);
        match &mut expr.kind {
            Kind::Unspecified | Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => self.renumber(operand),
            Kind::Call { target, args, .. } => {
                target.iter_mut().map(Box::as_mut).chain(args).for_each(|e| self.renumber(e));
            }
            Kind::List(elements) => elements.iter_mut().for_each(|e| self.renumber(&mut e.value)),
            Kind::Map(entries) => entries.iter_mut().for_each(|e| {
                self.renumber(&mut e.key);
                self.renumber(&mut e.value);
            }),
            Kind::Struct { fields, .. } => fields.iter_mut().for_each(|f| {
                f.id = self.parser.id(self.parser.place(f.id));
                self.renumber(&mut f.value);
            }),
            Kind::Fold(fold) => {
                let Fold { range, init, condition, step, result, .. } = fold.as_mut();
                [range, init, condition, step, result].into_iter().for_each(|e| self.renumber(e));
            }
        }
    }
}

type Expanded = Result<Expr, (Option<usize>, String)>;

/// What a comprehension over `range` is made of, apart from its variables.
struct Parts {
    init: Expr,
    condition: Expr,
    step: Expr,
    result: Expr,
}

/// The variables: one, or two where one argument more is given than the one-variable form has.
struct Variables {
    first: String,
    second: Option<String>,
}

fn variables(
    maker: &Maker<'_, '_>,
    args: &mut Vec<Expr>,
    has_two: bool,
    wrong: &str,
) -> Result<Variables, (Option<usize>, String)> {
    let one = |arg: &Expr| match &arg.kind {
        Kind::Ident(name) => Ok(name.clone()),
        _ => Err((maker.parser.place(arg.id), wrong.to_owned())),
    };
    let taken: Vec<Expr> = args.drain(..if has_two { 2 } else { 1 }).collect();
    let names = taken.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    let at = |i: usize| maker.parser.place(taken[i].id);
    if has_two && names[0] == names[1] {
        return Err((at(1), format!("duplicate variable name: {}", names[0])));
    }
    if let Some(i) = names.iter().position(|name| name == ACCUMULATOR || name == "__result__") {
        return Err((at(i), "iteration variable overwrites accumulator variable".to_owned()));
    }
    let mut names = names.into_iter();
    Ok(Variables { first: names.next().unwrap_or_default(), second: names.next() })
}

fn fold(maker: &mut Maker<'_, '_>, range: Expr, variables: Variables, parts: Parts) -> Expr {
    let Variables { first, second } = variables;
    let Parts { init, condition, step, result } = parts;
    let accumulator = ACCUMULATOR.to_owned();
    maker.node(Kind::Fold(Box::new(Fold {
        range,
        variable: first,
        second,
        accumulator,
        init,
        condition,
        step,
        result,
    })))
}

/// `optMap` writes what it is called on twice; upstream has no bound but memory.
const NODES_MAX: usize = 100_000;

const NOT_SIMPLE: &str = "argument must be a simple name";
const NOT_IDENTIFIER: &str = "argument is not an identifier";

fn has(maker: &mut Maker<'_, '_>, mut args: Vec<Expr>) -> Expanded {
    let arg = args.remove(0);
    match arg.kind {
        Kind::Select { operand, field, .. } => Ok(maker.node(Kind::Select { operand, field, is_test: true })),
        _ => Err((maker.parser.place(arg.id), "invalid argument to has() macro".to_owned())),
    }
}

fn all(maker: &mut Maker<'_, '_>, range: Expr, mut args: Vec<Expr>) -> Expanded {
    let has_two = args.len() == 3;
    let variables = variables(maker, &mut args, has_two, NOT_SIMPLE)?;
    let init = maker.literal(Val::Bool(true));
    let before = maker.accumulator();
    let condition = maker.call("@not_strictly_false", vec![before]);
    let before = maker.accumulator();
    let step = maker.call("_&&_", vec![before, args.remove(0)]);
    let result = maker.accumulator();
    Ok(fold(maker, range, variables, Parts { init, condition, step, result }))
}

fn exists(maker: &mut Maker<'_, '_>, range: Expr, mut args: Vec<Expr>) -> Expanded {
    let has_two = args.len() == 3;
    let variables = variables(maker, &mut args, has_two, NOT_SIMPLE)?;
    let init = maker.literal(Val::Bool(false));
    let before = maker.accumulator();
    let none_yet = maker.call("!_", vec![before]);
    let condition = maker.call("@not_strictly_false", vec![none_yet]);
    let before = maker.accumulator();
    let step = maker.call("_||_", vec![before, args.remove(0)]);
    let result = maker.accumulator();
    Ok(fold(maker, range, variables, Parts { init, condition, step, result }))
}

fn exists_one(maker: &mut Maker<'_, '_>, range: Expr, mut args: Vec<Expr>) -> Expanded {
    let has_two = args.len() == 3;
    let variables = variables(maker, &mut args, has_two, NOT_SIMPLE)?;
    let init = maker.literal(Val::Int(0));
    let condition = maker.literal(Val::Bool(true));
    let (before, one) = (maker.accumulator(), maker.literal(Val::Int(1)));
    let more = maker.call("_+_", vec![before, one]);
    let step = maker.filtered(args.remove(0), more);
    let (after, one) = (maker.accumulator(), maker.literal(Val::Int(1)));
    let result = maker.call("_==_", vec![after, one]);
    Ok(fold(maker, range, variables, Parts { init, condition, step, result }))
}

/// `accumulator + [element]`, perhaps only where a filter agrees.
fn gather(maker: &mut Maker<'_, '_>, range: Expr, variables: Variables, filter: Option<Expr>, element: Expr) -> Expr {
    let init = maker.node(Kind::List(Vec::new()));
    let condition = maker.literal(Val::Bool(true));
    let before = maker.accumulator();
    let element = maker.list(element);
    let mut step = maker.call("_+_", vec![before, element]);
    if let Some(filter) = filter {
        step = maker.filtered(filter, step);
    }
    let result = maker.accumulator();
    fold(maker, range, variables, Parts { init, condition, step, result })
}

fn map(maker: &mut Maker<'_, '_>, range: Expr, mut args: Vec<Expr>) -> Expanded {
    let variables = variables(maker, &mut args, false, NOT_IDENTIFIER)?;
    let filter = (args.len() == 2).then(|| args.remove(0));
    Ok(gather(maker, range, variables, filter, args.remove(0)))
}

fn filter(maker: &mut Maker<'_, '_>, range: Expr, mut args: Vec<Expr>) -> Expanded {
    let element = args[0].clone();
    let variables = variables(maker, &mut args, false, NOT_IDENTIFIER)?;
    Ok(gather(maker, range, variables, Some(args.remove(0)), element))
}

fn transform_list(maker: &mut Maker<'_, '_>, range: Expr, mut args: Vec<Expr>) -> Expanded {
    let variables = variables(maker, &mut args, true, NOT_SIMPLE)?;
    let filter = (args.len() == 2).then(|| args.remove(0));
    Ok(gather(maker, range, variables, filter, args.remove(0)))
}

fn insert(maker: &mut Maker<'_, '_>, range: Expr, variables: Variables, filter: Option<Expr>, what: Vec<Expr>) -> Expr {
    let init = maker.node(Kind::Map(Vec::new()));
    let condition = maker.literal(Val::Bool(true));
    let mut into = vec![maker.accumulator()];
    into.extend(what);
    let mut step = maker.call("cel.@mapInsert", into);
    if let Some(filter) = filter {
        step = maker.filtered(filter, step);
    }
    let result = maker.accumulator();
    fold(maker, range, variables, Parts { init, condition, step, result })
}

fn transform_map(maker: &mut Maker<'_, '_>, range: Expr, mut args: Vec<Expr>) -> Expanded {
    let variables = variables(maker, &mut args, true, NOT_SIMPLE)?;
    let filter = (args.len() == 2).then(|| args.remove(0));
    let key = maker.node(Kind::Ident(variables.first.clone()));
    Ok(insert(maker, range, variables, filter, vec![key, args.remove(0)]))
}

fn transform_map_entry(maker: &mut Maker<'_, '_>, range: Expr, mut args: Vec<Expr>) -> Expanded {
    let variables = variables(maker, &mut args, true, NOT_SIMPLE)?;
    let filter = (args.len() == 2).then(|| args.remove(0));
    Ok(insert(maker, range, variables, filter, vec![args.remove(0)]))
}

fn opt_map(maker: &mut Maker<'_, '_>, target: Expr, args: Vec<Expr>) -> Expanded {
    with_value(maker, target, args, "optMap", |maker, bound| maker.call("optional.of", vec![bound]))
}

fn opt_flat_map(maker: &mut Maker<'_, '_>, target: Expr, args: Vec<Expr>) -> Expanded {
    with_value(maker, target, args, "optFlatMap", |_, bound| bound)
}

/// `target.hasValue() ? wrap(let name = target.value() in body) : optional.none()`
fn with_value(
    maker: &mut Maker<'_, '_>,
    target: Expr,
    mut args: Vec<Expr>,
    name: &str,
    wrap: fn(&mut Maker<'_, '_>, Expr) -> Expr,
) -> Expanded {
    let Kind::Ident(variable) = &args[0].kind else {
        let at = maker.parser.place(args[0].id);
        return Err((at, format!("{name}() variable name must be a simple identifier")));
    };
    let variable = variable.clone();
    let at = maker.parser.place(target.id);
    if maker.parser.count() > NODES_MAX {
        return Err((at, format!("expression too large: more than {NODES_MAX} nodes")));
    }
    let copy = maker.copy(&target);
    let bound = Fold {
        range: maker.node(Kind::List(Vec::new())),
        variable: "#unused".to_owned(),
        second: None,
        init: maker.member("value", copy),
        condition: maker.literal(Val::Bool(false)),
        step: maker.node(Kind::Ident(variable.clone())),
        accumulator: variable,
        result: args.remove(1),
    };
    let bound = maker.node(Kind::Fold(Box::new(bound)));
    let (has_value, some) = (maker.member("hasValue", target), wrap(maker, bound));
    let none = maker.call("optional.none", Vec::new());
    Ok(maker.call("_?_:_", vec![has_value, some, none]))
}
