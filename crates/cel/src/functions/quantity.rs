//! Resource quantities (`k8s.io/apiserver/pkg/cel/library/quantity.go`).

use machinery::quantity::{Format, Quantity};

use super::{NO_SUCH_OVERLOAD, Row, int, row, text};
use crate::opaque::Opaque;
use crate::value::Val;

pub(super) const ROWS: &[Row] = &[
    row("quantity(string) -> kubernetes.Quantity", "string_to_quantity", |args| {
        Ok(made(Quantity::parse(text(&args[0])?)?))
    }),
    row("isQuantity(string) -> bool", "is_quantity_string", |args| {
        Ok(Val::Bool(Quantity::parse(text(&args[0])?).is_ok()))
    }),
    row("sign(kubernetes.Quantity) -> int", "quantity_sign", |args| {
        Ok(Val::Int(i64::from(quantity(&args[0])?.sign())))
    }),
    row("kubernetes.Quantity::isGreaterThan(kubernetes.Quantity) -> bool", "quantity_is_greater_than", |args| {
        Ok(Val::Bool(quantity(&args[0])?.cmp(quantity(&args[1])?).is_gt()))
    }),
    row("kubernetes.Quantity::isLessThan(kubernetes.Quantity) -> bool", "quantity_is_less_than", |args| {
        Ok(Val::Bool(quantity(&args[0])?.cmp(quantity(&args[1])?).is_lt()))
    }),
    row("kubernetes.Quantity::compareTo(kubernetes.Quantity) -> int", "quantity_compare_to", |args| {
        Ok(Val::Int(quantity(&args[0])?.cmp(quantity(&args[1])?) as i64))
    }),
    row("kubernetes.Quantity::asApproximateFloat() -> double", "quantity_get_float", |args| {
        Ok(Val::Double(quantity(&args[0])?.as_f64()))
    }),
    row("kubernetes.Quantity::asInteger() -> int", "quantity_get_int", |args| {
        let value = quantity(&args[0])?.as_i64();
        value.map(Val::Int).ok_or_else(|| "cannot convert value to integer".to_owned())
    }),
    row("kubernetes.Quantity::isInteger() -> bool", "quantity_is_integer", |args| {
        Ok(Val::Bool(quantity(&args[0])?.as_i64().is_some()))
    }),
    row("kubernetes.Quantity::add(kubernetes.Quantity) -> kubernetes.Quantity", "quantity_add", |args| {
        Ok(made(quantity(&args[0])?.plus(quantity(&args[1])?)))
    }),
    row("kubernetes.Quantity::add(int) -> kubernetes.Quantity", "quantity_add_int", |args| {
        Ok(made(quantity(&args[0])?.plus(&whole(&args[1])?)))
    }),
    row("kubernetes.Quantity::sub(kubernetes.Quantity) -> kubernetes.Quantity", "quantity_sub", |args| {
        Ok(made(quantity(&args[0])?.minus(quantity(&args[1])?)))
    }),
    row("kubernetes.Quantity::sub(int) -> kubernetes.Quantity", "quantity_sub_int", |args| {
        Ok(made(quantity(&args[0])?.minus(&whole(&args[1])?)))
    }),
];

fn quantity<'v>(value: &'v Val<'_>) -> Result<&'v Quantity, String> {
    match value {
        Val::Opaque(opaque) => match &**opaque {
            Opaque::Quantity(quantity) => Ok(quantity),
            _ => Err(NO_SUCH_OVERLOAD.to_owned()),
        },
        _ => Err(NO_SUCH_OVERLOAD.to_owned()),
    }
}

fn made<'a>(quantity: Quantity) -> Val<'a> {
    Val::from_opaque(Opaque::Quantity(quantity))
}

fn whole(value: &Val<'_>) -> Result<Quantity, String> {
    Ok(Quantity::new(int(value)?, Format::DecimalExponent))
}
