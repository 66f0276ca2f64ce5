//! What gcloud 528 sends, command by command, and what it reads from the answers; gcloud itself is not needed.
//!
//! A row is one request: the command, the verb, the path, the body, the code, and fields of the answer by JSON pointer.
//! Rows that start an operation are polled as gcloud polls before the next row runs.

use std::sync::atomic::Ordering;

use cloud::Auth;
use serde_json::{Value, json};

use crate::support::{Running, start};

/// The six scopes that gcloud names when none were chosen.
const SCOPES: [&str; 6] = [
    "devstorage.read_only",
    "logging.write",
    "monitoring",
    "service.management.readonly",
    "servicecontrol",
    "trace.append",
];

/// A field of the answer.
enum Want {
    /// It is this.
    Is(&'static str, Value),
    /// It is a text that is not empty and starts so.
    Starts(&'static str, &'static str),
    /// It is not there: proto3's JSON leaves zero values out.
    Absent(&'static str),
}
use Want::{Absent, Is, Starts};

struct Row {
    command: &'static str,
    verb: &'static str,
    /// Below `/v1/projects/demo-project/`.
    path: &'static str,
    body: Value,
    code: u16,
    /// Where in the answer the wanted fields lie.
    at: &'static str,
    want: Vec<Want>,
}

fn row(command: &'static str, verb: &'static str, path: &'static str, want: Vec<Want>) -> Row {
    Row { command, verb, path, body: Value::Null, code: 200, at: "", want }
}

/// `gcloud container clusters create demo --zone us-central1-a`, as its default flags make it.
fn create_body(name: &str) -> Value {
    let scopes: Vec<String> = SCOPES.iter().map(|s| format!("https://www.googleapis.com/auth/{s}")).collect();
    json!({"cluster": {"name": name, "nodePools": [{"config": {"oauthScopes": scopes}, "initialNodeCount": 3,
        "management": {"autoRepair": true, "autoUpgrade": true}, "name": "default-pool",
        "upgradeSettings": {"maxSurge": 1}}]}, "parent": "projects/demo-project/locations/us-central1-a"})
}

async fn play(run: &Running, rows: Vec<Row>) {
    for row in rows {
        let body = if row.body.is_null() { String::new() } else { row.body.to_string() };
        let join = if row.path.contains('?') { '&' } else { '?' };
        let path = format!("/v1/projects/demo-project/{}{join}alt=json", row.path);
        let (code, answer) = run.call(row.verb, &path, &body).await;
        let what = format!("{}: {} {path}: {code} {answer:#}", row.command, row.verb);
        assert_eq!(code, row.code, "{what}");
        let part = answer.pointer(row.at).unwrap_or_else(|| panic!("no {} in {what}", row.at));
        for want in &row.want {
            check(part, want, &what);
        }
        if row.code == 200 && answer.get("operationType").is_some() && row.verb != "GET" {
            let done = run.done(&answer).await;
            assert!(done.get("error").is_none(), "{what}: {done}");
            check(&done, &Starts("/endTime", "20"), &what);
        }
    }
}

fn check(answer: &Value, want: &Want, what: &str) {
    match want {
        Is(pointer, value) => assert_eq!(answer.pointer(pointer), Some(value), "{pointer} of {what}"),
        Starts(pointer, text) => {
            let found = answer.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            assert!(!found.is_empty() && found.starts_with(text), "{pointer} of {what}");
        }
        Absent(pointer) => assert_eq!(answer.pointer(pointer), None, "{pointer} of {what}"),
    }
}

/// The fields without which gcloud crashes or polls for ever.
fn operation(kind: &'static str, target: &'static str) -> Vec<Want> {
    vec![
        Starts("/name", "operation-"),
        Is("/operationType", kind.into()),
        Is("/zone", "us-central1-a".into()),
        Starts("/status", ""),
        Starts("/startTime", "20"),
        Starts("/selfLink", "https://container.googleapis.com/v1/projects/"),
        Is(
            "/targetLink",
            format!("https://container.googleapis.com/v1/projects/123456789012/zones/us-central1-a/{target}").into(),
        ),
    ]
}

/// The columns NAME LOCATION MASTER_VERSION MASTER_IP MACHINE_TYPE NODE_VERSION NUM_NODES STATUS.
fn table() -> Vec<Want> {
    vec![
        Is("/name", "demo".into()),
        Is("/location", "us-central1-a".into()),
        Starts("/currentMasterVersion", "1.33."),
        Is("/endpoint", "127.0.0.1:18443".into()),
        Is("/nodePools/0/config/machineType", "e2-medium".into()),
        Starts("/currentNodeVersion", "1.33."),
        Is("/currentNodeCount", 3.into()),
        Is("/status", "RUNNING".into()),
    ]
}

fn described() -> Vec<Want> {
    let mut wanted = table();
    wanted.extend([
        Starts("/masterAuth/clusterCaCertificate", "LS0tLS1CRUdJTi"),
        Is("/zone", "us-central1-a".into()),
        Is("/locations", json!(["us-central1-a"])),
        Is("/privateClusterConfig/publicEndpoint", "127.0.0.1:18443".into()),
        Is("/controlPlaneEndpointsConfig/ipEndpointsConfig/enabled", true.into()),
        Is("/autopilot", json!({})),
        Is("/releaseChannel/channel", "REGULAR".into()),
        Is("/defaultMaxPodsConstraint/maxPodsPerNode", "110".into()),
        Is("/ipAllocationPolicy/useIpAliases", true.into()),
        Starts("/labelFingerprint", ""),
        Absent("/description"),
        Absent("/resourceLabels"),
        Absent("/statusMessage"),
    ]);
    wanted
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_are_created_described_listed_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let cluster = "locations/us-central1-a/clusters/demo";
    let create = Row {
        body: create_body("demo"),
        ..row("create", "POST", "locations/us-central1-a/clusters", operation("CREATE_CLUSTER", "clusters/demo"))
    };
    let service = vec![Is("/state", "ENABLED".into()), Starts("/name", "projects/")];
    play(&run, vec![row("create", "GET", "services/container.googleapis.com", service), create]).await;
    let unsuggested = "locations/us-central1-b/clusters/demo";
    play(
        &run,
        vec![
            row("describe", "GET", cluster, described()),
            Row { at: "/clusters/0", ..row("list", "GET", "locations/-/clusters", table()) },
            row("get-credentials", "GET", cluster, vec![Starts("/endpoint", "127.")]),
            Row {
                code: 404,
                ..row(
                    "get-credentials",
                    "GET",
                    unsuggested,
                    vec![
                        Is("/error/status", "NOT_FOUND".into()),
                        Is(
                            "/error/message",
                            "Not found: projects/demo-project/zones/us-central1-b/clusters/demo.".into(),
                        ),
                    ],
                )
            },
            // After the 404 it looks in other places, to suggest one.
            row(
                "get-credentials",
                "GET",
                "locations/-/clusters",
                vec![Is("/clusters/0/location", "us-central1-a".into())],
            ),
            row("delete", "DELETE", cluster, operation("DELETE_CLUSTER", "clusters/demo")),
            row("list", "GET", "locations/-/clusters", vec![Absent("/clusters"), Absent("/missingZones")]),
            Row { code: 404, ..row("delete", "DELETE", cluster, vec![Is("/error/code", 404.into())]) },
        ],
    )
    .await;
}

const POOLS: &str = "locations/us-central1-a/clusters/demo/nodePools";

fn pools_shown() -> Vec<Row> {
    vec![
        row(
            "node-pools list",
            "GET",
            POOLS,
            vec![
                Is("/nodePools/0/name", "default-pool".into()),
                Is("/nodePools/0/config/machineType", "e2-medium".into()),
                Is("/nodePools/0/config/diskSizeGb", 100.into()),
                Starts("/nodePools/0/version", "1."),
                Is("/nodePools/1/config/diskSizeGb", 50.into()),
                Absent("/nodePools/2"),
            ],
        ),
        row(
            "node-pools describe",
            "GET",
            "locations/us-central1-a/clusters/demo/nodePools/more",
            vec![
                Is("/name", "more".into()),
                Is("/status", "RUNNING".into()),
                Is("/initialNodeCount", 2.into()),
                Is("/config/oauthScopes/5", "https://www.googleapis.com/auth/trace.append".into()),
                Is("/management/autoUpgrade", true.into()),
                Starts(
                    "/instanceGroupUrls/0",
                    "https://www.googleapis.com/compute/v1/projects/demo-project/zones/us-central1-a/",
                ),
            ],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn node_pools_operations_and_the_server_config_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let create = Row { body: create_body("demo"), ..row("create", "POST", "locations/us-central1-a/clusters", vec![]) };
    let pool = json!({"nodePool": {"name": "more", "initialNodeCount": 2, "config": {"diskSizeGb": 50}},
        "parent": "projects/demo-project/locations/us-central1-a/clusters/demo"});
    let created = operation("CREATE_NODE_POOL", "clusters/demo/nodePools/more");
    let configuration = vec![
        Starts("/defaultClusterVersion", "1."),
        Starts("/validMasterVersions/0", "1."),
        Starts("/validNodeVersions/0", "1."),
        Is("/defaultImageType", "COS_CONTAINERD".into()),
        Starts("/channels/0/channel", ""),
        Starts("/channels/0/defaultVersion", "1."),
    ];
    play(&run, vec![create, Row { body: pool, ..row("node-pools create", "POST", POOLS, created) }]).await;
    play(&run, pools_shown()).await;
    play(
        &run,
        vec![
            Row {
                code: 404,
                ..row(
                    "node-pools describe",
                    "GET",
                    "locations/us-central1-a/clusters/demo/nodePools/none",
                    vec![Is("/error/status", "NOT_FOUND".into())],
                )
            },
            row("get-server-config", "GET", "locations/us-central1-a/serverConfig", configuration),
            row(
                "operations list",
                "GET",
                "locations/-/operations",
                vec![
                    Starts("/operations/0/name", "operation-"),
                    Is("/operations/0/status", "DONE".into()),
                    Starts("/operations/1/startTime", "20"),
                    Starts("/operations/1/endTime", "20"),
                    Absent("/operations/2"),
                ],
            ),
            Row {
                code: 404,
                ..row(
                    "operations describe",
                    "GET",
                    "locations/us-central1-a/operations/operation-1-none",
                    vec![Is("/error/status", "NOT_FOUND".into())],
                )
            },
        ],
    )
    .await;
    let (_, list) = run.call("GET", "/v1/projects/demo-project/locations/-/operations?alt=json", "").await;
    for found in list["operations"].as_array().unwrap() {
        let path =
            format!("/v1/projects/demo-project/locations/us-central1-a/operations/{}", found["name"].as_str().unwrap());
        assert_eq!(run.call("GET", &path, "").await, (200, found.clone()), "describe shows what list shows");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_bodies_that_gcloud_prints() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let clusters = "locations/us-central1-a/clusters";
    let error = |code: i32, status: &str| vec![Is("/error/code", code.into()), Is("/error/status", status.into())];
    let with = |mut wants: Vec<Want>, more: Want| {
        wants.push(more);
        wants
    };
    let capitals = |name: &str| Row {
        body: create_body(name),
        code: 400,
        ..row(
            "create",
            "POST",
            clusters,
            with(error(400, "INVALID_ARGUMENT"), Starts("/error/message", "Invalid value for field \"cluster.name\"")),
        )
    };
    let taken = "Already exists: projects/demo-project/zones/us-central1-a/clusters/demo.";
    let nowhere = Row {
        body: create_body("demo"),
        code: 400,
        ..row("create", "POST", "locations/atlantis-1/clusters", error(400, "INVALID_ARGUMENT"))
    };
    play(
        &run,
        vec![
            Row { body: create_body("demo"), ..row("create", "POST", clusters, vec![]) },
            Row {
                body: create_body("demo"),
                code: 409,
                ..row(
                    "create",
                    "POST",
                    clusters,
                    with(error(409, "ALREADY_EXISTS"), Is("/error/message", taken.into())),
                )
            },
            capitals("Demo"),
            capitals("demo-"),
            capitals("1demo"),
            capitals("d_emo"),
            capitals(""),
            capitals("a-name-that-is-longer-than-the-forty-letters"),
            nowhere,
        ],
    )
    .await;
    for path in ["clusters", "clusters/demo", "operations"] {
        let (code, foreign) = run.call("GET", &format!("/v1/projects/other/locations/us-central1-a/{path}"), "").await;
        assert_eq!((code, &foreign["error"]["status"]), (403, &"PERMISSION_DENIED".into()), "{path}: {foreign}");
        assert_eq!(foreign["error"]["errors"][0]["reason"], "forbidden", "{foreign}");
    }
    for (header, reason) in [("", "required"), ("Authorization: Bearer guess\r\n", "authError")] {
        let path = format!("/v1/projects/demo-project/{clusters}");
        let (code, text) = run.raw("GET", &path, header, "").await;
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((code, &answer["error"]["status"]), (401, &"UNAUTHENTICATED".into()), "{answer}");
        assert_eq!(answer["error"]["errors"][0]["reason"], reason, "{answer}");
    }
    assert_eq!(run.fleet.creations.load(Ordering::SeqCst), 1, "what was refused made nothing");
}
