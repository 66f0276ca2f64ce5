//! Invariants over every row, and over what a real kube-apiserver recorded in `testdata/recorded`.

use std::sync::Arc;

use base::Timestamp;
use machinery::{GroupVersionKind, Value, json, meta};

use crate::allocation::ServiceNetwork;
use crate::{
    Context, DeleteOptions, Deletion, IncludeObject, Options, Registry, Resource, Subresource, create, defaults,
    delete, table, update,
};

const CREATED: &str = include_str!("../testdata/recorded/created.jsonl");
const REFUSED: &str = include_str!("../testdata/recorded/refused.jsonl");
const UPDATED: &str = include_str!("../testdata/recorded/updated.jsonl");
const TABLES: &str = include_str!("../testdata/recorded/tables.jsonl");

fn registry() -> Registry {
    Registry::builtin(facts::set("1.33").unwrap(), &Options::default()).unwrap()
}

fn context(namespace: &str) -> Context {
    Context {
        user: "admin".into(),
        now: Timestamp::from_unix_seconds(1_700_000_000),
        uid: "UID".into(),
        name_suffix: "abcde".into(),
        namespace: namespace.into(),
        allow_privileged: true,
        network: Some(Arc::new(ServiceNetwork::of(vec!["10.96.0.0/16".parse().unwrap()], [], 0))),
        ..Context::default()
    }
}

fn lines(text: &'static str) -> impl Iterator<Item = Value> {
    text.lines().filter(|l| !l.is_empty()).map(|l| Value::from_slice(l.as_bytes()).expect("recorded JSON"))
}

/// The row of an object and the namespace a request for it names.
fn row_of<'a>(registry: &'a Registry, object: &Value) -> Option<&'a Arc<Resource>> {
    registry.kind(&GroupVersionKind::of(object.str_at(&["apiVersion"]), object.str_at(&["kind"])))
}

/// Lines in which what the recording hides behind words, because it differs from run to run, can be read again.
fn readable(text: &str) -> Vec<Value> {
    let text = text
        .replace("RANDO", "rando")
        .replace("\"IP\"", "\"10.96.0.9\"")
        .replace("\"PORT\"", "30099")
        .replace("\"RV\"", "\"7\"")
        .replace("\"TIME\"", "\"2023-11-14T22:13:20Z\"");
    text.lines().map(|l| Value::from_slice(l.as_bytes()).expect("recorded JSON")).collect()
}

/// What a real server stored.
fn stored() -> Vec<Value> {
    let mut objects: Vec<Value> = readable(CREATED).iter().map(|l| l["answer"].clone()).collect();
    objects.retain(|o| !meta::name(o).is_empty());
    objects
}

/// A message's parts in an order of their own: Go walks maps in any order.
fn parts(message: &str) -> Vec<String> {
    let (head, tail) = message.split_once("is invalid: ").unwrap_or((message, ""));
    let tail = tail.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(tail);
    let mut parts: Vec<String> = tail.split(", ").map(str::to_owned).chain([head.to_owned()]).collect();
    parts.sort();
    parts
}

/// What the API server does to an object before it calls a verb.
fn shape(registry: &Registry, row: &Resource, rules: &defaults::Defaults, object: &mut Value) {
    let types = machinery::schema::Types::new(registry.facts().types);
    for _ in 0..2 {
        machinery::schema::decode(&types, row.type_name(), object).expect("the server read it");
        defaults::apply(rules, &row.gvk, object);
    }
}

/// Is it the same complaint? Addresses in memory, which Go prints of pointers, are nobody's; nor is the difference of
/// two Go structs that stands below some of them.
fn same_message(ours: &str, real: &str) -> bool {
    let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    let (ours, real) = (first(ours), first(real));
    if ours.is_empty() || real.is_empty() {
        return ours == real;
    }
    real.contains("(0x") || parts(&ours) == parts(&real)
}

#[test]
fn an_update_that_changes_nothing_is_accepted_and_changes_nothing() {
    let registry = registry();
    let mut wrong = Vec::new();
    for object in stored() {
        let Some(row) = row_of(&registry, &object).filter(|r| r.allows("update")) else { continue };
        let cx = Context { name: meta::name(&object).into(), ..context(meta::namespace(&object)) };
        match update(row, &object, object.clone(), &cx) {
            Err(status) => wrong.push(status.message),
            Ok(mut same) => {
                same["metadata"].set("resourceVersion", "7");
                if same != object {
                    wrong.push(format!("was {object}\n  is {same}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_changed_spec_bumps_the_generation_and_a_status_write_leaves_the_spec_alone() {
    let registry = registry();
    let row = registry.lookup("apps", "v1", "deployments").unwrap();
    let stored = stored();
    let old = stored.iter().find(|o| o["kind"].as_str() == Some("Deployment")).expect("one was recorded");
    let cx = Context { name: meta::name(old).into(), ..context(meta::namespace(old)) };
    let mut new = old.clone();
    new["spec"].set("replicas", 9);
    new.set("status", json!({"replicas": 5}));
    let made = update(row, old, new.clone(), &cx).unwrap();
    assert_eq!(meta::generation(&made), meta::generation(old) + 1);
    assert_eq!(made["status"], old["status"]);
    let made = update(row, old, new, &Context { subresource: Subresource::Status, ..cx.clone() }).unwrap();
    assert_eq!((&made["spec"], made["status"]["replicas"].as_i64()), (&old["spec"], Some(5)));
    let mut stale = old.clone();
    stale["metadata"].set("resourceVersion", "6");
    assert_eq!(update(row, old, stale, &cx).unwrap_err().code, 409);
}

#[test]
fn refusals_are_those_recorded() {
    let registry = registry();
    let rules = defaults::Defaults::parse(registry.facts().defaults);
    let mut wrong = Vec::new();
    for exchange in lines(REFUSED).filter(|l| matches!(l["code"].as_i64(), Some(201 | 422))) {
        let mut object = exchange["request"].clone();
        let Some(row) = row_of(&registry, &object) else { continue };
        let namespace = if row.namespaced { "sparse" } else { "" };
        shape(&registry, row, &rules, &mut object);
        let message = create(row, object, &context(namespace)).map_or_else(|s| s.message, |_| String::new());
        let expect = exchange.str_at(&["answer", "message"]);
        // Which time zones there are, we do not know.
        if !expect.contains("unknown time zone") && !same_message(&message, expect) {
            wrong.push(format!("{}\n  real: {expect}\n  ours: {message}", exchange["request"]));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn updates_come_to_what_was_recorded() {
    let registry = registry();
    let rules = defaults::Defaults::parse(registry.facts().defaults);
    let mut wrong = Vec::new();
    for exchange in readable(UPDATED) {
        let old = &exchange["old"];
        let row = row_of(&registry, old).expect("a kind that is served");
        let cx = Context { name: meta::name(old).into(), ..context(meta::namespace(old)) };
        let mut new = old.clone();
        machinery::patch::merge_patch(&mut new, &exchange["request"]);
        shape(&registry, row, &rules, &mut new);
        let answer = &exchange["answer"];
        match update(row, old, new, &cx) {
            Err(status) if same_message(&status.message, answer.str_at(&["message"])) => {}
            Err(status) => {
                wrong.push(format!("{old}\n  {}\n  real: {answer}\n  ours: {}", exchange["request"], status.message))
            }
            Ok(mut made) => {
                made["metadata"].set("resourceVersion", "7");
                if made != *answer {
                    wrong.push(format!("{old}\n  {}\n  real: {answer}\n  ours: {made}", exchange["request"]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn tables_show_what_a_real_server_shows() {
    let registry = registry();
    let objects = stored();
    let mut wrong = Vec::new();
    for recorded in lines(TABLES) {
        let path = recorded.str_at(&["path"]);
        let parts: Vec<&str> =
            path.trim_start_matches('/').split('/').filter(|p| *p != "namespaces" && *p != "sparse").collect();
        let row = match parts.as_slice() {
            ["api", version, plural] => registry.lookup("", version, plural),
            ["apis", group, version, plural] => registry.lookup(group, version, plural),
            _ => None,
        };
        // Their controllers wrote a status after the objects were recorded; node ports are drawn by lot.
        if ["/services", "/apiservices", "/flowschemas"].iter().any(|later| path.ends_with(later)) {
            continue;
        }
        let Some(row) = row else { continue };
        let columns: Value = row.columns.iter().map(|c| Value::from(c.name.as_str())).collect();
        if columns != recorded["columns"] {
            wrong.push(format!("{path}: columns {columns}, not {}", recorded["columns"]));
        }
        let of_row = |o: &&Value| row_of(&registry, o).is_some_and(|r| r.gvr() == row.gvr());
        let made = table(row, objects.iter().filter(of_row), json!({}), IncludeObject::None, true, Timestamp::EPOCH);
        let name_at = row.columns.iter().position(|c| c.name == "Name").unwrap_or(0);
        for ours in made["rows"].items().iter().map(|r| &r["cells"]) {
            let same_name = |r: &&Value| {
                r[name_at].as_str().map(|n| n.trim_end_matches(" (default)"))
                    == ours[name_at].as_str().map(|n| n.trim_end_matches(" (default)"))
            };
            let Some(real) = recorded["rows"].items().iter().find(same_name) else { continue };
            let differs = ours.items().iter().zip(real.items()).any(|(a, b)| b.as_str() != Some("AGE") && a != b);
            if differs || ours.items().len() != real.items().len() {
                wrong.push(format!("{path}:\n  real {real}\n  ours {ours}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_row_can_be_found_by_path_and_by_kind_and_stores_under_its_own_prefix() {
    let registry = registry();
    let mut prefixes = std::collections::BTreeSet::new();
    for row in registry.rows() {
        assert!(registry.lookup(&row.gvk.group, &row.gvk.version, &row.plural).is_some());
        assert_eq!(registry.kind(&row.gvk).map(|r| r.gvr()), Some(row.gvr()));
        assert!(!row.columns.is_empty() && !row.type_name().is_empty(), "{:?}", row.gvk);
        assert!(registry.storage_row(row).is_some(), "{:?}", row.gvk);
    }
    for row in registry.stored() {
        assert!(prefixes.insert(row.etcd_prefix.clone()), "{} is used twice", row.etcd_prefix);
    }
}

#[test]
fn objects_survive_the_way_through_json_and_their_stored_version() {
    let registry = registry();
    for object in stored() {
        assert_eq!(Value::from_slice(&object.to_vec()).unwrap(), object);
        let Some(row) = row_of(&registry, &object) else { continue };
        let storage = registry.storage_row(row).unwrap();
        let there = crate::to_storage(&object, row, storage);
        assert_eq!(there.str_at(&["apiVersion"]), row.storage_api_version());
        assert_eq!(crate::convert(&there, row), object);
    }
}

#[test]
fn a_pod_is_deleted_gracefully_only_where_it_runs() {
    let registry = registry();
    let row = registry.lookup("", "v1", "pods").unwrap();
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "uid": "u",
        "resourceVersion": "3", "generation": 1}, "spec": {"terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}});
    let cx = context("n");
    assert_eq!(delete(row, &pod, &DeleteOptions::default(), &cx), Ok(Deletion::Remove));
    pod["spec"].set("nodeName", "node");
    let Ok(Deletion::Mark(marked)) = delete(row, &pod, &DeleteOptions::default(), &cx) else { panic!("it runs") };
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30.into());
    assert_eq!(marked.str_at(&["metadata", "deletionTimestamp"]), "2023-11-14T22:13:50Z");
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    assert_eq!(delete(row, &marked, &DeleteOptions::default(), &cx), Ok(Deletion::Unchanged));
    assert_eq!(delete(row, &marked, &now, &cx), Ok(Deletion::Remove));
    let other = DeleteOptions { precondition_uid: Some("v".into()), ..DeleteOptions::default() };
    assert_eq!(delete(row, &pod, &other, &cx).unwrap_err().code, 409);
}

#[test]
fn finalizers_and_propagation_decide_what_a_delete_does() {
    let registry = registry();
    let row = registry.lookup("", "v1", "configmaps").unwrap();
    let object = json!({"metadata": {"name": "c", "namespace": "n", "resourceVersion": "3"}});
    let cx = context("n");
    assert_eq!(delete(row, &object, &DeleteOptions::default(), &cx), Ok(Deletion::Remove));
    let policy = |word: &str| DeleteOptions { propagation_policy: Some(word.into()), ..DeleteOptions::default() };
    let Ok(Deletion::Mark(marked)) = delete(row, &object, &policy("Foreground"), &cx) else { panic!("it waits") };
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    assert!(!crate::remove_on_update(row, &marked));
    let mut done = marked;
    done["metadata"].remove("finalizers");
    assert!(crate::remove_on_update(row, &done));
    assert_eq!(
        delete(row, &object, &policy("Sideways"), &cx).unwrap_err().message,
        "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"Sideways\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
    );
}

#[test]
fn a_definition_adds_rows_and_its_removal_takes_them_away() {
    let definition = json!({"metadata": {"name": "foos.x.example.com"}, "spec": {"group": "x.example.com", "scope": "Namespaced",
        "names": {"plural": "foos", "kind": "Foo", "listKind": "FooList", "shortNames": ["fo"]},
        "versions": [{"name": "v1alpha1", "served": true, "storage": false}, {"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 3}}}}}},
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
            "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]}]}});
    let before = registry();
    let with = before.with_crd(&definition).unwrap();
    let row = with.lookup("x.example.com", "v1", "foos").unwrap();
    assert_eq!(row.etcd_key("n", "a"), "/registry/x.example.com/foos/n/a");
    assert_eq!(with.groups().last().unwrap().1, ["v1", "v1alpha1"]);
    let object = json!({"apiVersion": "x.example.com/v1", "kind": "Foo", "metadata": {"name": "a"}, "spec": {"size": 4}, "status": {"size": 1}});
    let made = create(row, object, &context("n")).unwrap();
    assert!(made["status"].is_null() && meta::generation(&made) == 1);
    let scale = crate::special::scale::get(row, &made).unwrap();
    assert_eq!(scale["spec"]["replicas"], 4.into());
    let shown = table(row, [&made], json!({}), IncludeObject::None, true, Timestamp::EPOCH);
    assert_eq!(shown["rows"][0]["cells"], json!(["a", 4]));
    let bad =
        json!({"apiVersion": "x.example.com/v1", "kind": "Foo", "metadata": {"name": "a"}, "spec": {"size": "x"}});
    assert_eq!(create(row, bad, &context("n")).unwrap_err().code, 422);
    let without = with.without_crd("foos.x.example.com");
    assert!(without.lookup("x.example.com", "v1", "foos").is_none());
    assert_eq!(without.rows().count(), before.rows().count());
}
