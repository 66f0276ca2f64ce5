//! A simulated kubelet: what it makes of the pods bound to its node, as a step function.
//!
//! ```text
//!  watch: my pods, my node ──► observe_*  ──►  step(now) ──► one batch of actions per pod  ──► the manager acts
//!                                  ▲                                                              │
//!                                  └────────────── done(pod, answer) ◄────────────────────────────┘
//! ```
//!
//! A pod goes Pending → ContainerCreating → Running, its init containers one after the other, its probes answered as
//! [`behaviour`] says, and when it is deleted through a last status to its removal with grace 0. Nothing runs for real:
//! docs/compat.md says so. State that matters is in the pod's status, so a kubelet that starts anew carries on.

mod admit;
mod behaviour;
mod container;
mod files;
mod machine;
mod shell;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use base::{Rng, Timestamp};
use machinery::{CompactString, ObjectKey, Value, json, meta};

pub use machine::Machine;

use crate::resource::PODS;
use crate::scheduler::request::Amounts;
use crate::{Action, DeleteOptions, conditions, pods};
use behaviour::Behaviour;
use container::{Container, Restart, State};
use files::Files;

/// A container, what its pod's spec says of it, and what will happen to it.
struct Unit {
    spec: Value,
    how: Behaviour,
    restart: Restart,
    sidecar: bool,
    /// Is it meant to end?
    task: bool,
    container: Container,
}

/// What a container is to its pod.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Init,
    Main,
    /// An ephemeral container: it came later and is never restarted.
    Guest,
}

impl Unit {
    fn new(pod: &Value, spec: &Value, role: Role) -> Self {
        let of_job = meta::controller_of(pod).is_some_and(|o| o.str_at(&["kind"]) == "Job");
        let sidecar = role == Role::Init && spec.str_at(&["restartPolicy"]) == "Always";
        let restart = match (role, sidecar, Restart::of(pod)) {
            (_, true, _) => Restart::Always,
            (Role::Guest, ..) => Restart::Never,
            (Role::Init, false, Restart::Always) => Restart::OnFailure,
            (_, _, policy) => policy,
        };
        let statuses = match role {
            Role::Init => "initContainerStatuses",
            Role::Main => "containerStatuses",
            Role::Guest => "ephemeralContainerStatuses",
        };
        let known = pod["status"][statuses].items().iter().find(|s| s["name"] == spec["name"]);
        let task = (role == Role::Init && !sidecar) || (role == Role::Main && of_job);
        Self {
            spec: spec.clone(),
            how: behaviour::of(pod, spec, task, &mut files::place(pod, spec, &Files::default(), &Files::default())),
            restart,
            sidecar,
            task,
            container: known.map_or_else(Container::new, Container::restore),
        }
    }
}

impl Unit {
    /// It is about to start: what it will do depends on what earlier ones left.
    fn prepare(&mut self, pod: &Value, own: &mut Files, node: &mut Files) {
        let mut place = files::place(pod, &self.spec, own, node);
        self.how = behaviour::of(pod, &self.spec, self.task, &mut place);
        files::keep(pod, &self.spec, &place, own, node);
    }
}

struct Local {
    pod: Arc<Value>,
    ip: Option<Ipv4Addr>,
    start_time: Option<Timestamp>,
    /// Containers may start from then on; none until the first status is out.
    begins: Option<Timestamp>,
    inits: Vec<Unit>,
    mains: Vec<Unit>,
    /// Ephemeral containers.
    guests: Vec<Unit>,
    /// What its containers left on volumes that live as long as it.
    files: Files,
    stopping: Option<Timestamp>,
    /// Reason and message of its failure, when the kubelet itself has ended it or never let it in.
    ended: Option<(&'static str, String)>,
    busy: bool,
    wake: Option<Timestamp>,
}

/// See the module.
pub struct Kubelet {
    machine: Machine,
    range: Option<ipnet::Ipv4Net>,
    /// What the node has for pods, once it is known.
    allocatable: Option<Amounts>,
    /// What containers left on the node itself.
    files: Files,
    used: BTreeSet<Ipv4Addr>,
    pods: BTreeMap<ObjectKey, Local>,
    due: BTreeSet<ObjectKey>,
    wakes: BTreeSet<(Timestamp, ObjectKey)>,
    rng: Rng,
}

/// How long after a failed write the next attempt comes.
const RETRY: Duration = Duration::from_secs(1);

impl Kubelet {
    /// A kubelet that knows no pod yet.
    pub fn new(machine: Machine, seed: u64) -> Self {
        Self {
            machine,
            range: None,
            allocatable: None,
            files: Files::default(),
            used: BTreeSet::new(),
            pods: BTreeMap::new(),
            due: BTreeSet::new(),
            wakes: BTreeSet::new(),
            rng: Rng::new(seed),
        }
    }

    /// The machine it runs on.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Learns the node's pod range and resources. Pods that waited for a range go on.
    pub fn observe_node(&mut self, node: &Value) {
        let allocatable = &node["status"]["allocatable"];
        self.allocatable = (!allocatable.is_null()).then(|| Amounts::of(allocatable));
        let range = node.str_at(&["spec", "podCIDR"]).parse().ok();
        if range.is_some() && self.range != range {
            self.range = range;
            self.due.extend(self.pods.keys().cloned());
        }
    }

    /// Takes in a pod of this node, new or changed. Older forms than the one known are ignored.
    pub fn observe_pod(&mut self, pod: &Arc<Value>) {
        let key = meta::key(pod);
        let revision = |p: &Value| meta::resource_version(p).parse::<u64>().unwrap_or(u64::MAX);
        match self.pods.get_mut(&key) {
            Some(local) if meta::uid(&local.pod) == meta::uid(pod) => {
                if revision(pod) < revision(&local.pod) {
                    return;
                }
                local.update(pod);
            }
            other => {
                if other.is_some() {
                    self.remove_pod(&key);
                }
                let local = Local::new(pod);
                self.used.extend(local.ip);
                self.pods.insert(key.clone(), local);
            }
        }
        self.due.insert(key);
    }

    /// The pod is gone from the API.
    pub fn remove_pod(&mut self, key: &ObjectKey) {
        if let Some(local) = self.pods.remove(key) {
            if let Some(ip) = local.ip {
                self.used.remove(&ip);
            }
            if let Some(wake) = local.wake {
                self.wakes.remove(&(wake, key.clone()));
            }
        }
        self.due.remove(key);
    }

    /// The pods known, for comparing with a fresh list.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.pods.keys().cloned().collect()
    }

    /// When something will happen by itself.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// What is to be done for pods that changed or whose time has come. A pod is left alone until [`Kubelet::done`].
    pub fn step(&mut self, now: Timestamp) -> Vec<(ObjectKey, Vec<Action>)> {
        while let Some((at, key)) = self.wakes.first().filter(|(at, _)| *at <= now).cloned() {
            self.wakes.remove(&(at, key.clone()));
            if let Some(local) = self.pods.get_mut(&key) {
                local.wake = None;
            }
            self.due.insert(key);
        }
        let mut work = Vec::new();
        for key in std::mem::take(&mut self.due) {
            let Some(local) = self.pods.get(&key).filter(|local| !local.busy) else {
                // `done` will put a busy one back.
                continue;
            };
            let refusal = if local.is_new() { self.refusal(&key, &local.pod) } else { None };
            let Some(local) = self.pods.get_mut(&key) else { continue };
            local.ended = local.ended.take().or(refusal);
            if local.ip.is_none() && local.begins.is_some() && !pods::is_finished(&local.pod) {
                local.ip = free_address(&self.machine, self.range, &self.used, &local.pod);
                let host_network = local.pod.at(&["spec", "hostNetwork"]).and_then(Value::as_bool) == Some(true);
                self.used.extend(local.ip.filter(|_| !host_network));
            }
            let actions = local.sync(&self.machine, &mut self.files, now, &mut self.rng);
            if pods::is_finished(&local.pod)
                && let Some(ip) = local.ip.take()
            {
                self.used.remove(&ip);
            }
            local.busy = !actions.is_empty();
            let wake = local.next(now).filter(|_| actions.is_empty());
            self.set_wake(&key, wake);
            if !actions.is_empty() {
                work.push((key, actions));
            }
        }
        work
    }

    /// The actions for a pod were performed: `Ok` with the object the API answered, `Err` when one failed.
    pub fn done(&mut self, key: &ObjectKey, answer: Result<Option<Arc<Value>>, ()>, now: Timestamp) {
        if let Some(local) = self.pods.get_mut(key) {
            local.busy = false;
        }
        match answer {
            Ok(Some(pod)) if self.pods.contains_key(key) => self.observe_pod(&pod),
            Ok(_) => {
                // A deletion: the watch tells when it is gone.
            }
            Err(()) => self.set_wake(key, Some(now + RETRY)),
        }
    }

    fn set_wake(&mut self, key: &ObjectKey, wake: Option<Timestamp>) {
        let Some(local) = self.pods.get_mut(key) else { return };
        if let Some(old) = local.wake.take() {
            self.wakes.remove(&(old, key.clone()));
        }
        local.wake = wake;
        if let Some(at) = wake {
            self.wakes.insert((at, key.clone()));
        }
    }
}

/// Has a pod's grace been ended already? What keeps it then are finalizers, and those are others' business.
fn is_released(pod: &Value) -> bool {
    pod.at(&["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64) == Some(0)
}

/// The lowest free address of the range, its first two left to the node; the node's own for pods on its network.
fn free_address(
    machine: &Machine,
    range: Option<ipnet::Ipv4Net>,
    used: &BTreeSet<Ipv4Addr>,
    pod: &Value,
) -> Option<Ipv4Addr> {
    if pod.at(&["spec", "hostNetwork"]).and_then(Value::as_bool) == Some(true) {
        return machine.internal_ip.parse().ok();
    }
    range?.hosts().skip(1).find(|ip| !used.contains(ip))
}

impl Local {
    fn new(pod: &Arc<Value>) -> Self {
        let start_time = conditions::time(pod, &["status", "startTime"]);
        let unit = |spec: &Value, role| Unit::new(pod, spec, role);
        Self {
            ip: pod.str_at(&["status", "podIP"]).parse().ok(),
            start_time,
            begins: start_time,
            inits: pod["spec"]["initContainers"].items().iter().map(|s| unit(s, Role::Init)).collect(),
            mains: pod["spec"]["containers"].items().iter().map(|s| unit(s, Role::Main)).collect(),
            guests: pod["spec"]["ephemeralContainers"].items().iter().map(|s| unit(s, Role::Guest)).collect(),
            pod: pod.clone(),
            files: Files::default(),
            stopping: None,
            ended: None,
            busy: false,
            wake: None,
        }
    }

    /// Takes in a newer form of the pod, with containers that were put into it since.
    fn update(&mut self, pod: &Arc<Value>) {
        self.pod = pod.clone();
        for spec in pod["spec"]["ephemeralContainers"].items() {
            if !self.guests.iter().any(|u| u.spec["name"] == spec["name"]) {
                self.guests.push(Unit::new(pod, spec, Role::Guest));
            }
        }
    }

    /// Has nothing been decided about it yet?
    fn is_new(&self) -> bool {
        self.begins.is_none()
            && self.ended.is_none()
            && !meta::is_terminating(&self.pod)
            && !pods::is_finished(&self.pod)
    }

    fn is_admitted(&self) -> bool {
        self.begins.is_some() && self.ended.is_none()
    }

    /// When `activeDeadlineSeconds` are over.
    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.pod["spec"]["activeDeadlineSeconds"].as_i64()?.max(0).unsigned_abs();
        Some(self.start_time? + Duration::from_secs(seconds))
    }

    fn units(&self) -> impl Iterator<Item = &Unit> {
        self.inits.iter().chain(&self.mains).chain(&self.guests)
    }

    fn units_mut(&mut self) -> impl Iterator<Item = &mut Unit> {
        self.inits.iter_mut().chain(&mut self.mains).chain(&mut self.guests)
    }

    fn sync(&mut self, machine: &Machine, node: &mut Files, now: Timestamp, rng: &mut Rng) -> Vec<Action> {
        let terminating = meta::is_terminating(&self.pod);
        if pods::is_finished(&self.pod) && !terminating {
            return Vec::new();
        }
        let pod = self.pod.clone();
        let mut actions = Vec::new();
        if terminating {
            if self.stopping.is_none() {
                let running = self.units().filter(|u| matches!(u.container.state, State::Running { .. }));
                let killing = |u: &Unit| format!("Stopping container {}", u.spec.str_at(&["name"]));
                actions.extend(running.map(|u| Action::event(&pod, "Killing", killing(u))));
            }
            self.stop(now);
        } else if self.deadline().is_some_and(|at| at <= now) && self.ended.is_none() {
            let message = "Pod was active on the node longer than the specified deadline";
            self.ended = Some(("DeadlineExceeded", message.to_owned()));
            self.units_mut().for_each(|u| u.container.exit(now, 137));
            actions.push(Action::event(&pod, "DeadlineExceeded", message));
        } else if let Some((reason, message)) = self.ended.clone().filter(|_| self.begins.is_none()) {
            self.start_time = Some(now);
            actions.push(Action::warning(&pod, reason, message));
        } else if self.ended.is_some() {
            // Nothing starts any more.
        } else if self.begins.is_none() {
            let delay = self.units().map(|u| u.how.start_delay).max().unwrap_or_default();
            self.begins = Some(now + delay);
            self.start_time = Some(now);
        } else if self.begins.is_some_and(|at| at <= now) && self.ip.is_some() {
            for happened in self.advance(node, now, rng) {
                happened.tell(&pod, &mut actions);
            }
        }
        let status = self.status(machine, now);
        let differs = |(key, value): (&str, &Value)| !crate::template::equal(value, &pod["status"][key]);
        if status.members().any(differs) {
            let patch = json!({"metadata": {"uid": meta::uid(&pod)}, "status": status});
            actions.insert(0, Action::patch(&PODS, &pod, "status", patch));
        } else if terminating && !is_released(&pod) && !self.units().any(|u| u.container.is_running()) {
            let force = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
            actions.push(Action::delete_with(&PODS, &pod, force));
        }
        actions
    }

    /// SIGTERM, and SIGKILL when the grace is over.
    fn stop(&mut self, now: Timestamp) {
        let grace = conditions::int(&self.pod, &["metadata", "deletionGracePeriodSeconds"], 30).max(0);
        let grace = Duration::from_secs(grace.unsigned_abs());
        let since = *self.stopping.get_or_insert(now);
        for unit in self.units_mut() {
            let (after, code) = if unit.how.stop_after > grace { (grace, 137) } else { (unit.how.stop_after, 0) };
            if since + after <= now {
                unit.container.exit(now, code);
            }
        }
    }

    /// Lets containers start, end and restart; gives what is worth an event.
    fn advance(&mut self, node: &mut Files, now: Timestamp, rng: &mut Rng) -> Vec<Happened> {
        let (pod, own, mut started) = (&self.pod, &mut self.files, Vec::new());
        let mut step = |unit: &mut Unit| {
            let before = (unit.container.is_backing_off(unit.restart), unit.container.restarts);
            while !unit.how.image_missing {
                if unit.container.is_due(unit.restart, now) {
                    unit.prepare(pod, own, node);
                }
                if !unit.container.advance(&unit.spec, &unit.how, unit.restart, now, rng) {
                    break;
                }
                if let State::Running { since } = unit.container.state
                    && since == now
                {
                    let text = |key| unit.spec.str_at(&[key]).to_owned();
                    started.push(Happened::Started { container: text("name"), image: text("image") });
                }
                if started.len() > STARTS_MAX {
                    break;
                }
            }
            let after = (unit.container.is_backing_off(unit.restart), unit.container.restarts);
            if after.0 && after != before {
                started.push(Happened::BackOff { container: unit.spec.str_at(&["name"]).to_owned() });
            }
        };
        self.guests.iter_mut().for_each(&mut step);
        let mut ready = true;
        for unit in &mut self.inits {
            step(unit);
            ready = if unit.sidecar {
                unit.container.is_started(&unit.spec, &unit.how, now)
            } else {
                unit.container.outcome(unit.restart) == Some(0)
            };
            if !ready {
                break;
            }
        }
        if ready {
            self.mains.iter_mut().for_each(&mut step);
            if self.mains.iter().all(|u| u.container.outcome(u.restart).is_some()) {
                self.inits.iter_mut().filter(|u| u.sidecar).for_each(|u| {
                    u.restart = Restart::Never;
                    u.container.exit(now, 0);
                });
            }
        }
        started
    }

    fn next(&self, now: Timestamp) -> Option<Timestamp> {
        if let Some(since) = self.stopping {
            let grace = conditions::int(&self.pod, &["metadata", "deletionGracePeriodSeconds"], 30).max(0);
            let grace = Duration::from_secs(grace.unsigned_abs());
            let running = self.units().filter(|u| matches!(u.container.state, State::Running { .. }));
            return running.map(|u| since + u.how.stop_after.min(grace)).min();
        }
        if self.ended.is_some() || pods::is_finished(&self.pod) {
            // Containers that would start again elsewhere do not here.
            return None;
        }
        if let Some(begins) = self.begins.filter(|at| *at > now) {
            return Some(begins);
        }
        let own = self.units().filter_map(|u| u.container.next(&u.spec, &u.how, u.restart, now)).min();
        [own, self.deadline()].into_iter().flatten().min()
    }

    fn phase(&self) -> &'static str {
        if self.ended.is_some() {
            return "Failed";
        }
        let failed_init =
            self.inits.iter().any(|u| u.container.outcome(u.restart).is_some_and(|c| c != 0 && !u.sidecar));
        if failed_init {
            return "Failed";
        }
        let waiting = |u: &Unit| matches!(u.container.state, State::Waiting);
        if self.mains.iter().any(waiting) && self.stopping.is_none() {
            return "Pending";
        }
        let outcomes: Vec<Option<i64>> = self.mains.iter().map(|u| self.outcome(u)).collect();
        if outcomes.iter().any(Option::is_none) {
            return if self.mains.iter().all(waiting) { "Pending" } else { "Running" };
        }
        if outcomes.iter().all(|o| *o == Some(0)) { "Succeeded" } else { "Failed" }
    }

    /// While stopping nothing restarts any more, and what never started has failed to.
    fn outcome(&self, unit: &Unit) -> Option<i64> {
        match (self.stopping, &unit.container.state) {
            (Some(_), State::Exited { code, .. }) => Some(*code),
            (Some(_), State::Waiting) => Some(137),
            _ => unit.container.outcome(unit.restart),
        }
    }
}

/// What a container did, for `kubectl describe`.
enum Happened {
    Started { container: String, image: String },
    BackOff { container: String },
}

impl Happened {
    /// The kubelet's events. No image is ever pulled here, so each is there already.
    fn tell(&self, pod: &Value, actions: &mut Vec<Action>) {
        match self {
            Self::Started { container, image } => {
                let there = format!("Container image {image:?} already present on machine");
                actions.push(Action::event(pod, "Pulled", there));
                actions.push(Action::event(pod, "Created", format!("Created container: {container}")));
                actions.push(Action::event(pod, "Started", format!("Started container {container}")));
            }
            Self::BackOff { container } => {
                let (name, namespace, uid) = (meta::name(pod), meta::namespace(pod), meta::uid(pod));
                let text = format!("Back-off restarting failed container {container} in pod {name}_{namespace}({uid})");
                actions.push(Action::warning(pod, "BackOff", text));
            }
        }
    }
}

/// Containers that exit at once restart at once, once; more in one step than this would be a loop.
const STARTS_MAX: usize = 200;

/// `status.qosClass`: Guaranteed when every container's limits equal its requests, BestEffort when nobody asks.
pub fn qos_class(pod: &Value) -> CompactString {
    let all = || ["containers", "initContainers"].iter().flat_map(|l| pod["spec"][*l].items());
    let none = |c: &Value| ["requests", "limits"].iter().all(|k| c["resources"][*k].members().next().is_none());
    if all().all(none) {
        return "BestEffort".into();
    }
    let guaranteed = |c: &Value| {
        let (limits, requests) = (&c["resources"]["limits"], &c["resources"]["requests"]);
        ["cpu", "memory"]
            .iter()
            .all(|r| !limits[*r].is_null() && (requests[*r].is_null() || requests[*r] == limits[*r]))
    };
    if all().all(guaranteed) { "Guaranteed".into() } else { "Burstable".into() }
}

#[cfg(test)]
mod tests;
