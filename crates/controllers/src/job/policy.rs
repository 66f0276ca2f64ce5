//! What a Job's own rules say: which failures count (`podFailurePolicy`), and when part of the indexes is enough
//! (`successPolicy`).

use machinery::{Value, meta};

use super::indexes::Indexes;

/// What becomes of a failed pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts towards the limits.
    Count,
    /// It does not count.
    Ignore,
    /// Its index is given up.
    FailIndex,
    /// The whole Job has failed, with this message.
    FailJob(String),
}

/// The action of the first rule that a failed pod matches; without one it counts.
pub(super) fn judge(job: &Value, pod: &Value) -> Verdict {
    for (at, rule) in job["spec"]["podFailurePolicy"]["rules"].items().iter().enumerate() {
        let Some(found) = matches(rule, pod) else { continue };
        return match rule.str_at(&["action"]) {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{found} matching FailJob rule at index {at}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// What of the pod a rule matches, as the message tells it.
fn matches(rule: &Value, pod: &Value) -> Option<String> {
    let name = format!("{}/{}", meta::namespace(pod), meta::name(pod));
    let status = &pod["status"];
    if !rule["onExitCodes"].is_null() {
        let wanted = &rule["onExitCodes"];
        let lists = ["containerStatuses", "initContainerStatuses"];
        let (container, code) = lists.iter().flat_map(|l| status[*l].items()).find_map(|c| exited(wanted, c))?;
        return Some(format!("Container {container} for pod {name} failed with exit code {code}"));
    }
    let patterns = rule["onPodConditions"].items();
    let fits = |c: &&Value| patterns.iter().any(|p| p["type"] == c["type"] && p["status"] == c["status"]);
    let condition = status["conditions"].items().iter().find(fits)?;
    Some(format!("Pod {name} has condition {}", condition.str_at(&["type"])))
}

/// Name and code of a container that ended with one of the wanted codes.
fn exited<'a>(wanted: &Value, status: &'a Value) -> Option<(&'a str, i64)> {
    let (name, code) = (status.str_at(&["name"]), status["state"]["terminated"]["exitCode"].as_i64()?);
    let named = wanted["containerName"].as_str().is_none_or(|n| n == name);
    let listed = wanted["values"].items().iter().any(|v| v.as_i64() == Some(code));
    let fits = match wanted.str_at(&["operator"]) {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    };
    (named && code != 0 && fits).then_some((name, code))
}

/// The message of the first rule of the success policy that these indexes meet.
pub(super) fn success(job: &Value, completions: i64, succeeded: &Indexes) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let met = |rule: &Value| {
        let count = rule["succeededCount"].as_i64();
        let Some(listed) = rule["succeededIndexes"].as_str() else {
            return count.is_some_and(|count| succeeded.len() >= count);
        };
        let listed = Indexes::parse(listed, completions);
        let there = listed.common(succeeded);
        !listed.is_empty() && (there == listed.len() || count.is_some_and(|count| there >= count))
    };
    let at = job["spec"]["successPolicy"]["rules"].items().iter().position(met)?;
    Some(format!("Matched rules at index {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::json;

    #[test]
    fn the_first_matching_rule_decides_about_a_failed_pod() {
        let job = json!({"spec": {"podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [3, 4]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [5]}}]}}});
        let pod = |name: &str, code: i64, condition: &str| {
            let terminated = json!({"exitCode": code});
            let statuses = json!([{"name": name, "state": {"terminated": terminated}}]);
            json!({"metadata": {"name": "p", "namespace": "d"}, "status": {"containerStatuses": statuses,
                "conditions": [{"type": condition, "status": "True"}]}})
        };
        let message = "Container c for pod d/p failed with exit code 3 matching FailJob rule at index 1";
        assert_eq!(judge(&job, &pod("c", 3, "Ready")), Verdict::FailJob(message.into()));
        assert_eq!(judge(&job, &pod("c", 3, "DisruptionTarget")), Verdict::Ignore);
        assert_eq!(judge(&job, &pod("b", 3, "Ready")), Verdict::FailIndex);
        assert_eq!(judge(&job, &pod("b", 5, "Ready")), Verdict::Count);
        assert_eq!(judge(&job, &pod("b", 0, "Ready")), Verdict::Count);
    }

    #[test]
    fn a_success_policy_counts_or_lists_indexes() {
        let check = |rule: Value, done: &str| {
            let job = json!({"spec": {"successPolicy": {"rules": [rule]}}});
            success(&job, 10, &Indexes::parse(done, 10)).is_some()
        };
        assert!(check(json!({"succeededCount": 2}), "0,4"));
        assert!(!check(json!({"succeededCount": 2}), "0"));
        assert!(check(json!({"succeededIndexes": "0-2"}), "0-3"));
        assert!(!check(json!({"succeededIndexes": "0-2"}), "0,1"));
        assert!(check(json!({"succeededIndexes": "0-2", "succeededCount": 1}), "2"));
        assert!(!check(json!({"succeededIndexes": "0-2"}), ""));
    }
}
