//! The updates of endpoints that gcloud sends, what is shown afterwards, and what the fleet is told.

use cloud::{Auth, EndpointSettings};
use serde_json::{Value, json};

use crate::support::{Running, start};

const CLUSTER: &str = "/v1/projects/demo-project/locations/us-central1-a/clusters/demo";
const EXTERNAL: &str = "127.0.0.1:18443";
const INTERNAL: &str = "172.16.0.2";

/// The body behind a flag of `gcloud container clusters update`.
async fn update(run: &Running, flag: &str, config: Value) -> Value {
    let body = json!({"name": "x", "update": {"desiredControlPlaneEndpointsConfig": config}}).to_string();
    let (code, operation) = run.call("PUT", &format!("{CLUSTER}?alt=json"), &body).await;
    assert_eq!((code, &operation["operationType"]), (200, &"UPDATE_CLUSTER".into()), "{flag}: {operation}");
    assert!(run.done(&operation).await.get("error").is_none(), "{flag}");
    run.call("GET", CLUSTER, "").await.1
}

fn told(run: &Running) -> EndpointSettings {
    run.fleet.exposed.lock().unwrap().last().cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_flag_reaches_the_fleet_and_both_forms_of_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let create = r#"{"cluster": {"name": "demo", "initialNodeCount": 1}}"#;
    let (_, operation) = run.call("POST", CLUSTER.trim_end_matches("/demo"), create).await;
    run.done(&operation).await;
    let ip = |config: Value| json!({"ipEndpointsConfig": config});

    let list = json!({"authorizedNetworksConfig": {"enabled": true, "cidrBlocks": [{"cidrBlock": "127.0.0.10/32"}]}});
    let shown = update(&run, "--enable-master-authorized-networks", ip(list)).await;
    assert_eq!(shown["masterAuthorizedNetworksConfig"]["cidrBlocks"][0]["cidrBlock"], "127.0.0.10/32");
    assert_eq!(told(&run).authorized, Some(vec!["127.0.0.10/32".parse().unwrap()]));

    let google = json!({"authorizedNetworksConfig": {"enabled": true, "cidrBlocks": [{"cidrBlock": "127.0.0.10/32"}],
        "gcpPublicCidrsAccessEnabled": false, "privateEndpointEnforcementEnabled": true}});
    let shown = update(&run, "--no-enable-google-cloud-access", ip(google)).await;
    assert_eq!(shown["masterAuthorizedNetworksConfig"]["gcpPublicCidrsAccessEnabled"], false);
    assert!(!told(&run).google_cloud && told(&run).private_enforced);

    let shown = update(&run, "--enable-private-endpoint", ip(json!({"enablePublicEndpoint": false}))).await;
    assert_eq!((&shown["endpoint"], told(&run).public_endpoint), (&INTERNAL.into(), false));
    assert_eq!(shown["privateClusterConfig"]["enablePrivateEndpoint"], true);
    let shown = update(&run, "--enable-master-global-access", ip(json!({"globalAccess": true}))).await;
    assert_eq!(shown["privateClusterConfig"]["masterGlobalAccessConfig"]["enabled"], true);

    let dns = json!({"allowExternalTraffic": true, "enableK8sTokensViaDns": true, "enableK8sCertsViaDns": true});
    update(&run, "--enable-dns-access", json!({"dnsEndpointConfig": dns})).await;
    assert!(told(&run).dns && told(&run).dns_tokens && told(&run).dns_certificates);
    let shown = update(&run, "--no-enable-ip-access", ip(json!({"enabled": false}))).await;
    assert!(shown["endpoint"].as_str().unwrap().ends_with("-123456789012.us-central1-a.gke.goog"), "{shown}");
    assert!(!told(&run).ip_access && told(&run).authorized.is_some(), "the list is kept");

    let on = json!({"enabled": true, "enablePublicEndpoint": true});
    assert_eq!(update(&run, "--enable-ip-access", ip(on)).await["endpoint"], EXTERNAL);
    let told_before = run.fleet.exposed.lock().unwrap().len();
    update(&run, "again", ip(json!({"enablePublicEndpoint": true}))).await;
    assert_eq!(run.fleet.exposed.lock().unwrap().len(), told_before, "nothing new is nothing to tell");
}
