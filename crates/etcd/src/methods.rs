//! The table of gRPC methods on the client port: one row each. Metrics count by it, and the JSON gateway serves by it.

/// Which side of a call streams, in the words of `grpc_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Unary,
    ServerStream,
    BidiStream,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::BidiStream => "bidi_stream",
        }
    }
}

/// A gRPC method.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) service: &'static str,
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Where the JSON gateway has it, below `/v3/`.
    pub(crate) paths: &'static [&'static str],
}

const fn row(service: &'static str, name: &'static str, kind: Kind, paths: &'static [&'static str]) -> Method {
    Method { service, name, kind, paths }
}

const KV: &str = "etcdserverpb.KV";
const LEASE: &str = "etcdserverpb.Lease";
const CLUSTER: &str = "etcdserverpb.Cluster";
const MAINTENANCE: &str = "etcdserverpb.Maintenance";
const AUTH: &str = "etcdserverpb.Auth";
const LOCK: &str = "v3lockpb.Lock";
const ELECTION: &str = "v3electionpb.Election";
const HEALTH: &str = "grpc.health.v1.Health";

/// Every method that is counted and served.
#[rustfmt::skip]
pub(crate) static METHODS: &[Method] = &[
    row(KV, "Range", Kind::Unary, &["kv/range"]),
    row(KV, "Put", Kind::Unary, &["kv/put"]),
    row(KV, "DeleteRange", Kind::Unary, &["kv/deleterange"]),
    row(KV, "Txn", Kind::Unary, &["kv/txn"]),
    row(KV, "Compact", Kind::Unary, &["kv/compaction"]),
    row("etcdserverpb.Watch", "Watch", Kind::BidiStream, &["watch"]),
    row(LEASE, "LeaseGrant", Kind::Unary, &["lease/grant"]),
    row(LEASE, "LeaseRevoke", Kind::Unary, &["lease/revoke", "kv/lease/revoke"]),
    row(LEASE, "LeaseKeepAlive", Kind::BidiStream, &["lease/keepalive"]),
    row(LEASE, "LeaseTimeToLive", Kind::Unary, &["lease/timetolive", "kv/lease/timetolive"]),
    row(LEASE, "LeaseLeases", Kind::Unary, &["lease/leases", "kv/lease/leases"]),
    row(CLUSTER, "MemberAdd", Kind::Unary, &["cluster/member/add"]),
    row(CLUSTER, "MemberRemove", Kind::Unary, &["cluster/member/remove"]),
    row(CLUSTER, "MemberUpdate", Kind::Unary, &["cluster/member/update"]),
    row(CLUSTER, "MemberList", Kind::Unary, &["cluster/member/list"]),
    row(CLUSTER, "MemberPromote", Kind::Unary, &["cluster/member/promote"]),
    row(MAINTENANCE, "Alarm", Kind::Unary, &["maintenance/alarm"]),
    row(MAINTENANCE, "Status", Kind::Unary, &["maintenance/status"]),
    row(MAINTENANCE, "Defragment", Kind::Unary, &["maintenance/defragment"]),
    row(MAINTENANCE, "Hash", Kind::Unary, &["maintenance/hash"]),
    row(MAINTENANCE, "HashKV", Kind::Unary, &["maintenance/hashkv"]),
    row(MAINTENANCE, "Snapshot", Kind::ServerStream, &["maintenance/snapshot"]),
    row(MAINTENANCE, "MoveLeader", Kind::Unary, &["maintenance/transfer-leadership"]),
    row(MAINTENANCE, "Downgrade", Kind::Unary, &["maintenance/downgrade"]),
    row(AUTH, "AuthEnable", Kind::Unary, &["auth/enable"]),
    row(AUTH, "AuthDisable", Kind::Unary, &["auth/disable"]),
    row(AUTH, "AuthStatus", Kind::Unary, &["auth/status"]),
    row(AUTH, "Authenticate", Kind::Unary, &["auth/authenticate"]),
    row(AUTH, "UserAdd", Kind::Unary, &["auth/user/add"]),
    row(AUTH, "UserGet", Kind::Unary, &["auth/user/get"]),
    row(AUTH, "UserList", Kind::Unary, &["auth/user/list"]),
    row(AUTH, "UserDelete", Kind::Unary, &["auth/user/delete"]),
    row(AUTH, "UserChangePassword", Kind::Unary, &["auth/user/changepw"]),
    row(AUTH, "UserGrantRole", Kind::Unary, &["auth/user/grant"]),
    row(AUTH, "UserRevokeRole", Kind::Unary, &["auth/user/revoke"]),
    row(AUTH, "RoleAdd", Kind::Unary, &["auth/role/add"]),
    row(AUTH, "RoleGet", Kind::Unary, &["auth/role/get"]),
    row(AUTH, "RoleList", Kind::Unary, &["auth/role/list"]),
    row(AUTH, "RoleDelete", Kind::Unary, &["auth/role/delete"]),
    row(AUTH, "RoleGrantPermission", Kind::Unary, &["auth/role/grant"]),
    row(AUTH, "RoleRevokePermission", Kind::Unary, &["auth/role/revoke"]),
    row(LOCK, "Lock", Kind::Unary, &["lock/lock"]),
    row(LOCK, "Unlock", Kind::Unary, &["lock/unlock"]),
    row(ELECTION, "Campaign", Kind::Unary, &["election/campaign"]),
    row(ELECTION, "Proclaim", Kind::Unary, &["election/proclaim"]),
    row(ELECTION, "Leader", Kind::Unary, &["election/leader"]),
    row(ELECTION, "Observe", Kind::ServerStream, &["election/observe"]),
    row(ELECTION, "Resign", Kind::Unary, &["election/resign"]),
    row(HEALTH, "Check", Kind::Unary, &[]),
    row(HEALTH, "Watch", Kind::ServerStream, &[]),
    row("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo", Kind::BidiStream, &[]),
    row("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", Kind::BidiStream, &[]),
];

/// What gRPC says of a path that no row has; the words are those of gRPC for Go.
pub(crate) fn unknown(path: &str) -> tonic::Status {
    let (service, method) = path.strip_prefix('/').and_then(|path| path.rsplit_once('/')).unwrap_or_default();
    tonic::Status::unimplemented(if service.is_empty() {
        format!("malformed method name: {path:?}")
    } else if METHODS.iter().any(|row| row.service == service) {
        format!("unknown method {method} for service {service}")
    } else {
        format!("unknown service {service}")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_method_of_the_protocol_files_has_its_row() {
        let pool = prost_reflect::DescriptorPool::decode(crate::proto::DESCRIPTORS).expect("good descriptors");
        let ours = |row: &&Method| !row.service.starts_with("grpc.");
        let rows: BTreeSet<_> = METHODS
            .iter()
            .filter(ours)
            .map(|row| (row.service.to_owned(), row.name.to_owned(), row.kind.name()))
            .collect();
        let mut described = BTreeSet::new();
        for service in pool.services() {
            for method in service.methods() {
                let kind = match (method.is_client_streaming(), method.is_server_streaming()) {
                    (false, false) => Kind::Unary,
                    (false, true) => Kind::ServerStream,
                    (true, _) => Kind::BidiStream,
                };
                described.insert((service.full_name().to_owned(), method.name().to_owned(), kind.name()));
            }
        }
        assert_eq!(rows, described);
        assert!(METHODS.iter().filter(ours).all(|row| !row.paths.is_empty()), "each has a path in the gateway");
    }

    #[test]
    fn what_is_not_there_is_told_as_grpc_for_go_tells_it() {
        let check = |path: &str, expect: &str| assert_eq!(unknown(path).message(), expect);
        check("/etcdserverpb.KV/Nope", "unknown method Nope for service etcdserverpb.KV");
        check("/some.Service/Range", "unknown service some.Service");
        check("/", "malformed method name: \"/\"");
    }
}
