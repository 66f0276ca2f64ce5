//! What evaluating costs: cel-go's `interpreter/runtimecost.go` with the estimator of Kubernetes
//! (`k8s.io/apiserver/pkg/cel/library/cost.go`).

use crate::opaque::Opaque;
use crate::value::Val;

/// A variable, and each step of a selection.
pub(crate) const SELECT: u64 = 1;
pub(crate) const LIST: u64 = 10;
pub(crate) const MAP: u64 = 30;
pub(crate) const STRUCT: u64 = 40;

/// How a call is charged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cost {
    Fixed(u64),
    /// A tenth of the first argument's size, that many times.
    First(u64),
    /// A tenth of the result's size, twice.
    Result,
    /// As many as the list of the second argument has.
    InList,
    /// Of the smaller of two.
    Smaller,
    /// As [`Cost::Smaller`], but of values of the Kubernetes libraries one.
    Equality,
    /// Of both together.
    Both,
    /// A text against an expression.
    Regex,
    Contains,
    /// All that is in the first argument.
    Traversal,
    /// A selector of the second argument's size.
    Selector,
    Sets(u64),
    ContainsIp {
        parses: bool,
    },
    ContainsCidr {
        parses: bool,
    },
    Validate,
}

/// How calls of a function are charged; `overload` is empty where several may be meant.
pub(crate) fn of(function: &str, overload: &str) -> Cost {
    match overload {
        "list_sets_contains_list" | "list_sets_intersects_list" => return Cost::Sets(1),
        "list_sets_equivalent_list" => return Cost::Sets(2),
        _ => {}
    }
    match function {
        "check" => return Cost::Fixed(350_000),
        "fieldSelector" | "labelSelector" => return Cost::Selector,
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => return Cost::Traversal,
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "cidr" | "isIP" | "isCIDR" | "quantity"
        | "isQuantity" | "semver" | "isSemver" => return Cost::First(1),
        "ip" if overload == "cidr_ip" => return Cost::Fixed(1),
        "ip" => return Cost::First(1),
        "replace" | "split" | "ip.isCanonical" => return Cost::First(2),
        "join" => return Cost::Result,
        "find" | "findAll" => return Cost::Regex,
        "containsIP" => return Cost::ContainsIp { parses: overload == "cidr_contains_ip_string" },
        "containsCIDR" => return Cost::ContainsCidr { parses: overload == "cidr_contains_cidr_string" },
        "validate" => return Cost::Validate,
        "_==_" => return Cost::Equality,
        _ => {}
    }
    match overload {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string" | "strings_quote"
        | "string_format" => Cost::First(1),
        "in_list" => Cost::InList,
        "less_string"
        | "greater_string"
        | "less_equals_string"
        | "greater_equals_string"
        | "less_bytes"
        | "greater_bytes"
        | "less_equals_bytes"
        | "greater_equals_bytes"
        | "not_equals" => Cost::Smaller,
        "add_string" | "add_bytes" => Cost::Both,
        "matches_string" => Cost::Regex,
        "contains_string" => Cost::Contains,
        _ => Cost::Fixed(1),
    }
}

/// A tenth, rounded up.
const fn tenth(size: u64) -> u64 {
    size.div_ceil(10)
}

impl Cost {
    /// What a call with these arguments costs; those that are errors count as one.
    pub(crate) fn charge(self, args: &[Option<&Val<'_>>], result: Option<&Val<'_>>) -> u64 {
        let size = |i: usize| args.get(i).copied().flatten().map_or(1, Val::size);
        let inside = |i: usize| match args.get(i).copied().flatten() {
            Some(Val::Optional(Some(inner))) => inner.size(),
            _ => size(i),
        };
        match self {
            Self::Fixed(cost) => cost,
            Self::First(times) => tenth(size(0) * times),
            Self::Result => tenth(result.map_or(1, Val::size) * 2),
            Self::InList => inside(1),
            Self::Smaller => tenth(inside(0).min(inside(1))),
            Self::Equality => match args.first().copied().flatten() {
                Some(Val::Opaque(_)) => 1,
                _ => tenth(inside(0).min(inside(1))),
            },
            Self::Both => tenth(inside(0) + inside(1)),
            Self::Regex => tenth(size(0) + 1) * size(1).div_ceil(4),
            Self::Contains => tenth(size(0)) * tenth(size(1)),
            Self::Traversal => args.first().copied().flatten().map_or(1, traversal),
            Self::Selector => {
                let length = size(1);
                // Half of the characters may be requirements, each a list and a struct.
                LIST + tenth(length) + length.div_ceil(2) * (LIST + STRUCT)
            }
            Self::Sets(times) => 1 + size(0) * size(1) * times,
            Self::ContainsIp { parses } => tenth(size(0) * 2) + if parses { tenth(size(1)) } else { 0 },
            Self::ContainsCidr { parses } => {
                tenth(size(0) * 2) + tenth(size(0)) + 1 + if parses { tenth(size(1)) } else { 0 }
            }
            Self::Validate => match args.first().copied().flatten() {
                Some(Val::Opaque(opaque)) => match &**opaque {
                    Opaque::Format(format) => tenth(size(1) + 1) * format.regex_size.div_ceil(4),
                    _ => 1,
                },
                _ => 1,
            },
        }
    }
}

/// The size of all within; texts count a tenth, rounded down.
fn traversal(value: &Val<'_>) -> u64 {
    match value {
        Val::String(text) => text.len() as u64 / 10,
        Val::Bytes(bytes) => bytes.len() as u64 / 10,
        Val::List(list) => list.iter().map(|item| traversal(&item)).sum(),
        Val::Map(map) => map.iter().map(|(key, value)| traversal(&key) + traversal(&value)).sum(),
        _ => 1,
    }
}
