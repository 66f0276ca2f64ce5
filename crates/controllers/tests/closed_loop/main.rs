//! Controllers, scheduler and kubelets over one store, in a random order: whatever the order, the goal is reached.

mod daemons;
mod jobs;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use controllers::kubelet::{Kubelet, Machine};
use controllers::resource::{
    CONTROLLER_REVISIONS, CRON_JOBS, DEPLOYMENTS, ENDPOINT_SLICES, JOBS, NAMESPACES, NODES, PERSISTENT_VOLUME_CLAIMS,
    POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, RESOURCE_QUOTAS, STATEFUL_SETS,
};
use controllers::scheduler::Scheduler;
use controllers::world::is;
use controllers::{Change, pods};
use machinery::{Value, json, meta};
use store::{Loop, Store};

const SEEDS: u64 = 40;

struct Cluster {
    store: Store,
    controllers: Loop,
    scheduler: Scheduler,
    kubelets: BTreeMap<String, Kubelet>,
}

impl Cluster {
    fn new(seed: u64, nodes: usize) -> Self {
        let mut store = Store::new(seed);
        store.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "d"},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}));
        let mut kubelets = BTreeMap::new();
        for n in 0..nodes {
            let machine = Machine {
                name: format!("n{n}"),
                zone: "us-central1-a".into(),
                machine_type: "e2-standard-8".into(),
                internal_ip: format!("10.128.0.{}", n + 2),
                ..Machine::default()
            };
            store.create(machine.node(store.now));
            kubelets.insert(machine.name.clone(), Kubelet::new(machine, seed + n as u64));
        }
        let scheduler = Scheduler::new("default-scheduler", seed);
        let mut cluster = Self { store, controllers: Loop::default(), scheduler, kubelets };
        cluster.run(Duration::ZERO);
        cluster
    }

    fn show(&mut self, change: &Change) {
        self.scheduler.observe(change);
        if is(&change.resource, &NODES) {
            let node = change.new.as_ref().expect("nodes stay");
            if let Some(kubelet) = self.kubelets.get_mut(meta::name(node)) {
                kubelet.observe_node(node);
            }
        }
        if is(&change.resource, &PODS) {
            let pod = change.objects().last().expect("a change has an object");
            let Some(kubelet) = self.kubelets.get_mut(pod.str_at(&["spec", "nodeName"])) else { return };
            match &change.new {
                Some(pod) => kubelet.observe_pod(pod),
                None => kubelet.remove_pod(&meta::key(pod)),
            }
        }
    }

    /// Until nothing is left to do within a time.
    fn run(&mut self, time: Duration) {
        let end = self.store.now + time;
        for _ in 0..200_000 {
            for change in self.controllers.take_changes(&mut self.store) {
                self.show(&change);
            }
            let moved = match self.store.rng.below(4) {
                0 => self.schedule(),
                1 => self.kubelets(),
                _ => self.controllers.step(&mut self.store),
            };
            if moved
                || !self.store.changes.is_empty()
                || self.scheduler.backlog() > 0
                || !self.controllers.pending.is_empty()
            {
                continue;
            }
            if self.schedule() || self.kubelets() || self.controllers.step(&mut self.store) {
                continue;
            }
            let kubelets = self.kubelets.values().filter_map(Kubelet::next_wake).min();
            let later = self.controllers.later.first().map(|(at, ..)| *at);
            let next = [kubelets, later, self.scheduler.next_wake()].into_iter().flatten().min();
            match next.filter(|at| *at <= end) {
                Some(at) => self.store.now = at.max(self.store.now),
                None => {
                    self.store.now = end;
                    return;
                }
            }
        }
        panic!("it does not come to rest");
    }

    fn schedule(&mut self) -> bool {
        let decisions = self.scheduler.decide(self.store.now, 3);
        let any = !decisions.is_empty();
        for decision in decisions {
            let failed = decision.actions.into_iter().any(|a| self.store.perform(a).is_err());
            if failed {
                self.scheduler.bind_failed(&decision.pod, self.store.now);
            }
        }
        any
    }

    fn kubelets(&mut self) -> bool {
        let now = self.store.now;
        let mut any = false;
        for kubelet in self.kubelets.values_mut() {
            for (key, actions) in kubelet.step(now) {
                any = true;
                let mut answer = Ok(None);
                for action in actions {
                    match self.store.perform(action) {
                        Ok(Some(object)) => answer = Ok(Some(object)),
                        Ok(None) => {}
                        Err(_) => answer = Err(()),
                    }
                }
                kubelet.done(&key, answer, now);
            }
        }
        any
    }

    fn pods(&self) -> Vec<&Arc<Value>> {
        self.store.world.in_namespace(&PODS, "d").collect()
    }

    fn deployment(&self) -> &Value {
        self.store.get(&DEPLOYMENTS, "web").expect("it exists")
    }

    fn edit(&mut self, change: impl FnOnce(&mut Value)) {
        let mut object = Value::clone(self.deployment());
        change(&mut object);
        self.store.perform(controllers::Action::update(&DEPLOYMENTS, object)).expect("nobody else edits");
    }

    #[track_caller]
    fn assert_rolled_out(&self, replicas: i64, image: &str) {
        let status = &self.deployment()["status"];
        for field in ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
            assert_eq!(status[field].as_i64(), Some(replicas), "{field} of {status}");
        }
        assert_eq!(status["observedGeneration"].as_i64(), Some(meta::generation(self.deployment())));
        let progress = controllers::conditions::of(self.deployment(), "Progressing").expect("there is a deadline");
        assert_eq!(progress.str_at(&["reason"]), "NewReplicaSetAvailable");
        let images: Vec<&str> = self.pods().iter().map(|p| p["spec"]["containers"][0].str_at(&["image"])).collect();
        assert!(images.iter().all(|i| *i == image) && images.len() as i64 == replicas, "{images:?}");
    }
}

fn deployment(replicas: i64) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "d"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "revisionHistoryLimit": 2,
        "progressDeadlineSeconds": 600, "strategy": {"type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"restartPolicy": "Always", "containers": [{"name": "c", "image": "v1"}]}}}})
}

fn service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "d"},
        "spec": {"clusterIP": "10.1.0.1", "selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP"}]}})
}

#[test]
fn a_deployment_rolls_out_rolls_over_scales_and_goes() {
    for seed in 0..SEEDS {
        let mut cluster = Cluster::new(seed, 3);
        cluster.store.create(deployment(7));
        cluster.store.create(service());
        cluster.run(Duration::from_secs(5));
        cluster.assert_rolled_out(7, "v1");
        let endpoints = |c: &Cluster| -> usize {
            c.store.world.in_namespace(&ENDPOINT_SLICES, "d").map(|s| s["endpoints"].items().len()).sum()
        };
        assert_eq!(endpoints(&cluster), 7);
        let image = |v: &'static str| {
            move |d: &mut Value| d["spec"]["template"]["spec"]["containers"] = json!([{"name": "c", "image": v}])
        };
        for version in ["v2", "v3", "v4", "v1"] {
            cluster.edit(image(version));
            cluster.run(Duration::from_secs(5));
            cluster.assert_rolled_out(7, version);
        }
        let revision = meta::annotation(cluster.deployment(), "deployment.kubernetes.io/revision");
        assert_eq!(revision, Some("5"));
        let sets = cluster.store.world.in_namespace(&REPLICA_SETS, "d").count();
        assert_eq!(sets, 3, "the newest and two of history");
        cluster.edit(|d| d["spec"].set("replicas", 2));
        cluster.run(Duration::from_secs(5));
        cluster.assert_rolled_out(2, "v1");
        let gone = Arc::clone(cluster.store.get(&DEPLOYMENTS, "web").unwrap());
        cluster.store.delete(&DEPLOYMENTS, &gone, None, Some(controllers::Propagation::Foreground));
        cluster.run(Duration::from_secs(60));
        assert!(cluster.pods().is_empty() && cluster.store.get(&DEPLOYMENTS, "web").is_none(), "seed {seed}");
    }
}

#[test]
fn availability_stays_within_the_bounds_of_the_strategy() {
    for seed in 0..SEEDS {
        let mut cluster = Cluster::new(seed, 3);
        cluster.store.create(deployment(8));
        cluster.run(Duration::from_secs(5));
        cluster.edit(|d| d["spec"]["template"]["spec"]["containers"] = json!([{"name": "c", "image": "v2"}]));
        for _ in 0..2000 {
            cluster.run_a_little();
            let sets = cluster.store.world.in_namespace(&REPLICA_SETS, "d");
            let wanted: i64 = sets.filter_map(|s| s["spec"]["replicas"].as_i64()).sum();
            assert!(wanted <= 10, "seed {seed}: {wanted} replicas");
            let ready = cluster.pods().iter().filter(|p| pods::is_active(p) && pods::is_ready(p)).count();
            assert!(ready >= 6, "seed {seed}: {ready} ready");
        }
        cluster.run(Duration::from_secs(5));
        cluster.assert_rolled_out(8, "v2");
    }
}

impl Cluster {
    fn run_a_little(&mut self) {
        for change in self.controllers.take_changes(&mut self.store) {
            self.show(&change);
        }
        match self.store.rng.below(3) {
            0 => self.schedule(),
            1 => self.kubelets(),
            _ => self.controllers.step(&mut self.store),
        };
    }
}

#[test]
fn a_namespace_takes_everything_in_it_along() {
    for seed in 0..SEEDS {
        let mut cluster = Cluster::new(seed, 2);
        cluster.store.create(deployment(3));
        cluster.store.create(service());
        cluster.run(Duration::from_secs(5));
        let namespace = Arc::clone(cluster.store.get(&NAMESPACES, "d").unwrap());
        cluster.store.delete(&NAMESPACES, &namespace, None, None);
        cluster.run(Duration::from_secs(120));
        assert!(cluster.store.get(&NAMESPACES, "d").is_none(), "seed {seed}");
        let left: Vec<_> =
            cluster.store.world.types().flat_map(|t| cluster.store.world.in_namespace(&t.resource, "d")).collect();
        assert!(left.is_empty(), "seed {seed}: {left:?}");
    }
}

#[test]
fn a_silent_node_loses_its_pods_after_their_toleration() {
    let mut cluster = Cluster::new(1, 2);
    let mut wanted = deployment(4);
    wanted["spec"]["template"]["spec"]["tolerations"] = json!([
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
    cluster.store.create(wanted);
    cluster.run(Duration::from_secs(5));
    cluster.kubelets.clear();
    cluster.run(Duration::from_secs(60));
    let ready = |c: &Cluster| c.pods().iter().filter(|p| pods::is_ready(p)).count();
    assert_eq!((cluster.pods().len(), ready(&cluster)), (4, 0));
    cluster.run(Duration::from_secs(310));
    // With nobody there to say that they ended, the old ones stay, terminating.
    let (old, new): (Vec<_>, Vec<_>) = cluster.pods().into_iter().partition(|p| meta::is_terminating(p));
    assert_eq!((old.len(), new.len()), (4, 4));
    assert!(new.iter().all(|p| p.str_at(&["spec", "nodeName"]).is_empty()), "they wait for a node");
}

fn stateful_set() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "d"}, "spec": {
        "replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
        "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 10,
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
        "template": {"metadata": {"labels": {"app": "db"}},
            "spec": {"restartPolicy": "Always", "containers": [{"name": "c", "image": "v1"}]}}}})
}

impl Cluster {
    /// As if every kubelet had renewed its lease until an hour from the start.
    fn keep_nodes(&mut self) {
        let names: Vec<String> = self.kubelets.keys().cloned().collect();
        for name in names {
            self.store.create(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": "kube-node-lease"},
                "spec": {"renewTime": "2027-01-15T09:00:00.000000Z"}}));
        }
    }

    fn edit_set(&mut self, change: impl FnOnce(&mut Value)) {
        let mut object = Value::clone(self.store.get(&STATEFUL_SETS, "db").expect("it exists"));
        change(&mut object);
        self.store.perform(controllers::Action::update(&STATEFUL_SETS, object)).expect("nobody else edits");
    }

    /// Name and image of each pod, in order.
    fn images(&self) -> Vec<String> {
        let image = |p: &Arc<Value>| format!("{}={}", meta::name(p), p["spec"]["containers"][0].str_at(&["image"]));
        self.pods().into_iter().map(image).collect()
    }
}

#[test]
fn a_stateful_set_goes_up_in_order_and_changes_downwards() {
    for seed in 0..SEEDS {
        let mut cluster = Cluster::new(seed, 2);
        cluster.keep_nodes();
        cluster.store.create(stateful_set());
        for _ in 0..2000 {
            cluster.run_a_little();
            let pods = cluster.pods();
            let waiting = pods.iter().position(|p| !pods::is_ready(p)).unwrap_or(pods.len());
            assert!(pods.len() <= waiting + 1, "seed {seed}: a pod is made before the one below it is ready");
        }
        cluster.run(Duration::from_secs(5));
        assert_eq!(cluster.images(), ["db-0=v1", "db-1=v1", "db-2=v1"], "seed {seed}");
        let pod = cluster.store.get(&PODS, "db-1").unwrap();
        assert_eq!(pod["spec"].str_at(&["hostname"]), "db-1");
        assert_eq!(meta::label(pod, "apps.kubernetes.io/pod-index"), Some("1"));
        assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"].str_at(&["claimName"]), "data-db-1");
        assert_eq!(cluster.store.world.in_namespace(&PERSISTENT_VOLUME_CLAIMS, "d").count(), 3);
        let image = |v: &'static str| {
            move |d: &mut Value| d["spec"]["template"]["spec"]["containers"] = json!([{"name": "c", "image": v}])
        };
        cluster.edit_set(|s| s["spec"]["updateStrategy"]["rollingUpdate"].set("partition", 2));
        cluster.edit_set(image("v2"));
        cluster.run(Duration::from_secs(60));
        assert_eq!(cluster.images(), ["db-0=v1", "db-1=v1", "db-2=v2"], "seed {seed}");
        let status = |c: &Cluster| c.store.get(&STATEFUL_SETS, "db").unwrap()["status"].clone();
        assert_ne!(status(&cluster)["currentRevision"], status(&cluster)["updateRevision"]);
        assert_eq!(status(&cluster)["updatedReplicas"].as_i64(), Some(1));
        cluster.edit_set(|s| s["spec"]["updateStrategy"]["rollingUpdate"].set("partition", 0));
        cluster.run(Duration::from_secs(120));
        assert_eq!(cluster.images(), ["db-0=v2", "db-1=v2", "db-2=v2"], "seed {seed}");
        assert_eq!(status(&cluster)["currentRevision"], status(&cluster)["updateRevision"]);
        cluster.edit_set(image("v1"));
        cluster.edit_set(|s| s["spec"].set("replicas", 1));
        cluster.run(Duration::from_secs(180));
        assert_eq!(cluster.images(), ["db-0=v1"], "seed {seed}");
        let revisions: Vec<i64> = cluster
            .store
            .world
            .in_namespace(&CONTROLLER_REVISIONS, "d")
            .filter_map(|r| r["revision"].as_i64())
            .collect();
        assert_eq!((revisions.len(), revisions.iter().max()), (2, Some(&3)), "going back renumbers the old revision");
    }
}

#[test]
fn a_cron_job_runs_each_minute_and_keeps_its_newest_jobs() {
    for seed in 0..SEEDS / 4 {
        let mut cluster = Cluster::new(seed, 2);
        cluster.keep_nodes();
        let pod = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i", "command": ["true"]}]});
        let job = json!({"backoffLimit": 6, "completions": 1, "parallelism": 1, "template": {"spec": pod}});
        cluster.store.create(json!({"apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": {"name": "tick", "namespace": "d"}, "spec": {"schedule": "* * * * *",
            "concurrencyPolicy": "Forbid", "successfulJobsHistoryLimit": 2, "jobTemplate": {"spec": job}}}));
        cluster.run(Duration::from_secs(310));
        let jobs: Vec<&str> = cluster.store.world.in_namespace(&JOBS, "d").map(|j| meta::name(j)).collect();
        assert_eq!(jobs, ["tick-30000004", "tick-30000005"], "seed {seed}");
        let status = &cluster.store.get(&CRON_JOBS, "tick").unwrap()["status"];
        assert_eq!(status.str_at(&["lastScheduleTime"]), "2027-01-15T08:05:00Z");
        assert!(!status.str_at(&["lastSuccessfulTime"]).is_empty() && status["active"].items().is_empty(), "{status}");
    }
}

#[test]
fn a_disruption_budget_counts_what_may_go() {
    for seed in 0..SEEDS / 4 {
        let mut cluster = Cluster::new(seed, 2);
        cluster.store.create(deployment(4));
        cluster.store.create(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "web", "namespace": "d"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "maxUnavailable": "30%"}}));
        cluster.run(Duration::from_secs(5));
        let numbers = |c: &Cluster| {
            let status = c.store.get(&POD_DISRUPTION_BUDGETS, "web").unwrap()["status"].clone();
            ["expectedPods", "currentHealthy", "desiredHealthy", "disruptionsAllowed"].map(|f| status[f].as_i64())
        };
        assert_eq!(numbers(&cluster), [4, 4, 2, 2].map(Some), "seed {seed}");
        cluster.edit(|d| d["spec"].set("replicas", 10));
        cluster.run(Duration::from_secs(5));
        assert_eq!(numbers(&cluster), [10, 10, 7, 3].map(Some), "seed {seed}");
    }
}

#[test]
fn a_quota_is_counted_anew_when_objects_come_and_go() {
    for seed in 0..SEEDS / 4 {
        let mut cluster = Cluster::new(seed, 2);
        cluster.store.create(json!({"apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": {"name": "q", "namespace": "d"},
            "spec": {"hard": {"pods": "10", "services": "2", "count/deployments.apps": "5"}}}));
        cluster.store.create(deployment(4));
        cluster.store.create(service());
        cluster.run(Duration::from_secs(5));
        let used = |c: &Cluster| c.store.get(&RESOURCE_QUOTAS, "q").unwrap()["status"]["used"].clone();
        assert_eq!(used(&cluster), json!({"count/deployments.apps": "1", "pods": "4", "services": "1"}));
        cluster.edit(|d| d["spec"].set("replicas", 1));
        cluster.run(Duration::from_secs(60));
        assert_eq!(used(&cluster)["pods"], json!("1"), "seed {seed}");
    }
}
