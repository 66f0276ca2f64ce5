//! The status a kubelet writes for a pod.

use base::Timestamp;
use machinery::{Value, json};

use super::container::State;
use super::{Local, Machine, Unit, qos_class};
use crate::conditions;

impl Local {
    /// The fields of the pod's status that the kubelet owns.
    pub(super) fn status(&self, machine: &Machine, now: Timestamp) -> Value {
        let phase = self.phase();
        let mut status =
            json!({"phase": phase, "hostIP": machine.internal_ip, "hostIPs": [{"ip": machine.internal_ip}]});
        if let Some((reason, message)) = &self.ended {
            status.set("reason", *reason);
            status.set("message", message.as_str());
        }
        if let Some(start) = self.start_time {
            status.set("startTime", start.rfc3339());
        }
        if self.pod.str_at(&["status", "qosClass"]).is_empty() {
            status.set("qosClass", qos_class(&self.pod));
        }
        if let Some(ip) = self.ip {
            status.set("podIP", ip.to_string());
            status.set("podIPs", json!([{"ip": ip.to_string()}]));
        }
        let initialized = self.initialized(now);
        if !self.inits.is_empty() {
            let list: Value = self.inits.iter().map(|u| self.init_status(u, now)).collect();
            status.set("initContainerStatuses", list);
        }
        let list: Value = self.mains.iter().map(|u| self.unit_status(u, now, initialized)).collect();
        status.set("containerStatuses", list);
        if !self.guests.is_empty() {
            let list: Value = self.guests.iter().map(|u| self.unit_status(u, now, true)).collect();
            status.set("ephemeralContainerStatuses", list);
        }
        status.set("conditions", self.conditions(phase, initialized, now));
        status
    }

    fn unit_status(&self, unit: &Unit, now: Timestamp, turn: bool) -> Value {
        let image = unit.spec.str_at(&["image"]);
        let missing = format!("Back-off pulling image \"{image}\"");
        let waiting = match (unit.how.image_missing && self.ip.is_some() && turn, turn && self.inits.is_empty()) {
            (true, _) => ("ImagePullBackOff", missing.as_str()),
            (false, true) => ("ContainerCreating", ""),
            (false, false) => ("PodInitializing", ""),
        };
        unit.container.status(&self.pod, &unit.spec, &unit.how, unit.restart, now, waiting)
    }

    /// An init container that has done its work is ready.
    fn init_status(&self, unit: &Unit, now: Timestamp) -> Value {
        let mut status = self.unit_status(unit, now, true);
        if !unit.sidecar && unit.container.outcome(unit.restart) == Some(0) {
            status.set("ready", true);
        }
        status
    }

    fn initialized(&self, now: Timestamp) -> bool {
        self.inits.iter().all(|u| {
            if u.sidecar {
                u.container.is_started(&u.spec, &u.how, now) || matches!(u.container.state, State::Exited { .. })
            } else {
                u.container.outcome(u.restart) == Some(0)
            }
        })
    }

    fn names(units: impl Iterator<Item = impl std::ops::Deref<Target = Unit>>) -> String {
        let names: Vec<String> = units.map(|u| u.spec.str_at(&["name"]).to_owned()).collect();
        names.join(" ")
    }

    fn conditions(&self, phase: &str, initialized: bool, now: Timestamp) -> Value {
        let mut list = self.pod["status"]["conditions"].clone();
        let mut put = |kind: &str, fine: bool, reason: &str, message: &str| {
            let status = if fine { "True" } else { "False" };
            conditions::set(&mut list, conditions::new(kind, status, reason, message, now));
        };
        let done = matches!(phase, "Succeeded" | "Failed");
        put("PodReadyToStartContainers", self.ip.is_some() && self.begins.is_some() && !done, "", "");
        let incomplete = self.inits.iter().filter(|u| match u.sidecar {
            true => !u.container.is_started(&u.spec, &u.how, now),
            false => u.container.outcome(u.restart) != Some(0),
        });
        let incomplete = format!("containers with incomplete status: [{}]", Self::names(incomplete));
        match (phase, initialized) {
            ("Succeeded", _) => put("Initialized", true, "PodCompleted", ""),
            (_, true) => put("Initialized", true, "", ""),
            (_, false) => put("Initialized", false, "ContainersNotInitialized", &incomplete),
        }
        let counted = || self.mains.iter().chain(self.inits.iter().filter(|u| u.sidecar));
        let unready = counted().filter(|u| !u.container.is_ready(&u.spec, &u.how, now));
        let unready_names = Self::names(unready);
        let fine = unready_names.is_empty();
        let unready = format!("containers with unready status: [{unready_names}]");
        let closed = self.gates().find(|g| !conditions::is_true(&self.pod, g)).map(str::to_owned);
        let gate =
            closed.as_ref().map(|g| format!("corresponding condition of pod readiness gate \"{g}\" does not exist."));
        match phase {
            "Succeeded" => {
                put("Ready", false, "PodCompleted", "");
                put("ContainersReady", false, "PodCompleted", "");
            }
            "Failed" => {
                put("Ready", false, "PodFailed", "");
                put("ContainersReady", false, "PodFailed", "");
            }
            _ if fine => {
                put("ContainersReady", true, "", "");
                match gate {
                    Some(message) => put("Ready", false, "ReadinessGatesNotReady", &message),
                    None => put("Ready", true, "", ""),
                }
            }
            _ => {
                put("Ready", false, "ContainersNotReady", &unready);
                put("ContainersReady", false, "ContainersNotReady", &unready);
            }
        }
        if conditions::find(&list, "PodScheduled").is_none_or(|c| c.str_at(&["status"]) != "True") {
            conditions::set(&mut list, conditions::new("PodScheduled", "True", "", "", now));
        }
        list
    }

    fn gates(&self) -> impl Iterator<Item = &str> {
        self.pod["spec"]["readinessGates"].items().iter().map(|g| g.str_at(&["conditionType"]))
    }
}
