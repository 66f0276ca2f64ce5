//! How a simulated container behaves: said by annotations of its pod, else guessed from well-known quick commands.
//!
//! Annotations, each also as `<annotation>.<container>` for one container only (that wins):
//!
//! | annotation | value | effect |
//! | --- | --- | --- |
//! | `pilothouse.dev/exit-after` | seconds (`5`, `0.5`) | containers exit that long after their start |
//! | `pilothouse.dev/exit-code` | number | with this code (alone: at once) |
//! | `pilothouse.dev/ready` | `false` | the readiness probe fails |
//! | `pilothouse.dev/live` | `false` | the liveness probe fails: restarts |
//! | `pilothouse.dev/started` | `false` | the startup probe fails: restarts |
//! | `pilothouse.dev/image` | `missing` | the image cannot be pulled |
//! | `pilothouse.dev/start-delay` | seconds | time in ContainerCreating |
//! | `pilothouse.dev/stop-after` | seconds | time from SIGTERM to exit, at most the grace period |
//!
//! Without annotations a container runs for ever, unless its command is one whose outcome is known: `true`, `sleep N`, and
//! short scripts under `sh -c` ([`super::shell`]). Init containers and containers of Jobs whose command is not known
//! complete after a moment: they are meant to. A probe that runs a command does as that does.

use std::collections::BTreeMap;
use std::time::Duration;

use machinery::{Value, meta};

use super::shell::{self, Outcome, Place};

/// What will happen to one container.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Behaviour {
    /// Time from start to exit, and the code; none: runs until stopped.
    pub(super) exit: Option<(Duration, i64)>,
    pub(super) ready: bool,
    pub(super) live: bool,
    pub(super) started: bool,
    pub(super) image_missing: bool,
    pub(super) start_delay: Duration,
    pub(super) stop_after: Duration,
}

/// How long a task of unknown length takes.
const TASK: Duration = Duration::from_millis(500);

fn annotation<'a>(pod: &'a Value, name: &str, container: &str) -> Option<&'a str> {
    let key = format!("pilothouse.dev/{name}");
    meta::annotation(pod, &format!("{key}.{container}")).or_else(|| meta::annotation(pod, &key))
}

pub(super) fn seconds(text: &str) -> Option<Duration> {
    let number: f64 = text.strip_suffix('s').unwrap_or(text).parse().ok()?;
    Duration::try_from_secs_f64(number).ok()
}

/// Reads a container's behaviour. `task`: it is an init container, or its pod is a Job's.
pub(super) fn of(pod: &Value, container: &Value, task: bool, place: &mut Place) -> Behaviour {
    let name = container.str_at(&["name"]);
    let flag = |key| annotation(pod, key, name) != Some("false");
    let time = |key| annotation(pod, key, name).and_then(seconds);
    let code = annotation(pod, "exit-code", name).and_then(|c| c.parse::<i64>().ok());
    let known = match known(container, place) {
        Some(Outcome::Ends(after, code)) => Some((after, code)),
        Some(Outcome::Endless) => None,
        None => task.then_some((TASK, 0)),
    };
    let exit = match (time("exit-after"), code) {
        (None, None) => known,
        (after, code) => Some((after.unwrap_or_default(), code.unwrap_or(0))),
    };
    Behaviour {
        exit,
        ready: flag("ready") && answers(container, "readinessProbe", place),
        live: flag("live") && answers(container, "livenessProbe", place),
        started: flag("started") && answers(container, "startupProbe", place),
        image_missing: annotation(pod, "image", name) == Some("missing"),
        start_delay: time("start-delay").unwrap_or_default(),
        stop_after: time("stop-after").unwrap_or_default(),
    }
}

/// The words a container is started with.
fn words(container: &Value) -> Vec<&str> {
    ["command", "args"].iter().flat_map(|k| container[*k].items()).filter_map(Value::as_str).collect()
}

/// What a command line comes to, as far as it is understood.
fn outcome(words: &[&str], place: &mut Place) -> Option<Outcome> {
    let base = words.first()?.rsplit('/').next()?;
    if matches!(base, "sh" | "bash" | "ash" | "dash") {
        let flag = words.get(1).filter(|f| f.starts_with('-') && f.ends_with('c'))?;
        return shell::run(words.get(2)?, place, flag.contains('e'));
    }
    shell::run_words(words, place)
}

/// What a container comes to; the image that does nothing but wait is known too.
fn known(container: &Value, place: &mut Place) -> Option<Outcome> {
    let words = words(container);
    let image = container.str_at(&["image"]).rsplit('/').next().unwrap_or_default();
    if words.is_empty() && image.split([':', '@']).next() == Some("pause") {
        return Some(Outcome::Endless);
    }
    outcome(&words, place)
}

/// Does a probe succeed? Those that run a command do as that does, where it is understood; others always.
fn answers(container: &Value, probe: &str, place: &mut Place) -> bool {
    let command: Vec<&str> = container[probe]["exec"]["command"].items().iter().filter_map(Value::as_str).collect();
    !matches!(outcome(&command, place), Some(Outcome::Ends(_, code)) if code != 0)
}

/// The variables a container is given, as far as they are known without looking beyond its pod.
pub(super) fn variables(pod: &Value, container: &Value) -> BTreeMap<String, String> {
    let value = |variable: &Value| {
        let Some(path) = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() else {
            return variable["valueFrom"].is_null().then(|| variable.str_at(&["value"]).to_owned());
        };
        let (path, key) = path.split_once("['").map_or((path, ""), |(path, key)| (path, key.trim_end_matches("']")));
        let path: Vec<&str> = path.split('.').chain((!key.is_empty()).then_some(key)).collect();
        Some(pod.str_at(&path).to_owned())
    };
    let all = container["env"].items().iter();
    all.filter_map(|v| Some((v.str_at(&["name"]).to_owned(), value(v)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::json;

    fn plain(pod: &Value, container: &Value, task: bool) -> Behaviour {
        of(pod, container, task, &mut Place::default())
    }

    #[test]
    fn well_known_commands_have_their_outcome() {
        let run = |command: &[&str]| plain(&json!({}), &json!({"name": "c", "command": command}), false).exit;
        let s = Duration::from_secs;
        assert_eq!(run(&["sh", "-c", "exit 1"]), Some((s(0), 1)));
        assert_eq!(run(&["/bin/sh", "-c", "echo hello; sleep 3 && false"]), Some((s(3), 1)));
        assert_eq!(run(&["sleep", "5"]), Some((s(5), 0)));
        assert_eq!(run(&["/bin/true"]), Some((s(0), 0)));
        assert_eq!(run(&["sh", "-c", "while true; do sleep 1; done"]), None);
        assert_eq!(run(&["sleep", "infinity"]), None);
        assert_eq!(run(&["nginx"]), None);
        let endless = |container: Value| plain(&json!({}), &container, true).exit.is_none();
        assert!(endless(json!({"name": "c", "image": "registry.k8s.io/pause:3.10"})));
        assert!(endless(json!({"name": "c", "image": "busybox", "command": ["sleep", "infinity"]})));
        assert!(!endless(json!({"name": "c", "image": "busybox", "command": ["do", "something"]})));
    }

    #[test]
    fn annotations_win_and_can_name_a_container() {
        let pod =
            json!({"metadata": {"annotations": {"pilothouse.dev/exit-code": "3", "pilothouse.dev/ready.b": "false"}}});
        let a = plain(&pod, &json!({"name": "a"}), false);
        assert_eq!((a.exit, a.ready), (Some((Duration::ZERO, 3)), true));
        assert!(!plain(&pod, &json!({"name": "b"}), false).ready);
    }

    #[test]
    fn probes_that_run_a_command_do_as_it_does() {
        let probe = |command: &[&str]| json!({"exec": {"command": command}});
        let health = |script: &str| {
            let mut container = json!({"name": "c", "command": ["sh", "-c", script]});
            container.set("livenessProbe", probe(&["cat", "/tmp/health"]));
            plain(&json!({}), &container, false).live
        };
        assert!(health("echo ok >/tmp/health; sleep 600"));
        assert!(!health("echo ok >/tmp/health; sleep 10; rm -rf /tmp/health; sleep 600"));
        let mut unready = json!({"name": "c"});
        unready.set("readinessProbe", probe(&["/bin/false"]));
        assert!(!plain(&json!({}), &unready, false).ready);
        unready.set("readinessProbe", probe(&["do", "something"]));
        assert!(plain(&json!({}), &unready, false).ready);
    }

    #[test]
    fn containers_know_what_their_pod_tells_them() {
        let index = "batch.kubernetes.io/job-completion-index";
        let mut pod = json!({"metadata": {"name": "p"}});
        pod["metadata"].set("labels", [(index, "3")].into_iter().collect::<Value>());
        let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
        let index = field(&format!("metadata.labels['{index}']"));
        let env = json!([{"name": "A", "value": "x"}, {"name": "B", "valueFrom": field("metadata.name")},
            {"name": "I", "valueFrom": index}, {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s"}}}]);
        let mut container = json!({"name": "c"});
        container.set("env", env);
        let found: Vec<(String, String)> = variables(&pod, &container).into_iter().collect();
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(found, [pair("A", "x"), pair("B", "p"), pair("I", "3")]);
    }
}
