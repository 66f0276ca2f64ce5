use super::*;
use crate::json;
use crate::schema::samples::types;

fn check(original: Value, patch: Value, expect: Value) {
    assert_eq!(strategic_merge(&original, &patch, &types(), "core/v1.PodSpec"), Ok(expect), "{patch}");
}

fn refused(original: Value, patch: Value, code: u16, text: &str) {
    let status = strategic_merge(&original, &patch, &types(), "core/v1.PodSpec").unwrap_err();
    assert_eq!((status.code, status.message.as_str()), (code, text));
}

#[test]
fn lists_with_a_merge_key_merge_element_by_element() {
    check(
        json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}], "restartPolicy": "Always"}),
        json!({"containers": [{"name": "c"}, {"name": "b", "image": "2"}], "restartPolicy": null}),
        json!({"containers": [{"name": "c"}, {"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}),
    );
    check(
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}),
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 81}, {"containerPort": 80, "name": "x"}]}]}),
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 81}, {"containerPort": 80, "name": "x"}]}]}),
    );
}

#[test]
fn elements_are_deleted_and_lists_replaced_by_directive() {
    check(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "x", "$patch": "delete"}]}),
        json!({"containers": [{"name": "b"}]}),
    );
    check(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
        json!({"containers": [{"name": "c"}]}),
    );
    check(
        json!({"nodeSelector": {"a": "b"}, "securityContext": {"runAsUser": 1}}),
        json!({"nodeSelector": {"$patch": "replace", "c": "d"}, "securityContext": {"$patch": "delete"}}),
        json!({"nodeSelector": {"c": "d"}, "securityContext": {}}),
    );
}

#[test]
fn plain_lists_merge_as_sets_only_where_the_type_says_so() {
    let container = |fields: Value| {
        let mut c = fields;
        c.set("name", "a");
        json!({"containers": [c]})
    };
    check(
        container(json!({"finalizers": ["a", "b"], "command": ["x"]})),
        container(json!({"finalizers": ["c", "b"], "command": ["y"]})),
        container(json!({"finalizers": ["c", "a", "b"], "command": ["y"]})),
    );
    check(
        container(json!({"finalizers": ["a", "b", "c"]})),
        container(json!({"$deleteFromPrimitiveList/finalizers": ["b", "z"]})),
        container(json!({"finalizers": ["a", "c"]})),
    );
}

#[test]
fn the_order_of_elements_follows_the_directive() {
    check(
        json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}),
        json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "a", "image": "2"}]}),
        json!({"containers": [{"name": "b"}, {"name": "c"}, {"name": "a", "image": "2"}]}),
    );
    check(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
        json!({"containers": [{"name": "b"}, {"name": "a"}]}),
    );
    refused(
        json!({"containers": [{"name": "a"}]}),
        json!({"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}),
        500,
        "The order in patch list:\n[map[name:a]]\n doesn't match $setElementOrder list:\n[map[name:b]]\n",
    );
}

#[test]
fn retained_keys_drop_all_others() {
    check(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
    );
    refused(
        json!({"volumes": [{"name": "v"}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["hostPath"]}]}),
        400,
        "invalid patch format of retainKeys",
    );
}

#[test]
fn new_branches_lose_nulls_and_directives() {
    check(
        json!({}),
        json!({"securityContext": {"runAsUser": null}, "nodeSelector": {"$patch": "delete"},
            "containers": [{"name": "a"}, {"name": "b", "$patch": "delete"}], "tolerations": [{"key": "k"}]}),
        json!({"securityContext": {}, "containers": [{"name": "a"}], "tolerations": [{"key": "k"}]}),
    );
}

#[test]
fn broken_patches_are_refused_as_upstream_does() {
    let original = json!({"containers": [{"name": "a"}], "securityContext": {"x": {}}});
    refused(
        original.clone(),
        json!({"containers": [{"image": "x"}]}),
        500,
        "map: map[image:x] does not contain declared merge key: name",
    );
    refused(original.clone(), json!({"$patch": "burn"}), 500, "unknown patch type: burn in map: map[$patch:burn]");
    refused(
        original.clone(),
        json!({"securityContext": {"x": {}}}),
        500,
        "unable to find api field in struct PodSecurityContext for the json field \"x\"",
    );
    refused(original, json!({"$setElementOrder": [1]}), 400, "invalid patch format of setElementOrder list");
    assert_eq!(
        strategic_merge(&json!({}), &json!([]), &types(), "core/v1.PodSpec").unwrap_err().message,
        "invalid JSON document"
    );
}
