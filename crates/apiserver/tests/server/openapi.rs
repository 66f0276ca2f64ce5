//! `/openapi/v2` and `/openapi/v3` of a server in this process.

use apiserver::{Body, Content, Request};
use bytes::Bytes;
use http::Method;
use machinery::{Value, json, meta};

use crate::support::{Cluster, admin, cluster};

/// An answer of `/openapi`: code, media type, ETag and body.
async fn document(c: &Cluster, path: &str, headers: &[(&'static str, &str)]) -> (u16, String, String, Bytes) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let mut request = Request::verified(&admin(), Method::GET, path, query, Body::Empty);
    for (name, value) in headers {
        request.headers.insert(*name, value.parse().unwrap());
    }
    let reply = c.server.handle(request).await;
    let etag = reply.headers.get("etag").map_or("", |v| v.to_str().unwrap()).to_owned();
    match reply.content {
        Content::Bytes { content_type, body } => (reply.code, content_type, etag, body),
        _ => panic!("{path} is no document"),
    }
}

const V2: &str = "/openapi/v2";
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

#[tokio::test(flavor = "multi_thread")]
async fn the_document_of_all_kinds_comes_in_the_form_asked_for_and_follows_definitions() {
    let c = cluster().await;
    let protobuf = [("accept", PROTOBUF)];
    let older = [("accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")];
    let (code, media, etag, text) = document(&c, V2, &[]).await;
    assert_eq!((code, media.as_str()), (200, "application/json"));
    let tree = Value::from_slice(&text).unwrap();
    let pod = &tree["definitions"]["io.k8s.api.core.v1.PodSpec"];
    assert_eq!(pod["required"], json!(["containers"]));
    let patch = &tree["paths"]["/api/v1/namespaces/{namespace}/configmaps/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert!(patch["parameters"].items().iter().any(|p| p.str_at(&["name"]) == "fieldValidation"));
    for asked in [protobuf, older] {
        let (code, media, same, bytes) = document(&c, V2, &asked).await;
        assert_eq!((code, media.as_str(), &same), (200, PROTOBUF, &etag));
        assert_eq!(bytes, machinery::openapi::encode_v2(&tree));
    }
    let known = document(&c, V2, &[("accept", PROTOBUF), ("if-none-match", &etag)]).await;
    assert_eq!((known.0, known.3.len()), (304, 0));
    let packed = document(&c, V2, &[("accept-encoding", "gzip")]).await.3;
    assert!(packed.starts_with(&[0x1f, 0x8b]) && packed.len() * 4 < text.len());
    assert_eq!(document(&c, V2, &[("accept", "text/html")]).await.0, 406);

    let index = async || Value::from_slice(&document(&c, "/openapi/v3", &[]).await.3).unwrap()["paths"].clone();
    let before = index().await;
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"}, "versions": [{"name": "v1", "served": true, "storage": true,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "string"}}}}}]}});
    let definition = c.object(Method::POST, crd, definition).await.unwrap();
    let since = meta::resource_version(&definition);
    let query = format!("{crd}?watch=1&resourceVersion={since}");
    let mut watch = c.send(&admin(), Method::GET, &query, Body::Empty).await.into_watch().unwrap();
    let row = watch.row.clone();
    while watch.next().await.unwrap().shown(&row).str_at(&["status", "acceptedNames", "plural"]) != "widgets" {}
    let (_, _, changed, bytes) = document(&c, V2, &protobuf).await;
    assert_ne!(changed, etag, "what was kept is not shown any more");
    assert!(bytes.windows(21).any(|w| w == b"com.example.v1.Widget"));
    let after = index().await;
    assert_eq!(after["api/v1"], before["api/v1"], "other groups' documents stay what they were");
    let place = after["apis/example.com/v1"].str_at(&["serverRelativeURL"]);
    let (code, media, _, bytes) = document(&c, place, &[]).await;
    assert_eq!((code, media.as_str()), (200, "application/json"));
    let schemas = &Value::from_slice(&bytes).unwrap()["components"]["schemas"];
    assert!(schemas["com.example.v1.WidgetList"].as_object().is_some());
    assert_eq!(document(&c, "/openapi/v3/apis/example.com/v1?hash=0", &[]).await.0, 301);
    let group = document(&c, "/openapi/v3/apis/example.com", &[]).await.3;
    let paths = &Value::from_slice(&group).unwrap()["paths"];
    assert_eq!(paths["/apis/example.com/"]["get"]["operationId"], "getExampleComAPIGroup".into());
    assert_eq!(document(&c, "/openapi/v3/apis/nope", &[]).await.0, 404);
}
