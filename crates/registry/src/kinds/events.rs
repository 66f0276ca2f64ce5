//! Events and leases.

use machinery::names;

use crate::context::Context;
use crate::strategy::{Selectable, Strategy, text};
use crate::validation::{At, Errors};

/// Events of the core group.
pub(crate) static CORE: Strategy = Strategy {
    create_on_update: true,
    selectable: &[
        text("involvedObject.kind"),
        text("involvedObject.namespace"),
        text("involvedObject.name"),
        text("involvedObject.uid"),
        text("involvedObject.apiVersion"),
        text("involvedObject.resourceVersion"),
        text("involvedObject.fieldPath"),
        text("reason"),
        text("reportingComponent"),
        Selectable { label: "source", path: "source.component", unset: "", instead: "reportingComponent" },
        text("type"),
    ],
    validate: |at, _, errors| event(at, &Names::CORE, errors),
    ..Strategy::PLAIN
};

/// Events of events.k8s.io, stricter and mostly immutable.
pub(crate) static NEW: Strategy = Strategy {
    create_on_update: true,
    selectable: &[
        Selectable { label: "regarding.kind", path: "regarding.kind", unset: "", instead: "" },
        text("regarding.namespace"),
        text("regarding.name"),
        text("regarding.uid"),
        text("regarding.apiVersion"),
        text("regarding.resourceVersion"),
        text("regarding.fieldPath"),
        text("reason"),
        text("reportingController"),
        text("type"),
    ],
    validate: |at, _, errors| {
        event(at, &Names::NEW, errors);
        if at.field("eventTime").is_empty() {
            errors.required(&at.field("eventTime"), "");
        }
        let kind = at.field("type");
        if kind.text() != "Normal" && kind.text() != "Warning" {
            errors.invalid_value(&kind, "", format!("has invalid value: {}", kind.text()));
        }
        for (member, shown) in [
            ("deprecatedFirstTimestamp", "firstTimestamp"),
            ("deprecatedLastTimestamp", "lastTimestamp"),
            ("deprecatedCount", "count"),
            ("deprecatedSource", "source"),
        ] {
            let at = at.field(member);
            if !at.is_empty() && at.int() != Some(0) {
                errors.invalid_value(&at.renamed(machinery::FieldPath::new(shown)), "", "needs to be unset");
            }
        }
    },
    validate_update: Some(new_update),
    ..Strategy::PLAIN
};

struct Names {
    object: &'static str,
    controller: &'static str,
    message: &'static str,
}

impl Names {
    const CORE: Self = Self { object: "involvedObject", controller: "reportingComponent", message: "message" };
    const NEW: Self = Self { object: "regarding", controller: "reportingController", message: "note" };
}

fn event(at: &At<'_>, names_of: &Names, errors: &mut Errors) {
    let namespace = at.at(&["metadata", "namespace"]);
    let about = at.at(&[names_of.object, "namespace"]);
    let about = about.renamed(machinery::FieldPath::new("involvedObject").child("namespace"));
    let timed = !at.field("eventTime").is_empty();
    let matches = match about.text() {
        "" if timed => matches!(namespace.text(), "default" | "kube-system"),
        "" => namespace.text() == "default",
        // Newer clients may report about other namespaces.
        other => timed || other == namespace.text(),
    };
    if !matches {
        errors.invalid(&about, "does not match event.namespace");
    }
    if !timed {
        return;
    }
    let controller = at.field(names_of.controller);
    if controller.is_empty() {
        errors.required(&controller, "");
    }
    errors.all_invalid(&controller, names::is_qualified_name(controller.text()));
    for (member, max) in [("reportingInstance", 128), ("action", 128), ("reason", 128)] {
        let at = at.field(member);
        if at.is_empty() {
            errors.required(&at, "");
        }
        if at.text().len() > max {
            errors.invalid_value(&at, "", format!("can have at most {max} characters"));
        }
    }
    let message = at.field(names_of.message);
    if message.text().len() > 1024 {
        errors.invalid_value(
            &message.renamed(machinery::FieldPath::new("message")),
            "",
            "can have at most 1024 characters",
        );
    }
}

fn new_update(new: &At<'_>, old: &At<'_>, _: &Context, errors: &mut Errors) {
    event(new, &Names::NEW, errors);
    for (member, shown) in [
        ("regarding", "involvedObject"),
        ("reason", "reason"),
        ("note", "message"),
        ("deprecatedSource", "source"),
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
        ("type", "type"),
        ("eventTime", "eventTime"),
        ("action", "action"),
        ("related", "related"),
        ("reportingController", "reportingController"),
        ("reportingInstance", "reportingInstance"),
    ] {
        errors.immutable(&new.field(member).renamed(machinery::FieldPath::new(shown)), &old.field(member));
    }
}

pub(crate) static LEASE: Strategy = Strategy {
    create_on_update: true,
    unconditional_update: false,
    validate: |at, _, errors| {
        let spec = at.field("spec");
        let duration = spec.field("leaseDurationSeconds");
        if duration.int().is_some_and(|s| s <= 0) {
            errors.invalid(&duration, "must be greater than 0");
        }
        errors.not_negative(&spec.field("leaseTransitions"));
        let holder = spec.field("preferredHolder");
        if !holder.is_empty() && spec.field("strategy").is_empty() {
            errors.forbidden(&holder, "may only be specified if `strategy` is defined");
        }
    },
    ..Strategy::PLAIN
};
