//! The control API, `/pilothouse/v1`: what the command line asks of a running sandbox.
//!
//! Every call needs the bearer token of the 0600 file `control-token`; browsers are refused by the Host allow-list.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use cloud::Cloud;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::fleet::{hardening, report, trust};
use crate::layout::{Layout, RunState};

/// Larger than any report of a local sandbox.
const REPORT_BYTES_MAX: usize = 16 * 1024 * 1024;

struct Control {
    fleet: Arc<Fleet>,
    cloud: Cloud,
    token: String,
    run: RunState,
    /// One rotation after the other.
    rotating: tokio::sync::Mutex<()>,
}

/// The routes, behind the token.
pub(crate) fn router(fleet: Arc<Fleet>, cloud: Cloud, token: String, run: RunState) -> Router {
    let control = Arc::new(Control { fleet, cloud, token, run, rotating: tokio::sync::Mutex::default() });
    Router::new()
        .route("/pilothouse/v1/health", get(|| async { "ok\n" }))
        .route("/pilothouse/v1/status", get(status))
        .route("/pilothouse/v1/inspect", get(inspect))
        .route("/pilothouse/v1/keys:rotate", post(rotate_keys))
        .route("/pilothouse/v1/trust", get(trust))
        .route("/pilothouse/v1/hardening", get(hardening))
        .route("/pilothouse/v1/endpoints", get(endpoints))
        .route("/pilothouse/v1/public-root", post(public_root))
        .route("/pilothouse/v1/metadata", post(metadata))
        .route("/pilothouse/v1/tokens", post(new_token))
        .route("/pilothouse/v1/roles", post(roles))
        .layer(middleware::from_fn_with_state(Arc::clone(&control), authenticate))
        .with_state(control)
}

async fn authenticate(State(control): State<Arc<Control>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()?.strip_prefix("Bearer "));
    let known = control.token.as_bytes();
    let right = given.is_some_and(|g| aws_lc_rs::constant_time::verify_slices_are_equal(g.as_bytes(), known).is_ok());
    let local = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).is_some_and(is_local);
    if right && local && !request.headers().contains_key(header::ORIGIN) {
        next.run(request).await
    } else {
        (StatusCode::UNAUTHORIZED, "the control API wants the bearer token of DATA_DIR/control-token\n").into_response()
    }
}

fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

async fn status(State(control): State<Arc<Control>>) -> Json<report::Status> {
    Json(report::status(&control.fleet, &control.run).await)
}

async fn inspect(State(control): State<Arc<Control>>) -> Json<report::Inspection> {
    Json(report::inspect(&control.fleet, &control.run).await)
}

async fn rotate_keys(State(control): State<Arc<Control>>) -> Result<Json<report::Rotation>, (StatusCode, String)> {
    let _one = control.rotating.lock().await;
    match control.fleet.rotate_keys(&control.cloud).await {
        Ok(data_keys) => Ok(Json(report::Rotation { data_keys })),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, crate::failure::line(&error))),
    }
}

async fn trust(State(control): State<Arc<Control>>) -> Json<Vec<trust::ClusterTrust>> {
    Json(trust::look(&control.fleet).await)
}

async fn hardening(State(control): State<Arc<Control>>) -> Json<Vec<hardening::Attribute>> {
    Json(hardening::look(&control.fleet))
}

async fn endpoints(State(control): State<Arc<Control>>) -> Json<report::Exposure> {
    Json(report::exposure(&control.fleet))
}

/// The authority for the names of DNS endpoints, as PEM; made when it is missing.
async fn public_root(State(control): State<Arc<Control>>) -> Result<Json<String>, (StatusCode, String)> {
    match control.fleet.root.authority().await {
        Ok(authority) => Ok(Json(authority.certificate_pem())),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, crate::failure::line(&error))),
    }
}

/// Whose metadata server is looked for.
#[derive(Serialize, Deserialize)]
pub(crate) struct MetadataWish {
    /// Its name; empty: the only one.
    pub(crate) cluster: String,
    pub(crate) whose: report::Machine,
}

/// Where a node's or a pod's metadata server listens; a pod's is there from now on.
async fn metadata(
    State(control): State<Arc<Control>>,
    Json(wish): Json<MetadataWish>,
) -> Result<Json<SocketAddr>, (StatusCode, String)> {
    match control.fleet.metadata_server(&wish.cluster, &wish.whose).await {
        Ok(address) => Ok(Json(address)),
        Err(error) => Err((StatusCode::NOT_FOUND, format!("{error:#}"))),
    }
}

/// For whom a token is wanted.
#[derive(Serialize, Deserialize)]
pub(crate) struct TokenWish {
    pub(crate) account: String,
    /// None: those of the sandbox's own token.
    pub(crate) scopes: Vec<String>,
}

/// Whose roles are asked for.
#[derive(Serialize, Deserialize)]
pub(crate) struct AccountWish {
    pub(crate) account: String,
}

/// What an account has by the project's policy.
#[derive(Serialize, Deserialize)]
pub(crate) struct AccountRoles {
    pub(crate) roles: Vec<String>,
}

async fn roles(State(control): State<Arc<Control>>, Json(wish): Json<AccountWish>) -> Json<AccountRoles> {
    Json(AccountRoles { roles: control.cloud.roles_of(&wish.account) })
}

/// A token that was made.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewToken {
    pub(crate) access_token: String,
}

async fn new_token(State(control): State<Arc<Control>>, Json(wish): Json<TokenWish>) -> Response {
    let cloud = control.cloud.clone();
    let made = tokio::task::spawn_blocking(move || cloud.access_token(&wish.account, wish.scopes)).await;
    match made {
        Ok(Ok(access_token)) => Json(NewToken { access_token }).into_response(),
        Ok(Err(error)) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Asks the running sandbox.
///
/// # Errors
/// When none runs or it does not answer.
pub(crate) async fn ask<T: DeserializeOwned>(layout: &Layout, what: &str) -> Result<T> {
    call(layout, hyper::Method::GET, what, Bytes::new()).await
}

/// Tells the running sandbox something.
///
/// # Errors
/// When none runs, it does not answer, or it refuses.
pub(crate) async fn tell<T: DeserializeOwned>(layout: &Layout, what: &str, body: &impl Serialize) -> Result<T> {
    call(layout, hyper::Method::POST, what, serde_json::to_vec(body)?.into()).await
}

async fn call<T: DeserializeOwned>(layout: &Layout, method: hyper::Method, what: &str, body: Bytes) -> Result<T> {
    let run = layout.must_run()?;
    let file = layout.control_token();
    let token = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let request = hyper::Request::builder()
        .method(method)
        .uri(format!("{}/{what}", run.control_endpoint))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, format!("Bearer {}", token.trim()))
        .body(Full::new(body))?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.context("the sandbox does not answer")?;
    let code = response.status();
    let body = http_body_util::Limited::new(response.into_body(), REPORT_BYTES_MAX)
        .collect()
        .await
        .map_err(|e| anyhow::anyhow!("{e}"))?
        .to_bytes();
    if !code.is_success() {
        bail!("the sandbox answered {code}: {}", String::from_utf8_lossy(&body).trim());
    }
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_local_host_names_pass() {
        let cases =
            [("127.0.0.1:80", true), ("localhost", true), ("127.4.5.6:1", true), ("evil.example", false), ("", false)];
        for (host, want) in cases {
            assert_eq!(super::is_local(host), want, "{host}");
        }
    }
}
