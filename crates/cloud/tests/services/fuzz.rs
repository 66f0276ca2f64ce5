//! Mutated bodies at the cloud's port, over a socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use cloud::Auth;
use fuzz::Fuzz;
use serde_json::Value;

use crate::support::start;

/// What goes wrong in such bodies.
const WORDS: [&str; 22] = [
    "null",
    "[]",
    "{}",
    "\\u0000",
    "\\ud800",
    "-1",
    "1e999",
    "9223372036854775808",
    "\"delegates\":[1],",
    "allUsers",
    "group:",
    "user:",
    "roles/owner",
    "\"bindings\":{},",
    "\"members\":\"x\",",
    "=",
    "s",
    "-300s",
    "\"etag\":\"AAAA\",",
    "..",
    "/",
    "é",
];

/// Longer than any answer takes, on a busy machine.
const SOON: Duration = Duration::from_secs(8);

fn ask(address: &str, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        panic!("{error} after {}", request.escape_ascii());
    }
    answer
}

/// An answer's code and body.
fn split(answer: &[u8]) -> Option<(u16, Value)> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, serde_json::from_str(body).ok()?))
}

/// Paths of the cloud's IAM, with a good body each.
fn calls(account: &str) -> Vec<(String, String)> {
    let own = format!("/v1/projects/-/serviceAccounts/{account}");
    let delegates = format!("\"delegates\":[\"projects/-/serviceAccounts/{account}\"]");
    let scope = "https://www.googleapis.com/auth/cloud-platform";
    vec![
        (format!("{own}:signBlob"), format!("{{\"payload\":\"aGVsbG8=\",{delegates}}}")),
        (format!("{own}:signJwt"), format!("{{\"payload\":\"{{\\\"sub\\\":\\\"x\\\"}}\",{delegates}}}")),
        (format!("{own}:generateAccessToken"), format!("{{\"scope\":[\"{scope}\"],\"lifetime\":\"300s\",{delegates}}}")),
        (format!("{own}:generateIdToken"), format!("{{\"audience\":\"y\",\"includeEmail\":true,{delegates}}}")),
        (
            format!("{own}:setIamPolicy"),
            format!("{{\"policy\":{{\"bindings\":[{{\"role\":\"roles/iam.serviceAccountTokenCreator\",\"members\":[\"user:dev@example.com\",\"serviceAccount:{account}\"]}}],\"etag\":\"\"}}}}"),
        ),
        (format!("{own}:testIamPermissions"), "{\"permissions\":[\"iam.serviceAccounts.signBlob\"]}".to_owned()),
        ("/v1/projects/demo-project/serviceAccounts".to_owned(), "{\"accountId\":\"other-sa\",\"serviceAccount\":{\"displayName\":\"x\"}}".to_owned()),
        (
            "/v1/groups".to_owned(),
            "{\"groupKey\":{\"id\":\"devs@example.com\"},\"parent\":\"customers/C01\",\"labels\":{\"cloudidentity.googleapis.com/groups.discussion_forum\":\"\"}}".to_owned(),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn mutated_bodies_of_iam_are_answered_in_googles_form() {
    let dir = tempfile::tempdir().unwrap();
    let run = start(dir.path(), Auth::Strict, 0).await;
    let account = "alpha-sa@demo-project.iam.gserviceaccount.com";
    let (code, made) =
        run.call("POST", "/v1/projects/demo-project/serviceAccounts", "{\"accountId\":\"alpha-sa\"}").await;
    assert_eq!(code, 200, "{made}");
    let calls = calls(account);
    let (set, policy) = &calls[4];
    assert_eq!(run.call("POST", set, policy).await.0, 200);
    for (path, body) in &calls {
        let (code, answer) = run.call("POST", path, body).await;
        assert_eq!(code, 200, "{path}: {answer}");
    }
    let (address, token) = (run.address.clone(), run.token.clone());
    let post = move |path: &str, body: &[u8]| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        ask(&address, &[head.as_bytes(), body].concat())
    };
    let seeds = calls
        .iter()
        .enumerate()
        .map(|(number, (_, body))| [&[u8::try_from(number).unwrap()], body.as_bytes()].concat());
    let seeds: Vec<Vec<u8>> = seeds.collect();
    tokio::task::spawn_blocking(move || {
        Fuzz::of(seeds).words(WORDS).costly(10).run(|bytes| {
            // The first byte says which call it is.
            let Some((number, body)) = bytes.split_first() else { return };
            let (path, _) = &calls[usize::from(*number) % calls.len()];
            let answer = post(path, body);
            let Some((code, said)) = split(&answer) else { panic!("{path}: {}", answer.escape_ascii()) };
            assert!(code == 200 || (400..500).contains(&code), "{path}: {said}");
            assert_eq!(code == 200, said["error"].is_null(), "{path}: {said}");
            assert!(
                code == 200 || said["error"]["code"] == code && said["error"]["status"].is_string(),
                "{path}: {said}"
            );
        });
    })
    .await
    .unwrap();
    // Whatever was written in between, the policy is one, and can be written again.
    let (_, kept) = run.call("POST", &format!("/v1/projects/-/serviceAccounts/{account}:getIamPolicy"), "{}").await;
    let bindings = kept["bindings"].as_array().cloned().unwrap_or_default();
    assert!(bindings.iter().all(|binding| binding["role"].is_string() && binding["members"].is_array()), "{kept}");
    let (path, body) = (format!("/v1/projects/-/serviceAccounts/{account}:setIamPolicy"), "{\"policy\":{}}");
    assert_eq!(run.call("POST", &path, body).await.0, 200);
}
