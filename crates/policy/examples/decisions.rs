//! How long a decision takes with 1,000 bindings: `cargo run --release -p policy --example decisions`.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "an example that measures real time and prints it"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use machinery::{ObjectKey, json};
use policy::{Attributes, Authorizers, GoogleIdentity, RbacKind, UserInfo};

const BINDINGS: usize = 1000;
const ROUNDS: usize = 200;
const IN_A_ROUND: u32 = 1000;

fn authorizers() -> Authorizers {
    let mut authorizers = Authorizers::default();
    let mut apply = |kind, namespace: &str, name: &str, object| {
        authorizers.rbac.apply(kind, &ObjectKey::new(namespace, name), Some(&object));
    };
    for i in 0..100 {
        let rule = |resource: String| json!({"apiGroups": ["apps"], "resources": [resource], "verbs": ["get", "list"]});
        let mut role = json!({});
        role.set("rules", (0..10).map(|r| rule(format!("kind{i}x{r}"))).collect::<machinery::Value>());
        apply(RbacKind::ClusterRole, "", &format!("role{i}"), role);
    }
    let pods = json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]});
    apply(RbacKind::ClusterRole, "", "pods", pods);
    for i in 0..BINDINGS {
        let namespace = format!("ns{}", i % 20);
        let binding = json!({"roleRef": {"kind": "ClusterRole", "name": format!("role{}", i % 100)},
            "subjects": [{"kind": "User", "name": format!("user{i}")}, {"kind": "Group", "name": format!("team{}", i % 50)}]});
        apply(RbacKind::RoleBinding, &namespace, &format!("binding{i}"), binding);
    }
    let last =
        json!({"roleRef": {"kind": "ClusterRole", "name": "pods"}, "subjects": [{"kind": "Group", "name": "viewers"}]});
    apply(RbacKind::ClusterRoleBinding, "", "viewers", last);
    authorizers
}

/// The median of the rounds, for one call.
fn measure(what: &str, mut call: impl FnMut()) {
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            (0..IN_A_ROUND).for_each(|_| call());
            began.elapsed() / IN_A_ROUND
        })
        .collect();
    rounds.sort_unstable();
    println!("{what}: {:.2} µs", rounds[ROUNDS / 2].as_secs_f64() * 1e6);
}

fn main() {
    let authorizers = authorizers();
    let viewer = UserInfo::authenticated("user7", &["team7", "viewers"]);
    let nobody = UserInfo::authenticated("user7", &["team7"]);
    let google = GoogleIdentity {
        email: "user7".to_owned(),
        roles: vec!["roles/container.viewer".to_owned()],
        ..Default::default()
    };
    let list = |user| Attributes::resource(user, "list", "", "pods").in_namespace("ns7");
    let ask = |user, google| black_box(authorizers.authorize(black_box(&list(user)), google));
    assert!(ask(&viewer, None).allowed && !ask(&nobody, None).allowed && ask(&nobody, Some(&google)).allowed);
    measure("RBAC allows, 1,000 bindings", || drop(ask(&viewer, None)));
    measure("RBAC refuses, 1,000 bindings", || drop(ask(&nobody, None)));
    measure("RBAC refuses and IAM allows, 1,000 bindings", || drop(ask(&nobody, Some(&google))));
}
