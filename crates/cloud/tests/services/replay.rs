//! What gcloud, Terraform and other clients send, as recorded, against a running cloud; no client is needed.

use cloud::Auth;

use crate::support::start;

const P: &str = "/v1/projects/demo-project";
/// The body of `gcloud container clusters create` with no flags.
const CREATE: &str = r#"{"cluster": {"name": "demo", "nodePools": [{"config": {"oauthScopes": [
    "https://www.googleapis.com/auth/devstorage.read_only", "https://www.googleapis.com/auth/logging.write",
    "https://www.googleapis.com/auth/monitoring", "https://www.googleapis.com/auth/service.management.readonly",
    "https://www.googleapis.com/auth/servicecontrol", "https://www.googleapis.com/auth/trace.append"]},
    "initialNodeCount": 3, "management": {"autoRepair": true, "autoUpgrade": true}, "name": "default-pool",
    "upgradeSettings": {"maxSurge": 1}}]}, "parent": "projects/demo-project/locations/us-central1-a"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_cluster_as_gcloud_drives_it() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let (_, service) = run.call("GET", &format!("{P}/services/container.googleapis.com?alt=json"), "").await;
    assert_eq!(service["state"], "ENABLED");
    let clusters = format!("{P}/locations/us-central1-a/clusters");
    let (code, operation) = run.call("POST", &format!("{clusters}?alt=json"), CREATE).await;
    assert_eq!((code, &operation["status"]), (200, &"RUNNING".into()), "{operation}");
    let (_, busy) = run.call("DELETE", &format!("{clusters}/demo"), "").await;
    assert_eq!(busy["error"]["errors"][0]["reason"], "failedPrecondition", "{busy}");
    assert_eq!(run.done(&operation).await["operationType"], "CREATE_CLUSTER");
    let (_, cluster) = run.call("GET", &format!("{clusters}/demo"), "").await;
    assert_eq!((&cluster["status"], &cluster["endpoint"]), (&"RUNNING".into(), &"127.0.0.1:18443".into()));
    assert_eq!((&cluster["currentNodeCount"], &cluster["zone"]), (&3.into(), &"us-central1-a".into()));
    assert!(cluster.get("privateCluster").is_none() && cluster["nodeConfig"]["machineType"] == "e2-medium");
    let (_, zonal) = run.call("GET", &format!("/v1beta1{}/zones/us-central1-a/clusters/demo", &P[3..]), "").await;
    assert_eq!(zonal["privateCluster"], true);
    let url = cluster["instanceGroupUrls"][0].as_str().unwrap().replace("https://www.googleapis.com", "");
    assert_eq!(run.call("GET", &url, "").await.1["targetSize"], 3);
    let (_, resized) =
        run.call("POST", &format!("{clusters}/demo/nodePools/default-pool:setSize"), r#"{"nodeCount": 5}"#).await;
    assert_eq!(run.done(&resized).await["operationType"], "SET_NODE_POOL_SIZE");
    let labels = r#"{"resourceLabels": {"team": "a"}}"#;
    let (_, labelled) = run.call("POST", &format!("{clusters}/demo:setResourceLabels"), labels).await;
    run.done(&labelled).await;
    let (_, cluster) = run.call("GET", &format!("{clusters}/demo"), "").await;
    assert_eq!((&cluster["currentNodeCount"], &cluster["resourceLabels"]["team"]), (&5.into(), &"a".into()));
    let (_, deleted) = run.call("DELETE", &format!("{clusters}/demo"), "").await;
    run.done(&deleted).await;
    let (code, gone) = run.call("GET", &format!("{clusters}/demo"), "").await;
    let text = "Not found: projects/demo-project/zones/us-central1-a/clusters/demo.";
    assert_eq!((code, &gone["error"]["message"]), (404, &text.into()));
    assert_eq!(run.call("GET", &format!("{P}/locations/-/clusters"), "").await.1, serde_json::json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_could_not_be_made_is_repaired_when_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let clusters = format!("{P}/locations/us-central1-a/clusters");
    let (_, operation) = run.call("POST", &clusters, r#"{"cluster": {"name": "slow", "initialNodeCount": 1}}"#).await;
    assert_eq!(run.done(&operation).await["error"]["message"], "no machines are left");
    let repair = run.begun("REPAIR_CLUSTER").await;
    assert!(run.done(&repair).await.get("error").is_none());
    let (_, cluster) = run.call("GET", &format!("{clusters}/slow"), "").await;
    assert_eq!((&cluster["status"], &cluster["endpoint"]), (&"RUNNING".into(), &"127.0.0.1:18443".into()));
    assert!(cluster.get("statusMessage").is_none(), "{cluster}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_googles() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let clusters = format!("{P}/locations/us-central1-a/clusters");
    assert_eq!(run.raw("GET", &clusters, "", "").await.0, 401);
    assert_eq!(run.raw("GET", &clusters, "Authorization: Bearer ya29.guess\r\n", "").await.0, 401);
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let stranger = run.cloud.issue_token("stranger@example.com").unwrap();
    let (code, text) = run.raw("GET", &clusters, &bearer(&stranger), "").await;
    assert_eq!(code, 403);
    assert!(text.contains("Required \\\"container.clusters.list\\\" permission(s)"), "{text}");
    let (code, wrong) = run.call("POST", &clusters, r#"{"cluster": {"nam": "x"}}"#).await;
    let message = "Invalid JSON payload received. Unknown name \"nam\" at 'cluster': Cannot find field.";
    assert_eq!((code, &wrong["error"]["message"]), (400, &message.into()));
    assert_eq!(run.call("POST", &clusters, "{").await.0, 400);
    assert_eq!(run.call("PUT", &format!("{clusters}/x"), r#"{"update": {}}"#).await.0, 404);
    let (code, rotation) = run.call("POST", &format!("{clusters}/x:startIpRotation"), "{}").await;
    assert_eq!((code, &rotation["error"]["status"]), (501, &"UNIMPLEMENTED".into()));
    assert_eq!(run.raw("GET", "/", "Host: evil.example\r\n", "").await.0, 403);
    let cross = format!("{}Origin: https://evil.example\r\n", bearer(&run.token));
    assert_eq!(run.raw("GET", &clusters, &cross, "").await.0, 403);
    assert_eq!(run.raw("GET", "/computeMetadata/v1/project/project-id", "", "").await.0, 403);
    let flavor = "Metadata-Flavor: Google\r\n";
    let (code, project) = run.raw("GET", "/computeMetadata/v1/project/project-id", flavor, "").await;
    assert_eq!((code, project.as_str()), (200, "demo-project"));
    let forwarded = format!("{flavor}X-Forwarded-For: 1.2.3.4\r\n");
    assert_eq!(run.raw("GET", "/computeMetadata/v1/project/project-id", &forwarded, "").await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_decide_and_state_survives() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let clusters = format!("{P}/locations/us-central1-a/clusters");
    let broken = r#"{"cluster": {"name": "broken", "initialNodeCount": 1}}"#;
    let (_, operation) = run.call("POST", &clusters, broken).await;
    let failed = run.done(&operation).await;
    assert_eq!((&failed["error"]["code"], &failed["statusMessage"]), (&13.into(), &"no machines are left".into()));
    let alice = run.cloud.issue_token("alice@example.com").unwrap();
    let (_, mut policy) = run.call("POST", &format!("{P}:getIamPolicy"), "{}").await;
    let binding = serde_json::json!({"role": "roles/container.viewer", "members": ["user:alice@example.com"]});
    policy["bindings"].as_array_mut().unwrap().push(binding);
    let body = serde_json::json!({"policy": policy}).to_string();
    assert_eq!(run.call("POST", &format!("{P}:setIamPolicy"), &body).await.0, 200);
    assert_eq!(run.call("POST", &format!("{P}:setIamPolicy"), &body).await.0, 409, "a stale etag");
    run.cloud.stop().await;
    let again = start(dir.path(), Auth::Strict, 0).await;
    let header = format!("Authorization: Bearer {alice}\r\n");
    assert_eq!(again.raw("GET", &clusters, &header, "").await.0, 200);
    assert_eq!(again.raw("POST", &clusters, &header, broken).await.0, 403);
    assert_eq!(again.cloud.resolve_token(&alice).unwrap().roles, ["roles/container.viewer"]);
    let repair = again.begun("REPAIR_CLUSTER").await;
    assert_eq!(again.done(&repair).await["error"]["message"], "no machines are left");
    let (_, cluster) = again.call("GET", &format!("{clusters}/broken"), "").await;
    assert_eq!((&cluster["status"], &cluster["statusMessage"]), (&"ERROR".into(), &"no machines are left".into()));
    let sealed = std::fs::read(dir.path().join("cloud/state.sealed")).unwrap();
    assert!(!sealed.windows(5).any(|window| window == b"alice"), "the state is sealed");
}
