//! Several API servers on one store, as in a regional cluster: none of them gives a Service what another has given away.

use std::collections::BTreeSet;
use std::sync::Arc;

use apiserver::{ApiServer, Body, Config, Request};
use futures_util::future::join_all;
use http::Method;
use machinery::{Status, Value, json};
use pki::{Authority, Profile, request_identity};

use crate::support::{Cluster, admin, cluster, entropy};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

/// Three servers, with 14 addresses for Services; the cluster's own first server has its turn too.
async fn servers(cluster: &Cluster) -> Vec<Arc<ApiServer>> {
    let mut servers = Vec::new();
    for _ in 0..3 {
        let serving = Profile::ApiServerServing { dns: vec!["localhost".into()], ips: Vec::new() };
        let serving = request_identity(&cluster.signer, &serving, None).await.unwrap();
        let ca = cluster.signer.certificate(Authority::Cluster).await.unwrap();
        let (store, clock) = (cluster.member.store(), cluster.clock.clock());
        let mut config = Config::new(store, clock, entropy(), cluster.signer.clone(), serving, ca);
        config.service_cidrs = vec!["34.118.224.0/28".parse().unwrap()];
        servers.push(Arc::new(ApiServer::start(config).await.unwrap()));
    }
    servers
}

async fn send(server: &ApiServer, method: Method, path: &str, body: Value) -> Result<Value, Status> {
    let body = if body.is_null() { Body::Empty } else { Body::Tree(body) };
    server.handle(Request::verified(&admin(), method, path, "", body)).await.into_object()
}

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"port": 80}]}});
    for (member, value) in spec.as_object().unwrap().iter() {
        service["spec"].set(member, value.clone());
    }
    service
}

/// All at once, in turn through each of the servers.
async fn create_all(servers: &[Arc<ApiServer>], services: Vec<Value>) -> Vec<Result<Value, Status>> {
    let tasks = services.into_iter().enumerate().map(|(place, service)| {
        let server = servers[place % servers.len()].clone();
        tokio::spawn(async move { send(&server, Method::POST, SERVICES, service).await })
    });
    join_all(tasks).await.into_iter().map(Result::unwrap).collect()
}

fn address(service: &Value) -> String {
    service.str_at(&["spec", "clusterIP"]).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn services_made_at_once_through_three_servers_share_no_address_and_no_port() {
    let cluster = cluster().await;
    let servers = servers(&cluster).await;
    // One of 14 addresses is the Service `kubernetes`'; all that are left are asked for at once.
    let wanted = (0..13).map(|i| service(&format!("s{i}"), json!({"type": "NodePort"}))).collect();
    let made: Vec<Value> = create_all(&servers, wanted).await.into_iter().map(Result::unwrap).collect();
    let addresses: BTreeSet<String> = made.iter().map(address).collect();
    let ports: BTreeSet<i64> = made.iter().map(|s| s["spec"]["ports"][0]["nodePort"].as_i64().unwrap()).collect();
    assert_eq!((addresses.len(), ports.len()), (13, 13), "{addresses:?} {ports:?}");
    let full = send(&servers[0], Method::POST, SERVICES, service("one-more", json!({}))).await.unwrap_err();
    assert!(full.message.contains("failed to allocate a serviceIP: range is full"), "{}", full.message);
    // What a Service had is there for the next one when it is gone, also through another server.
    send(&servers[1], Method::DELETE, &format!("{SERVICES}/s3"), Value::Null).await.unwrap();
    let next = send(&servers[2], Method::POST, SERVICES, service("next", json!({}))).await.unwrap();
    assert_eq!(address(&next), address(&made[3]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_by_three_is_given_to_one_and_refused_in_kubernetes_words() {
    let cluster = cluster().await;
    let servers = servers(&cluster).await;
    let cases = [
        (
            json!({"clusterIP": "34.118.224.9"}),
            "spec.clusterIPs: Invalid value: []string{\"34.118.224.9\"}: failed to allocate IP 34.118.224.9: provided IP is already allocated",
        ),
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_080}]}),
            "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
        ),
    ];
    for (place, (spec, text)) in cases.into_iter().enumerate() {
        let wanted = (0..6).map(|i| service(&format!("s{place}-{i}"), spec.clone())).collect();
        let answers = create_all(&servers, wanted).await;
        let refused: Vec<&Status> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
        assert_eq!(refused.len(), 5, "{answers:?}");
        for status in refused {
            assert!(status.code == 422 && status.message.ends_with(text), "{} {}", status.code, status.message);
        }
    }
    // A change takes ports as a new Service does.
    let plain = (0..3).map(|i| service(&format!("plain-{i}"), json!({}))).collect();
    create_all(&servers, plain).await.into_iter().for_each(|made| drop(made.unwrap()));
    let changes = (0..3).map(|i| {
        let (server, path) = (servers[i].clone(), format!("{SERVICES}/plain-{i}"));
        let change = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_081}]}});
        tokio::spawn(async move {
            let patch = Request::verified(&admin(), Method::PATCH, &path, "", Body::Tree(change));
            server.handle(patch.content_type("application/merge-patch+json")).await.into_object()
        })
    });
    let answers: Vec<Result<Value, Status>> = join_all(changes).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ip_address_comes_and_goes_with_its_service_and_is_repaired() {
    let cluster = cluster().await;
    let server = &cluster.server;
    let made = send(server, Method::POST, SERVICES, service("web", json!({}))).await.unwrap();
    let path = format!("{ADDRESSES}/{}", address(&made));
    let found = send(server, Method::GET, &path, Value::Null).await.unwrap();
    assert_eq!(found["spec"], json!({"parentRef": {"resource": "services", "namespace": "default", "name": "web"}}));
    let labels = json!({"ipaddress.kubernetes.io/ip-family": "IPv4",
        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    assert_eq!(found["metadata"]["labels"], labels);
    // Whoever takes it away gets it back.
    let uid = found.str_at(&["metadata", "uid"]).to_owned();
    send(server, Method::DELETE, &path, Value::Null).await.unwrap();
    let again = until(server, &path, |found| found.is_ok()).await.unwrap();
    assert_ne!(again.str_at(&["metadata", "uid"]), uid);
    // The Service `kubernetes`, which no client made, has one too.
    let first = format!("{ADDRESSES}/34.118.224.1");
    until(server, &first, |found| found.is_ok()).await.unwrap();
    let range =
        send(server, Method::GET, "/apis/networking.k8s.io/v1/servicecidrs/kubernetes", Value::Null).await.unwrap();
    assert_eq!(range["status"]["conditions"][0]["message"], "Kubernetes default Service CIDR is ready".into());
    // One that belongs to nothing that is there goes by itself; until then it is taken.
    let mut orphan = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {"name": "34.118.224.77"},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "none"}}});
    send(server, Method::POST, ADDRESSES, orphan.clone()).await.unwrap();
    let taken = send(server, Method::POST, SERVICES, service("late", json!({"clusterIP": "34.118.224.77"}))).await;
    assert!(taken.unwrap_err().message.ends_with("provided IP is already allocated"));
    orphan["metadata"].set("name", "34.118.224.78");
    orphan["metadata"].set("labels", labels);
    send(server, Method::POST, ADDRESSES, orphan).await.unwrap();
    let gone = until(server, &format!("{ADDRESSES}/34.118.224.78"), |found| found.is_err()).await;
    assert_eq!(gone.unwrap_err().code, 404);
    // It goes with its Service, also when that turns into a name.
    send(server, Method::DELETE, &format!("{SERVICES}/web"), Value::Null).await.unwrap();
    assert_eq!(send(server, Method::GET, &path, Value::Null).await.unwrap_err().code, 404);
    let made = send(server, Method::POST, SERVICES, service("named", json!({}))).await.unwrap();
    let path = format!("{ADDRESSES}/{}", address(&made));
    let change = json!({"spec": {"type": "ExternalName", "externalName": "example.com", "ports": null}});
    let patch = Request::verified(&admin(), Method::PATCH, &format!("{SERVICES}/named"), "", Body::Tree(change));
    server.handle(patch.content_type("application/merge-patch+json")).await.into_object().unwrap();
    assert_eq!(send(server, Method::GET, &path, Value::Null).await.unwrap_err().code, 404);
}

/// Looks at each change of the store until it is as wanted.
async fn until(
    server: &ApiServer,
    path: &str,
    is_so: impl Fn(&Result<Value, Status>) -> bool,
) -> Result<Value, Status> {
    for _ in 0..100_000 {
        let found = send(server, Method::GET, path, Value::Null).await;
        if is_so(&found) {
            return found;
        }
        tokio::task::yield_now().await;
    }
    panic!("{path} is not as it should be");
}
