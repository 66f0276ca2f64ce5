//! Pods: READY, STATUS and RESTARTS are told from container statuses.

use base::Timestamp;
use machinery::{Value, json, meta};

use super::{Printed, age};

/// `Completed` rows are greyed out by kubectl.
pub(super) fn row_condition(pod: &Value) -> Option<Value> {
    let (reason, message) = match pod.str_at(&["status", "phase"]) {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!({"type": "Completed", "status": "True", "reason": reason, "message": message}))
}

pub(super) fn cells(p: Printed<'_>) -> Vec<Value> {
    let state = State::of(p);
    let mut restarts = state.restarts.count.to_string();
    if state.restarts.count != 0 && state.restarts.last.is_some() {
        restarts = format!("{restarts} ({} ago)", age(state.restarts.last, p.now));
    }
    let ip = p.object["status"]["podIPs"][0].str_at(&["ip"]);
    vec![
        p.name(),
        format!("{}/{}", state.ready, state.total).into(),
        state.reason.into(),
        restarts.into(),
        p.age(),
        if ip.is_empty() { "<none>".into() } else { ip.into() },
        p.text_or(&["spec", "nodeName"], "<none>"),
        p.text_or(&["status", "nominatedNodeName"], "<none>"),
        readiness_gates(p),
    ]
}

fn readiness_gates(p: Printed<'_>) -> Value {
    let gates = p.items(&["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let open =
        |gate: &&Value| p.condition(gate.str_at(&["conditionType"])).is_some_and(|c| c.str_at(&["status"]) == "True");
    format!("{}/{}", gates.iter().filter(open).count(), gates.len()).into()
}

#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += status["restartCount"].as_i64().unwrap_or(0);
        let finished = Timestamp::parse(status.str_at(&["lastState", "terminated", "finishedAt"])).ok();
        self.last = self.last.max(finished);
    }
}

struct State {
    reason: String,
    ready: usize,
    total: usize,
    restarts: Restarts,
}

fn restartable(p: Printed<'_>, name: &str) -> bool {
    let init = p.items(&["spec", "initContainers"]).iter();
    init.filter(|c| c.str_at(&["name"]) == name).any(|c| c.str_at(&["restartPolicy"]) == "Always")
}

impl State {
    fn of(p: Printed<'_>) -> Self {
        let phase = p.text(&["status", "phase"]);
        let own = p.text(&["status", "reason"]);
        let mut reason = if own.is_empty() { phase } else { own }.to_owned();
        if p.condition("PodScheduled").is_some_and(|c| c.str_at(&["reason"]) == "SchedulingGated") {
            reason = "SchedulingGated".to_owned();
        }
        let sidecars =
            p.items(&["spec", "initContainers"]).iter().filter(|c| c.str_at(&["restartPolicy"]) == "Always").count();
        let mut state = Self {
            reason,
            ready: 0,
            total: p.items(&["spec", "containers"]).len() + sidecars,
            restarts: Restarts::default(),
        };
        let (initializing, sidecar_restarts) = state.init_containers(p);
        if !initializing || p.condition("Initialized").is_some_and(|c| c.str_at(&["status"]) == "True") {
            state.restarts = sidecar_restarts;
            state.containers(p);
        }
        if meta::is_terminating(p.object) {
            if own == "NodeLost" {
                state.reason = "Unknown".to_owned();
            } else if phase != "Succeeded" && phase != "Failed" {
                state.reason = "Terminating".to_owned();
            }
        }
        state
    }

    fn init_containers(&mut self, p: Printed<'_>) -> (bool, Restarts) {
        let mut sidecars = Restarts::default();
        for (i, status) in p.items(&["status", "initContainerStatuses"]).iter().enumerate() {
            let sidecar = restartable(p, status.str_at(&["name"]));
            self.restarts.add(status);
            if sidecar {
                sidecars.add(status);
            }
            let terminated = status.at(&["state", "terminated"]).filter(|t| !t.is_null());
            let waiting = status.str_at(&["state", "waiting", "reason"]);
            match terminated {
                Some(t) if t["exitCode"].as_i64().unwrap_or(0) == 0 => continue,
                _ if sidecar && status["started"].as_bool() == Some(true) => {
                    self.ready += usize::from(status["ready"].as_bool() == Some(true));
                    continue;
                }
                Some(t) => self.reason = format!("Init:{}", exit_reason(t)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => self.reason = format!("Init:{waiting}"),
                None => self.reason = format!("Init:{i}/{}", p.items(&["spec", "initContainers"]).len()),
            }
            return (true, sidecars);
        }
        (false, sidecars)
    }

    fn containers(&mut self, p: Printed<'_>) {
        let mut running = false;
        for status in p.items(&["status", "containerStatuses"]).iter().rev() {
            self.restarts.add(status);
            let waiting = status.str_at(&["state", "waiting", "reason"]);
            let terminated = status.at(&["state", "terminated"]).filter(|t| !t.is_null());
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if let Some(terminated) = terminated {
                self.reason = exit_reason(terminated);
            } else if status["ready"].as_bool() == Some(true) && !status["state"]["running"].is_null() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            let ready = p.condition("Ready").is_some_and(|c| c.str_at(&["status"]) == "True");
            self.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
}

fn exit_reason(terminated: &Value) -> String {
    match (terminated.str_at(&["reason"]), terminated["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_line_tells_what_its_containers_do() {
        let now = Timestamp::from_unix_seconds(1_000_000);
        let check = |status: Value, expect: &str| {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}],
                "initContainers": [{"name": "i"}]}});
            pod.set("status", status);
            let cells = cells(Printed { object: &pod, now });
            let texts: Vec<&str> = cells[1..4].iter().filter_map(Value::as_str).collect();
            assert_eq!(texts.join(" "), expect);
        };
        check(json!({"phase": "Pending"}), "0/2 Pending 0");
        check(
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 0, "state": {"running": {}}}]}),
            "0/2 Init:0/1 0",
        );
        check(
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 2,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            "0/2 Init:CrashLoopBackOff 2",
        );
        check(
            json!({"phase": "Running", "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 1, "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "1970-01-12T13:45:40Z"}}},
            {"name": "b", "restartCount": 0, "state": {"terminated": {"exitCode": 3}}}]}),
            "1/2 ExitCode:3 1 (60s ago)",
        );
        check(json!({"phase": "Failed", "reason": "Evicted"}), "0/2 Evicted 0");
    }
}
