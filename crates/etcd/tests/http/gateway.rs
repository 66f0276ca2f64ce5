//! The JSON gateway, with answers as etcd 3.6.16 gave them to the same requests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::rig::Rig;

fn b64(text: &str) -> String {
    STANDARD.encode(text)
}

/// The header of an answer at a revision.
fn header(revision: i64) -> String {
    format!(r#"{{"cluster_id":"1","member_id":"2","revision":"{revision}","raft_term":"2"}}"#)
}

#[tokio::test]
async fn requests_good_and_bad_are_answered_as_etcd_answers_them() {
    let rig = Rig::start().await;
    let h = header;
    let kv = |mod_revision: i64, version: i64| {
        format!(
            r#"{{"key":"Zm9v","create_revision":"2","mod_revision":"{mod_revision}","version":"{version}","value":"YmFy"}}"#
        )
    };
    let ok = |rest: String| (200, rest);
    let error = |status: u16, code: i32, text: &str| {
        (status, format!(r#"{{"code":{code},"message":{}}}"#, serde_json::Value::from(text)))
    };
    let put = r#"{"key":"Zm9v","value":"YmFy"}"#;
    let create = r#"{"compare":[{"target":"CREATE","key":"Zm9v","createRevision":"2"}],"success":[{"requestPut":{"key":"Zm9v","value":"YmFy"}}]}"#;
    let table = [
        ("/v3/kv/put", put, ok(format!(r#"{{"header":{}}}"#, h(2)))),
        ("/v3/kv/range", r#"{"key":"Zm9v"}"#, ok(format!(r#"{{"header":{},"kvs":[{}],"count":"1"}}"#, h(2), kv(2, 1)))),
        ("/v3beta/kv/range", r#"{"key":"AA","rangeEnd":"AA==","countOnly":true}"#, ok(format!(r#"{{"header":{},"count":"1"}}"#, h(2)))),
        ("/v3/kv/range", r#"{"key":"_-8=","limit":"1e1"}"#, ok(format!(r#"{{"header":{}}}"#, h(2)))),
        ("/v3/kv/range", r#"{"key":"Zm9v","sort_order":"BAD"} trailing"#, ok(format!(r#"{{"header":{},"kvs":[{}],"count":"1"}}"#, h(2), kv(2, 1)))),
        ("/v3/kv/range", "", error(400, 3, "etcdserver: key is not provided")),
        ("/v3/kv/range", "{", error(400, 3, "unexpected EOF")),
        ("/v3/kv/range", "[]", error(400, 3, "proto: syntax error (line 1:1): unexpected token [")),
        ("/v3/kv/range", r#"{"key":5}"#, error(400, 3, "proto: (line 1:8): invalid value for bytes field key: 5")),
        ("/v3/kv/range", r#"{"key":"Zm9v","revision":1000}"#, error(400, 11, "etcdserver: mvcc: required revision is a future revision")),
        ("/v3/kv/put", r#"{"key":"Zm9v","lease":77}"#, error(404, 5, "etcdserver: requested lease not found")),
        ("/v3/kv/txn", create, ok(format!(r#"{{"header":{},"succeeded":true,"responses":[{{"response_put":{{"header":{{"revision":"3"}}}}}}]}}"#, h(3)))),
        ("/v3/kv/deleterange", r#"{"key":"bm9uZQ=="}"#, ok(format!(r#"{{"header":{}}}"#, h(3)))),
        ("/v3/kv/compaction", r#"{"revision":2,"physical":true}"#, ok(format!(r#"{{"header":{}}}"#, h(3)))),
        ("/v3/lease/grant", r#"{"TTL":100,"ID":7}"#, ok(format!(r#"{{"header":{},"ID":"7","TTL":"100"}}"#, h(3)))),
        ("/v3/lease/grant", r#"{"TTL":100,"ID":7}"#, error(400, 9, "etcdserver: lease already exists")),
        ("/v3/kv/lease/timetolive", r#"{"ID":"999"}"#, ok(format!(r#"{{"header":{},"ID":"999","TTL":"-1"}}"#, h(3)))),
        ("/v3/lease/leases", "{}", ok(format!(r#"{{"header":{},"leases":[{{"ID":"7"}}]}}"#, h(3)))),
        ("/v3/kv/lease/revoke", r#"{"ID":7}"#, ok(format!(r#"{{"header":{}}}"#, h(3)))),
        ("/v3/cluster/member/list", "{}", ok(
            r#"{"header":{"cluster_id":"1","member_id":"2","raft_term":"2"},"members":[{"ID":"2","name":"test","peerURLs":["http://localhost:2380"]}]}"#.to_owned(),
        )),
        ("/v3/maintenance/defragment", "{}", ok("{}".to_owned())),
        ("/v3/maintenance/alarm", r#"{"action":"ACTIVATE","memberID":5,"alarm":"NOSPACE"}"#, ok(format!(r#"{{"header":{},"alarms":[{{"memberID":"5","alarm":"NOSPACE"}}]}}"#, h(3)))),
        ("/v3/maintenance/alarm", r#"{"action":2,"memberID":5,"alarm":1}"#, ok(format!(r#"{{"header":{},"alarms":[{{"memberID":"5","alarm":"NOSPACE"}}]}}"#, h(3)))),
        ("/v3/nonsense", "{}", error(404, 5, "Not Found")),
        ("/v3/kv/range/", "{}", error(404, 5, "Not Found")),
    ];
    for (path, body, expect) in table {
        assert_eq!(rig.post(path, body).await, expect, "{path} {body}");
    }
    let (status, headers, text) = rig.ask("GET", "/v3/kv/range?key=Zm9v", "").await;
    assert_eq!((status, text.as_str()), (501, r#"{"code":12,"message":"Method Not Allowed"}"#));
    assert_eq!(headers["content-type"], "application/json");
    let (_, headers, _) = rig.ask("POST", "/v3/kv/range", r#"{"key":"AA"}"#).await;
    let wanted = [
        ("grpc-metadata-content-type", "application/grpc"),
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "POST, GET, OPTIONS, PUT, DELETE"),
        ("access-control-allow-headers", "accept, content-type, authorization"),
    ];
    for (name, value) in wanted {
        assert_eq!(headers[name], value);
    }
}

#[tokio::test]
async fn streams_are_lines_for_every_message_of_the_body() {
    let rig = Rig::start().await;
    rig.post("/v3/lease/grant", r#"{"TTL":100,"ID":7}"#).await;
    let mut renewed = rig.lines("/v3/lease/keepalive", r#"{"ID":7}{"ID":9} {"#).await;
    let answer = |rest: &str| Some(format!(r#"{{"result":{{"header":{},{rest}}}}}"#, header(1)));
    assert_eq!(renewed.next().await, answer(r#""ID":"7","TTL":"100""#));
    assert_eq!(renewed.next().await, answer(r#""ID":"9""#));
    assert_eq!(renewed.next().await, None);
    let mut watch = rig.lines("/v3/watch", r#"{"create_request":{"key":"Zm9v","watch_id":3}}"#).await;
    assert_eq!(watch.next().await, answer(r#""watch_id":"3","created":true"#));
    rig.post("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#).await;
    let event = r#"{"kv":{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}}"#;
    let expect = format!(r#"{{"result":{{"header":{},"watch_id":"3","events":[{event}]}}}}"#, header(2));
    assert_eq!(watch.next().await, Some(expect));
    // What was before comes with the revision that the store has, as etcd tells it.
    rig.post("/v3/kv/put", r#"{"key":"YQ=="}"#).await;
    let from = r#"{"create_request":{"key":"Zm9v","start_revision":"2"}}"#;
    let mut late = rig.lines("/v3/watch", from).await;
    late.next().await.expect("created");
    let expect = format!(r#"{{"result":{{"header":{},"events":[{event}]}}}}"#, header(3));
    assert_eq!(late.next().await, Some(expect));
    rig.member.stop();
    let expect = r#"{"error":{"code":14,"message":"etcdserver: server stopped"}}"#;
    assert_eq!(watch.next().await.as_deref(), Some(expect));
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn a_lock_goes_to_the_oldest_that_still_waits() {
    let rig = std::sync::Arc::new(Rig::start().await);
    for lease in 1..=3 {
        rig.post("/v3/lease/grant", &format!(r#"{{"TTL":100,"ID":{lease}}}"#)).await;
    }
    let lock = |lease: i64| format!(r#"{{"name":"{}","lease":{lease}}}"#, b64("lk"));
    let key = |lease: i64| b64(&format!("lk/{lease}"));
    let held =
        |revision: i64, lease: i64| (200, format!(r#"{{"header":{},"key":"{}"}}"#, header(revision), key(lease)));
    assert_eq!(rig.post("/v3/lock/lock", &lock(1)).await, held(2, 1));
    assert_eq!(rig.post("/v3/lock/lock", &lock(1)).await, held(2, 1), "who has it gets it again");
    let waiting = |lease: i64| {
        let (rig, body) = (rig.clone(), lock(lease));
        tokio::spawn(async move { rig.post("/v3/lock/lock", &body).await })
    };
    let mut queue = rig
        .lines("/v3/watch", &format!(r#"{{"create_request":{{"key":"{}","range_end":"{}"}}}}"#, b64("lk/"), b64("lk0")))
        .await;
    queue.next().await;
    let second = waiting(2);
    let line = queue.next().await.expect("a put");
    assert!(line.contains(&key(2)), "{line}");
    let third = waiting(3);
    queue.next().await.expect("a put");
    second.abort();
    let line = queue.next().await.expect("who has gone leaves the queue");
    assert!(line.contains(r#""type":"DELETE""#) && line.contains(&key(2)), "{line}");
    assert!(!third.is_finished());
    rig.post("/v3/lock/unlock", &format!(r#"{{"key":"{}"}}"#, key(1))).await;
    assert_eq!(third.await.expect("no panic"), held(6, 3));
    let unknown = rig.post("/v3/lock/lock", &lock(99)).await;
    assert_eq!(unknown, (500, r#"{"code":2,"message":"etcdserver: requested lease not found"}"#.to_owned()));
    let (status, own) = rig.post("/v3/lock/lock", &format!(r#"{{"name":"{}"}}"#, b64("other"))).await;
    assert!(status == 200 && own.contains("\"key\""), "{own}");
    let (_, leases) = rig.post("/v3/lease/leases", "{}").await;
    assert_eq!(leases.matches("ID").count(), 4, "a caller without a lease gets one: {leases}");
}

#[tokio::test]
async fn an_election_is_won_proclaimed_observed_and_left() {
    let rig = std::sync::Arc::new(Rig::start().await);
    for lease in [10, 11] {
        rig.post("/v3/lease/grant", &format!(r#"{{"TTL":100,"ID":{lease}}}"#)).await;
    }
    let name = b64("el");
    let unled = rig.post("/v3/election/leader", &format!(r#"{{"name":"{name}"}}"#)).await;
    assert_eq!(unled, (500, r#"{"code":2,"message":"election: no leader"}"#.to_owned()));
    let missing = rig.post("/v3/election/proclaim", "{}").await;
    assert_eq!(missing, (500, r#"{"code":2,"message":"\"leader\" field must be provided"}"#.to_owned()));
    let campaign = |lease: i64, value: &str| format!(r#"{{"name":"{name}","lease":{lease},"value":"{}"}}"#, b64(value));
    let leader = |lease: i64, rev: i64| {
        format!(r#"{{"name":"{name}","key":"{}","rev":"{rev}","lease":"{lease}"}}"#, b64(&format!("el/{lease:x}")))
    };
    let won = rig.post("/v3/election/campaign", &campaign(10, "one")).await;
    assert_eq!(won, (200, format!(r#"{{"header":{},"leader":{}}}"#, header(2), leader(10, 2))));
    let mut seen = rig.lines("/v3/election/observe", &format!(r#"{{"name":"{name}"}}"#)).await;
    let value = |text: &str| format!(r#""value":"{}""#, b64(text));
    assert!(seen.next().await.expect("the leader").contains(&value("one")));
    let proclaimed =
        rig.post("/v3/election/proclaim", &format!(r#"{{"leader":{},"value":"{}"}}"#, leader(10, 2), b64("two"))).await;
    assert_eq!(proclaimed, (200, format!(r#"{{"header":{}}}"#, header(3))));
    assert!(seen.next().await.expect("what it proclaims").contains(&value("two")));
    let next = {
        let (rig, body) = (rig.clone(), campaign(11, "three"));
        tokio::spawn(async move { rig.post("/v3/election/campaign", &body).await })
    };
    let impostor =
        rig.post("/v3/election/proclaim", &format!(r#"{{"leader":{},"value":"AA=="}}"#, leader(10, 9))).await;
    assert_eq!(impostor, (500, r#"{"code":2,"message":"election: not leader"}"#.to_owned()));
    let resigned = rig.post("/v3/election/resign", &format!(r#"{{"leader":{}}}"#, leader(10, 2))).await;
    assert_eq!(resigned.0, 200);
    let (status, text) = next.await.expect("no panic");
    assert!(status == 200 && text.contains(&b64("el/b")), "{text}");
    assert!(seen.next().await.expect("the next leader").contains(&value("three")));
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_by_size() {
    let rig = Rig::start().await;
    let put = |bytes: usize| format!(r#"{{"key":"AA==","value":"{}"}}"#, STANDARD.encode(vec![0; bytes]));
    let large = rig.post("/v3/kv/put", &put(1_600_000)).await;
    assert_eq!(large, (400, r#"{"code":3,"message":"etcdserver: request is too large"}"#.to_owned()));
    let (status, text) = rig.post("/v3/kv/put", &put(2_200_000)).await;
    assert_eq!(status, 429);
    assert!(text.starts_with(r#"{"code":8,"message":"grpc: received message larger than max (2200"#), "{text}");
}

#[tokio::test]
async fn a_token_in_the_header_says_who_asks() {
    let rig = Rig::with(|config| etcd::MemberConfig { bcrypt_cost: 4, ..config }).await;
    for (path, body) in [
        ("/v3/auth/user/add", r#"{"name":"root","password":"secret"}"#),
        ("/v3/auth/role/add", r#"{"name":"root"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/enable", "{}"),
    ] {
        assert_eq!(rig.post(path, body).await.0, 200, "{path}");
    }
    let nobody = rig.post("/v3/kv/range", r#"{"key":"Zm9v"}"#).await;
    assert_eq!(nobody, (400, r#"{"code":3,"message":"etcdserver: user name is empty"}"#.to_owned()));
    let nobody = rig.post("/v3/lock/lock", r#"{"name":"bGs="}"#).await;
    assert_eq!(nobody, (500, r#"{"code":2,"message":"etcdserver: user name is empty"}"#.to_owned()));
    let (_, answer) = rig.post("/v3/auth/authenticate", r#"{"name":"root","password":"secret"}"#).await;
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    let token = answer["token"].as_str().expect("a token");
    let (status, _, _) = rig.ask_as(token, "/v3/kv/range", r#"{"key":"Zm9v"}"#).await;
    assert_eq!(status, 200);
    let (status, _, _) = rig.ask_as(token, "/v3/lock/lock", r#"{"name":"bGs="}"#).await;
    assert_eq!(status, 200);
    let (status, headers, text) = rig.ask_as("wrong", "/v3/kv/range", r#"{"key":"Zm9v"}"#).await;
    assert_eq!((status, text.as_str()), (401, r#"{"code":16,"message":"etcdserver: invalid auth token"}"#));
    assert_eq!(headers["www-authenticate"], "etcdserver: invalid auth token");
    assert_eq!(rig.get("/health").await.0, 200, "health asks nobody who they are");
}
