//! DaemonSets: one pod a node through updates and back, with and without surge.

use std::time::Duration;

use controllers::resource::{CONTROLLER_REVISIONS, DAEMON_SETS, PODS};
use controllers::{Action, pods};
use machinery::{Value, json, meta};

use super::{Cluster, SEEDS};

fn daemon_set(rolling: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "ds", "namespace": "d"}, "spec": {
        "selector": {"matchLabels": {"app": "ds"}}, "revisionHistoryLimit": 1,
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
        "template": {"metadata": {"labels": {"app": "ds"}},
            "spec": {"restartPolicy": "Always", "containers": [{"name": "c", "image": "v1"}]}}}})
}

impl Cluster {
    fn edit_daemons(&mut self, change: impl FnOnce(&mut Value)) {
        let mut object = Value::clone(self.store.get(&DAEMON_SETS, "ds").expect("it exists"));
        change(&mut object);
        self.store.perform(Action::update(&DAEMON_SETS, object)).expect("nobody else edits");
    }

    /// Image and node of each pod, by node.
    fn daemons(&self) -> Vec<String> {
        let shown = |p: &&std::sync::Arc<Value>| {
            format!("{} {}", p["spec"].str_at(&["nodeName"]), p["spec"]["containers"][0].str_at(&["image"]))
        };
        let mut all: Vec<String> = self.pods().iter().map(shown).collect();
        all.sort();
        all
    }
}

fn image(version: &'static str) -> impl Fn(&mut Value) {
    move |d| d["spec"]["template"]["spec"]["containers"] = json!([{"name": "c", "image": version}])
}

#[test]
fn every_node_has_its_daemon_through_updates_and_back() {
    for seed in 0..SEEDS / 4 {
        let mut cluster = Cluster::new(seed, 3);
        cluster.keep_nodes();
        cluster.store.create(daemon_set(json!({"maxUnavailable": 1, "maxSurge": 0})));
        cluster.run(Duration::from_secs(5));
        assert_eq!(cluster.daemons(), ["n0 v1", "n1 v1", "n2 v1"], "seed {seed}");
        let kept: Vec<String> = cluster.pods().iter().map(|p| meta::uid(p).to_owned()).collect();
        cluster.edit_daemons(image("v2"));
        for _ in 0..2000 {
            cluster.run_a_little();
            let ready = cluster.pods().iter().filter(|p| pods::is_active(p) && pods::is_ready(p)).count();
            assert!(ready >= 2, "seed {seed}");
        }
        cluster.run(Duration::from_secs(120));
        assert_eq!(cluster.daemons(), ["n0 v2", "n1 v2", "n2 v2"], "seed {seed}");
        assert!(cluster.pods().iter().all(|p| !kept.contains(&meta::uid(p).to_owned())));
        let revisions = |c: &Cluster| -> Vec<i64> {
            let all = c.store.world.in_namespace(&CONTROLLER_REVISIONS, "d");
            let mut all: Vec<i64> = all.filter_map(|r| r["revision"].as_i64()).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(revisions(&cluster), [1, 2]);
        cluster.edit_daemons(image("v1"));
        cluster.run(Duration::from_secs(120));
        assert_eq!((cluster.daemons()[0].as_str(), revisions(&cluster)), ("n0 v1", vec![2, 3]), "seed {seed}");
        cluster.edit_daemons(image("v3"));
        cluster.run(Duration::from_secs(120));
        assert_eq!(revisions(&cluster), [3, 4], "one of history is kept");
    }
}

#[test]
fn going_back_midway_leaves_pods_alone_that_were_never_changed() {
    for seed in 0..SEEDS / 4 {
        let mut cluster = Cluster::new(seed, 3);
        cluster.keep_nodes();
        cluster.store.create(daemon_set(json!({"maxUnavailable": 1, "maxSurge": 0})));
        cluster.run(Duration::from_secs(5));
        let before: Vec<String> = cluster.pods().iter().map(|p| meta::uid(p).to_owned()).collect();
        cluster.edit_daemons(|d| {
            image("bad")(d);
            d["spec"]["template"]["metadata"].set("annotations", json!({"pilothouse.dev/ready": "false"}));
        });
        cluster.run(Duration::from_secs(120));
        let broken = cluster.daemons().iter().filter(|p| p.ends_with("bad")).count();
        assert_eq!(broken, 1, "seed {seed}: the first one that is not ready stops the rest");
        cluster.edit_daemons(|d| {
            image("v1")(d);
            d["spec"]["template"]["metadata"].remove("annotations");
        });
        cluster.run(Duration::from_secs(120));
        assert_eq!(cluster.daemons(), ["n0 v1", "n1 v1", "n2 v1"], "seed {seed}");
        let same = cluster.pods().iter().filter(|p| before.contains(&meta::uid(p).to_owned())).count();
        assert_eq!(same, 2, "seed {seed}");
    }
}

#[test]
fn with_surge_every_node_has_an_available_daemon_all_the_time() {
    for seed in 0..SEEDS / 4 {
        let mut cluster = Cluster::new(seed, 3);
        cluster.keep_nodes();
        cluster.store.create(daemon_set(json!({"maxUnavailable": 0, "maxSurge": 1})));
        cluster.run(Duration::from_secs(5));
        cluster.edit_daemons(image("v2"));
        for _ in 0..3000 {
            cluster.run_a_little();
            let all = cluster.pods();
            let ready = all.iter().filter(|p| pods::is_active(p) && pods::is_ready(p)).count();
            let active = all.iter().filter(|p| pods::is_active(p)).count();
            assert!(ready >= 3 && active <= 4, "seed {seed}: {ready} of {active}");
        }
        cluster.run(Duration::from_secs(120));
        assert_eq!(cluster.daemons(), ["n0 v2", "n1 v2", "n2 v2"], "seed {seed}");
    }
}

#[test]
fn failed_daemons_are_replaced_and_conditions_of_others_stay() {
    let mut cluster = Cluster::new(1, 2);
    cluster.keep_nodes();
    cluster.store.create(daemon_set(json!({"maxUnavailable": 1, "maxSurge": 0})));
    cluster.run(Duration::from_secs(5));
    let pod = cluster.pods()[0].clone();
    cluster.store.perform(Action::patch(&PODS, &pod, "status", json!({"status": {"phase": "Failed"}}))).unwrap();
    let mut set = Value::clone(cluster.store.get(&DAEMON_SETS, "ds").unwrap());
    set["status"].set("conditions", json!([{"type": "Mine", "status": "True"}]));
    cluster.store.perform(Action::update_status(&DAEMON_SETS, set)).unwrap();
    cluster.run(Duration::from_secs(60));
    assert_eq!(cluster.daemons().len(), 2);
    assert!(cluster.pods().iter().all(|p| meta::uid(p) != meta::uid(&pod)));
    let status = &cluster.store.get(&DAEMON_SETS, "ds").unwrap()["status"];
    assert_eq!(status["conditions"].items().len(), 1);
    assert_eq!((status["numberAvailable"].as_i64(), status.get("numberUnavailable")), (Some(2), None));
}
