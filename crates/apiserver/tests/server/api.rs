//! The server in this process, on a store in memory: what clients can rely on.

use apiserver::{Body, WatchKind};
use http::Method;
use machinery::{Value, json, meta};
use policy::UserInfo;

use crate::support::{MAPS, admin, cluster, map};

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_created_changed_and_deleted_with_kubernetes_answers() {
    let c = cluster().await;
    let made = c.object(Method::POST, MAPS, map("x")).await.unwrap();
    assert!(!meta::uid(&made).is_empty() && !meta::resource_version(&made).is_empty());
    let twice = c.object(Method::POST, MAPS, map("x")).await.unwrap_err();
    assert_eq!((twice.code, twice.message.as_str()), (409, "configmaps \"x\" already exists"));
    assert_eq!(c.get(&format!("{MAPS}/x")).await.unwrap(), made);
    let patched = c.patch(&format!("{MAPS}/x"), "application/merge-patch+json", json!({"data": {"b": "2"}})).await;
    let patched = patched.unwrap();
    assert_eq!(patched["data"], json!({"a": "1", "b": "2"}));
    let stale = c.object(Method::PUT, &format!("{MAPS}/x"), made).await.unwrap_err();
    assert_eq!(
        stale.message,
        "Operation cannot be fulfilled on configmaps \"x\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let same = c.object(Method::PUT, &format!("{MAPS}/x"), patched.clone()).await.unwrap();
    assert_eq!(same, patched, "a write that changes nothing makes no revision");
    let dry = c.object(Method::DELETE, &format!("{MAPS}/x?dryRun=All"), Value::Null).await.unwrap();
    assert_eq!(dry["status"], "Success".into());
    let gone = c.object(Method::DELETE, &format!("{MAPS}/x"), Value::Null).await.unwrap();
    assert_eq!(gone["details"]["uid"], patched["metadata"]["uid"]);
    let missing = c.get(&format!("{MAPS}/x")).await.unwrap_err();
    assert_eq!((missing.code, missing.message.as_str()), (404, "configmaps \"x\" not found"));
    let nowhere = c.object(Method::POST, "/api/v1/namespaces/nope/configmaps", map("x")).await.unwrap_err();
    assert_eq!((nowhere.code, nowhere.message.as_str()), (404, "namespaces \"nope\" not found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_list_stay_at_one_revision() {
    let c = cluster().await;
    for i in 0..5 {
        c.object(Method::POST, MAPS, map(&format!("m{i}"))).await.unwrap();
    }
    let list = async |query: &str| {
        c.send(&admin(), Method::GET, &format!("{MAPS}?{query}"), Body::Empty).await.into_list().unwrap()
    };
    let first = list("limit=2").await;
    c.object(Method::DELETE, &format!("{MAPS}/m3"), Value::Null).await.unwrap();
    let names = |list: &apiserver::List| -> Vec<String> {
        list.items.iter().map(|o| meta::name(&o.object).to_owned()).collect()
    };
    assert_eq!((names(&first), first.remaining), (vec!["m0".to_owned(), "m1".to_owned()], Some(3)));
    let second = list(&format!("limit=2&continue={}", first.continue_token)).await;
    assert_eq!(names(&second), ["m2", "m3"]);
    assert_eq!(second.resource_version, first.resource_version);
    let third = list(&format!("limit=2&continue={}", second.continue_token)).await;
    assert_eq!((names(&third), third.continue_token.as_str()), (vec!["m4".to_owned()], ""));
    assert_eq!(names(&list("").await), ["m0", "m1", "m2", "m4"]);
    assert_eq!(names(&list("fieldSelector=metadata.name%3Dm2").await), ["m2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_whose_revision_is_compacted_can_go_on_from_there() {
    let c = cluster().await;
    for i in 0..3 {
        c.object(Method::POST, MAPS, map(&format!("m{i}"))).await.unwrap();
    }
    let list = async |query: &str| {
        c.send(&admin(), Method::GET, &format!("{MAPS}?limit=1&continue={query}"), Body::Empty).await.into_list()
    };
    let first = list("").await.unwrap();
    let made = c.object(Method::POST, MAPS, map("m1a")).await.unwrap();
    let now = meta::resource_version(&made).parse().unwrap();
    c.member.store().compact(now, false).await.unwrap();
    let expired = list(&first.continue_token).await.unwrap_err();
    assert_eq!((expired.code, expired.reason.as_str()), (410, "Expired"));
    assert!(expired.message.starts_with("The provided continue parameter is too old"), "{expired}");
    let second = list(&expired.continue_token).await.unwrap();
    assert_eq!(meta::name(&second.items[0].object), "m1");
    let third = list(&second.continue_token).await.unwrap();
    assert_eq!(meta::name(&third.items[0].object), "m1a", "what was made meanwhile is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_an_object_enter_and_leave_its_selector() {
    let c = cluster().await;
    let start = c.object(Method::POST, MAPS, map("w")).await.unwrap();
    let query = format!("{MAPS}?watch=1&labelSelector=on%3Dyes&resourceVersion={}", meta::resource_version(&start));
    let mut watch = c.send(&admin(), Method::GET, &query, Body::Empty).await.into_watch().unwrap();
    let label = async |value: Value| {
        let patch = json!({"metadata": {"labels": {"on": value}}});
        c.patch(&format!("{MAPS}/w"), "application/merge-patch+json", patch).await.unwrap()
    };
    label("yes".into()).await;
    assert_eq!(watch.next().await.unwrap().kind, WatchKind::Added);
    c.patch(&format!("{MAPS}/w"), "application/merge-patch+json", json!({"data": {"z": "1"}})).await.unwrap();
    assert_eq!(watch.next().await.unwrap().kind, WatchKind::Modified);
    label(Value::Null).await;
    assert_eq!(watch.next().await.unwrap().kind, WatchKind::Deleted);
    let old = format!("{MAPS}?watch=1&resourceVersion=1");
    let mut old = c.send(&admin(), Method::GET, &old, Body::Empty).await.into_watch().unwrap();
    let first = old.next().await.unwrap();
    assert_eq!(first.kind, WatchKind::Added, "what came after that revision is told from the history");
}

#[tokio::test(flavor = "multi_thread")]
async fn rbac_decides_and_says_so_in_kubernetes_words() {
    let c = cluster().await;
    let jane = UserInfo::authenticated("jane", &[]);
    let refused = c.send(&jane, Method::GET, MAPS, Body::Empty).await.into_list().unwrap_err();
    assert_eq!(
        refused.message,
        "configmaps is forbidden: User \"jane\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "v"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    c.object(Method::POST, "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding)
        .await
        .unwrap();
    assert!(c.send(&jane, Method::GET, MAPS, Body::Empty).await.into_list().is_ok());
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "nodes"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review = c.send(&jane, Method::POST, path, Body::Tree(review)).await.into_object().unwrap();
    assert_eq!(review["status"]["allowed"], false.into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custom_resource_is_served_and_goes_with_its_definition() {
    let c = cluster().await;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"spec": {"type": "object", "properties": {"n": {"type": "integer", "default": 3}}}}}}}]}});
    c.object(Method::POST, path, definition).await.unwrap();
    let query = format!("{path}?watch=1");
    let mut watch = c.send(&admin(), Method::GET, &query, Body::Empty).await.into_watch().unwrap();
    let row = watch.row.clone();
    let established =
        |v: &Value| v["status"]["conditions"].items().iter().any(|c| c.str_at(&["type"]) == "Established");
    while !established(&watch.next().await.unwrap().shown(&row)) {}
    let widgets = "/apis/example.com/v1/namespaces/default/widgets";
    let widget =
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"zz": 1}});
    let widget = c.object(Method::POST, widgets, widget).await.unwrap();
    assert_eq!(widget["spec"], json!({"n": 3}));
    c.object(Method::DELETE, &format!("{path}/widgets.example.com"), Value::Null).await.unwrap();
    while watch.next().await.unwrap().kind != WatchKind::Deleted {}
    assert_eq!(c.send(&admin(), Method::GET, widgets, Body::Empty).await.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_has_what_clients_expect() {
    let c = cluster().await;
    for path in [
        "/api/v1/namespaces/kube-node-lease",
        "/api/v1/namespaces/default/services/kubernetes",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin",
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
        "/apis/networking.k8s.io/v1/servicecidrs/kubernetes",
        "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/catch-all",
        "/version",
        "/api",
        "/apis",
        "/apis/apps/v1",
    ] {
        assert!(c.get(path).await.is_ok(), "{path}");
    }
    for path in ["/readyz", "/openapi/v2", "/openapi/v3", "/openapi/v3/apis/apps/v1"] {
        assert_eq!(c.send(&admin(), Method::GET, path, Body::Empty).await.code, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_refused_as_upstream_refuses_it() {
    let c = cluster().await;
    c.object(Method::POST, MAPS, map("x")).await.unwrap();
    let x = format!("{MAPS}/x");
    let merge = "application/merge-patch+json";
    let refused = c.patch(&x, merge, json!({"data": {"a": 1}})).await.unwrap_err();
    assert_eq!((refused.code, refused.causes[0].field.as_str()), (422, "patch"));
    assert!(refused.message.starts_with(" \"\" is invalid: patch: Invalid value: \"{\\\"apiVersion"), "{refused}");
    let strategic = "application/strategic-merge-patch+json";
    let kept = c.patch(&x, strategic, json!({"kind": "Secret"})).await.unwrap();
    assert_eq!(kept.str_at(&["kind"]), "ConfigMap");
    let refused = c.patch(&x, "application/json", json!({})).await.unwrap_err();
    assert_eq!((refused.code, refused.message.as_str(), refused.generic), (415, "415: Unsupported Media Type", true));
    let cases = [
        (json!({"kind": "Foo"}), 400, "no kind \"Foo\" is registered for version \"v1\""),
        (json!({"metadata": {"resourceVersion": "abc", "name": "x"}}), 500, "strconv.ParseUint: parsing \"abc\""),
        (json!({"metadata": {}}), 400, "the name of the object (x based on URL) was undeterminable"),
    ];
    for (body, code, text) in cases {
        let refused = c.object(Method::PUT, &x, body.clone()).await.unwrap_err();
        assert_eq!(refused.code, code, "{body}");
        assert!(refused.message.contains(text), "{refused}");
    }
    let log = c.get("/api/v1/namespaces/default/pods/nope/log").await.unwrap_err();
    assert_eq!((log.code, log.message.as_str()), (404, "pods \"nope\" not found"));
    let missing = c.get(&format!("{MAPS}/x?resourceVersion=99999999")).await.unwrap_err();
    assert_eq!(missing.code, 504, "a version that is not there yet is waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_a_kube_apiserver_stored_as_protobuf_are_read_and_written() {
    let c = cluster().await;
    let types = machinery::schema::Types::new(facts::set("1.33").unwrap().types);
    let mut object = map("x");
    object.set("metadata", json!({"name": "x", "namespace": "default", "uid": "1", "labels": {"a": "b"}}));
    let stored = machinery::protobuf::encode_object(&types, "core/v1.ConfigMap", &object).unwrap();
    let key = "/registry/configmaps/default/x";
    let put = etcd::PutRequest { key: key.into(), value: stored.into(), ..etcd::PutRequest::default() };
    c.member.store().put(put).await.unwrap();
    let list = async |query: &str| {
        let path = format!("{MAPS}?labelSelector=a%3Db{query}");
        let mut list = c.send(&admin(), Method::GET, &path, Body::Empty).await.into_list().unwrap();
        let found = list.items.remove(0);
        ((*found.object).clone(), found.revision)
    };
    let (found, at) = list("").await;
    assert_eq!(found["data"], json!({"a": "1"}));
    c.patch(&format!("{MAPS}/x"), "application/merge-patch+json", json!({"data": {"b": "2"}})).await.unwrap();
    assert_eq!(c.get(&format!("{MAPS}/x")).await.unwrap()["data"], json!({"a": "1", "b": "2"}));
    let before = list(&format!("&resourceVersion={at}&resourceVersionMatch=Exact")).await.0;
    assert_eq!(before["data"], json!({"a": "1"}), "history is read as it was stored");
}
