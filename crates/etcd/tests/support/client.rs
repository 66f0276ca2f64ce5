//! A client with or without a token. Calls are named as etcdctl names them.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use super::pb;
use pb::auth_client::AuthClient;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;

#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
    token: Option<String>,
}

type Done = Result<(), Status>;

fn put(key: &str, lease: i64) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), lease, ..pb::PutRequest::default() }
}

fn range(key: &str, end: &str) -> pb::RangeRequest {
    let range_end = if end == "0" { "\0" } else { end };
    let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
    pb::RangeRequest { key, range_end, ..pb::RangeRequest::default() }
}

fn txn(request: pb::request_op::Request) -> pb::TxnRequest {
    pb::TxnRequest { success: vec![pb::RequestOp { request: Some(request) }], ..pb::TxnRequest::default() }
}

impl Client {
    pub(crate) fn connect(endpoint: &str) -> Self {
        let endpoint = Endpoint::from_shared(endpoint.to_owned()).expect("an address");
        Self { channel: endpoint.connect_lazy(), token: None }
    }

    pub(crate) fn with_token(self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self }
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    fn ask<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.parse().expect("visible letters"));
        }
        request
    }

    fn auth(&self) -> AuthClient<Channel> {
        AuthClient::new(self.channel.clone())
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
    }

    fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    /// `root`, and `eve` who may read and write `e`…; their passwords are `rp` and `ep`.
    pub(crate) async fn make_root_and_eve(&self) {
        for (name, password) in [("root", "rp"), ("eve", "ep")] {
            self.user_add(name, password).await.expect("a new name");
        }
        self.role_add("r").await.expect("a new name");
        self.grant("r", "e", "f").await.expect("a role");
        self.user_grant_role("eve", "r").await.expect("both are there");
        self.user_grant_role("root", "root").await.expect("it need not be there");
    }

    /// Makes a call by name.
    pub(crate) async fn call(&self, line: &str) -> Done {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["range" | "put" | "delete" | "txn" | "compact", ..] => self.call_kv(&words).await,
            ["lease", ..] => self.call_lease(&words).await,
            ["user" | "role" | "auth" | "authenticate", ..] => self.call_auth(&words).await,
            _ => self.call_others(line).await,
        }
    }

    async fn call_kv(&self, words: &[&str]) -> Done {
        use pb::request_op::Request as Op;
        let mut kv = self.kv();
        match *words {
            ["range", key] => kv.range(self.ask(range(key, ""))).await.map(drop),
            ["range", key, end] => kv.range(self.ask(range(key, end))).await.map(drop),
            ["put", key] => kv.put(self.ask(put(key, 0))).await.map(drop),
            ["put", key, "on", lease] => kv.put(self.ask(put(key, lease.parse().expect("a number")))).await.map(drop),
            ["delete", key] => {
                let key = key.to_owned().into();
                let request = pb::DeleteRangeRequest { key, ..pb::DeleteRangeRequest::default() };
                kv.delete_range(self.ask(request)).await.map(drop)
            }
            ["txn", "read", key] => kv.txn(self.ask(txn(Op::RequestRange(range(key, ""))))).await.map(drop),
            ["txn", "write", key] => kv.txn(self.ask(txn(Op::RequestPut(put(key, 0))))).await.map(drop),
            ["compact"] => {
                let last = kv.range(self.ask(range("k", ""))).await.ok();
                let revision = last.and_then(|last| last.into_inner().header).map_or(1, |header| header.revision);
                kv.compact(self.ask(pb::CompactionRequest { revision, physical: false })).await.map(drop)
            }
            _ => panic!("{words:?}"),
        }
    }

    async fn call_lease(&self, words: &[&str]) -> Done {
        let mut lease = self.lease();
        let id = |text: &str| text.parse().expect("a number");
        match *words {
            ["lease", "grant"] => {
                lease.lease_grant(self.ask(pb::LeaseGrantRequest { ttl: 100, id: 0 })).await.map(drop)
            }
            ["lease", "revoke", text] => {
                lease.lease_revoke(self.ask(pb::LeaseRevokeRequest { id: id(text) })).await.map(drop)
            }
            ["lease", kind @ ("ttl" | "keys"), text] => {
                let request = pb::LeaseTimeToLiveRequest { id: id(text), keys: kind == "keys" };
                lease.lease_time_to_live(self.ask(request)).await.map(drop)
            }
            ["lease", "keepalive", text] => {
                let one = tokio_stream::once(pb::LeaseKeepAliveRequest { id: id(text) });
                let mut answers = lease.lease_keep_alive(self.ask(one)).await?.into_inner();
                answers.message().await.map(drop)
            }
            ["lease", "list"] => lease.lease_leases(self.ask(pb::LeaseLeasesRequest {})).await.map(drop),
            _ => panic!("{words:?}"),
        }
    }

    async fn call_auth(&self, words: &[&str]) -> Done {
        let mut auth = self.auth();
        let own = str::to_owned;
        match *words {
            ["auth", "status"] => auth.auth_status(self.ask(pb::AuthStatusRequest {})).await.map(drop),
            ["user", "get", name] => {
                auth.user_get(self.ask(pb::AuthUserGetRequest { name: own(name) })).await.map(drop)
            }
            ["user", "list"] => auth.user_list(self.ask(pb::AuthUserListRequest {})).await.map(drop),
            ["user", "add", "long"] => self.user_add("long", &"p".repeat(73)).await,
            ["user", "delete", name] => self.user_delete(name).await,
            ["role", "get", role] => {
                auth.role_get(self.ask(pb::AuthRoleGetRequest { role: own(role) })).await.map(drop)
            }
            ["role", "list"] => auth.role_list(self.ask(pb::AuthRoleListRequest {})).await.map(drop),
            ["role", "add", name] => self.role_add(name).await,
            ["role", "grant", "nothing"] => {
                let request = pb::AuthRoleGrantPermissionRequest { name: own("r"), perm: None };
                auth.role_grant_permission(self.ask(request)).await.map(drop)
            }
            ["authenticate", name, ..] => self.authenticate(name, "wrong").await.map(drop),
            _ => panic!("{words:?}"),
        }
    }

    async fn call_others(&self, line: &str) -> Done {
        use pb::alarm_request::AlarmAction as Action;
        let mut cluster = ClusterClient::new(self.channel.clone());
        let mut maintenance = MaintenanceClient::new(self.channel.clone());
        let alarm = |action: Action| {
            let request = pb::AlarmRequest { action: action.into(), alarm: 1, ..pb::AlarmRequest::default() };
            self.ask(request)
        };
        match line {
            "member list" => cluster.member_list(self.ask(pb::MemberListRequest::default())).await.map(drop),
            "member remove 5" => cluster.member_remove(self.ask(pb::MemberRemoveRequest { id: 5 })).await.map(drop),
            "alarm list" => maintenance.alarm(alarm(Action::Get)).await.map(drop),
            "alarm disarm" => maintenance.alarm(alarm(Action::Deactivate)).await.map(drop),
            "status" => maintenance.status(self.ask(pb::StatusRequest {})).await.map(drop),
            "hash" => maintenance.hash(self.ask(pb::HashRequest {})).await.map(drop),
            "hashkv" => maintenance.hash_kv(self.ask(pb::HashKvRequest { revision: 0 })).await.map(drop),
            "defragment" => maintenance.defragment(self.ask(pb::DefragmentRequest {})).await.map(drop),
            _ => panic!("{line}"),
        }
    }

    pub(crate) async fn authenticate(&self, name: &str, password: &str) -> Result<String, Status> {
        let (name, password) = (name.to_owned(), password.to_owned());
        let answer = self.auth().authenticate(self.ask(pb::AuthenticateRequest { name, password })).await?;
        Ok(answer.into_inner().token)
    }

    pub(crate) async fn enable(&self) -> Done {
        self.auth().auth_enable(self.ask(pb::AuthEnableRequest {})).await.map(drop)
    }

    pub(crate) async fn disable(&self) -> Done {
        self.auth().auth_disable(self.ask(pb::AuthDisableRequest {})).await.map(drop)
    }

    pub(crate) async fn user_add(&self, name: &str, password: &str) -> Done {
        let (name, password) = (name.to_owned(), password.to_owned());
        let request = pb::AuthUserAddRequest { name, password, ..pb::AuthUserAddRequest::default() };
        self.auth().user_add(self.ask(request)).await.map(drop)
    }

    pub(crate) async fn user_add_without_password(&self, name: &str) -> Done {
        let options = Some(pb::UserAddOptions { no_password: true });
        let request = pb::AuthUserAddRequest { name: name.to_owned(), options, ..pb::AuthUserAddRequest::default() };
        self.auth().user_add(self.ask(request)).await.map(drop)
    }

    pub(crate) async fn change_password(&self, name: &str, password: &str) -> Done {
        let (name, password) = (name.to_owned(), password.to_owned());
        let request = pb::AuthUserChangePasswordRequest { name, password, hashed_password: String::new() };
        self.auth().user_change_password(self.ask(request)).await.map(drop)
    }

    pub(crate) async fn user_delete(&self, name: &str) -> Done {
        let request = pb::AuthUserDeleteRequest { name: name.to_owned() };
        self.auth().user_delete(self.ask(request)).await.map(drop)
    }

    pub(crate) async fn user_grant_role(&self, user: &str, role: &str) -> Done {
        let request = pb::AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() };
        self.auth().user_grant_role(self.ask(request)).await.map(drop)
    }

    pub(crate) async fn user_revoke_role(&self, user: &str, role: &str) -> Done {
        let request = pb::AuthUserRevokeRoleRequest { name: user.to_owned(), role: role.to_owned() };
        self.auth().user_revoke_role(self.ask(request)).await.map(drop)
    }

    pub(crate) async fn role_add(&self, name: &str) -> Done {
        self.auth().role_add(self.ask(pb::AuthRoleAddRequest { name: name.to_owned() })).await.map(drop)
    }

    /// Reading and writing of a range.
    pub(crate) async fn grant(&self, role: &str, key: &str, end: &str) -> Done {
        let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
        let perm = Some(pb::Permission { perm_type: 2, key, range_end });
        let request = pb::AuthRoleGrantPermissionRequest { name: role.to_owned(), perm };
        self.auth().role_grant_permission(self.ask(request)).await.map(drop)
    }

    pub(crate) async fn lease_grant(&self, id: i64) -> Done {
        self.lease().lease_grant(self.ask(pb::LeaseGrantRequest { ttl: 100, id })).await.map(drop)
    }

    pub(crate) async fn put_on(&self, key: &str, lease: i64) -> Done {
        self.kv().put(self.ask(put(key, lease))).await.map(drop)
    }

    pub(crate) async fn put_value(&self, key: &str, value: &str) -> Done {
        let request = pb::PutRequest { value: value.to_owned().into(), ..put(key, 0) };
        self.kv().put(self.ask(request)).await.map(drop)
    }

    async fn read(&self, key: &str) -> pb::RangeResponse {
        self.kv().range(self.ask(range(key, ""))).await.expect("allowed").into_inner()
    }

    pub(crate) async fn count(&self, key: &str) -> i64 {
        self.read(key).await.count
    }

    /// How often a key was written since it was made.
    pub(crate) async fn versions(&self, key: &str) -> i64 {
        self.read(key).await.kvs.first().map_or(0, |kv| kv.version)
    }

    pub(crate) async fn users(&self) -> Vec<String> {
        self.auth().user_list(self.ask(pb::AuthUserListRequest {})).await.expect("allowed").into_inner().users
    }

    pub(crate) async fn roles_of(&self, user: &str) -> Vec<String> {
        let request = pb::AuthUserGetRequest { name: user.to_owned() };
        self.auth().user_get(self.ask(request)).await.expect("allowed").into_inner().roles
    }

    pub(crate) async fn roles(&self) -> pb::AuthRoleListResponse {
        self.auth().role_list(self.ask(pb::AuthRoleListRequest {})).await.expect("allowed").into_inner()
    }

    pub(crate) async fn permissions(&self, role: &str) -> Vec<pb::Permission> {
        let request = pb::AuthRoleGetRequest { role: role.to_owned() };
        self.auth().role_get(self.ask(request)).await.expect("allowed").into_inner().perm
    }

    pub(crate) async fn auth_revision(&self) -> u64 {
        let answer = self.auth().auth_status(self.ask(pb::AuthStatusRequest {})).await.expect("allowed");
        answer.into_inner().auth_revision
    }

    pub(crate) async fn watch(&self) -> WatchStream {
        let (requests, stream) = mpsc::channel(4);
        let call = self.ask(ReceiverStream::new(stream));
        let answers = WatchClient::new(self.channel.clone()).watch(call).await.expect("a stream").into_inner();
        WatchStream { requests, answers }
    }
}

/// Watches on one stream.
pub(crate) struct WatchStream {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
}

impl WatchStream {
    /// Makes a watch; the reason when it is refused.
    pub(crate) async fn create(&mut self, key: &str, end: &str) -> Option<String> {
        let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
        let create = pb::WatchCreateRequest { key, range_end, ..pb::WatchCreateRequest::default() };
        let create = pb::watch_request::RequestUnion::CreateRequest(create);
        self.requests.send(pb::WatchRequest { request_union: Some(create) }).await.expect("the stream is open");
        let answer = self.answers.message().await.expect("no error").expect("the stream is open");
        assert!(answer.created && (!answer.canceled || answer.watch_id == -1), "{answer:?}");
        answer.canceled.then_some(answer.cancel_reason)
    }

    /// The key of the next event.
    pub(crate) async fn event(&mut self) -> String {
        let answer = self.answers.message().await.expect("no error").expect("the stream is open");
        let kv = answer.events.into_iter().next().and_then(|event| event.kv).expect("an event");
        String::from_utf8_lossy(&kv.key).into_owned()
    }
}
