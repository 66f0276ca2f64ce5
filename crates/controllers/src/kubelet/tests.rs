//! What users can rely on from simulated kubelets.

use super::*;

struct Bench {
    kubelet: Kubelet,
    pod: Value,
    now: Timestamp,
    revision: u64,
    removed: bool,
    events: Vec<String>,
}

impl Bench {
    fn new(mut pod: Value) -> Self {
        pod["metadata"].set("name", "p");
        pod["metadata"].set("namespace", "d");
        pod["metadata"].set("uid", "u");
        let machine = Machine { name: "n".into(), internal_ip: "10.128.0.2".into(), ..Machine::default() };
        let mut kubelet = Kubelet::new(machine, 1);
        kubelet.observe_node(&json!({"spec": {"podCIDR": "10.0.1.0/24"}}));
        let mut bench = Self {
            kubelet,
            pod,
            now: Timestamp::from_unix_seconds(1_000_000),
            revision: 1,
            removed: false,
            events: Vec::new(),
        };
        bench.send();
        bench
    }

    fn send(&mut self) {
        self.revision += 1;
        self.pod["metadata"].set("resourceVersion", self.revision.to_string());
        self.kubelet.observe_pod(&Arc::new(self.pod.clone()));
    }

    /// Runs until the kubelet has nothing to do now; gives the phases it wrote.
    fn settle(&mut self) -> Vec<String> {
        let mut phases = Vec::new();
        for _ in 0..20 {
            let work = self.kubelet.step(self.now);
            if work.is_empty() {
                return phases;
            }
            for (key, actions) in work {
                let mut answer = None;
                for action in actions {
                    match action {
                        Action::Patch { patch, .. } => {
                            for (field, value) in patch["status"].members() {
                                self.pod["status"].set(field, value.clone());
                            }
                            self.revision += 1;
                            self.pod["metadata"].set("resourceVersion", self.revision.to_string());
                            phases.push(pods::phase(&self.pod).to_owned());
                            answer = Some(Arc::new(self.pod.clone()));
                        }
                        Action::Delete { .. } => self.removed = true,
                        Action::Event(event) => self.events.push(format!("{} {}", event.reason, event.message)),
                        _ => {}
                    }
                }
                self.kubelet.done(&key, Ok(answer), self.now);
            }
        }
        panic!("the kubelet does not come to rest: {}", self.pod);
    }

    fn wait(&mut self, seconds: u64) -> Vec<String> {
        let end = self.now + Duration::from_secs(seconds);
        let mut phases = Vec::new();
        while let Some(at) = self.kubelet.next_wake().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            phases.extend(self.settle());
        }
        self.now = end;
        phases
    }

    fn waiting_reason(&self) -> &str {
        self.pod["status"]["containerStatuses"][0].str_at(&["state", "waiting", "reason"])
    }
}

fn with_command(policy: &str, command: &[&str]) -> Value {
    json!({"spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "busybox", "command": command}]}})
}

#[test]
fn a_pod_is_created_runs_and_leaves() {
    let mut bench = Bench::new(json!({"spec": {"containers": [{"name": "c", "image": "nginx"}]}}));
    assert_eq!(bench.settle(), ["Pending", "Running"]);
    assert_eq!(bench.pod.str_at(&["status", "podIP"]), "10.0.1.2");
    assert!(pods::is_ready(&bench.pod));
    let image = bench.pod["status"]["containerStatuses"][0].str_at(&["image"]).to_owned();
    assert_eq!(image, "docker.io/library/nginx:latest");
    let told = [
        "Pulled Container image \"nginx\" already present on machine",
        "Created Created container: c",
        "Started Started container c",
    ];
    assert_eq!(std::mem::take(&mut bench.events), told);
    bench.pod["metadata"].set("deletionTimestamp", bench.now.rfc3339());
    bench.pod["metadata"].set("deletionGracePeriodSeconds", 30);
    bench.send();
    assert_eq!(bench.settle(), ["Succeeded"]);
    assert!(bench.removed);
    assert_eq!(bench.events, ["Killing Stopping container c"]);
}

#[test]
fn a_pod_that_finalizers_hold_is_released_once() {
    let mut bench = Bench::new(json!({"metadata": {"finalizers": ["mine"]},
        "spec": {"containers": [{"name": "c", "image": "nginx"}]}}));
    bench.settle();
    bench.pod["metadata"].set("deletionTimestamp", bench.now.rfc3339());
    bench.pod["metadata"].set("deletionGracePeriodSeconds", 30);
    bench.send();
    bench.settle();
    assert!(std::mem::take(&mut bench.removed));
    // As the server answers: no grace is left, and the pod is there still.
    bench.pod["metadata"].set("deletionGracePeriodSeconds", 0);
    bench.send();
    assert!(bench.settle().is_empty() && !bench.removed);
}

#[test]
fn init_containers_run_one_after_the_other() {
    let mut pod = json!({"spec": {"containers": [{"name": "c", "image": "nginx"}], "initContainers": []}});
    let init = |name: &str| json!({"name": name, "image": "busybox", "command": ["sleep", "2"]});
    pod["spec"].set("initContainers", vec![init("a"), init("b")]);
    let mut bench = Bench::new(pod);
    bench.settle();
    assert_eq!(bench.waiting_reason(), "PodInitializing");
    bench.wait(3);
    assert!(bench.pod["status"]["initContainerStatuses"][1]["state"].get("running").is_some());
    bench.wait(2);
    assert_eq!(pods::phase(&bench.pod), "Running");
    let inits = bench.pod["status"]["initContainerStatuses"].items();
    assert!(inits.iter().all(|s| s["ready"].as_bool() == Some(true)), "they have done their work: {inits:?}");
}

#[test]
fn an_ephemeral_container_joins_a_running_pod() {
    let mut bench = Bench::new(json!({"spec": {"containers": [{"name": "c", "image": "nginx"}]}}));
    bench.settle();
    bench.pod["spec"].set("ephemeralContainers", json!([{"name": "debug", "image": "busybox"}]));
    bench.send();
    bench.settle();
    let status = &bench.pod["status"]["ephemeralContainerStatuses"][0];
    assert!(status["name"].as_str() == Some("debug") && status["state"].get("running").is_some(), "{status}");
    assert_eq!(pods::phase(&bench.pod), "Running");
}

#[test]
fn commands_with_a_known_end_finish_the_pod() {
    let mut bench = Bench::new(with_command("Never", &["sh", "-c", "sleep 5; exit 3"]));
    bench.settle();
    bench.wait(6);
    assert_eq!(pods::phase(&bench.pod), "Failed");
    let terminated = &bench.pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(terminated["exitCode"].as_i64(), Some(3));
    let mut fine = Bench::new(with_command("OnFailure", &["true"]));
    fine.settle();
    assert_eq!(pods::phase(&fine.pod), "Succeeded");
}

#[test]
fn a_crashing_container_backs_off() {
    let mut bench = Bench::new(with_command("Always", &["false"]));
    bench.settle();
    assert_eq!(bench.waiting_reason(), "CrashLoopBackOff");
    let told = "BackOff Back-off restarting failed container c in pod p_d(u)";
    assert_eq!(bench.events.last().map(String::as_str), Some(told));
    let restarts = |b: &Bench| b.pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap();
    assert_eq!(restarts(&bench), 1);
    bench.wait(9);
    assert_eq!(restarts(&bench), 1);
    bench.wait(2);
    assert_eq!(restarts(&bench), 2);
    bench.wait(20);
    assert_eq!(restarts(&bench), 3);
}

#[test]
fn readiness_comes_after_its_delay_or_never() {
    let probe = json!({"readinessProbe": {"initialDelaySeconds": 5}, "name": "c", "image": "nginx"});
    let mut pod = json!({"spec": {}});
    pod["spec"].set("containers", vec![probe]);
    let mut bench = Bench::new(pod.clone());
    bench.settle();
    assert!(!pods::is_ready(&bench.pod));
    bench.wait(5);
    assert!(pods::is_ready(&bench.pod));
    *pod.at_mut(&["metadata", "annotations", "pilothouse.dev/ready"]) = "false".into();
    let mut never = Bench::new(pod);
    never.settle();
    never.wait(100);
    assert!(!pods::is_ready(&never.pod));
}

#[test]
fn a_kubelet_that_starts_anew_leaves_running_pods_alone() {
    let mut bench = Bench::new(json!({"spec": {"containers": [{"name": "c", "image": "nginx"}]}}));
    bench.settle();
    let machine = bench.kubelet.machine().clone();
    bench.kubelet = Kubelet::new(machine, 2);
    bench.kubelet.observe_node(&json!({"spec": {"podCIDR": "10.0.1.0/24"}}));
    bench.send();
    assert!(bench.settle().is_empty(), "no write");
}

#[test]
fn a_pod_ends_at_its_deadline_which_may_change() {
    let mut bench =
        Bench::new(json!({"spec": {"activeDeadlineSeconds": 60, "containers": [{"name": "c", "image": "i"}]}}));
    bench.settle();
    bench.pod["spec"].set("activeDeadlineSeconds", 10);
    bench.send();
    bench.settle();
    bench.wait(9);
    assert_eq!(pods::phase(&bench.pod), "Running");
    bench.wait(2);
    assert_eq!((pods::phase(&bench.pod), bench.pod["status"].str_at(&["reason"])), ("Failed", "DeadlineExceeded"));
}

#[test]
fn a_pod_that_does_not_fit_is_refused() {
    let port = |name: &str, port: i64| {
        let containers = json!([{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": port}]}]);
        let mut pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name, "resourceVersion": "9"}});
        pod.set("spec", json!({"containers": containers}));
        pod
    };
    let mut bench = Bench::new(port("a", 80));
    let allocatable = json!({"cpu": "1", "memory": "1Gi", "pods": "9"});
    bench.kubelet.observe_node(&json!({"spec": {"podCIDR": "10.0.1.0/24"}, "status": {"allocatable": allocatable}}));
    bench.settle();
    let mut greedy = port("greedy", 81);
    greedy["spec"]["containers"] = json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}}}]);
    for (other, reason) in [(port("b", 80), "NodePorts"), (port("c", 81), ""), (greedy, "OutOfcpu")] {
        bench.kubelet.observe_pod(&Arc::new(other));
        let (_, actions) = bench.kubelet.step(bench.now).pop().expect("it is new");
        let patch = actions.iter().find_map(|a| match a {
            Action::Patch { patch, .. } => Some(patch["status"].clone()),
            _ => None,
        });
        let status = patch.expect("its status is written");
        assert_eq!(status.str_at(&["reason"]), reason);
        assert_eq!(status.str_at(&["phase"]) == "Failed", !reason.is_empty(), "{status}");
    }
}

#[test]
fn what_a_container_leaves_on_a_volume_is_there_when_it_starts_again() {
    let once = "if [[ -r /data/foo ]]\nthen\n exit 0\nelse\n touch /data/foo\n exit 1\nfi";
    let mount = json!([{"name": "data", "mountPath": "/data"}]);
    let mut pod = with_command("OnFailure", &["sh", "-c", once]);
    pod["spec"]["containers"].as_array_mut().unwrap()[0].set("volumeMounts", mount);
    pod["spec"].set("volumes", json!([{"name": "data", "emptyDir": {}}]));
    let mut bench = Bench::new(pod.clone());
    bench.settle();
    let status = &bench.pod["status"]["containerStatuses"][0];
    assert_eq!((pods::phase(&bench.pod), status["restartCount"].as_i64()), ("Succeeded", Some(1)), "{status}");
    // Without the volume it never finds what it left.
    pod["spec"].set("volumes", json!([{"name": "data", "configMap": {"name": "m"}}]));
    let mut never = Bench::new(pod);
    never.settle();
    assert_eq!(never.waiting_reason(), "CrashLoopBackOff");
}
