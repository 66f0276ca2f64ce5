use base::Timestamp;
use bytes::Bytes;
use proptest::prelude::*;

use super::granted::Access;
use super::*;
use crate::{
    Command, Compare, DeleteRangeRequest, Keyspace, MvccError, PutRequest, RangeRequest, RequestOp, Response,
    TxnRequest,
};

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn permission(kind: PermissionKind, key: &str, range_end: &str) -> Permission {
    Permission { kind, key: bytes(key), range_end: bytes(range_end) }
}

/// A command in the words of etcdctl: `user add NAME`, `user grant NAME ROLE`, `role grant ROLE KIND KEY END`…
fn command(line: &str) -> AuthCommand {
    let words: Vec<&str> = line.split(' ').collect();
    let own = str::to_owned;
    match words[..] {
        ["enable"] => AuthCommand::Enable,
        ["disable"] => AuthCommand::Disable,
        ["authenticate", name] => AuthCommand::Authenticate { name: own(name), token: "letters".to_owned() },
        ["user", "add", name] => AuthCommand::UserAdd { name: own(name), password: bytes("#"), no_password: false },
        ["user", "add", name, "--no-password"] => {
            AuthCommand::UserAdd { name: own(name), password: bytes("#"), no_password: true }
        }
        ["user", "delete", name] => AuthCommand::UserDelete { name: own(name) },
        ["user", "passwd", name] => AuthCommand::UserChangePassword { name: own(name), password: bytes("##") },
        ["user", "grant", user, role] => AuthCommand::UserGrantRole { user: own(user), role: own(role) },
        ["user", "revoke", user, role] => AuthCommand::UserRevokeRole { user: own(user), role: own(role) },
        ["role", "add", name] => AuthCommand::RoleAdd { name: own(name) },
        ["role", "delete", name] => AuthCommand::RoleDelete { name: own(name) },
        ["role", "grant", role] => AuthCommand::RoleGrantPermission { role: own(role), permission: None },
        ["role", "grant", role, kind, key, end] => {
            let kind = match kind {
                "read" => PermissionKind::Read,
                "write" => PermissionKind::Write,
                "readwrite" => PermissionKind::ReadWrite,
                _ => PermissionKind::Other(7),
            };
            let end = if end == "0" { "\0" } else { end };
            AuthCommand::RoleGrantPermission { role: own(role), permission: Some(permission(kind, key, end)) }
        }
        ["role", "revoke", role, key, end] => {
            AuthCommand::RoleRevokePermission { role: own(role), key: bytes(key), range_end: bytes(end) }
        }
        _ => panic!("{line}"),
    }
}

fn auth(lines: &[&str]) -> Auth {
    let mut auth = Auth::default();
    for line in lines {
        auth.apply(&command(line)).unwrap_or_else(|error| panic!("{line}: {error:?}"));
    }
    auth
}

const ENABLED: [&str; 3] = ["user add root", "user grant root root", "enable"];

#[test]
fn commands_are_checked_and_counted_as_etcd_does() {
    use AuthError as E;
    // Each line with what it answers: the revision after it, or the refusal.
    let script: &[(&str, Result<u64, AuthError>)] = &[
        ("enable", Err(E::RootUserNotExist)),
        ("authenticate root", Err(E::NotEnabled)),
        ("disable", Ok(1)),
        ("user add ", Err(E::UserEmpty)),
        ("user add root", Ok(2)),
        ("user add root", Err(E::UserAlreadyExist)),
        ("enable", Err(E::RootRoleNotExist)),
        ("user grant root reader", Err(E::RoleNotFound)),
        ("user grant nobody reader", Err(E::UserNotFound)),
        // The role root need not exist.
        ("user grant root root", Ok(3)),
        ("user grant root root", Ok(3)),
        ("enable", Ok(3)),
        ("enable", Ok(3)),
        ("authenticate root", Ok(3)),
        ("authenticate nobody", Err(E::AuthFailed)),
        ("user add cn --no-password", Ok(4)),
        ("authenticate cn", Err(E::AuthFailed)),
        ("user delete root", Err(E::InvalidManagement)),
        ("user revoke root root", Err(E::InvalidManagement)),
        ("role delete root", Err(E::InvalidManagement)),
        ("role add ", Err(E::RoleEmpty)),
        ("role add reader", Ok(5)),
        ("role add reader", Err(E::RoleAlreadyExist)),
        ("role grant reader", Err(E::PermissionNotGiven)),
        ("role grant reader read  ", Err(E::InvalidManagement)),
        ("role grant reader read b a", Err(E::InvalidManagement)),
        ("role grant reader read b b", Err(E::InvalidManagement)),
        ("role grant nobody read a b", Err(E::RoleNotFound)),
        ("role grant reader read a b", Ok(6)),
        ("role grant reader write a b", Ok(7)),
        ("role revoke reader a c", Err(E::PermissionNotGranted)),
        ("role revoke nobody a b", Err(E::RoleNotFound)),
        ("user grant cn reader", Ok(8)),
        ("user revoke cn root", Err(E::RoleNotGranted)),
        ("user revoke nobody root", Err(E::UserNotFound)),
        ("role delete reader", Ok(9)),
        ("role delete reader", Err(E::RoleNotFound)),
        ("user revoke cn reader", Err(E::RoleNotGranted)),
        ("user passwd nobody", Err(E::UserNotFound)),
        ("user passwd root", Ok(10)),
        ("user delete cn", Ok(11)),
        ("user delete cn", Err(E::UserNotFound)),
        ("disable", Ok(12)),
        ("user revoke root root", Ok(13)),
        ("user delete root", Ok(14)),
    ];
    let mut auth = Auth::default();
    for (line, expect) in script {
        let before = auth.clone();
        let done = auth.apply(&command(line));
        if done.is_err() {
            assert_eq!(auth, before, "{line}: a refused command changes nothing");
        }
        assert_eq!(done.map(|_| auth.revision()), *expect, "{line}");
    }
}

#[test]
fn tokens_end_with_the_password_they_were_given_for() {
    let check = |line: &str, expect: Option<TokenChange>| {
        let mut auth = auth(&ENABLED);
        auth.apply(&command("user add eve")).expect("a new name");
        assert_eq!(auth.apply(&command(line)).expect(line).tokens, expect, "{line}");
    };
    let eve = || "eve".to_owned();
    check("authenticate eve", Some(TokenChange::Issue { user: eve(), token: "letters".to_owned() }));
    check("user passwd eve", Some(TokenChange::DropUser(eve())));
    check("user delete eve", Some(TokenChange::DropUser(eve())));
    check("user grant eve root", None);
    check("disable", Some(TokenChange::DropAll));
}

#[test]
fn permissions_are_listed_by_key_and_in_the_order_they_were_given() {
    let mut auth = auth(&[
        "role add r",
        "role grant r read b c",
        "role grant r write a ",
        "role grant r read b d",
        "role grant r write b c",
        // Only the first permission on a key is found again: etcd lists this one twice.
        "role grant r write b d",
    ]);
    let list = |auth: &Auth| -> Vec<(PermissionKind, String)> {
        let own = &auth.role("r").expect("was made").permissions;
        let text =
            |p: &Permission| String::from_utf8_lossy(&[&p.key[..], b"-", &p.range_end[..]].concat()).into_owned();
        own.iter().map(|permission| (permission.kind, text(permission))).collect()
    };
    use PermissionKind::{Read, Write};
    let pair = |kind, text: &str| (kind, text.to_owned());
    assert_eq!(list(&auth), [pair(Write, "a-"), pair(Write, "b-c"), pair(Read, "b-d"), pair(Write, "b-d")]);
    auth.apply(&command("role revoke r b d")).expect("it has them");
    assert_eq!(list(&auth), [pair(Write, "a-"), pair(Write, "b-c")], "both are gone");
}

#[test]
fn ranges_are_covered_by_permissions_that_adjoin() {
    let auth = auth(&[
        "user add u",
        "role add r",
        "role add s",
        "user grant u r",
        "user grant u s",
        "role grant r read a c",
        "role grant s readwrite c e",
        "role grant r read x 0",
        "role grant r read m ",
        "role grant s nothing p ",
    ]);
    let granted = &auth.granted["u"];
    let check = |key: &str, end: &str, access: Access, expect: bool| {
        assert_eq!(granted.covers(key.as_bytes(), end.as_bytes(), access), expect, "{key:?} {end:?} {access:?}");
    };
    use Access::{Read, Write};
    check("a", "", Read, true);
    check("a", "e", Read, true);
    check("a", "f", Read, false);
    check("b", "d", Write, false);
    check("c", "d", Write, true);
    check("e", "", Read, false);
    check("m", "", Read, true);
    check("m", "m\0", Read, true);
    check("m", "n", Read, false);
    check("m\0", "", Read, false);
    check("p", "", Read, false);
    check("y", "\0", Read, true);
    check("y", "z", Read, true);
    check("a", "\0", Read, false);
    check("\0", "\0", Read, false);
}

fn user(name: &str, revision: u64) -> Caller {
    Caller::User { name: name.into(), revision }
}

/// A keyspace with `eve`, who may read and write `e`… and only read `r`…; `root`; lease 7 on `e1`, lease 8 on `x`.
fn keyspace() -> Keyspace {
    let mut keyspace = Keyspace::new();
    let script = ["user add root", "user grant root root", "user add eve", "role add r", "user grant eve r"];
    let script = script.into_iter().chain(["role grant r readwrite e f", "role grant r read r s"]);
    let mut apply = |command: Command| {
        let applied = keyspace.apply(&command, Timestamp::EPOCH);
        assert!(applied.answer.is_ok(), "{command:?}");
    };
    for line in script {
        apply(Command::Auth(command(line)));
    }
    for (id, key) in [(7, "e1"), (8, "x")] {
        apply(Command::LeaseGrant { id, ttl: 10 });
        apply(Command::Put(PutRequest { key: bytes(key), lease: id, ..PutRequest::default() }));
    }
    apply(Command::Auth(AuthCommand::Enable));
    keyspace
}

#[test]
fn commands_are_allowed_by_the_users_and_roles_of_their_place_in_the_log() {
    use AuthError as E;
    let keyspace = keyspace();
    let now = keyspace.state().auth().revision();
    let put = |key: &str| PutRequest { key: bytes(key), ..PutRequest::default() };
    let delete = |key: &str, end: &str, prev_kv| DeleteRangeRequest { key: bytes(key), range_end: bytes(end), prev_kv };
    let txn = |compare: &str, success: RequestOp, failure: RequestOp| {
        let compare = vec![Compare::mod_revision(bytes(compare), 0)];
        Command::Txn(TxnRequest { compare, success: vec![success], failure: vec![failure] })
    };
    let read = |key: &str| RequestOp::Range(RangeRequest::key(bytes(key)));
    let write = |key: &str| RequestOp::Put(put(key));
    let nested = |op: RequestOp| RequestOp::Txn(TxnRequest { success: vec![op], ..TxnRequest::default() });
    let check = |caller: &Caller, command: Command, expect: Result<(), AuthError>| {
        let answer = keyspace.clone().apply_for(caller, &command, Timestamp::EPOCH).answer;
        assert_eq!(answer.map(drop), expect.map_err(MvccError::Auth), "{caller:?} {command:?}");
    };
    let eve = user("eve", now);
    check(&eve, Command::Put(put("e")), Ok(()));
    check(&eve, Command::Put(put("r")), Err(E::PermissionDenied));
    check(&eve, Command::Put(PutRequest { lease: 7, ..put("e2") }), Ok(()));
    check(&eve, Command::Put(PutRequest { lease: 8, ..put("e2") }), Err(E::PermissionDenied));
    check(&eve, Command::DeleteRange(delete("e", "f", true)), Ok(()));
    check(&eve, Command::DeleteRange(delete("e", "g", false)), Err(E::PermissionDenied));
    check(&eve, txn("r", write("e"), read("r")), Ok(()));
    check(&eve, txn("x", write("e"), read("r")), Err(E::PermissionDenied));
    check(&eve, txn("r", read("r"), write("r")), Err(E::PermissionDenied));
    check(&eve, txn("r", read("r"), nested(write("x"))), Err(E::PermissionDenied));
    check(&eve, Command::LeaseRevoke { id: 7 }, Ok(()));
    check(&eve, Command::LeaseRevoke { id: 8 }, Err(E::PermissionDenied));
    check(&eve, Command::Auth(command("role add t")), Err(E::PermissionDenied));
    check(&eve, Command::Auth(command("authenticate eve")), Ok(()));
    check(&user("eve", now - 1), Command::Put(put("e")), Err(E::OldRevision));
    check(&user("eve", 0), Command::Put(put("e")), Err(E::UserEmpty));
    check(&user("nobody", now), Command::Put(put("e")), Err(E::PermissionDenied));
    check(&user("nobody", now), Command::Auth(command("disable")), Err(E::UserNotFound));
    check(&user("", now), Command::Auth(command("disable")), Err(E::UserEmpty));
    check(&Caller::Anonymous, Command::Put(put("e")), Err(E::UserEmpty));
    check(&Caller::Anonymous, Command::Auth(command("disable")), Err(E::UserEmpty));
    check(&Caller::Anonymous, Command::LeaseRevoke { id: 8 }, Err(E::UserEmpty));
    check(&Caller::Anonymous, Command::LeaseGrant { id: 9, ttl: 1 }, Ok(()));
    check(&Caller::Anonymous, Command::Auth(command("authenticate root")), Ok(()));
    check(&Caller::Member, Command::LeaseRevoke { id: 8 }, Ok(()));
    check(&user("root", now), txn("x", write("x"), read("x")), Ok(()));
    // Managing asks for the role alone, not for the revision.
    check(&user("root", 1), Command::LeaseRevoke { id: 8 }, Ok(()));
    check(&user("root", 1), Command::Auth(command("disable")), Ok(()));
    check(&user("root", 1), Command::Put(put("x")), Err(E::OldRevision));
}

#[test]
fn users_see_themselves_and_their_roles() {
    let keyspace = keyspace();
    let auth = keyspace.state().auth();
    let eve = user("eve", auth.revision());
    assert_eq!(auth.permit_user_get(&eve, "eve"), Ok(()));
    assert_eq!(auth.permit_user_get(&eve, "root"), Err(AuthError::PermissionDenied));
    assert_eq!(auth.permit_user_get(&Caller::Anonymous, "eve"), Err(AuthError::UserEmpty));
    assert_eq!(auth.permit_user_get(&Caller::Anonymous, ""), Ok(()));
    assert_eq!(auth.permit_role_get(&eve, "r"), Ok(()));
    assert_eq!(auth.permit_role_get(&eve, "root"), Err(AuthError::PermissionDenied));
    assert_eq!(auth.permit_role_get(&Caller::Anonymous, "r"), Err(AuthError::UserEmpty));
    assert_eq!(auth.permit_named(&Caller::Anonymous), Err(AuthError::UserEmpty));
    assert_eq!(auth.permit_named(&user("nobody", 1)), Ok(()));
    assert_eq!(auth.permit_user_get(&user("root", 1), "eve"), Ok(()));
}

#[test]
fn a_revision_of_users_and_roles_is_none_of_the_keys() {
    let mut keyspace = Keyspace::new();
    let applied = keyspace.apply(&Command::Auth(command("user add root")), Timestamp::EPOCH);
    assert_eq!(applied.answer, Ok(Response::Done { revision: 1 }));
    assert!(applied.changes.is_none());
    assert_eq!((keyspace.state().revision(), keyspace.state().auth().revision()), (1, 2));
}

fn any_command() -> impl Strategy<Value = AuthCommand> {
    let name = || prop_oneof![Just("root"), Just("a"), Just("b"), Just("")];
    let key = || "[a-d]{1,2}";
    let end = || prop_oneof![Just(String::new()), Just("\0".to_owned()), "[a-d]{1,2}"];
    let kind = prop_oneof![Just(PermissionKind::Read), Just(PermissionKind::Write), Just(PermissionKind::ReadWrite)];
    let of = |line: &'static str| move |name: &str| command(&format!("{line} {name}"));
    prop_oneof![
        1 => Just(AuthCommand::Enable),
        1 => Just(AuthCommand::Disable),
        3 => name().prop_map(of("user add")),
        1 => name().prop_map(of("user delete")),
        1 => name().prop_map(of("user passwd")),
        3 => name().prop_map(of("role add")),
        1 => name().prop_map(of("role delete")),
        4 => (name(), name()).prop_map(|(user, role)| command(&format!("user grant {user} {role}"))),
        1 => (name(), name()).prop_map(|(user, role)| command(&format!("user revoke {user} {role}"))),
        6 => (name(), kind, key(), end()).prop_map(|(role, kind, key, end)| {
            let permission = Some(permission(kind, &key, &end));
            AuthCommand::RoleGrantPermission { role: role.to_owned(), permission }
        }),
        1 => (name(), key(), end()).prop_map(|(role, key, end)| AuthCommand::RoleRevokePermission {
            role: role.to_owned(), key: bytes(&key), range_end: bytes(&end),
        }),
    ]
}

proptest! {
    #[test]
    fn what_was_stored_is_what_is_there(commands in proptest::collection::vec(any_command(), 1..40)) {
        let mut auth = Auth::default();
        let mut records = Vec::new();
        for command in &commands {
            records.extend(auth.apply(command).map(|outcome| outcome.records).unwrap_or_default());
            prop_assert_eq!(&Auth::restore(records.clone()), &auth);
        }
        prop_assert_eq!(Auth::restore(auth.records()), auth);
    }

    #[test]
    fn a_range_is_covered_when_each_of_its_keys_is(
        permissions in proptest::collection::vec(("[a-e]", prop_oneof![Just(""), Just("\0"), Just("b"), Just("d")]), 0..5),
        key in "[a-e]",
        end in prop_oneof![Just(String::new()), "[a-e]", Just("\0".to_owned())],
    ) {
        let permissions: Vec<Permission> = permissions
            .iter()
            .filter(|(key, end)| end.is_empty() || *end == "\0" || key.as_str() < *end)
            .map(|(key, end)| permission(PermissionKind::Read, key, end))
            .collect();
        let role = Arc::new(Role { name: "r".to_owned(), permissions: permissions.clone() });
        let granted = Granted::new([&role].into_iter());
        // Keys that tell all ranges over these letters apart: each letter, just after it, and far beyond.
        let letters = ["a", "b", "c", "d", "e"];
        let probes = letters.iter().flat_map(|l| [(*l).to_owned(), format!("{l}\0"), format!("{l}z")]);
        let wanted = |probe: &str| crate::in_range(probe.as_bytes(), key.as_bytes(), end.as_bytes());
        let allowed = |probe: &str| {
            permissions.iter().any(|own| crate::in_range(probe.as_bytes(), &own.key, &own.range_end))
        };
        let probes: Vec<String> = probes.chain(["zz".to_owned()]).filter(|probe| wanted(probe)).collect();
        if probes.is_empty() {
            return Ok(());
        }
        let expect = probes.iter().all(|probe| allowed(probe));
        prop_assert_eq!(granted.covers(key.as_bytes(), end.as_bytes(), Access::Read), expect);
    }
}
