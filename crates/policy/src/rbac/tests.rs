use machinery::json;

use super::*;
use crate::user::MASTERS;

fn rbac() -> Rbac {
    let mut rbac = Rbac::new();
    let role = |rbac: &mut Rbac, ns: &str, name: &str, rules: Value| {
        let object = [("rules", rules)].into_iter().collect::<Value>();
        rbac.apply(RbacKind::Role, &ObjectKey::new(ns, name), Some(&object));
    };
    role(&mut rbac, "", "y", json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "get"]}]));
    role(&mut rbac, "a", "local", json!([{"apiGroups": ["apps"], "resources": ["*"], "verbs": ["*"]}]));
    let bind = |rbac: &mut Rbac, ns: &str, name: &str, kind: &str, role: &str, subject: serde_json::Value| {
        let object = json!({"roleRef": {"kind": kind, "name": role}, "subjects": [subject]});
        rbac.apply(RbacKind::RoleBinding, &ObjectKey::new(ns, name), Some(&object));
    };
    bind(&mut rbac, "", "x", "ClusterRole", "y", serde_json::json!({"kind": "Group", "name": "z"}));
    bind(&mut rbac, "a", "rb", "Role", "local", serde_json::json!({"kind": "ServiceAccount", "name": "sa"}));
    bind(&mut rbac, "a", "lost", "ClusterRole", "gone", serde_json::json!({"kind": "User", "name": "u"}));
    rbac
}

#[test]
fn reasons_name_binding_role_and_subject() {
    let rbac = rbac();
    let user = UserInfo::new("u", &["z"]);
    let sa = UserInfo::service_account("a", "sa", "");
    let cases = [
        (
            Attributes::resource(&user, "list", "", "pods"),
            true,
            r#"RBAC: allowed by ClusterRoleBinding "x" of ClusterRole "y" to Group "z""#,
        ),
        (
            Attributes::resource(&sa, "create", "apps", "deployments").in_namespace("a"),
            true,
            r#"RBAC: allowed by RoleBinding "rb/a" of Role "local" to ServiceAccount "sa/a""#,
        ),
        (Attributes::resource(&sa, "create", "apps", "deployments").in_namespace("b"), false, ""),
        (
            Attributes::resource(&user, "delete", "", "pods").in_namespace("a"),
            false,
            r#"RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found"#,
        ),
    ];
    for (attributes, allowed, reason) in cases {
        assert_eq!(rbac.authorize(&attributes), Decision { allowed, reason: reason.to_owned() });
    }
}

#[test]
fn of_bindings_to_one_role_each_gives_it_and_the_first_by_name_is_the_reason() {
    let mut rbac = rbac();
    let subjects =
        json!([{"kind": "Group", "name": "z"}, {"kind": "User", "name": "u"}, {"kind": "User", "name": "u"}]);
    let mut binding = json!({"roleRef": {"kind": "ClusterRole", "name": "y"}});
    binding.set("subjects", subjects);
    for name in ["w", "v", "w"] {
        rbac.apply(RbacKind::ClusterRoleBinding, &ObjectKey::new("", name), Some(&binding));
    }
    let (user, member) = (UserInfo::new("u", &[]), UserInfo::new("other", &["z"]));
    let reason = |rbac: &Rbac, user: &UserInfo| rbac.authorize(&Attributes::resource(user, "get", "", "pods")).reason;
    let named = |name: &str, subject: &str| {
        format!("RBAC: allowed by ClusterRoleBinding {name:?} of ClusterRole \"y\" to {subject}")
    };
    for (name, next) in [("v", "w"), ("w", "x")] {
        assert_eq!(reason(&rbac, &member), named(name, "Group \"z\""));
        assert_eq!(reason(&rbac, &user), named(name, "User \"u\""));
        rbac.apply(RbacKind::ClusterRoleBinding, &ObjectKey::new("", name), None);
        assert_eq!(reason(&rbac, &member), named(next, "Group \"z\""));
    }
    assert_eq!(reason(&rbac, &user), "");
    assert_eq!(rbac.rules_for(&member, "").0.len(), 1);
}

#[test]
fn a_binding_that_goes_takes_its_rights_along_and_snapshots_stay() {
    let mut rbac = rbac();
    let before = rbac.clone();
    rbac.apply(RbacKind::ClusterRoleBinding, &ObjectKey::new("", "x"), None);
    let user = UserInfo::new("u", &["z"]);
    let request = Attributes::resource(&user, "list", "", "pods");
    assert!(!rbac.authorize(&request).allowed);
    assert!(before.authorize(&request).allowed);
}

fn escalate(user: &UserInfo, kind: RbacKind, namespace: &str, object: &Value, verb: &str) -> Result<(), String> {
    let rbac = rbac();
    let request = EscalationRequest { kind, user, namespace, object, old: None };
    check_escalation(&rbac, &request, |a| if a.verb == verb { Decision::allow("") } else { Decision::deny("") })
        .map_err(|status| status.message)
}

#[test]
fn nobody_grants_more_than_they_hold() {
    let user = UserInfo::new("u", &["z"]);
    let held = json!({"metadata": {"name": "r"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    let more = json!({"metadata": {"name": "r"}, "rules": [
        {"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get", "delete"]},
        {"nonResourceURLs": ["/x"], "verbs": ["get"]}]});
    assert_eq!(escalate(&user, RbacKind::Role, "a", &held, ""), Ok(()));
    assert_eq!(
        escalate(&user, RbacKind::Role, "a", &more, "").unwrap_err().split("; resolution").next().unwrap(),
        "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"u\" (groups=[\"z\"]) is attempting to grant RBAC \
         permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}\n\
         {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\"]}\n\
         {NonResourceURLs:[\"/x\"], Verbs:[\"get\"]}"
    );
    assert_eq!(escalate(&user, RbacKind::Role, "a", &more, "escalate"), Ok(()));
    assert_eq!(escalate(&UserInfo::new("m", &[MASTERS]), RbacKind::ClusterRole, "", &more, ""), Ok(()));
}

#[test]
fn binding_needs_the_role_the_rights_or_the_verb_bind() {
    let nobody = UserInfo::new("n", &[]);
    let member = UserInfo::new("u2", &["z"]);
    let to = |role: &str| json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role}});
    assert_eq!(escalate(&member, RbacKind::ClusterRoleBinding, "", &to("y"), ""), Ok(()));
    assert!(
        escalate(&nobody, RbacKind::ClusterRoleBinding, "", &to("y"), "").unwrap_err().contains("not currently held")
    );
    assert_eq!(escalate(&nobody, RbacKind::ClusterRoleBinding, "", &to("y"), "bind"), Ok(()));
}

#[test]
fn a_role_that_is_not_there_is_told_as_the_look_up_tells_it() {
    let nobody = UserInfo::new("n", &[]);
    let to = |kind: &str, role: &str| json!({"metadata": {"name": "b"}, "roleRef": {"kind": kind, "name": role}});
    let cases = [
        (RbacKind::RoleBinding, "a", "Role", "roles.rbac.authorization.k8s.io \"nope\" not found"),
        (RbacKind::RoleBinding, "a", "ClusterRole", "clusterroles.rbac.authorization.k8s.io \"nope\" not found"),
        (RbacKind::ClusterRoleBinding, "", "ClusterRole", "clusterroles.rbac.authorization.k8s.io \"nope\" not found"),
        (RbacKind::RoleBinding, "a", "Group", "unsupported role reference kind: \"Group\""),
    ];
    for (binding, namespace, kind, expect) in cases {
        assert_eq!(escalate(&nobody, binding, namespace, &to(kind, "nope"), "").unwrap_err(), expect);
    }
    let missing = MissingRole { kind: "Role".into(), name: "nope".into() }.status();
    assert_eq!((missing.code, missing.to_value()["details"].str_at(&["kind"])), (404, "roles"));
    // The user's own bindings may be broken as well: that is told in the same words.
    let user = UserInfo::new("u", &[]);
    let more = json!({"metadata": {"name": "r"}, "rules": [{"nonResourceURLs": ["/x"], "verbs": ["get"]}]});
    let text = escalate(&user, RbacKind::Role, "a", &more, "").unwrap_err();
    let expect = "; resolution errors: [clusterroles.rbac.authorization.k8s.io \"gone\" not found]";
    assert!(text.ends_with(expect), "{text}");
}

#[test]
fn the_rules_review_lists_each_binding_once() {
    let user = UserInfo::new("u2", &["z"]);
    let review = rbac().rules_review(&user, "a");
    assert_eq!(review["resourceRules"].items().len(), 1);
    assert_eq!(review["incomplete"].as_bool(), Some(false));
}
