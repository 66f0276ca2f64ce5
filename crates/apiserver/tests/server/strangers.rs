//! Bad credentials and bad bodies, sent to a server in this process whose clock and disk the test moves.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiserver::Body;
use disk::{DataKey, SimDisk};
use http::Method;
use machinery::{Status, Value, json};
use pki::Profile;
use policy::UserInfo;

use crate::support::{Cluster, MAPS, cluster, cluster_on, entropy, map};

const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/robot";

async fn token(c: &Cluster, seconds: i64) -> String {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    let _ = c.object(Method::POST, "/api/v1/namespaces/default/serviceaccounts", account).await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": seconds}});
    let made = c.object(Method::POST, &format!("{ACCOUNT}/token"), request).await.unwrap();
    made.str_at(&["status", "token"]).to_owned()
}

fn assert_unauthorized(answer: Result<String, Status>, what: &str) {
    let status = answer.expect_err(what);
    assert_eq!((status.code, status.message.as_str()), (401, "Unauthorized"), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_end_with_their_time_their_account_and_their_cluster() {
    let (c, other) = (cluster().await, cluster().await);
    let good = token(&c, 600).await;
    let name = "system:serviceaccount:default:robot";
    assert_eq!(c.whoami(Vec::new(), &good).await.unwrap(), name);
    assert_unauthorized(c.whoami(Vec::new(), &token(&other, 600).await).await, "the other cluster has another key");
    let parts: Vec<&str> = good.split('.').collect();
    let mut signature = parts[2].as_bytes().to_vec();
    signature[10] = if signature[10] == b'A' { b'B' } else { b'A' };
    let signature = String::from_utf8(signature).unwrap();
    let unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    for (what, bad) in [
        ("a changed signature", format!("{}.{}.{signature}", parts[0], parts[1])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("alg none", format!("{unsigned}.{}.", parts[1])),
        ("alg none with a signature", format!("{unsigned}.{}.{}", parts[1], parts[2])),
        ("cut off", good[..good.len() / 2].to_owned()),
        ("one part", "garbage".to_owned()),
        ("dots", "..".to_owned()),
        ("a long one", "a".repeat(100_000)),
        ("no base64", format!("{}.%%%.{}", parts[0], parts[2])),
    ] {
        assert_unauthorized(c.whoami(Vec::new(), &bad).await, what);
    }
    c.clock.advance(Duration::from_secs(590));
    assert_eq!(c.whoami(Vec::new(), &good).await.unwrap(), name);
    // Upstream's JWT library allows a minute for clocks that differ.
    c.clock.advance(Duration::from_secs(80));
    assert_unauthorized(c.whoami(Vec::new(), &good).await, "eleven minutes are over");
    let fresh = token(&c, 600).await;
    assert_eq!(c.whoami(Vec::new(), &fresh).await.unwrap(), name);
    c.object(Method::DELETE, ACCOUNT, Value::Null).await.unwrap();
    assert_unauthorized(c.whoami(Vec::new(), &fresh).await, "the account is gone");
    assert_unauthorized(c.whoami(Vec::new(), &good).await, "and stays gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_tokens_of_its_own_pods_for_audiences_that_it_may_ask_for() {
    let c = cluster().await;
    token(&c, 600).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n1",
        "serviceAccountName": "robot", "automountServiceAccountToken": false,
        "containers": [{"name": "c", "image": "i"}]}});
    let pod = c.object(Method::POST, "/api/v1/namespaces/default/pods", pod).await.unwrap();
    let uid = pod.str_at(&["metadata", "uid"]).to_owned();
    let ask = async |uid: &str, audiences: &[&str]| {
        let mut request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        request["spec"].set("audiences", audiences.iter().map(|one| Value::from(*one)).collect::<Vec<_>>());
        if !uid.is_empty() {
            request["spec"]["boundObjectRef"] = json!({"apiVersion": "v1", "kind": "Pod", "name": "p"});
            request["spec"]["boundObjectRef"].set("uid", uid);
        }
        let node = UserInfo::authenticated("system:node:n1", &[policy::user::NODES]);
        let reply = c.send(&node, Method::POST, &format!("{ACCOUNT}/token"), Body::Tree(request)).await;
        reply.into_object().map(|made| !made.str_at(&["status", "token"]).is_empty()).map_err(|status| status.message)
    };
    let refused = "audience \"vault\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for \
                   this audience";
    for (uid, audiences, why) in [
        ("", &["vault"][..], "node requested token not bound to a pod"),
        ("another", &["vault"], "the UID in the bound object reference (another) does not match the UID in record"),
        (uid.as_str(), &["vault", "b"], "node may only request 0 or 1 audiences"),
        (uid.as_str(), &["vault"], refused),
        (uid.as_str(), &[], "audience \"\" not found in pod spec volume"),
    ] {
        let looking = async {
            loop {
                let said = ask(uid, audiences).await.unwrap_err();
                // The Node authorizer hears of the pod a moment later.
                if !said.contains("no relationship found") {
                    return said;
                }
                tokio::task::yield_now().await;
            }
        };
        let said = tokio::time::timeout(Duration::from_secs(30), looking).await.expect("the pod is seen");
        assert!(said.contains(why), "{audiences:?}: {said}");
    }
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "v"},
        "rules": [{"apiGroups": [""], "resources": ["vault"], "verbs": ["request-serviceaccounts-token-audience"]}]});
    c.object(Method::POST, &format!("{rbac}/clusterroles"), role).await.unwrap();
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "v"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "v"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}]});
    c.object(Method::POST, &format!("{rbac}/clusterrolebindings"), binding).await.unwrap();
    assert_eq!(ask(&uid, &["vault"]).await, Ok(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_count_in_their_own_cluster_and_time() {
    let (c, other) = (cluster().await, cluster().await);
    let profile = Profile::KubeClient { user: "jane".to_owned(), groups: vec!["devs".to_owned()] };
    let chain = async |c: &Cluster, profile: &Profile| -> Vec<Vec<u8>> {
        c.identity(profile).await.chain().iter().map(|der| der.to_vec()).collect()
    };
    let good = chain(&c, &profile).await;
    assert_eq!(c.whoami(good.clone(), "").await.unwrap(), "jane");
    assert_unauthorized(c.whoami(chain(&other, &profile).await, "").await, "another cluster's certificate");
    let store = Profile::EtcdClient { name: "jane".to_owned() };
    assert_unauthorized(c.whoami(chain(&c, &store).await, "").await, "the store's certificate");
    let kubelet = Profile::KubeletServing { node: "n".to_owned(), dns: vec!["n".to_owned()], ips: Vec::new() };
    assert_unauthorized(c.whoami(chain(&c, &kubelet).await, "").await, "a serving certificate");
    assert_unauthorized(c.whoami(vec![vec![0x30, 0x80, 0xff]], "").await, "no certificate at all");
    let mut changed = good.clone();
    let last = changed[0].len() - 1;
    changed[0][last] ^= 1;
    assert_unauthorized(c.whoami(changed, "").await, "a changed signature");
    // A good token counts beside a bad certificate, as in upstream's union of authenticators.
    let bearer = token(&c, 600).await;
    assert_eq!(c.whoami(chain(&other, &profile).await, &bearer).await.unwrap(), "system:serviceaccount:default:robot");
    c.clock.advance(profile.lifetime() + Duration::from_secs(3600));
    assert_unauthorized(c.whoami(good, "").await, "its time is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_writes_keeps_reads_and_heals() {
    let disk = SimDisk::new(7);
    let key = DataKey::generate("cluster/test/instance/test", &entropy());
    let storage = etcd::Storage { dir: PathBuf::from("/sim/member"), disk: Arc::new(disk.clone()), key, view: false };
    let c = cluster_on(Some(storage)).await;
    let kept = c.object(Method::POST, MAPS, map("kept")).await.unwrap();
    disk.set_capacity(Some(0));
    // What is reserved for the log is used up first.
    let mut large = 0;
    while large < 20 {
        let mut object = map(&format!("large-{large}"));
        object["data"].set("a", "x".repeat(200_000));
        if c.object(Method::POST, MAPS, object).await.is_err() {
            break;
        }
        large += 1;
    }
    for n in 0..3 {
        let refused = c.object(Method::POST, MAPS, map(&format!("lost-{n}"))).await.unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (500, "etcdserver: request timed out"));
    }
    let patch = json!({"data": {"a": "2"}});
    let refused = c.patch(&format!("{MAPS}/kept"), "application/merge-patch+json", patch).await.unwrap_err();
    assert_eq!(refused.code, 500, "{}", refused.message);
    assert_eq!(c.get(&format!("{MAPS}/kept")).await.unwrap(), kept, "reads go on");
    assert_eq!(c.get("/api/v1/namespaces/default").await.unwrap()["status"]["phase"], "Active".into());
    disk.set_capacity(None);
    let made = c.object(Method::POST, MAPS, map("healed")).await.unwrap();
    assert_eq!(c.get(&format!("{MAPS}/healed")).await.unwrap(), made);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_bodies_get_kubernetes_words() {
    let c = cluster().await;
    let deep = |open: &str, close: &str, n: usize| format!("{{\"data\":{}1{}}}", open.repeat(n), close.repeat(n));
    let flow = format!("data: {}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let block: String = (0..2_000).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    let laughs = (1..30).fold("a0: &a0 [x,x]\n".to_owned(), |all, n| {
        let last = n - 1;
        all + &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{last}"); 9].join(","))
    });
    let (json, yaml, proto) = ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf");
    let mut nested = Vec::new();
    for _ in 0..10_000 {
        let mut outer = vec![0x0a];
        let mut length = nested.len();
        while length > 0x7f {
            outer.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.append(&mut nested);
        nested = outer;
        if nested.len() > 60_000 {
            break;
        }
    }
    let cases: [(&'static str, Vec<u8>, u16, &str); 19] = [
        (json, b"".to_vec(), 400, "unexpected end of JSON input"),
        (json, b"{".to_vec(), 400, "unexpected end of JSON input"),
        (json, b"[]".to_vec(), 400, "cannot unmarshal array"),
        (json, b"\"x\"".to_vec(), 400, "cannot unmarshal string"),
        (json, b"{\"a\":\"\xff\"}".to_vec(), 400, "ConfigMap"),
        (json, b"{} trailing".to_vec(), 400, "ConfigMap"),
        (json, deep("[", "]", 10_000).into_bytes(), 400, "ConfigMap"),
        (json, deep("{\"a\":", "}", 10_000).into_bytes(), 400, "ConfigMap"),
        (json, b"{\"metadata\":[]}".to_vec(), 400, "cannot unmarshal array into Go struct field"),
        (json, b"{\"metadata\":{\"name\":1}}".to_vec(), 400, "cannot unmarshal number"),
        (json, b"{\"metadata\":{\"name\":\"x\"},\"data\":{\"k\":1}}".to_vec(), 400, "cannot unmarshal number"),
        (yaml, flow.into_bytes(), 400, "ConfigMap"),
        (yaml, block.into_bytes(), 400, "ConfigMap"),
        (yaml, laughs.into_bytes(), 400, "ConfigMap"),
        (yaml, b"a: [".to_vec(), 400, "error converting YAML to JSON"),
        (proto, b"".to_vec(), 400, "expected prefix [107 56 115 0]"),
        (proto, b"{}".to_vec(), 400, "expected prefix [107 56 115 0]"),
        (proto, [b"k8s\0".as_slice(), &nested].concat(), 400, "ConfigMap"),
        (proto, b"k8s\0\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec(), 400, "ConfigMap"),
    ];
    for (kind, body, code, text) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let status = c.bytes(kind, MAPS, body).await.expect_err(&shown);
        assert_eq!(status.code, code, "{kind} {shown}: {}", status.message);
        // A kind and version are repeated as they were sent, nothing else of the body is.
        assert!(status.message.contains(text), "{kind} {shown}: {}", status.message);
        assert!(kind == proto || status.message.len() < 2000, "{kind} {shown}: {}", status.message);
    }
    assert!(c.get("/api/v1/namespaces/default").await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_versions_and_names_are_checked_in_kubernetes_words() {
    let c = cluster().await;
    let kinds = [
        ("v1", "Secret", "cannot be handled as a ConfigMap"),
        ("v2", "ConfigMap", "no kind \"ConfigMap\" is registered for version \"v2\""),
        ("apps/v1", "ConfigMap", "no kind \"ConfigMap\" is registered for version \"apps/v1\""),
        ("", "Pod", "cannot be handled as a ConfigMap"),
        ("a/b/c", "ConfigMap", ""),
    ];
    for (version, kind, text) in kinds {
        let mut object = map("x");
        object.set("apiVersion", version);
        object.set("kind", kind);
        let status = c.bytes("application/json", MAPS, object.to_vec()).await.expect_err(text);
        assert!(status.code == 400 && status.message.contains(text), "{version} {kind}: {status:?}");
    }
    let subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'";
    let (long, fitting) = ("a".repeat(254), "a".repeat(253));
    for (name, text) in [
        ("A", subdomain),
        ("a_b", subdomain),
        ("-a", subdomain),
        ("a-", subdomain),
        ("a..b", subdomain),
        ("a/b", subdomain),
        ("ü", subdomain),
        ("a b", subdomain),
        (".", subdomain),
        ("..", subdomain),
        (&long, "must be no more than 253 characters"),
        ("", "name or generateName is required"),
    ] {
        let status = c.object(Method::POST, MAPS, map(name)).await.expect_err(name);
        assert!(status.code == 422 && status.message.contains(text), "{name:?}: {status:?}");
        assert!(status.message.contains("metadata.name: "), "{name:?}: {status:?}");
    }
    assert!(c.object(Method::POST, MAPS, map(&fitting)).await.is_ok());
    let label = "a lowercase RFC 1123 label must consist of";
    for (name, text) in
        [("a.b", "must not contain dots"), (&"a".repeat(64), "must be no more than 63 characters"), ("A", label)]
    {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let status = c.object(Method::POST, "/api/v1/namespaces", namespace).await.expect_err(name);
        assert!(status.code == 422 && status.message.contains(text), "{name:?}: {status:?}");
    }
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "1a"},
        "spec": {"ports": [{"port": 80}]}});
    let status = c.object(Method::POST, "/api/v1/namespaces/default/services", service).await.unwrap_err();
    assert!(status.code == 422 && status.message.contains("a DNS-1035 label must consist of"), "{status:?}");
    let mut elsewhere = map("x");
    elsewhere["metadata"].set("namespace", "other");
    let status = c.object(Method::POST, MAPS, elsewhere).await.unwrap_err();
    let text = "the namespace of the provided object does not match the namespace sent on the request";
    assert_eq!((status.code, status.message.as_str()), (400, text));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_repeated_fields_are_ignored_told_of_or_refused() {
    let c = cluster().await;
    let bodies: [(&'static str, &str, &str); 3] = [
        (
            "application/json",
            r#"{"metadata":{"generateName":"u-","lables":{}},"dota":1}"#,
            r#"unknown field "metadata.lables""#,
        ),
        (
            "application/json",
            r#"{"metadata":{"generateName":"u-"},"data":{"k":"a"},"data":{"k":"b"}}"#,
            r#"duplicate field "data""#,
        ),
        ("application/yaml", "metadata: {generateName: u-}\ndota: 1\n", r#"unknown field "dota""#),
    ];
    for (kind, body, text) in bodies {
        for mode in ["Ignore", "Warn"] {
            let made = c.bytes(kind, &format!("{MAPS}?fieldValidation={mode}"), body).await.unwrap();
            assert!(made.get("dota").is_none() && made["metadata"].get("lables").is_none(), "{made}");
        }
        let strict = c.bytes(kind, &format!("{MAPS}?fieldValidation=Strict"), body).await.expect_err(text);
        assert_eq!(strict.code, 400, "{strict:?}");
        let wanted = format!("strict decoding error: {text}");
        assert!(strict.message.contains(&wanted) || strict.message.contains(text), "{}", strict.message);
    }
    let wrong = c.bytes("application/json", &format!("{MAPS}?fieldValidation=Maybe"), "{}").await.unwrap_err();
    assert_eq!(wrong.code, 422, "{wrong:?}");
    assert!(wrong.message.contains("Unsupported value: \"Maybe\""), "{}", wrong.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_cannot_dig_a_hole_for_the_stack() {
    let c = cluster().await;
    c.object(Method::POST, MAPS, map("x")).await.unwrap();
    let dig = json!({"op": "copy", "from": "/data", "path": "/data/a"});
    let patch = Value::Array(vec![dig; 9_000]);
    let status = c.patch(&format!("{MAPS}/x"), "application/json-patch+json", patch).await.unwrap_err();
    assert_eq!(status.code, 422, "{status:?}");
    let endless = Value::Array(vec![json!({"op": "test", "path": "/data/a", "value": "1"}); 10_001]);
    let status = c.patch(&format!("{MAPS}/x"), "application/json-patch+json", endless).await.unwrap_err();
    assert_eq!(status.code, 413, "{status:?}");
}
