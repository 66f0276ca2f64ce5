//! Deployments, replica sets, stateful sets, daemon sets, replication controllers, pod templates.

use machinery::{FieldError, Value, labels};

use crate::context::{Context, Propagation};
use crate::strategy::{Generation, Selectable, Strategy};
use crate::validation::{At, Errors, go, label_selector, pod_spec, same};

pub(crate) static DEPLOYMENT: Strategy = Strategy {
    generation: Generation::SpecOrAnnotations,
    validate: deployment,
    validate_update: Some(|new, old, cx, errors| {
        deployment(new, cx, errors);
        errors.immutable_selector(&new.at(&["spec", "selector"]), &old.at(&["spec", "selector"]));
    }),
    prepare_subresource: |new, old, cx| {
        if cx.subresource == crate::context::Subresource::Status {
            match old["metadata"].get("labels") {
                Some(labels) => new["metadata"].set("labels", labels.clone()),
                None => drop(new["metadata"].remove("labels")),
            }
        }
    },
    ..Strategy::PLAIN
};

pub(crate) static REPLICA_SET: Strategy = Strategy {
    generation: Generation::Spec,
    validate: replica_set,
    validate_update: Some(|new, old, cx, errors| {
        replica_set(new, cx, errors);
        errors.immutable_selector(&new.at(&["spec", "selector"]), &old.at(&["spec", "selector"]));
    }),
    validate_subresource: |new, _, _, errors| replica_counts(&new.field("status"), errors),
    ..Strategy::PLAIN
};

pub(crate) static REPLICATION_CONTROLLER: Strategy = Strategy {
    generation: Generation::Spec,
    selectable: &[Selectable { label: "status.replicas", path: "status.replicas", unset: "0", instead: "" }],
    propagation: Propagation::Orphan,
    validate: replication_controller,
    validate_subresource: |new, _, _, errors| replica_counts(&new.field("status"), errors),
    ..Strategy::PLAIN
};

pub(crate) static STATEFUL_SET: Strategy = Strategy {
    generation: Generation::Spec,
    name: crate::names::label,
    validate: |at, cx, errors| stateful_set(at, cx, true, errors),
    validate_update: Some(|new, old, cx, errors| {
        stateful_set(new, cx, false, errors);
        let fixed = |spec: &Value| {
            let mut spec = spec.clone();
            for member in STATEFUL_SET_UPDATABLE {
                spec.remove(member);
            }
            spec
        };
        if !same(&fixed(new.field("spec").value), &fixed(old.field("spec").value)) {
            errors.forbidden(&new.field("spec"), "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
        }
    }),
    ..Strategy::PLAIN
};

const STATEFUL_SET_UPDATABLE: [&str; 7] = [
    "replicas",
    "template",
    "updateStrategy",
    "minReadySeconds",
    "ordinals",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
];

pub(crate) static DAEMON_SET: Strategy = Strategy {
    generation: Generation::Spec,
    prepare_create: |set, _| template_generation(set, 1),
    prepare_update: |new, old, _| {
        let changed = !same(&new["spec"]["template"], &old["spec"]["template"]);
        let before = machinery::meta::annotation(old, TEMPLATE_GENERATION).and_then(|n| n.parse().ok()).unwrap_or(1);
        template_generation(new, before + i64::from(changed));
    },
    validate: daemon_set,
    validate_update: Some(|new, old, cx, errors| {
        daemon_set(new, cx, errors);
        errors.immutable_selector(&new.at(&["spec", "selector"]), &old.at(&["spec", "selector"]));
    }),
    ..Strategy::PLAIN
};

/// How apps/v1 shows the field `templateGeneration` that it no longer has.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(set: &mut Value, generation: i64) {
    *set.at_mut(&["metadata", "annotations", TEMPLATE_GENERATION]) = generation.to_string().into();
}

pub(crate) static POD_TEMPLATE: Strategy = Strategy {
    generation: Generation::Content,
    validate: |at, cx, errors| pod_spec::template(&at.field("template"), cx, errors),
    ..Strategy::PLAIN
};

pub(crate) static CONTROLLER_REVISION: Strategy = Strategy {
    validate: |at, _, errors| revision(at, errors),
    validate_update: Some(|new, old, _, errors| {
        revision(new, errors);
        let data = new.field("data");
        if !same(data.value, old.field("data").value) {
            let raw: Vec<String> = data.value.to_string().bytes().map(|b| format!("{b:#x}")).collect();
            let shown =
                format!("runtime.RawExtension{{Raw:[]uint8{{{}}}, Object:runtime.Object(nil)}}", raw.join(", "));
            errors.invalid_as(&data, shown, crate::validation::IMMUTABLE);
        }
    }),
    ..Strategy::PLAIN
};

fn revision(at: &At<'_>, errors: &mut Errors) {
    if !at.field("data").is_set() {
        errors.required(&at.field("data"), "data is mandatory");
    }
    errors.not_negative(&at.field("revision"));
}

fn deployment(at: &At<'_>, cx: &Context, errors: &mut Errors) {
    let spec = at.field("spec");
    errors.not_negative(&spec.field("replicas"));
    selector(&spec, "empty selector is invalid for deployment", errors);
    replica_template(&spec, cx, errors);
    deployment_strategy(&spec.field("strategy"), errors);
    let ready = spec.field("minReadySeconds");
    errors.not_negative(&ready);
    errors.not_negative(&spec.field("revisionHistoryLimit"));
    let progress = spec.field("progressDeadlineSeconds");
    errors.not_negative(&progress);
    if progress.int().is_some_and(|s| s <= ready.int().unwrap_or(0)) {
        errors.invalid(&progress, "must be greater than minReadySeconds");
    }
}

fn deployment_strategy(at: &At<'_>, errors: &mut Errors) {
    let rolling = at.field("rollingUpdate");
    match at.field("type").text() {
        "Recreate" if rolling.is_set() => {
            errors.forbidden(&rolling, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" if !rolling.is_set() => errors.required(&rolling, "this should be defaulted and never be nil"),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.field("maxUnavailable"), rolling.field("maxSurge"));
            int_or_percent(&unavailable, errors);
            int_or_percent(&surge, errors);
            if amount(&unavailable) == 0 && amount(&surge) == 0 {
                errors.invalid_as(
                    &unavailable,
                    go::int_or_string(unavailable.value),
                    "may not be 0 when `maxSurge` is 0",
                );
            }
            not_more_than_all(&unavailable, errors);
        }
        kind => {
            let go_text =
                format!("apps.DeploymentStrategy{{Type:{kind:?}, RollingUpdate:(*apps.RollingUpdateDeployment)(nil)}}");
            let mut error = FieldError::not_supported(&at.path, &Value::Null, &["Recreate", "RollingUpdate"]);
            error.value = go_text;
            errors.push(error);
        }
    }
}

/// A count or a percentage such as `25%`.
pub(crate) fn int_or_percent(at: &At<'_>, errors: &mut Errors) {
    match at.value {
        Value::String(text) => {
            for complaint in machinery::names::is_valid_percent(text) {
                errors.invalid_as(at, go::int_or_string(at.value), complaint);
            }
        }
        _ => errors.not_negative(at),
    }
}

fn amount(at: &At<'_>) -> i64 {
    match at.value {
        Value::String(text) => text.trim_end_matches('%').parse().unwrap_or(0),
        _ => at.int().unwrap_or(0),
    }
}

fn not_more_than_all(at: &At<'_>, errors: &mut Errors) {
    if at
        .value
        .as_str()
        .is_some_and(|t| t.strip_suffix('%').and_then(|n| n.parse::<i64>().ok()).is_some_and(|n| n > 100))
    {
        errors.invalid_as(at, go::int_or_string(at.value), "must not be greater than 100%");
    }
}

fn selector(spec: &At<'_>, empty: &str, errors: &mut Errors) {
    let at = spec.field("selector");
    if !at.is_set() {
        errors.required(&at, "");
        return;
    }
    label_selector(&at, errors);
    if at.field("matchLabels").is_empty() && at.field("matchExpressions").is_empty() {
        errors.invalid_as(&at, go::selector(at.value), empty);
    }
}

/// Labels of the template must be what the selector asks for.
fn template_matches(spec: &At<'_>, errors: &mut Errors) -> bool {
    let at = spec.field("selector");
    let Ok(selector) = labels::Selector::from_label_selector(at.value) else {
        errors.invalid_as(&at, go::selector(at.value), "invalid label selector");
        return false;
    };
    let given = spec.at(&["template", "metadata", "labels"]);
    // An unset selector selects nothing and is complained about elsewhere; upstream's does not match either.
    let matches = if at.is_set() { selector.matches(Some(given.value)) } else { false };
    if !matches && (at.is_set() && !selector.is_empty() || !at.is_set()) {
        errors.invalid_as(&given, go::string_map(given.value), "`selector` does not match template `labels`");
    }
    true
}

fn replica_template(spec: &At<'_>, cx: &Context, errors: &mut Errors) {
    if !template_matches(spec, errors) {
        return;
    }
    let template = spec.field("template");
    pod_spec::template(&template, cx, errors);
    always_and_for_ever(&template, "ReplicaSet", errors);
}

fn always_and_for_ever(template: &At<'_>, owner: &str, errors: &mut Errors) {
    let policy = template.at(&["spec", "restartPolicy"]);
    if policy.text() != "Always" {
        errors.not_supported(&policy, &["Always"]);
    }
    let deadline = template.at(&["spec", "activeDeadlineSeconds"]);
    if deadline.is_set() {
        errors.forbidden(&deadline, format!("activeDeadlineSeconds in {owner} is not Supported"));
    }
}

fn replica_set(at: &At<'_>, cx: &Context, errors: &mut Errors) {
    let spec = at.field("spec");
    errors.not_negative(&spec.field("replicas"));
    errors.not_negative(&spec.field("minReadySeconds"));
    selector(&spec, "empty selector is invalid for deployment", errors);
    replica_template(&spec, cx, errors);
}

fn replica_counts(status: &At<'_>, errors: &mut Errors) {
    let count = |key: &str| status.field(key).int().unwrap_or(0);
    for member in ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"] {
        errors.not_negative(&status.field(member));
    }
    for member in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        if count(member) > count("replicas") {
            errors.invalid_value(&status.field(member), count(member), "cannot be greater than status.replicas");
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        errors.invalid_value(
            &status.field("availableReplicas"),
            count("availableReplicas"),
            "cannot be greater than readyReplicas",
        );
    }
}

fn replication_controller(at: &At<'_>, cx: &Context, errors: &mut Errors) {
    let spec = at.field("spec");
    errors.not_negative(&spec.field("minReadySeconds"));
    let selector = spec.field("selector");
    if selector.is_empty() {
        errors.required(&selector, "");
    }
    errors.not_negative(&spec.field("replicas"));
    let template = spec.field("template");
    if !template.is_set() {
        errors.required(&template, "");
        return;
    }
    let given = template.at(&["metadata", "labels"]);
    if !selector.is_empty() && !labels::Selector::from_set(selector.value).matches(Some(given.value)) {
        errors.invalid_as(&given, go::string_map(given.value), "`selector` does not match template `labels`");
    }
    pod_spec::template(&template, cx, errors);
    always_and_for_ever(&template, "ReplicationController", errors);
}

fn stateful_set(at: &At<'_>, cx: &Context, creating: bool, errors: &mut Errors) {
    let spec = at.field("spec");
    let policy = spec.field("podManagementPolicy");
    match policy.text() {
        "" => errors.required(&policy, ""),
        "OrderedReady" | "Parallel" => {}
        _ => errors.invalid(&policy, "must be 'OrderedReady' or 'Parallel'"),
    }
    stateful_strategy(&spec.field("updateStrategy"), errors);
    for member in ["whenDeleted", "whenScaled"] {
        let policy = spec.at(&["persistentVolumeClaimRetentionPolicy", member]);
        if spec.field("persistentVolumeClaimRetentionPolicy").is_set() {
            errors.one_of(&policy, &["Retain", "Delete"]);
        }
    }
    errors.not_negative(&spec.field("replicas"));
    errors.not_negative(&spec.field("minReadySeconds"));
    let service = spec.field("serviceName");
    if creating && !service.is_empty() {
        errors.dns_label(&service);
    }
    selector(&spec, "empty selector is invalid for statefulset", errors);
    if template_matches(&spec, errors) {
        pod_spec::template(&spec.field("template"), cx, errors);
    }
    always_and_for_ever(&spec.field("template"), "StatefulSet", errors);
}

fn stateful_strategy(at: &At<'_>, errors: &mut Errors) {
    let rolling = at.field("rollingUpdate");
    match at.field("type").text() {
        "" => errors.required(at, ""),
        "OnDelete" if rolling.is_set() => {
            let partition = rolling.field("partition").int().unwrap_or(0);
            let text = format!(
                "apps.RollingUpdateStatefulSetStrategy{{Partition:{partition}, MaxUnavailable:(*intstr.IntOrString)(nil)}}"
            );
            errors.invalid_as(&rolling, text, "only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => errors.not_negative(&rolling.field("partition")),
        kind => {
            let text = format!(
                "apps.StatefulSetUpdateStrategy{{Type:{kind:?}, RollingUpdate:(*apps.RollingUpdateStatefulSetStrategy)(nil)}}"
            );
            errors.invalid_as(at, text, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

fn daemon_set(at: &At<'_>, cx: &Context, errors: &mut Errors) {
    let spec = at.field("spec");
    let chosen = spec.field("selector");
    label_selector(&chosen, errors);
    let given = spec.at(&["template", "metadata", "labels"]);
    if let Ok(selector) = labels::Selector::from_label_selector(chosen.value)
        && (!chosen.is_set() || !selector.matches(Some(given.value)))
    {
        errors.invalid_as(&given, go::string_map(given.value), "`selector` does not match template `labels`");
    }
    if chosen.is_set() && chosen.field("matchLabels").is_empty() && chosen.field("matchExpressions").is_empty() {
        errors.invalid_as(&chosen, go::selector(chosen.value), "empty selector is invalid for daemonset");
    }
    pod_spec::template(&spec.field("template"), cx, errors);
    always_and_for_ever(&spec.field("template"), "DaemonSet", errors);
    errors.not_negative(&spec.field("minReadySeconds"));
    let strategy = spec.field("updateStrategy");
    let rolling = strategy.field("rollingUpdate");
    match strategy.field("type").text() {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.is_set() => errors.required(&rolling, ""),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.field("maxUnavailable"), rolling.field("maxSurge"));
            int_or_percent(&unavailable, errors);
            not_more_than_all(&unavailable, errors);
            int_or_percent(&surge, errors);
            not_more_than_all(&surge, errors);
            match (amount(&unavailable) != 0, amount(&surge) != 0) {
                (true, true) => errors.invalid_as(
                    &surge,
                    go::int_or_string(surge.value),
                    "may not be set when maxUnavailable is non-zero",
                ),
                (false, false) => errors.required(&unavailable, "cannot be 0 when maxSurge is 0"),
                _ => {}
            }
        }
        kind => {
            let mut error = FieldError::not_supported(&strategy.path, &Value::Null, &["RollingUpdate", "OnDelete"]);
            error.value = format!(
                "apps.DaemonSetUpdateStrategy{{Type:{kind:?}, RollingUpdate:(*apps.RollingUpdateDaemonSet)(nil)}}"
            );
            errors.push(error);
        }
    }
    errors.not_negative(&spec.field("revisionHistoryLimit"));
}
