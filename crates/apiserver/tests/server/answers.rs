//! Answers that a kube-apiserver 1.33 was asked for by the same requests.

use apiserver::{Body, Request, WatchKind};
use http::{Method, StatusCode};
use machinery::{Value, json, meta};

use crate::support::{MAPS, admin, cluster, map};

#[tokio::test(flavor = "multi_thread")]
async fn a_uid_is_a_precondition_of_an_update_and_a_fault_of_a_patch() {
    let c = cluster().await;
    let made = c.object(Method::POST, MAPS, map("u")).await.unwrap();
    let (path, merge) = (format!("{MAPS}/u"), "application/merge-patch+json");
    let patch = json!({"metadata": {"uid": "abc"}, "data": {"_&": "x"}});
    let refused = c.patch(&path, merge, patch).await.unwrap_err();
    assert_eq!(refused.code, 422);
    assert!(
        refused.message.starts_with(
            "ConfigMap \"u\" is invalid: [metadata.uid: Invalid value: \"abc\": field is immutable, data[_&]: Invalid"
        ),
        "{refused}"
    );
    let fields: Vec<&str> = refused.causes.iter().map(|cause| cause.field.as_str()).collect();
    assert_eq!(fields, ["metadata.uid", "metadata.uid", "data[_&]"]);
    c.patch(&path, merge, json!({"metadata": {"uid": null}})).await.unwrap();
    let mut other = map("u");
    other["metadata"].set("uid", "abc");
    other["metadata"].set("resourceVersion", "1");
    let refused = c.object(Method::PUT, &path, other).await.unwrap_err();
    assert_eq!(refused.code, 409);
    let why = format!("UID in precondition: abc, UID in object meta: {}", meta::uid(&made));
    assert!(refused.message.ends_with(&why), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_cannot_be_read_delete_nothing() {
    let c = cluster().await;
    c.object(Method::POST, MAPS, map("x")).await.unwrap();
    let path = format!("{MAPS}/x");
    let send = async |path: &str, query: &str, kind: &'static str, body: &'static str| {
        let body = Body::Bytes(body.as_bytes().into());
        let request = Request::verified(&admin(), Method::DELETE, path, query, body).content_type(kind);
        c.server.handle(request).await.into_object()
    };
    for (kind, body, code, text) in [
        (
            "application/json",
            r#"{"gracePeriodSeconds":"0"}"#,
            500,
            "json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64",
        ),
        (
            "application/yaml",
            "dryRun: All",
            500,
            "json: cannot unmarshal string into Go struct field DeleteOptions.dryRun of type []string",
        ),
        (
            "application/json",
            r#"{"a":"#,
            500,
            "couldn't get version/kind; json parse error: unexpected end of JSON input",
        ),
        (
            "application/vnd.kubernetes.protobuf",
            "xxxxxxx",
            500,
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
        ),
    ] {
        for path in [path.as_str(), MAPS] {
            let refused = send(path, "", kind, body).await.unwrap_err();
            assert_eq!((refused.code, refused.message.as_str()), (code, text), "{body}");
            assert!(refused.to_value()["reason"].is_null(), "upstream makes no status of it");
        }
    }
    assert_eq!(send(&path, "", "text/plain", "x").await.unwrap_err().code, 415);
    c.get(&path).await.unwrap();
    // Where there is a body the query says nothing.
    send(&path, "dryRun=All", "application/json", r#"{"kind":"DeleteOptions","apiVersion":"foo/v1"}"#).await.unwrap();
    assert_eq!(c.get(&path).await.unwrap_err().code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_that_is_none_is_refused() {
    let c = cluster().await;
    for path in [MAPS, "/version", "/api/v1/nope"] {
        let refused = c.get(&format!("{path}?timeout=x")).await.unwrap_err();
        let text = "invalid timeout specified in the request URL - time: invalid duration \"x\"";
        assert_eq!((refused.code, refused.message.as_str()), (400, text), "{path}");
    }
    let stranger = policy::UserInfo::authenticated("stranger", &[]);
    let reply = c.send(&stranger, Method::POST, &format!("{MAPS}?timeout=5"), Body::Tree(map("x"))).await;
    assert_eq!(reply.code, StatusCode::BAD_REQUEST.as_u16(), "before anybody asks whether they may");
    assert_eq!(c.send(&admin(), Method::GET, &format!("{MAPS}?timeout=5s"), Body::Empty).await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_definition_shows_empty_names_and_its_resources_a_storage_hash() {
    let c = cluster().await;
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"}, "versions": [
        {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}},
        {"name": "v2", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let made = c.object(Method::POST, crd, definition).await.unwrap();
    let empty = json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": ["v1"]});
    assert_eq!(made["status"], empty);
    let query = format!("{crd}?watch=1&resourceVersion={}", meta::resource_version(&made));
    let mut watch = c.send(&admin(), Method::GET, &query, Body::Empty).await.into_watch().unwrap();
    let row = watch.row.clone();
    while watch.next().await.unwrap().shown(&row).str_at(&["status", "acceptedNames", "plural"]) != "widgets" {}
    for version in ["v1", "v2"] {
        let resources = c.get(&format!("/apis/example.com/{version}")).await.unwrap();
        assert_eq!(resources["resources"][0]["storageVersionHash"], "gIwvi5rymmg=".into(), "{version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_go_before_their_definition() {
    let c = cluster().await;
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "ghosts.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "ghosts", "kind": "Ghost"}, "versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let ghosts = "/apis/example.com/v1/namespaces/default/ghosts";
    let query = format!("{crd}?watch=1");
    let mut watch = c.send(&admin(), Method::GET, &query, Body::Empty).await.into_watch().unwrap();
    let row = watch.row.clone();
    let made = async |watch: &mut apiserver::WatchStream| {
        c.object(Method::POST, crd, definition.clone()).await.unwrap();
        while watch.next().await.unwrap().shown(&row).str_at(&["status", "acceptedNames", "plural"]) != "ghosts" {}
    };
    made(&mut watch).await;
    let ghost = json!({"apiVersion": "example.com/v1", "kind": "Ghost",
        "metadata": {"name": "g", "finalizers": ["example.com/held"]}});
    c.object(Method::POST, ghosts, ghost.clone()).await.unwrap();
    let marked = c.object(Method::DELETE, &format!("{crd}/ghosts.example.com"), Value::Null).await.unwrap();
    assert_eq!(marked["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    let late = c.object(Method::POST, ghosts, ghost).await.unwrap_err();
    assert_eq!(late.code, 405);
    assert_eq!(late.message, "create not allowed while custom resource definition is terminating");
    let verbs = c.get("/apis/example.com/v1").await.unwrap()["resources"][0]["verbs"].clone();
    assert_eq!(verbs, json!(["delete", "deletecollection", "get", "list", "watch"]));
    let freed = json!({"metadata": {"finalizers": null}});
    c.patch(&format!("{ghosts}/g"), "application/merge-patch+json", freed).await.unwrap();
    while watch.next().await.unwrap().kind != WatchKind::Deleted {}
    made(&mut watch).await;
    let left = c.send(&admin(), Method::GET, ghosts, Body::Empty).await.into_list().unwrap();
    assert!(left.items.is_empty(), "they do not come back with another definition of the same name");
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_have_no_time_but_the_one_about_oneself() {
    let c = cluster().await;
    let review = async |group: &str, plural: &str, kind: &str, spec: Value| {
        let api_version = format!("{group}.k8s.io/v1");
        let mut body = json!({"apiVersion": api_version.as_str(), "kind": kind});
        body.set("spec", spec);
        let made = c.object(Method::POST, &format!("/apis/{api_version}/{plural}"), body).await.unwrap();
        made["metadata"].clone()
    };
    let spec = json!({"resourceAttributes": {"verb": "get", "resource": "pods"}});
    let made = review("authorization", "selfsubjectaccessreviews", "SelfSubjectAccessReview", spec).await;
    assert_eq!(made, json!({"creationTimestamp": null}));
    let made = review("authentication", "tokenreviews", "TokenReview", json!({"token": "x"})).await;
    assert_eq!(made, json!({"creationTimestamp": null}));
    let made = review("authentication", "selfsubjectreviews", "SelfSubjectReview", Value::Null).await;
    assert_eq!(made, json!({"creationTimestamp": "2027-01-15T08:00:00Z"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_namespace_of_what_is_sent_is_that_of_the_request() {
    let c = cluster().await;
    let here = "/api/v1/namespaces/default";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    c.object(Method::POST, &format!("{here}/serviceaccounts"), account).await.unwrap();
    let local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    let cluster_wide = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let token = format!("{here}/serviceaccounts/robot/token");
    let access =
        json!({"user": "u", "resourceAttributes": {"namespace": "default", "verb": "get", "resource": "pods"}});
    let send = async |path: &str, spec: Value, namespace: &str| {
        let mut body = json!({"metadata": {}});
        body.set("spec", spec);
        if !namespace.is_empty() {
            body["metadata"].set("namespace", namespace);
        }
        let made = c.object(Method::POST, path, body).await;
        made.map(|made| made["metadata"]["namespace"].clone()).map_err(|status| (status.code, status.message))
    };
    let text = "the namespace of the provided object does not match the namespace sent on the request";
    let (own, foreign) = (Ok("default".into()), Err((400, text.to_owned())));
    for namespace in ["", "default"] {
        assert_eq!(send(local, access.clone(), namespace).await, own, "{namespace:?}");
        assert_eq!(send(&token, json!({}), namespace).await, own, "{namespace:?}");
        assert_eq!(send(cluster_wide, access.clone(), namespace).await, Ok(Value::Null), "{namespace:?}");
    }
    assert_eq!(send(local, access.clone(), "kube-system").await, foreign);
    assert_eq!(send(&token, json!({}), "kube-system").await, foreign);
    for path in ["pods/none/binding", "pods/none/eviction", "bindings"] {
        assert_eq!(send(&format!("{here}/{path}"), Value::Null, "kube-system").await, foreign, "{path}");
    }
    let space = |name: &str| json!({"metadata": {"name": name, "namespace": "kube-system"}});
    for (path, name) in [("/api/v1/namespaces", "x"), ("/api/v1/nodes", "y"), ("/api/v1/nodes/y", "y")] {
        let method = if path.ends_with("/y") { Method::PUT } else { Method::POST };
        let made = c.object(method, path, space(name)).await.unwrap();
        assert!(made["metadata"]["namespace"].is_null(), "{path}: {made}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_aggregated_servers_read_of_authentication_is_kept() {
    let c = cluster().await;
    let place = "/api/v1/namespaces/kube-system/configmaps";
    let path = format!("{place}/extension-apiserver-authentication");
    let before = c.get(&path).await.unwrap();
    let authority = before.str_at(&["data", "client-ca-file"]).to_owned();
    assert!(authority.starts_with("-----BEGIN CERTIFICATE-----\n"));
    let query =
        format!("{place}?watch=1&fieldSelector=metadata.name%3Dextension-apiserver-authentication&resourceVersion=");
    let query = format!("{query}{}", meta::resource_version(&before));
    let mut watch = c.send(&admin(), Method::GET, &query, Body::Empty).await.into_watch().unwrap();
    let row = watch.row.clone();

    c.object(Method::DELETE, &path, Value::Null).await.unwrap();
    while watch.next().await.unwrap().kind != WatchKind::Added {}
    assert_eq!(c.get(&path).await.unwrap()["data"], before["data"]);

    let other = c.signer.certificate(pki::Authority::EtcdPeer).await.unwrap();
    let data = json!({"client-ca-file": other.as_str(), "stray": "x"});
    c.patch(&path, "application/merge-patch+json", json!({"data": data})).await.unwrap();
    let both = format!("{other}{authority}");
    loop {
        let now = watch.next().await.unwrap().shown(&row);
        if now.str_at(&["data", "client-ca-file"]) == both {
            assert!(now["data"].get("stray").is_none(), "what is no part of it goes");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregated_discovery_may_be_kept_by_anybody() {
    let c = cluster().await;
    for path in ["/api", "/apis"] {
        let mut request = Request::verified(&admin(), Method::GET, path, "", Body::Empty);
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        request.headers.insert("accept", accept.parse().unwrap());
        let reply = c.server.handle(request.clone()).await;
        assert_eq!(
            (&reply.headers["cache-control"], &reply.headers["vary"]),
            (&"public".parse().unwrap(), &"Accept".parse().unwrap())
        );
        request.headers.insert("if-none-match", reply.headers["etag"].clone());
        let known = c.server.handle(request).await;
        assert_eq!((known.code, &known.headers["cache-control"]), (304, &"public".parse().unwrap()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_show_the_defaults_of_their_definition_as_it_is_now() {
    let c = cluster().await;
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let text = json!({"type": "string"});
    let properties = json!({"a": text.clone(), "b": text.clone()});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "doors.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "doors", "kind": "Door"}, "versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}}]}});
    let mut watch = c.send(&admin(), Method::GET, &format!("{crd}?watch=1"), Body::Empty).await.into_watch().unwrap();
    let row = watch.row.clone();
    c.object(Method::POST, crd, definition).await.unwrap();
    while watch.next().await.unwrap().shown(&row).str_at(&["status", "acceptedNames", "plural"]) != "doors" {}
    let doors = "/apis/example.com/v1/namespaces/default/doors";
    let door = |name: &str| json!({"apiVersion": "example.com/v1", "kind": "Door", "metadata": {"name": name}});
    c.object(Method::POST, doors, door("old")).await.unwrap();
    let mut open = c.send(&admin(), Method::GET, &format!("{doors}?watch=1"), Body::Empty).await.into_watch().unwrap();
    assert_eq!(open.next().await.unwrap().kind, WatchKind::Added);
    let at = "/spec/versions/0/schema/openAPIV3Schema/properties";
    let change = async |patch: Value| {
        let path = format!("{crd}/doors.example.com");
        c.patch(&path, "application/json-patch+json", patch).await.unwrap();
        // A write after it is answered by caches that have seen both.
        c.send(&admin(), Method::GET, doors, Body::Empty).await.into_list().unwrap();
    };
    change(json!([{"op": "add", "path": format!("{at}/a/default"), "value": "A"}])).await;
    assert!(open.next().await.is_none(), "who watches begins anew");
    assert_eq!(c.get(&format!("{doors}/old")).await.unwrap()["a"], json!("A"));
    c.object(Method::POST, doors, door("new")).await.unwrap();
    change(json!([{"op": "remove", "path": format!("{at}/a/default")},
        {"op": "add", "path": format!("{at}/b/default"), "value": "B"}]))
    .await;
    let shown = async |name: &str| {
        let door = c.get(&format!("{doors}/{name}")).await.unwrap();
        (door["a"].clone(), door["b"].clone())
    };
    assert_eq!(shown("old").await, (Value::Null, json!("B")), "the first default was never stored");
    assert_eq!(shown("new").await, (json!("A"), json!("B")));
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_json_are_told_in_the_order_of_the_text() {
    let c = cluster().await;
    let body =
        br#"{"apiVersion": "v1", "kind": "ConfigMap", "wrong": 1, "metadata": {"name": "x", "name": "y"}, "more": 2}"#;
    let strict = c.bytes("application/json", &format!("{MAPS}?fieldValidation=Strict"), body.to_vec()).await;
    let text = r#"strict decoding error: unknown field "wrong", duplicate field "metadata.name", unknown field "more""#;
    assert!(strict.as_ref().unwrap_err().message.ends_with(text), "{strict:?}");
}
