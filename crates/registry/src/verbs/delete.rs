//! Delete: preconditions, grace, finalizers (`rest.BeforeDelete` and the generic store's `Delete`).

use std::time::Duration;

use base::Timestamp;
use machinery::{FieldError, FieldPath, GroupResource, Status, Value, meta};

use crate::context::{Context, DeleteOptions, Deletion, Propagation};
use crate::row::Resource;

/// `metadata.finalizers` that the garbage collector works on.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What deleting `current` (with its resourceVersion) comes to. A returned object has no resourceVersion.
///
/// # Errors
/// 422 for wrong options, 409 for failed preconditions.
pub fn delete(resource: &Resource, current: &Value, options: &DeleteOptions, cx: &Context) -> Result<Deletion, Status> {
    validate_options(options)?;
    preconditions(resource, current, options)?;
    if let Some(deletion) = (resource.strategy.delete)(current, cx) {
        return Ok(deletion);
    }
    let mut options = options.clone();
    options.grace_period_seconds = options.grace_period_seconds.map(|s| if s < 0 { 1 } else { s });
    let mut marked = current.clone();
    let grace = match resource.strategy.graceful {
        Some(check) => graceful(check, &mut marked, &mut options, cx.now),
        None => Grace::None,
    };
    if grace == Grace::Pending {
        return Ok(Deletion::Unchanged);
    }
    let finalizers = finalizers_for_delete(resource, current, &options);
    if let Some(finalizers) = finalizers {
        set_finalizers(&mut marked, finalizers);
    }
    let left = meta::finalizers(&marked).next().is_some();
    match grace {
        Grace::Started if left || graceful_seconds(&marked) > 0 => Ok(finish(marked)),
        Grace::None if left => {
            mark_now(&mut marked, cx.now);
            Ok(if &marked == current { Deletion::Unchanged } else { finish(marked) })
        }
        Grace::Started | Grace::None | Grace::Pending => Ok(Deletion::Remove),
    }
}

/// Must an object be removed that an update has just made free of finalizers while being deleted?
pub fn remove_on_update(resource: &Resource, updated: &Value) -> bool {
    if !meta::is_terminating(updated) || meta::finalizers(updated).next().is_some() {
        return false;
    }
    if resource.gvk.group.is_empty()
        && resource.plural == "namespaces"
        && !updated["spec"]["finalizers"].items().is_empty()
    {
        return false;
    }
    graceful_seconds(updated) == 0
}

fn finish(mut marked: Value) -> Deletion {
    marked["metadata"].remove("resourceVersion");
    Deletion::Mark(marked)
}

fn graceful_seconds(object: &Value) -> i64 {
    object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0)
}

fn validate_options(options: &DeleteOptions) -> Result<(), Status> {
    let mut errors = Vec::new();
    let policy_path = FieldPath::new("propagationPolicy");
    if options.propagation_policy.is_some() && options.orphan_dependents.is_some() {
        let text = "orphanDependents and deletionPropagation cannot be both set";
        let policy = Value::from(options.propagation_policy.clone());
        errors.push(FieldError::invalid(&policy_path, &policy, text));
    }
    if let Some(policy) = options.propagation_policy.as_deref().filter(|_| options.propagation().is_none()) {
        errors.push(FieldError::not_supported(
            &policy_path,
            &policy.into(),
            &["Foreground", "Background", "Orphan", "nil"],
        ));
    }
    if !options.dry_run.iter().all(|d| d == "All") {
        errors.push(FieldError::not_supported_list(&FieldPath::new("dryRun"), &options.dry_run, &["All"]));
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors)) }
}

fn preconditions(resource: &Resource, current: &Value, options: &DeleteOptions) -> Result<(), Status> {
    // Upstream names the kind, not the resource, in these two.
    let what = GroupResource::new(&resource.gvk.group, &resource.gvk.kind);
    let conflict = |why: String| Err(Status::conflict(&what, meta::name(current), &why));
    if let Some(uid) = options.precondition_uid.as_deref().filter(|uid| *uid != meta::uid(current)) {
        let record = meta::uid(current);
        return conflict(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({record}). The object might have been deleted and then recreated"
        ));
    }
    let stored = meta::resource_version(current);
    if let Some(version) = options.precondition_resource_version.as_deref().filter(|v| *v != stored) {
        return conflict(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({stored}). The object might have been modified"
        ));
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Grace {
    /// Delete at once.
    None,
    /// The object now carries a deadline.
    Started,
    /// It carried one before, and keeps it.
    Pending,
}

fn graceful(
    check: fn(&Value, &mut DeleteOptions) -> bool,
    object: &mut Value,
    options: &mut DeleteOptions,
    now: Timestamp,
) -> Grace {
    if let Some(deadline) = meta::deletion_timestamp(object) {
        return shorten(object, options, deadline, now);
    }
    if !check(object, options) {
        return Grace::None;
    }
    let seconds = options.grace_period_seconds.unwrap_or(0);
    let deadline = now + Duration::from_secs(seconds.max(0).unsigned_abs());
    object["metadata"].set("deletionTimestamp", deadline.rfc3339());
    object["metadata"].set("deletionGracePeriodSeconds", seconds);
    if meta::generation(object) > 0 {
        let generation = meta::generation(object) + 1;
        object["metadata"].set("generation", generation);
    }
    Grace::Started
}

/// A second delete can only bring the end nearer.
fn shorten(object: &mut Value, options: &DeleteOptions, deadline: Timestamp, now: Timestamp) -> Grace {
    let before = graceful_seconds(object);
    if before == 0 {
        return Grace::None;
    }
    let Some(mut seconds) = options.grace_period_seconds else { return Grace::Pending };
    if seconds >= before {
        return Grace::Pending;
    }
    let asked = deadline - Duration::from_secs(before.unsigned_abs());
    let mut sooner = asked + Duration::from_secs(seconds.unsigned_abs());
    if sooner < now {
        sooner = now;
        seconds = seconds.min(1);
    }
    object["metadata"].set("deletionTimestamp", sooner.rfc3339());
    object["metadata"].set("deletionGracePeriodSeconds", seconds);
    Grace::Started
}

/// The finalizers the object must have for the asked propagation; `None` leaves them as they are.
fn finalizers_for_delete(resource: &Resource, current: &Value, options: &DeleteOptions) -> Option<Vec<String>> {
    let has = |name: &str| meta::finalizers(current).any(|f| f == name);
    let policy = match (options.orphan_dependents, options.propagation()) {
        (Some(true), _) | (_, Some(Propagation::Orphan)) => Propagation::Orphan,
        (_, Some(Propagation::Foreground)) => Propagation::Foreground,
        (Some(false), _) | (_, Some(Propagation::Background)) => Propagation::Background,
        (None, None) if has(ORPHAN) => Propagation::Orphan,
        (None, None) if has(FOREGROUND) => Propagation::Foreground,
        (None, None) => resource.strategy.propagation,
    };
    let wanted = match policy {
        Propagation::Orphan => Some(ORPHAN),
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Background => None,
    };
    let mut finalizers: Vec<String> =
        meta::finalizers(current).filter(|f| *f != ORPHAN && *f != FOREGROUND).map(str::to_owned).collect();
    finalizers.extend(wanted.map(str::to_owned));
    let same_set = finalizers.len() == meta::finalizers(current).count() && wanted.is_none_or(has);
    (!same_set).then_some(finalizers)
}

fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    if finalizers.is_empty() {
        object["metadata"].remove("finalizers");
    } else {
        object["metadata"].set("finalizers", finalizers);
    }
}

/// Finalizers are left: the object stays, marked as being deleted from now on with no grace.
fn mark_now(object: &mut Value, now: Timestamp) {
    if !meta::is_terminating(object) && meta::generation(object) > 0 {
        let generation = meta::generation(object) + 1;
        object["metadata"].set("generation", generation);
    }
    if meta::deletion_timestamp(object).is_none_or(|t| t > now) {
        object["metadata"].set("deletionTimestamp", now.rfc3339());
    }
    object["metadata"].set("deletionGracePeriodSeconds", 0);
}
