//! `pods/eviction`: deletion that asks the disruption budgets first.

use base::Timestamp;
use machinery::{GroupResource, Reason, Status, StatusCause, Value, labels, meta};

/// A budget remembers at most this many evictions that are not confirmed.
const DISRUPTED_PODS_MAX: usize = 2000;
/// Seconds a client should wait while the budget's status is behind.
const RETRY_AFTER_SECONDS: u32 = 10;

/// What evicting a pod comes to.
#[derive(Clone, PartialEq, Debug)]
pub enum Eviction {
    /// Delete the pod now.
    Delete,
    /// Store this budget's status first (409 means: ask again), then delete the pod.
    Charge(Value),
}

/// May the pod be evicted? `budgets` are the PodDisruptionBudgets of its namespace.
///
/// # Errors
/// 429 when a budget does not allow it now, 500 when several budgets cover the pod.
pub fn evict<'a>(
    pod: &Value,
    budgets: impl IntoIterator<Item = &'a Value>,
    now: Timestamp,
) -> Result<Eviction, Status> {
    if matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed" | "Pending") || meta::is_terminating(pod) {
        return Ok(Eviction::Delete);
    }
    let covers = |budget: &&Value| {
        let selector = labels::Selector::from_label_selector(&budget["spec"]["selector"]);
        selector.is_ok_and(|s| s.matches(pod.at(&["metadata", "labels"])))
    };
    let covering: Vec<&Value> = budgets.into_iter().filter(covers).collect();
    let budget = match covering.as_slice() {
        [] => return Ok(Eviction::Delete),
        [budget] => *budget,
        _ => {
            let text =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status { code: 500, ..Status::new(Reason::Unknown, text) });
        }
    };
    let status = |key: &str| budget["status"][key].as_i64().unwrap_or(0);
    if !is_ready(pod) {
        let always = budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow";
        let enough = status("currentHealthy") >= status("desiredHealthy") && status("desiredHealthy") > 0;
        if always || enough {
            return Ok(Eviction::Delete);
        }
    }
    charge(pod, budget, now).map(Eviction::Charge)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].items();
    conditions.iter().any(|c| c.str_at(&["type"]) == "Ready" && c.str_at(&["status"]) == "True")
}

fn charge(pod: &Value, budget: &Value, now: Timestamp) -> Result<Value, Status> {
    let name = meta::name(budget);
    let status = |key: &str| budget["status"][key].as_i64().unwrap_or(0);
    if status("observedGeneration") < meta::generation(budget) {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refused(why, RETRY_AFTER_SECONDS));
    }
    let forbidden = |why: &str| Err(Status::forbidden(&GroupResource::new("policy", "poddisruptionbudget"), name, why));
    if status("disruptionsAllowed") < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    let pending = budget["status"]["disruptedPods"].as_object().map_or(0, machinery::Object::len);
    if pending > DISRUPTED_PODS_MAX {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if status("disruptionsAllowed") == 0 {
        let (needs, has) = (status("desiredHealthy"), status("currentHealthy"));
        return Err(refused(
            format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently"),
            0,
        ));
    }
    let mut charged = budget.clone();
    let left = status("disruptionsAllowed") - 1;
    *charged.at_mut(&["status", "disruptionsAllowed"]) = left.into();
    *charged.at_mut(&["status", "disruptedPods", meta::name(pod)]) = now.rfc3339().into();
    Ok(charged)
}

fn refused(cause: String, retry_after_seconds: u32) -> Status {
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::too_many_requests(text, retry_after_seconds);
    status.causes.push(StatusCause { reason: "DisruptionBudget".to_owned(), message: cause, field: String::new() });
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::json;

    #[test]
    fn a_budget_is_charged_until_nothing_is_left() {
        let pod = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}});
        let mut budget = json!({"metadata": {"name": "pdb"}, "spec": {"selector": {"matchLabels": {"a": "b"}}},
            "status": {"disruptionsAllowed": 1, "desiredHealthy": 1, "currentHealthy": 2}});
        let now = Timestamp::from_unix_seconds(0);
        assert_eq!(evict(&pod, [], now), Ok(Eviction::Delete));
        let Ok(Eviction::Charge(charged)) = evict(&pod, [&budget], now) else { panic!("one disruption is allowed") };
        assert_eq!(charged["status"]["disruptionsAllowed"], 0.into());
        budget["status"].set("disruptionsAllowed", 0);
        let refused = evict(&pod, [&budget], now).unwrap_err();
        assert_eq!(
            (refused.code, refused.causes[0].message.as_str()),
            (429, "The disruption budget pdb needs 1 healthy pods and has 2 currently")
        );
    }
}
