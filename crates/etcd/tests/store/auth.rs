//! Who may do what, as clients over gRPC see it. The answers expected are those of etcd 3.6.16 to the same requests.

use std::sync::Arc;
use std::time::Duration;

use etcd::{EventKind, Member, MemberConfig, RemoteStore, Store, StoreError, WatchRequest};
use mvcc::{PutRequest, RangeRequest};
use tonic::Code;

use crate::support::{Client, Rig, Server, pb, pki};

/// `root`, and `eve` who may read and write `e`…; lease 7 holds `y`. Then callers are asked who they are.
async fn enable(server: &Server) {
    let anybody = server.client();
    anybody.make_root_and_eve().await;
    anybody.lease_grant(7).await.expect("a new lease");
    anybody.put_on("y", 7).await.expect("a lease");
    anybody.enable().await.expect("root has its role");
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Says {
    Yes,
    No(Code, &'static str),
}

const EMPTY: Says = Says::No(Code::InvalidArgument, "etcdserver: user name is empty");
const TOKEN: Says = Says::No(Code::Unauthenticated, "etcdserver: invalid auth token");
const DENIED: Says = Says::No(Code::PermissionDenied, "etcdserver: permission denied");
const NO_LEASE: Says = Says::No(Code::NotFound, "etcdserver: requested lease not found");
const NO_MEMBER: Says = Says::No(Code::NotFound, "etcdserver: member not found");
const NO_KEY: Says = Says::No(Code::InvalidArgument, "etcdserver: key is not provided");
const NO_USER: Says = Says::No(Code::FailedPrecondition, "etcdserver: user name not found");
const WRONG: Says = Says::No(Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password");

/// A call, and what it says to a client without a token, with a wrong one, with `eve`'s and with `root`'s.
#[rustfmt::skip]
const CALLS: &[(&str, [Says; 4])] = &[
    ("range e1", [EMPTY, TOKEN, Says::Yes, Says::Yes]),
    ("range e f", [EMPTY, TOKEN, Says::Yes, Says::Yes]),
    ("range e 0", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("range x", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("range ", [NO_KEY; 4]),
    ("put e1", [EMPTY, TOKEN, Says::Yes, Says::Yes]),
    ("put x", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("put e1 on 7", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("put e1 on 99", [EMPTY, TOKEN, NO_LEASE, NO_LEASE]),
    ("delete e1", [EMPTY, TOKEN, Says::Yes, Says::Yes]),
    ("delete q", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("txn read e1", [EMPTY, TOKEN, Says::Yes, Says::Yes]),
    ("txn read x", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("txn write e1", [EMPTY, TOKEN, Says::Yes, Says::Yes]),
    ("txn write x", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("compact", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("lease grant", [EMPTY, TOKEN, Says::Yes, Says::Yes]),
    ("lease revoke 99", [EMPTY, TOKEN, NO_LEASE, NO_LEASE]),
    ("lease ttl 7", [EMPTY, TOKEN, Says::Yes, Says::Yes]),
    ("lease keys 7", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("lease keepalive 7", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("lease keepalive 99", [EMPTY, TOKEN, Says::Yes, Says::Yes]),
    ("lease list", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("member list", [EMPTY, TOKEN, Says::Yes, Says::Yes]),
    ("member remove 5", [EMPTY, TOKEN, DENIED, NO_MEMBER]),
    ("alarm list", [EMPTY, TOKEN, Says::Yes, Says::Yes]),
    ("alarm disarm", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("status", [EMPTY, TOKEN, Says::Yes, Says::Yes]),
    ("hash", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("hashkv", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("defragment", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("auth status", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("user get eve", [EMPTY, TOKEN, Says::Yes, Says::Yes]),
    ("user get root", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("user get ", [NO_USER, TOKEN, DENIED, NO_USER]),
    ("user list", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("role get r", [EMPTY, TOKEN, Says::Yes, Says::Yes]),
    ("role get root", [EMPTY, TOKEN, DENIED, Says::No(Code::FailedPrecondition, "etcdserver: role name not found")]),
    ("role list", [EMPTY, TOKEN, DENIED, Says::Yes]),
    ("role add r", [EMPTY, TOKEN, DENIED, Says::No(Code::FailedPrecondition, "etcdserver: role name already exists")]),
    ("role add ", [EMPTY, TOKEN, DENIED, Says::No(Code::InvalidArgument, "etcdserver: role name is empty")]),
    ("role grant nothing", [EMPTY, TOKEN, DENIED, Says::No(Code::InvalidArgument, "etcdserver: permission not given")]),
    ("user add long", [Says::No(Code::Unknown, "bcrypt: password length exceeds 72 bytes"); 4]),
    ("user delete root", [EMPTY, TOKEN, DENIED, Says::No(Code::InvalidArgument, "etcdserver: invalid auth management")]),
    ("authenticate eve wrong", [WRONG; 4]),
    ("authenticate nobody", [WRONG; 4]),
];

#[tokio::test]
async fn each_call_asks_for_what_etcd_asks_for() {
    let server = Server::start(Rig::volatile(1).config()).await;
    enable(&server).await;
    let token = |token: &str| server.client().with_token(token);
    let eve = token(&server.client().authenticate("eve", "ep").await.expect("her password"));
    let root = token(&server.client().authenticate("root", "rp").await.expect("its password"));
    let callers = [server.client(), token("abcdefghijklmnop.1"), eve, root];
    for (call, expect) in CALLS {
        for (caller, expect) in callers.iter().zip(expect) {
            let said = match caller.call(call).await {
                Ok(()) => "yes".to_owned(),
                Err(status) => format!("{:?} {}", status.code(), status.message()),
            };
            let expect = match expect {
                Says::Yes => "yes".to_owned(),
                Says::No(code, text) => format!("{code:?} {text}"),
            };
            assert_eq!(said, expect, "{call:?} with token {:?}", caller.token());
        }
    }
    server.stop().await;
}

fn refused(status: &tonic::Status, expect: Says) -> bool {
    matches!(expect, Says::No(code, text) if (status.code(), status.message()) == (code, text))
}

#[tokio::test]
async fn a_simple_token_ends_with_time_password_or_user() {
    let rig = Rig::volatile(2);
    let server = Server::start(MemberConfig { auth_token_ttl: Duration::from_secs(10), ..rig.config() }).await;
    enable(&server).await;
    let root = server.login("root", "rp").await;
    let eve = server.login("eve", "ep").await;
    let text = eve.token().expect("she has one");
    let (letters, index) = text.split_once('.').expect("two parts");
    assert!(letters.len() == 16 && index.parse::<u64>().is_ok(), "{text}");
    for _ in 0..3 {
        rig.clock.advance(Duration::from_secs(9));
        eve.call("range e1").await.expect("it is in use");
    }
    assert!(refused(&root.call("user list").await.expect_err("27 s are too long"), TOKEN));
    rig.clock.advance(Duration::from_secs(10));
    assert!(refused(&eve.call("put e1").await.expect_err("10 s are too long"), TOKEN));

    let root = server.login("root", "rp").await;
    let eve = server.login("eve", "ep").await;
    root.change_password("eve", "e2").await.expect("root may");
    assert!(refused(&eve.call("range e1").await.expect_err("that was for the old one"), TOKEN));
    let old = server.client().authenticate("eve", "ep").await.expect_err("the old one");
    assert!(refused(&old, WRONG));
    let eve = server.login("eve", "e2").await;
    root.call("role add other").await.expect("root may");
    eve.call("put e1").await.expect("a simple token is of any revision");
    root.user_delete("eve").await.expect("root may");
    assert!(refused(&eve.call("range e1").await.expect_err("she is gone"), TOKEN));
    server.stop().await;
}

#[tokio::test]
async fn users_made_without_a_password_cannot_show_one() {
    let server = Server::start(Rig::volatile(3).config()).await;
    server.client().user_add_without_password("cn").await.expect("a new name");
    let off = server.client().authenticate("cn", "").await.expect_err("nobody is asked");
    assert!(refused(&off, Says::No(Code::FailedPrecondition, "etcdserver: authentication is not enabled")));
    enable(&server).await;
    let odd = "auth: authentication failed, password was given for no password user";
    let status = server.client().authenticate("cn", "x").await.expect_err("it has none");
    assert!(refused(&status, Says::No(Code::Unknown, odd)), "{status:?}");
    let root = server.login("root", "rp").await;
    // Neither password nor hash: nobody comes in by that name any more.
    root.change_password("eve", "").await.expect("root may");
    assert!(refused(&server.client().authenticate("eve", "").await.expect_err("no password fits"), WRONG));
    server.stop().await;
}

#[tokio::test]
async fn watches_are_refused_when_they_are_made() {
    let server = Server::start(Rig::volatile(4).config()).await;
    // A stream that is older than the question who it is.
    let mut early = server.client().watch().await;
    enable(&server).await;
    let eve = server.login("eve", "ep").await;
    let mut watch = eve.watch().await;
    let reason = |text: &str| Some(format!("rpc error: code = {text}"));
    assert_eq!(early.create("e1", "").await, reason("InvalidArgument desc = etcdserver: user name is empty"));
    assert_eq!(watch.create("e", "f").await, None);
    let denied = reason("PermissionDenied desc = etcdserver: permission denied");
    assert_eq!(watch.create("x", "").await, denied);
    assert_eq!(watch.create("", "\0").await, denied);
    let mut stranger = server.client().with_token("abc.1").watch().await;
    let invalid = reason("Unauthenticated desc = etcdserver: invalid auth token");
    assert_eq!(stranger.create("e1", "").await, invalid);
    // The watch that was allowed goes on, also when its user could not make it any more.
    eve.call("put e1").await.expect("she may");
    assert_eq!(watch.event().await, "e1");
    let root = server.login("root", "rp").await;
    root.user_delete("eve").await.expect("root may");
    root.call("put e1").await.expect("root may");
    assert_eq!(watch.event().await, "e1");
    assert_eq!(watch.create("e1", "").await, invalid);
    server.stop().await;
}

#[tokio::test]
async fn disabling_ends_all_questions_and_tokens() {
    let server = Server::start(Rig::volatile(5).config()).await;
    enable(&server).await;
    let root = server.login("root", "rp").await;
    root.disable().await.expect("root may");
    server.client().call("put x").await.expect("nobody is asked");
    server.client().with_token("nonsense").call("range x").await.expect("nobody is asked");
    server.client().disable().await.expect("as it is");
    server.client().enable().await.expect("root still has its role");
    assert!(refused(&root.call("range x").await.expect_err("it was for the time before"), TOKEN));
    // What runs in the member's own process is not asked.
    let store = server.member.store();
    store.put(PutRequest { key: "x".into(), ..PutRequest::default() }).await.expect("it is the member itself");
    let lease = store.lease_grant(2, 0).await.expect("granted").id;
    store.put(PutRequest { key: "leased".into(), lease, ..PutRequest::default() }).await.expect("written");
    server.stop().await;
}

#[tokio::test]
async fn leases_run_out_whoever_put_keys_on_them() {
    let rig = Rig::volatile(6);
    let server = Server::start(rig.config()).await;
    enable(&server).await;
    let root = server.login("root", "rp").await;
    let request = WatchRequest { key: "y".into(), ..WatchRequest::default() };
    let mut watch = server.member.store().watch(request).await.expect("a watch");
    rig.clock.advance(Duration::from_secs(101));
    server.member.wake();
    let batch = watch.next().await.expect("it goes on").expect("no error");
    assert_eq!(batch.events[0].kind, EventKind::Delete);
    assert!(refused(&root.call("lease revoke 7").await.expect_err("it is gone"), NO_LEASE));
    assert_eq!(root.count("y").await, 0, "and its key with it");
    server.stop().await;
}

#[tokio::test]
async fn users_survive_any_crash_and_tokens_none() {
    // Once from the log alone, once from a checkpoint that has let go of the log's beginning.
    for (seed, snapshot_count) in [(7, 100_000), (8, 5)] {
        let (rig, disk) = Rig::sim(seed);
        let config = || MemberConfig { snapshot_count, ..rig.config() };
        let server = Server::start(config()).await;
        enable(&server).await;
        let eve = server.login("eve", "ep").await;
        for _ in 0..100 {
            eve.put_value("e1", &"v".repeat(1000)).await.expect("she may");
        }
        let root = server.login("root", "rp").await;
        root.user_add("late", "lp").await.expect("a new name");
        disk.crash();
        server.stop().await;
        let server = Server::start(config()).await;
        for old in [&eve, &root] {
            let old = server.client().with_token(old.token().expect("it has one"));
            assert!(refused(&old.call("range e1").await.expect_err("tokens end with the member"), TOKEN), "{seed}");
        }
        assert!(refused(&server.client().call("range e1").await.expect_err("it still asks"), EMPTY));
        let eve = server.login("eve", "ep").await;
        eve.call("put e1").await.expect("she still may");
        assert!(refused(&eve.call("range x").await.expect_err("and no more than that"), DENIED));
        let root = server.login("root", "rp").await;
        assert_eq!(root.users().await, ["eve", "late", "root"]);
        assert_eq!(root.auth_revision().await, 8);
        server.stop().await;
    }
}

#[tokio::test]
async fn users_come_back_from_the_view_when_the_checkpoint_is_damaged() {
    let dir = tempfile::tempdir().expect("a directory");
    let rig = Rig::on_disk(dir.path().join("member"), 9);
    let config = || MemberConfig { snapshot_count: 10, ..rig.config() };
    let server = Server::start(config()).await;
    enable(&server).await;
    let root = server.login("root", "rp").await;
    root.user_add("gone", "p").await.expect("a new name");
    root.user_delete("gone").await.expect("it is there");
    for n in 0..1000 {
        root.put_on(&format!("key-{n}"), 0).await.expect("root may");
    }
    server.stop().await;
    let checkpoint = dir.path().join("member/checkpoint");
    let mut bytes = std::fs::read(&checkpoint).expect("a checkpoint was made");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&checkpoint, &bytes).expect("writable");
    let server = Server::start(config()).await;
    let root = server.login("root", "rp").await;
    assert_eq!(root.users().await, ["eve", "root"]);
    let eve = server.login("eve", "ep").await;
    assert!(refused(&eve.call("range x").await.expect_err("she may not"), DENIED));
    server.stop().await;
}

#[tokio::test]
async fn a_signed_token_is_of_one_revision_and_outlives_the_member() {
    const OLD: Says = Says::No(Code::InvalidArgument, "etcdserver: revision of auth store is old");
    let dir = tempfile::tempdir().expect("a directory");
    let keys = pki::jwt_keys(dir.path());
    let (rig, _disk) = Rig::sim(10);
    let signing = format!("jwt,sign-method=ES256,priv-key={},ttl=1m", keys.private.display());
    let config = || MemberConfig { auth_token: signing.clone(), ..rig.config() };
    let server = Server::start(config()).await;
    enable(&server).await;
    let eve = server.login("eve", "ep").await;
    let root = server.login("root", "rp").await;
    eve.call("put e1").await.expect("she may");
    server.stop().await;
    let server = Server::start(config()).await;
    let again = |client: &Client| server.client().with_token(client.token().expect("it has one"));
    let (eve, root) = (again(&eve), again(&root));
    eve.call("put e1").await.expect("it is signed");
    root.change_password("eve", "e2").await.expect("root may");
    for call in ["put e1", "range e1", "txn read e1", "txn write e1"] {
        assert!(refused(&eve.call(call).await.expect_err("users changed since"), OLD), "{call}");
    }
    root.call("user list").await.expect("managing asks for the role alone");
    eve.call("status").await.expect("that asks for a name alone");
    let mut watch = eve.watch().await;
    let old = "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old";
    assert_eq!(watch.create("e1", "").await.as_deref(), Some(old));
    let eve = server.login("eve", "e2").await;
    rig.clock.advance(Duration::from_secs(59));
    eve.call("put e1").await.expect("one second is left");
    rig.clock.advance(Duration::from_secs(1));
    assert!(refused(&eve.call("put e1").await.expect_err("it has ended"), TOKEN));
    server.stop().await;

    // A member with the public key alone takes tokens, but makes none.
    let public = format!("jwt,sign-method=ES256,pub-key={}", keys.public.display());
    let server = Server::start(MemberConfig { auth_token: public, ..rig.config() }).await;
    let verify_only = "auth: token signing attempted with verify-only key";
    let status = server.client().authenticate("root", "rp").await.expect_err("there is no key to sign with");
    assert!(refused(&status, Says::No(Code::Unknown, verify_only)), "{status:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_stream_is_of_whoever_began_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let auth_token = format!("jwt,sign-method=ES256,priv-key={}", pki::jwt_keys(dir.path()).private.display());
    let server = Server::start(MemberConfig { auth_token, ..Rig::volatile(15).config() }).await;
    enable(&server).await;
    let eve = server.login("eve", "ep").await;
    server.login("root", "rp").await.disable().await.expect("root may");
    let mut watch = eve.watch().await;
    assert_eq!(watch.create("x", "").await, None, "nobody is asked");
    server.client().enable().await.expect("root still has its role");
    // Her token was shown when nobody looked, and is of the time before.
    let old = "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old";
    assert_eq!(watch.create("e1", "").await.as_deref(), Some(old));
    server.stop().await;
}

#[test]
fn options_that_cannot_be_used_stop_the_member() {
    let dir = tempfile::tempdir().expect("a directory");
    let (keys, others) = (pki::jwt_keys(dir.path()), pki::jwt_keys(&dir.path().join("others")));
    let (private, public) = (keys.private.display(), others.public.display());
    let check = |auth_token: &str, expect: &str| {
        let config = MemberConfig { auth_token: auth_token.to_owned(), ..Rig::volatile(11).config() };
        let Err(error) = Member::start(config) else { panic!("{auth_token} is taken") };
        assert_eq!(error.to_string(), expect, "{auth_token}");
    };
    check("opaque", "auth: invalid auth options");
    check("jwt,sign-method=none", "auth: invalid auth options");
    check("jwt,sign-method=ES256", "auth: missing key data");
    check("jwt,sign-method=HS256", "auth: missing key data");
    let pair = format!("jwt,sign-method=ES256,priv-key={private},pub-key={public}");
    check(&pair, "auth: public and private keys don't match");
}

#[tokio::test]
async fn a_client_certificate_tells_who_it_is() {
    let authority = pki::Authority::new();
    let mut server = Server::start(Rig::volatile(12).config()).await;
    let endpoint = server.serve_tls(authority.server(&["127.0.0.1"])).await;
    let store = |name: &str| {
        let tls = authority.client(name);
        Store::Remote(RemoteStore::connect(std::slice::from_ref(&endpoint), Some(Arc::new(tls))).expect("an endpoint"))
    };
    let put = |key: &str| PutRequest { key: key.to_owned().into(), ..PutRequest::default() };
    store("nobody").put(put("x")).await.expect("nobody is asked");
    enable(&server).await;
    let eve = store("eve");
    eve.put(put("e1")).await.expect("she may");
    eve.range(RangeRequest::key("e1")).await.expect("she may");
    let message = "etcdserver: permission denied".to_owned();
    let denied = StoreError::Remote { code: Code::PermissionDenied as i32, message: message.clone() };
    assert_eq!(eve.put(put("x")).await, Err(denied.clone()));
    assert_eq!(store("nobody").put(put("e1")).await, Err(denied), "there is no such user");
    store("root").put(put("x")).await.expect("it has the role");
    server.stop().await;
}

#[tokio::test]
async fn what_was_allowed_is_asked_again_where_it_is_applied() {
    let server = Server::start(Rig::volatile(13).config()).await;
    enable(&server).await;
    let root = server.login("root", "rp").await;
    let eve = server.login("eve", "ep").await;
    // Writes that are under way while the role is taken: each is done or refused as of its place in the log.
    let writes: Vec<_> = (0..50)
        .map(|_| {
            let eve = eve.clone();
            tokio::spawn(async move { eve.call("put e1").await })
        })
        .collect();
    root.user_revoke_role("eve", "r").await.expect("root may");
    let mut done = 0;
    for write in writes {
        match write.await.expect("no panic") {
            Ok(()) => done += 1,
            Err(status) => {
                let old = Says::No(Code::InvalidArgument, "etcdserver: revision of auth store is old");
                assert!(refused(&status, DENIED) || refused(&status, old), "{status:?}");
            }
        }
    }
    assert_eq!(root.versions("e1").await, done, "what was answered is what was done");
    assert!(refused(&eve.call("put e1").await.expect_err("the role is gone"), DENIED));
    server.stop().await;
}

#[tokio::test]
async fn lists_are_in_order_and_headers_full() {
    let server = Server::start(Rig::volatile(14).config()).await;
    enable(&server).await;
    let root = server.login("root", "rp").await;
    for name in ["zoe", "bob"] {
        root.user_add(name, "p").await.expect("a new name");
        root.role_add(name).await.expect("a new name");
        root.user_grant_role("eve", name).await.expect("both are there");
    }
    assert_eq!(root.users().await, ["bob", "eve", "root", "zoe"]);
    assert_eq!(root.roles_of("eve").await, ["bob", "r", "zoe"]);
    let answer: pb::AuthRoleListResponse = root.roles().await;
    assert_eq!(answer.roles, ["bob", "r", "zoe"]);
    let header = answer.header.expect("etcd fills it");
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);
    assert_eq!(header.revision, 2, "one key was written");
    root.role_add("root").await.expect("a new name");
    let all = root.permissions("root").await;
    assert_eq!((all[0].perm_type, &all[0].key[..], &all[0].range_end[..]), (2, &b""[..], &b"\0"[..]));
    server.stop().await;
}
