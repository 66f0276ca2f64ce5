//! Jobs and cron jobs.

use machinery::{Value, json, labels, meta, names};

use super::{cron, job_policies};
use crate::context::{Context, Propagation};
use crate::strategy::{Generation, Selectable, Strategy};
use crate::validation::{At, Errors, go, label_selector, pod_spec, same};

pub(crate) static JOB: Strategy = Strategy {
    generation: Generation::Spec,
    propagation: Propagation::Orphan,
    selectable: &[Selectable { label: "status.successful", path: "status.succeeded", unset: "0", instead: "" }],
    prepare_create: generate_selector,
    validate: |at, cx, errors| {
        generated_selector(at, errors);
        job_spec(&at.field("spec"), cx, errors);
        job_selector(&at.field("spec"), errors);
        indexed_name(at, errors);
    },
    validate_update: Some(job_update),
    ..Strategy::PLAIN
};

pub(crate) static CRON_JOB: Strategy = Strategy {
    generation: Generation::Spec,
    validate: |at, cx, errors| {
        cron_job(at, None, cx, errors);
        let name = at.at(&["metadata", "name"]);
        if name.text().len() > CRON_JOB_NAME_BYTES_MAX {
            errors.invalid(&name, "must be no more than 52 characters");
        }
    },
    validate_update: Some(|new, old, cx, errors| cron_job(new, Some(old), cx, errors)),
    ..Strategy::PLAIN
};

/// The controller appends a dash and ten digits.
const CRON_JOB_NAME_BYTES_MAX: usize = 52;

/// Bounds of indexed jobs, and of those that have more completions than the first bound.
const INDEXES_MAX: i64 = 100_000;
const MANY_INDEXES_MAX: i64 = 10_000;
/// Longest `managedBy`.
const MANAGER_BYTES_MAX: usize = 63;

/// Unless the user brings his own, a job selects its pods by its uid.
fn generate_selector(job: &mut Value, _: &Context) {
    if job["spec"]["manualSelector"].as_bool() == Some(true) {
        return;
    }
    let (uid, name) = (meta::uid(job).to_owned(), meta::name(job).to_owned());
    let own = [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ];
    for (key, value) in own {
        *job.at_mut(&["spec", "template", "metadata", "labels", key]) = value.into();
    }
    if job["spec"]["selector"].is_null() {
        *job.at_mut(&["spec", "selector"]) = json!({"matchLabels": {}});
    }
    *job.at_mut(&["spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid"]) = uid.as_str().into();
}

fn job_spec(spec: &At<'_>, cx: &Context, errors: &mut Errors) {
    for member in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        errors.not_negative(&spec.field(member));
    }
    let failed = spec.field("maxFailedIndexes");
    if failed.is_set() && !spec.field("backoffLimitPerIndex").is_set() {
        errors.required(&spec.field("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    let manager = spec.field("managedBy");
    if manager.is_set() {
        super::networking::domain_prefixed_path(&manager, errors);
        if manager.text().len() > MANAGER_BYTES_MAX {
            errors.push(machinery::FieldError::too_long(&manager.path, MANAGER_BYTES_MAX));
        }
    }
    let mode = spec.field("completionMode");
    if mode.is_set() {
        errors.one_of(&mode, &["NonIndexed", "Indexed"]);
    }
    match mode.text() {
        "Indexed" => indexed(spec, errors),
        "" | "NonIndexed" => {
            for member in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if spec.field(member).is_set() {
                    errors.invalid(&spec.field(member), "requires indexed completion mode");
                }
            }
        }
        _ => {}
    }
    if spec.field("podFailurePolicy").is_set() {
        job_policies::failure_policy(spec, errors);
    }
    if spec.field("successPolicy").is_set() && mode.text() == "Indexed" {
        job_policies::success_policy(spec, errors);
    } else if spec.field("successPolicy").is_set() {
        errors.invalid(&spec.field("successPolicy"), "requires indexed completion mode");
    }
    job_policies::replacement_policy(spec, errors);
    template(spec, cx, errors);
}

/// Bounds of an indexed job.
fn indexed(spec: &At<'_>, errors: &mut Errors) {
    let (completions, parallelism, failed) =
        (spec.field("completions"), spec.field("parallelism"), spec.field("maxFailedIndexes"));
    if !completions.is_set() {
        errors.required(&completions, "when completion mode is Indexed");
    }
    if parallelism.int().is_some_and(|n| n > INDEXES_MAX) {
        let text = format!("must be less than or equal to {INDEXES_MAX} when completion mode is Indexed");
        errors.invalid(&parallelism, text);
    }
    if let (Some(all), Some(most)) = (completions.int(), failed.int())
        && most > all
    {
        errors.invalid(&failed, "must be less than or equal to completions");
    }
    if failed.int().is_some_and(|n| n > INDEXES_MAX) {
        errors.invalid(&failed, format!("must be less than or equal to {INDEXES_MAX}"));
    }
    if completions.int().is_none_or(|n| n <= INDEXES_MAX) || !spec.field("backoffLimitPerIndex").is_set() {
        return;
    }
    if !failed.is_set() {
        errors.required(&failed, &format!("must be specified when completions is above {INDEXES_MAX}"));
    }
    for at in [parallelism, failed].iter().filter(|at| at.int().is_some_and(|n| n > MANY_INDEXES_MAX)) {
        let text = format!(
            "must be less than or equal to {MANY_INDEXES_MAX} when completions are above {INDEXES_MAX} and used with backoff limit per index"
        );
        errors.invalid(at, text);
    }
}

fn template(spec: &At<'_>, cx: &Context, errors: &mut Errors) {
    pod_spec::template(&spec.field("template"), cx, errors);
    let policy = spec.at(&["template", "spec", "restartPolicy"]);
    match policy.text() {
        "Always" | "" => errors.required(&policy, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.field("podFailurePolicy").is_set() => {
            errors.invalid(&policy, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        _ => errors.not_supported(&policy, &["OnFailure", "Never"]),
    }
}

fn job_selector(spec: &At<'_>, errors: &mut Errors) {
    let at = spec.field("selector");
    if !at.is_set() {
        errors.required(&at, "");
        return;
    }
    label_selector(&at, errors);
    let given = spec.at(&["template", "metadata", "labels"]);
    if labels::Selector::from_label_selector(at.value).is_ok_and(|s| !s.matches(Some(given.value))) {
        errors.invalid_as(&given, go::string_map(given.value), "`selector` does not match template `labels`");
    }
}

/// What was generated must be all there is.
fn generated_selector(at: &At<'_>, errors: &mut Errors) {
    let (spec, selector) = (at.field("spec"), at.at(&["spec", "selector"]));
    if spec.field("manualSelector").truth() || !selector.is_set() {
        return;
    }
    let own = json!({
        "batch.kubernetes.io/controller-uid": meta::uid(at.value), "batch.kubernetes.io/job-name": meta::name(at.value),
        "controller-uid": meta::uid(at.value), "job-name": meta::name(at.value),
    });
    if labels::Selector::from_label_selector(selector.value).is_ok_and(|s| !s.matches(Some(&own))) {
        errors.invalid_as(&selector, go::selector(selector.value), "`selector` not auto-generated");
    }
}

fn indexed_name(at: &At<'_>, errors: &mut Errors) {
    let completions = at.at(&["spec", "completions"]).int().unwrap_or(0);
    if at.at(&["spec", "completionMode"]).text() != "Indexed" || completions <= 0 {
        return;
    }
    let name = at.at(&["metadata", "name"]);
    let last = format!("{}-{}", name.text(), completions - 1);
    if !names::is_dns1123_label(&last).is_empty() {
        errors.invalid(&name, format!("will not able to create pod with invalid DNS label: {last}"));
    }
}

fn job_update(new: &At<'_>, old: &At<'_>, cx: &Context, errors: &mut Errors) {
    let (spec, before) = (new.field("spec"), old.field("spec"));
    job_spec(&spec, cx, errors);
    job_selector(&spec, errors);
    let completions = spec.field("completions");
    if spec.field("completionMode").text() != "Indexed" {
        errors.immutable(&completions, &before.field("completions"));
    } else if !same(completions.value, before.field("completions").value)
        && completions.is_set()
        && completions.int() != spec.field("parallelism").int()
    {
        errors.invalid(&completions, "can only be modified in tandem with spec.parallelism");
    }
    errors.immutable_selector(&spec.field("selector"), &before.field("selector"));
    // A job that is suspended and never ran may still be told where to run.
    let mut template = spec.field("template").value.clone();
    let suspended = before.field("suspend").truth() && old.at(&["status", "startTime"]).is_empty();
    if suspended {
        for member in ["nodeSelector", "tolerations", "affinity", "schedulingGates"] {
            let value = before.at(&["template", "spec", member]).value;
            match value {
                Value::Null => drop(template.at_mut(&["spec"]).remove(member)),
                value => *template.at_mut(&["spec", member]) = value.clone(),
            }
        }
        for member in ["labels", "annotations"] {
            *template.at_mut(&["metadata", member]) = before.at(&["template", "metadata", member]).value.clone();
        }
    }
    let at = At { value: &template, path: spec.field("template").path };
    errors.immutable(&at, &before.field("template"));
    for member in ["completionMode", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        errors.immutable(&spec.field(member), &before.field(member));
    }
    let (policy, then) = (spec.field("podFailurePolicy"), before.field("podFailurePolicy"));
    if policy.is_set() != then.is_set() || !same(policy.value, then.value) {
        let rules = if policy.field("rules").is_empty() { "{}" } else { "{...}" };
        let shown = format!("batch.PodFailurePolicy{{Rules:[]batch.PodFailurePolicyRule{rules}}}");
        errors.invalid_as(&policy, shown, crate::validation::IMMUTABLE);
    }
}

fn cron_job(at: &At<'_>, old: Option<&At<'_>>, cx: &Context, errors: &mut Errors) {
    let spec = at.field("spec");
    let schedule = spec.field("schedule");
    let unchanged = old.is_some_and(|o| o.at(&["spec", "schedule"]).text() == schedule.text());
    if schedule.is_empty() {
        errors.required(&schedule, "");
    } else {
        if let Err(complaint) = cron::parse(schedule.text()) {
            errors.invalid(&schedule, complaint);
        }
        if schedule.text().contains("TZ") && !unchanged {
            errors.invalid(&schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
        }
    }
    errors.not_negative(&spec.field("startingDeadlineSeconds"));
    let zone = spec.field("timeZone");
    if zone.is_set() && zone.is_empty() {
        errors.invalid(&zone, "timeZone must be nil or non-empty string");
    } else if zone.text().eq_ignore_ascii_case("local") {
        errors.invalid(&zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    }
    errors.one_of_required(&spec.field("concurrencyPolicy"), &["Allow", "Forbid", "Replace"]);
    let job = spec.at(&["jobTemplate", "spec"]);
    job_spec(&job, cx, errors);
    if job.field("selector").is_set() {
        let selector = job.field("selector");
        errors.invalid_as(&selector, go::selector(selector.value), "`selector` will be auto-generated");
    }
    if job.field("manualSelector").truth() {
        errors.not_supported(&job.field("manualSelector"), &["nil", "false"]);
    }
    errors.not_negative(&spec.field("successfulJobsHistoryLimit"));
    errors.not_negative(&spec.field("failedJobsHistoryLimit"));
}
