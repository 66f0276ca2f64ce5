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
//! Without annotations a container runs for ever, except for these, whose outcome is known: `true`, `false`, `echo …`,
//! `date`, `pwd`, `hostname`, `sleep N`, and `sh -c` (`bash`, `/bin/…`) of such commands and `exit N` joined by `;`, `&&` or
//! newlines. Init containers and containers of Jobs whose command is not known complete after a moment: they are meant to.

use std::time::Duration;

use machinery::{Value, meta};

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

fn seconds(text: &str) -> Option<Duration> {
    let number: f64 = text.strip_suffix('s').unwrap_or(text).parse().ok()?;
    Duration::try_from_secs_f64(number).ok()
}

/// Reads a container's behaviour. `task`: it is an init container, or its pod is a Job's.
pub(super) fn of(pod: &Value, container: &Value, task: bool) -> Behaviour {
    let name = container.str_at(&["name"]);
    let flag = |key| annotation(pod, key, name) != Some("false");
    let time = |key| annotation(pod, key, name).and_then(seconds);
    let code = annotation(pod, "exit-code", name).and_then(|c| c.parse::<i64>().ok());
    let known = if is_endless(container) { None } else { command(container).or(task.then_some((TASK, 0))) };
    let exit = match (time("exit-after"), code) {
        (None, None) => known,
        (after, code) => Some((after.unwrap_or_default(), code.unwrap_or(0))),
    };
    Behaviour {
        exit,
        ready: flag("ready"),
        live: flag("live"),
        started: flag("started"),
        image_missing: annotation(pod, "image", name) == Some("missing"),
        start_delay: time("start-delay").unwrap_or_default(),
        stop_after: time("stop-after").unwrap_or_default(),
    }
}

/// Is it known to run until it is stopped: `sleep infinity`, or the image that does nothing else?
fn is_endless(container: &Value) -> bool {
    let words: Vec<&str> =
        ["command", "args"].iter().flat_map(|k| container[*k].items()).filter_map(Value::as_str).collect();
    match words.as_slice() {
        [] => {
            let image = container.str_at(&["image"]).rsplit('/').next().unwrap_or_default();
            image.split([':', '@']).next() == Some("pause")
        }
        [program, time] => program.rsplit('/').next() == Some("sleep") && matches!(*time, "infinity" | "inf"),
        _ => false,
    }
}

/// The outcome of a well-known command.
fn command(container: &Value) -> Option<(Duration, i64)> {
    let words: Vec<&str> =
        ["command", "args"].iter().flat_map(|k| container[*k].items()).filter_map(Value::as_str).collect();
    let base = words.first()?.rsplit('/').next()?;
    if matches!(base, "sh" | "bash" | "ash") {
        let flag = words.get(1).filter(|f| f.starts_with('-') && f.ends_with('c'))?;
        return script(words.get(2)?, flag.contains('e'));
    }
    simple(&words).map(|(time, code, _)| (time, code))
}

/// Time, exit code, and whether the shell ends with it.
fn simple(words: &[&str]) -> Option<(Duration, i64, bool)> {
    let quick = |code| Some((Duration::ZERO, code, false));
    match words.first()?.rsplit('/').next()? {
        "true" | ":" | "echo" | "date" | "pwd" | "hostname" | "printf" => quick(0),
        "false" => quick(1),
        "sleep" => match words.get(1).copied() {
            Some("infinity" | "inf") => None,
            Some(time) => seconds(time).map(|t| (t, 0, false)),
            None => quick(1),
        },
        "exit" => Some((Duration::ZERO, words.get(1).and_then(|c| c.parse().ok()).unwrap_or(0), true)),
        _ => None,
    }
}

fn script(text: &str, stop_at_error: bool) -> Option<(Duration, i64)> {
    let known = |c: char| c.is_ascii_alphanumeric() || " ;&\n\t\"'.,:!_-/=%+".contains(c);
    if !text.chars().all(known) || text.contains("||") {
        return None;
    }
    let (mut time, mut last) = (Duration::ZERO, 0);
    for line in text.replace('\n', ";").split(';') {
        let mut failed = false;
        for step in line.split("&&").filter(|_| !line.trim().is_empty()) {
            if failed {
                break;
            }
            let words: Vec<&str> = step.split_whitespace().collect();
            let (took, code, ends) = simple(&words)?;
            time += took;
            last = code;
            if ends {
                return Some((time, code));
            }
            failed = code != 0;
        }
        if failed && stop_at_error {
            break;
        }
    }
    Some((time, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::json;

    #[test]
    fn well_known_commands_have_their_outcome() {
        let run = |command: &[&str]| super::command(&json!({"command": command}));
        let s = Duration::from_secs;
        assert_eq!(run(&["sh", "-c", "exit 1"]), Some((s(0), 1)));
        assert_eq!(run(&["/bin/sh", "-c", "echo hello; sleep 3 && false"]), Some((s(3), 1)));
        assert_eq!(run(&["sleep", "5"]), Some((s(5), 0)));
        assert_eq!(run(&["/bin/true"]), Some((s(0), 0)));
        assert_eq!(run(&["sh", "-c", "while true; do sleep 1; done"]), None);
        assert_eq!(run(&["sleep", "infinity"]), None);
        assert_eq!(run(&["nginx"]), None);
    }

    #[test]
    fn annotations_win_and_can_name_a_container() {
        let pod =
            json!({"metadata": {"annotations": {"pilothouse.dev/exit-code": "3", "pilothouse.dev/ready.b": "false"}}});
        let a = of(&pod, &json!({"name": "a"}), false);
        assert_eq!((a.exit, a.ready), (Some((Duration::ZERO, 3)), true));
        assert!(!of(&pod, &json!({"name": "b"}), false).ready);
        let endless = |container: Value| of(&json!({}), &container, true).exit.is_none();
        assert!(endless(json!({"name": "c", "image": "registry.k8s.io/pause:3.10"})));
        assert!(endless(json!({"name": "c", "image": "busybox", "command": ["sleep", "infinity"]})));
        assert!(!endless(json!({"name": "c", "image": "busybox", "command": ["do", "something"]})));
    }
}
