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
