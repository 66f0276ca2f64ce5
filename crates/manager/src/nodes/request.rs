//! A certificate by way of the API: file a request, wait for somebody to approve and sign it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use controllers::resource::CERTIFICATE_SIGNING_REQUESTS as REQUESTS;
use machinery::{Status, Value, json, meta};

use crate::api::{Api, Request, WatchEvent, collection_path, object_path};

/// How long a request may wait to be answered, as in the kubelet's certificate manager.
const ANSWER_WAIT: Duration = Duration::from_secs(15 * 60);
/// Between two looks at a request whose watch broke; doubled each time, up to the second.
const WATCH_RETRY_FIRST: Duration = Duration::from_millis(10);
const WATCH_RETRY_MAX: Duration = Duration::from_secs(5);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The API server did not take the request, or went away.
    #[error("{0}")]
    Api(#[from] Status),
    /// Somebody looked at the request and said no.
    #[error("the certificate request {name} was {how}: {why}")]
    Answered { name: String, how: &'static str, why: String },
    /// Nobody answered.
    #[error("nobody approved the certificate request {0}")]
    Unanswered(String),
}

/// What is filed.
pub(super) struct Filing<'a> {
    /// A name; none: the server makes one that begins with `csr-`.
    pub(super) name: Option<&'a str>,
    pub(super) signer: &'a str,
    pub(super) usages: &'a [&'a str],
    /// The request in PEM, and what may follow it there.
    pub(super) pem: &'a str,
}

/// The certificate in PEM.
///
/// # Errors
/// When the request is refused, denied, fails, or is not answered in time.
pub(super) async fn certificate(api: &Api, filing: &Filing<'_>) -> Result<String, Refusal> {
    let usages: Vec<Value> = filing.usages.iter().map(|usage| Value::from(*usage)).collect();
    let mut body = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {},
        "spec": {"request": STANDARD.encode(filing.pem), "signerName": filing.signer}});
    match filing.name {
        Some(name) => body["metadata"].set("name", name),
        None => body["metadata"].set("generateName", "csr-"),
    }
    body["spec"].set("usages", usages);
    let filed = api.call(Request::new("POST", collection_path(&REQUESTS, ""), Some(body))).await?;
    let name = meta::name(&filed).to_owned();
    match tokio::time::timeout(ANSWER_WAIT, answered(api, &name, meta::resource_version(&filed).to_owned())).await {
        Ok(answer) => answer,
        Err(_) => Err(Refusal::Unanswered(name)),
    }
}

async fn answered(api: &Api, name: &str, mut revision: String) -> Result<String, Refusal> {
    let mut retry = WATCH_RETRY_FIRST;
    loop {
        let selector = format!("fieldSelector=metadata.name%3D{name}&resourceVersion={revision}");
        if let Ok(mut watch) = api.watch(&collection_path(&REQUESTS, ""), &selector).await {
            retry = WATCH_RETRY_FIRST;
            while let Some(Ok(event)) = watch.next().await {
                match event {
                    WatchEvent::Applied(request) => {
                        if let Some(answer) = answer(name, &request) {
                            return answer;
                        }
                    }
                    WatchEvent::Deleted(_) => return Err(Refusal::Unanswered(name.to_owned())),
                    WatchEvent::Bookmark(_) => {}
                }
            }
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(WATCH_RETRY_MAX);
        let found = api.call(Request::get(object_path(&REQUESTS, "", name, ""))).await?;
        if let Some(answer) = answer(name, &found) {
            return answer;
        }
        meta::resource_version(&found).clone_into(&mut revision);
    }
}

fn answer(name: &str, request: &Value) -> Option<Result<String, Refusal>> {
    for (kind, how) in [("Denied", "denied"), ("Failed", "not signed")] {
        if let Some(condition) = controllers::conditions::of(request, kind) {
            let why = condition.str_at(&["message"]).to_owned();
            return Some(Err(Refusal::Answered { name: name.to_owned(), how, why }));
        }
    }
    let chain = STANDARD.decode(request.str_at(&["status", "certificate"])).ok().filter(|chain| !chain.is_empty())?;
    Some(String::from_utf8(chain).map_err(|_| Refusal::Unanswered(name.to_owned())))
}
