//! Controllers, scheduler and kubelets over one store, in a random order: whatever the order, the goal is reached.

mod store;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use controllers::kubelet::{Kubelet, Machine};
use controllers::resource::{DEPLOYMENTS, ENDPOINT_SLICES, NAMESPACES, NODES, PODS, REPLICA_SETS};
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
