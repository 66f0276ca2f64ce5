//! IP addresses of Services and the ranges they come from.

use machinery::names;

use crate::strategy::Strategy;
use crate::validation::addresses::{cidr_complaint, ip_complaint, one_family};
use crate::validation::{At, Errors, IMMUTABLE, go, same};

pub(crate) static ADDRESS: Strategy = Strategy {
    name: |name, _| ip_complaint(name).into_iter().collect(),
    validate: |at, _, errors| parent(&at.at(&["spec", "parentRef"]), errors),
    validate_update: Some(|new, old, _, errors| {
        errors.immutable(&new.at(&["spec", "parentRef"]), &old.at(&["spec", "parentRef"]));
    }),
    ..Strategy::PLAIN
};

/// What an address belongs to: a Service, so far.
fn parent(at: &At<'_>, errors: &mut Errors) {
    if !at.is_set() {
        errors.required(at, "");
        return;
    }
    if !at.field("group").is_empty() {
        errors.dns_subdomain(&at.field("group"));
    }
    for member in ["resource", "name"] {
        if at.field(member).is_empty() {
            errors.required(&at.field(member), "");
        }
    }
    for member in ["resource", "name", "namespace"].map(|m| at.field(m)).iter().filter(|m| !m.is_empty()) {
        errors.all_invalid(member, names::is_valid_path_segment_name(member.text()));
    }
}

pub(crate) static RANGE: Strategy = Strategy {
    validate: |at, _, errors| cidrs(&at.at(&["spec", "cidrs"]), errors),
    validate_update: Some(|new, old, _, errors| {
        let (now, then) = (new.at(&["spec", "cidrs"]), old.at(&["spec", "cidrs"]));
        let fixed = match (now.items().len(), then.items().len()) {
            (a, b) if a == b => b,
            // A second family may be added to the first.
            (2, 1) => 1,
            _ => return errors.invalid_as(&now, go::strings("string", now.value), IMMUTABLE),
        };
        for (new, old) in now.items().iter().zip(then.items()).take(fixed) {
            if !same(new.value, old.value) {
                errors.invalid(new, IMMUTABLE);
            }
        }
        if now.items().len() != fixed {
            cidrs(&now, errors);
        }
    }),
    ..Strategy::PLAIN
};

fn cidrs(at: &At<'_>, errors: &mut Errors) {
    let items = at.items();
    match items.as_slice() {
        [] => errors.required(at, "at least one CIDR required"),
        [_, _, _, ..] => {
            let shown = format!("&networking.ServiceCIDRSpec{{CIDRs:{}}}", go::strings("string", at.value));
            errors.invalid_as(at, shown, "may only hold up to 2 values");
        }
        _ => {
            for item in &items {
                errors.all_invalid(item, cidr_complaint(item.text()).into_iter().collect());
            }
            if let [a, b] = items.as_slice()
                && one_family(a.text(), b.text())
            {
                let text = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
                errors.invalid_as(at, go::strings("string", at.value), text);
            }
        }
    }
}
