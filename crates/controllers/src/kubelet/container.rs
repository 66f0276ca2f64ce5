//! One simulated container: waiting, running, exited, in back-off.

use std::time::Duration;

use base::{Rng, Timestamp};
use machinery::{Value, json, meta};

use super::behaviour::Behaviour;
use crate::conditions::{int, time};

const BACKOFF_FIRST: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// A container that ran this long starts over with its back-off.
const BACKOFF_RESET: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    Waiting,
    Running { since: Timestamp },
    Exited { since: Timestamp, at: Timestamp, code: i64 },
}

#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) state: State,
    pub(super) restarts: i64,
    id: String,
    /// `lastState.terminated`.
    last: Value,
    /// Consecutive quick failures.
    crashes: u32,
}

/// Whether exits lead to restarts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Restart {
    pub(super) fn of(pod: &Value) -> Self {
        match pod.str_at(&["spec", "restartPolicy"]) {
            "Never" => Self::Never,
            "OnFailure" => Self::OnFailure,
            _ => Self::Always,
        }
    }

    fn after(self, code: i64) -> bool {
        self == Self::Always || (self == Self::OnFailure && code != 0)
    }
}

fn probe_delay(container: &Value, probe: &str) -> Duration {
    Duration::from_secs(int(container, &[probe, "initialDelaySeconds"], 0).max(0).unsigned_abs())
}

/// Until a probe that always fails has failed often enough.
fn probe_failure(container: &Value, probe: &str) -> Duration {
    let period = int(container, &[probe, "periodSeconds"], 10).max(1);
    let times = int(container, &[probe, "failureThreshold"], 3).max(1);
    probe_delay(container, probe) + Duration::from_secs((period * times).unsigned_abs())
}

impl Container {
    pub(super) fn new() -> Self {
        Self { state: State::Waiting, restarts: 0, id: String::new(), last: Value::Null, crashes: 0 }
    }

    /// From what the pod's status tells, after the kubelet started anew.
    pub(super) fn restore(status: &Value) -> Self {
        let state = &status["state"];
        let instant = |path: &[&str]| time(state, path).unwrap_or(Timestamp::EPOCH);
        let state = if !state["running"].is_null() {
            State::Running { since: instant(&["running", "startedAt"]) }
        } else if !state["terminated"].is_null() {
            let code = int(state, &["terminated", "exitCode"], 0);
            State::Exited {
                since: instant(&["terminated", "startedAt"]),
                at: instant(&["terminated", "finishedAt"]),
                code,
            }
        } else if let Some(at) = time(status, &["lastState", "terminated", "finishedAt"]) {
            State::Exited { since: at, at, code: int(status, &["lastState", "terminated", "exitCode"], 0) }
        } else {
            State::Waiting
        };
        let restarts = int(status, &["restartCount"], 0);
        let crashes = u32::try_from(restarts.clamp(0, 6)).unwrap_or(0);
        let id = status.str_at(&["containerID"]).to_owned();
        Self { state, restarts, id, last: status["lastState"]["terminated"].clone(), crashes }
    }

    fn start(&mut self, now: Timestamp, rng: &mut Rng) {
        let words: Vec<String> = (0..4).map(|_| format!("{:016x}", rng.next_u64())).collect();
        self.id = format!("containerd://{}", words.concat());
        self.state = State::Running { since: now };
    }

    /// Lets time pass; true when something happened (call again then).
    pub(super) fn advance(
        &mut self,
        spec: &Value,
        how: &Behaviour,
        restart: Restart,
        now: Timestamp,
        rng: &mut Rng,
    ) -> bool {
        match self.state {
            State::Waiting => {
                self.start(now, rng);
                true
            }
            State::Running { since } => match self.end(spec, how, since) {
                Some((at, code)) if at <= now => {
                    self.exit(at, code);
                    true
                }
                _ => false,
            },
            State::Exited { code, .. } => {
                let due = self.restart_at(restart, code).is_some_and(|at| at <= now);
                if due {
                    self.last = self.terminated();
                    self.restarts += 1;
                    self.start(now, rng);
                }
                due
            }
        }
    }

    /// Will it start now?
    pub(super) fn is_due(&self, restart: Restart, now: Timestamp) -> bool {
        match self.state {
            State::Waiting => true,
            State::Running { .. } => false,
            State::Exited { code, .. } => self.restart_at(restart, code).is_some_and(|at| at <= now),
        }
    }

    /// Ends a running container.
    pub(super) fn exit(&mut self, at: Timestamp, code: i64) {
        if let State::Running { since } = self.state {
            self.crashes = if at.since(since) > BACKOFF_RESET { 1 } else { self.crashes + 1 };
            self.state = State::Exited { since, at, code };
        }
    }

    pub(super) const fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Does it wait before it starts again?
    pub(super) fn is_backing_off(&self, restart: Restart) -> bool {
        matches!(self.state, State::Exited { code, .. } if restart.after(code)) && !self.backoff().is_zero()
    }

    /// When a running container will end by itself or by its probes.
    fn end(&self, spec: &Value, how: &Behaviour, since: Timestamp) -> Option<(Timestamp, i64)> {
        let own = how.exit.map(|(after, code)| (since + after, code));
        let killed = |probe: &str, fine: bool| {
            (!fine && !spec[probe].is_null()).then(|| (since + probe_failure(spec, probe), 137))
        };
        [own, killed("livenessProbe", how.live), killed("startupProbe", how.started)].into_iter().flatten().min()
    }

    fn restart_at(&self, restart: Restart, code: i64) -> Option<Timestamp> {
        let State::Exited { at, .. } = self.state else { return None };
        restart.after(code).then(|| at + self.backoff())
    }

    /// The first restart is at once, the next after 10 s, doubling up to 5 min.
    fn backoff(&self) -> Duration {
        match self.crashes {
            0 | 1 => Duration::ZERO,
            n => (BACKOFF_FIRST * 2_u32.saturating_pow((n - 2).min(8))).min(BACKOFF_MAX),
        }
    }

    /// The next instant at which something happens.
    pub(super) fn next(&self, spec: &Value, how: &Behaviour, restart: Restart, now: Timestamp) -> Option<Timestamp> {
        match self.state {
            State::Waiting => None,
            State::Running { since } => {
                let ready = self.ready_at(spec, how, since).filter(|at| *at > now);
                [
                    ready,
                    self.started_at(spec, how, since).filter(|at| *at > now),
                    self.end(spec, how, since).map(|e| e.0),
                ]
                .into_iter()
                .flatten()
                .min()
            }
            State::Exited { code, .. } => self.restart_at(restart, code),
        }
    }

    fn started_at(&self, spec: &Value, how: &Behaviour, since: Timestamp) -> Option<Timestamp> {
        if spec["startupProbe"].is_null() {
            return Some(since);
        }
        how.started.then(|| since + probe_delay(spec, "startupProbe"))
    }

    fn ready_at(&self, spec: &Value, how: &Behaviour, since: Timestamp) -> Option<Timestamp> {
        if !how.ready {
            return None;
        }
        let started = self.started_at(spec, how, since)?;
        Some(started + probe_delay(spec, "readinessProbe"))
    }

    pub(super) fn is_started(&self, spec: &Value, how: &Behaviour, now: Timestamp) -> bool {
        matches!(self.state, State::Running { since } if self.started_at(spec, how, since).is_some_and(|at| at <= now))
    }

    pub(super) fn is_ready(&self, spec: &Value, how: &Behaviour, now: Timestamp) -> bool {
        matches!(self.state, State::Running { since } if self.ready_at(spec, how, since).is_some_and(|at| at <= now))
    }

    /// Its exit code, once it is over for good.
    pub(super) fn outcome(&self, restart: Restart) -> Option<i64> {
        match self.state {
            State::Exited { code, .. } if !restart.after(code) => Some(code),
            _ => None,
        }
    }

    fn terminated(&self) -> Value {
        let State::Exited { since, at, code } = self.state else { return Value::Null };
        json!({"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" }, "containerID": self.id,
            "startedAt": since.rfc3339(), "finishedAt": at.rfc3339()})
    }

    /// Its entry in the pod's status. `waiting` is the reason while it has not started.
    pub(super) fn status(
        &self,
        pod: &Value,
        spec: &Value,
        how: &Behaviour,
        restart: Restart,
        now: Timestamp,
        waiting: (&str, &str),
    ) -> Value {
        let mut last = self.last.clone();
        let state = match &self.state {
            State::Waiting => {
                let mut state = json!({"reason": waiting.0});
                if !waiting.1.is_empty() {
                    state.set("message", waiting.1);
                }
                json!({"waiting": state})
            }
            State::Running { since } => json!({"running": {"startedAt": since.rfc3339()}}),
            State::Exited { .. } if self.is_backing_off(restart) => {
                last = self.terminated();
                let message = format!(
                    "back-off {} restarting failed container={} pod={}_{}({})",
                    go_minutes(self.backoff().as_secs()),
                    spec.str_at(&["name"]),
                    meta::name(pod),
                    meta::namespace(pod),
                    meta::uid(pod)
                );
                json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}})
            }
            State::Exited { .. } => json!({"terminated": self.terminated()}),
        };
        let image = spec.str_at(&["image"]);
        let started = self.is_started(spec, how, now);
        let pulled = !matches!(self.state, State::Waiting);
        let mut status = json!({
            "name": spec.str_at(&["name"]), "image": if pulled { qualified(image) } else { image.to_owned() },
            "imageID": if pulled { image_id(image) } else { String::new() },
            "ready": self.is_ready(spec, how, now), "restartCount": self.restarts, "started": started,
        });
        if !self.id.is_empty() {
            status.set("containerID", self.id.as_str());
        }
        status.set("state", state);
        status.set("lastState", if last.is_null() { Value::object() } else { json!({"terminated": last}) });
        status
    }
}

/// As Go prints a whole number of seconds: `10s`, `1m20s`, `5m0s`.
fn go_minutes(seconds: u64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

/// `nginx` → `docker.io/library/nginx:latest`, as the container runtime reports it.
pub(super) fn qualified(image: &str) -> String {
    let (host, rest) = image.split_once('/').unwrap_or(("", image));
    let has_host = host.contains(['.', ':']) || host == "localhost";
    let full = match (has_host, image.contains('/')) {
        (true, _) => image.to_owned(),
        (false, true) => format!("docker.io/{image}"),
        (false, false) => format!("docker.io/library/{rest}"),
    };
    let tail = full.rsplit('/').next().unwrap_or_default();
    if tail.contains([':', '@']) { full } else { format!("{full}:latest") }
}

/// A stable made-up digest: nothing is pulled here.
fn image_id(image: &str) -> String {
    let full = qualified(image);
    if full.contains("@sha256:") {
        return full;
    }
    let seed = full.bytes().fold(7_u64, |n, b| n.wrapping_mul(131).wrapping_add(u64::from(b)));
    let mut rng = Rng::new(seed);
    let digest: String = (0..4).map(|_| format!("{:016x}", rng.next_u64())).collect();
    let colon = full.rfind(':').unwrap_or(full.len());
    format!("{}@sha256:{digest}", &full[..colon])
}
