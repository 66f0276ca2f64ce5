//! A Deployment of 500 pods, until all of them run.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use machinery::Value;

use crate::client::{Connection, Target};
use crate::phase::{Server, micros, now};

const REPLICAS: i64 = 500;
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const POLL: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) async fn run(server: &Server, kubeconfig: &Path) -> Result<()> {
    let mut connection = Connection::open(&Target::of(kubeconfig)?).await?;
    let body = machinery::json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bench"}, "spec": {
        "replicas": REPLICAS, "selector": {"matchLabels": {"app": "bench"}}, "template": {
            "metadata": {"labels": {"app": "bench"}}, "spec": {"containers": [{"name": "c", "image": "bench"}]}}}});
    let began = now();
    let (status, answer) = connection.send("POST", DEPLOYMENTS, body.to_string()).await?;
    ensure!(status == 201, "{}", String::from_utf8_lossy(&answer));
    loop {
        let (_, body) = connection.send("GET", &format!("{DEPLOYMENTS}/bench"), String::new()).await?;
        let ready = Value::from_slice(&body)?["status"]["readyReplicas"].as_i64().unwrap_or(0);
        if ready == REPLICAS {
            break;
        }
        ensure!(began.elapsed() < LIMIT, "{ready} of {REPLICAS} pods run after {LIMIT:?}");
        tokio::time::sleep(POLL).await;
    }
    server.say("Deployment of 500 to all pods running", micros(began.elapsed()) / 1e6, "s");
    Ok(())
}
