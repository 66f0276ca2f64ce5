use super::super::samples::types;
use super::*;
use crate::json;

#[test]
fn a_pod_comes_out_as_go_prints_it() {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {}, "generation": 0},
        "spec": {"hostNetwork": false, "terminationGracePeriodSeconds": 0, "volumes": null, "securityContext": {},
            "containers": [{"name": "c", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}]}});
    assert_eq!(decode(&types(), "core/v1.Pod", &mut pod), Ok(Decoded::default()));
    assert_eq!(
        pod,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "creationTimestamp": null},
            "spec": {"terminationGracePeriodSeconds": 0, "securityContext": {},
                "containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}]},
            "status": {}})
    );
}

#[test]
fn unknown_fields_are_pruned_and_named() {
    let given = json!({"x": 1, "spec": {"containers": [{"name": "c", "foo": 1}], "nodeSelector": {"any": "y"}},
        "metadata": {"labels": {"z": "y"}, "color": "red"}});
    let names = ["unknown field \"metadata.color\"", "unknown field \"spec.containers[0].foo\"", "unknown field \"x\""];
    let mut pruned = given.clone();
    assert_eq!(prune(&types(), "core/v1.Pod", &mut pruned), names);
    let expect = json!({"spec": {"containers": [{"name": "c"}], "nodeSelector": {"any": "y"}}, "metadata": {"labels": {"z": "y"}}});
    assert_eq!(pruned, expect);
    assert_eq!(decode(&types(), "core/v1.Pod", &mut given.clone()).unwrap().strict, names);
}

#[test]
fn mismatches_read_as_go_prints_them() {
    let cases = [
        (
            json!({"spec": {"hostNetwork": "yes"}}),
            "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool",
        ),
        (
            json!({"spec": {"containers": [{"ports": [{"containerPort": 3_000_000_000_i64}]}]}}),
            "json: cannot unmarshal number 3000000000 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            json!({"metadata": {"labels": {"a": 1}}}),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (json!([]), "json: cannot unmarshal array into Go value of type v1.Pod"),
        (
            json!({"spec": {"containers": {}}}),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (json!({"spec": []}), "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec"),
        (
            json!({"metadata": {"creationTimestamp": "x"}}),
            "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\"",
        ),
        (
            json!({"spec": {"overhead": {"cpu": "1x"}}}),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ];
    for (value, text) in cases {
        assert_eq!(decode_errors(&types(), "core/v1.Pod", &value).as_deref(), Some(text));
    }
    let bad = json!({"data": {"a": "%%%"}});
    assert_eq!(decode_errors(&types(), "core/v1.Secret", &bad).as_deref(), Some("illegal base64 data at input byte 0"));
}

#[test]
fn odd_shapes_take_their_canonical_form() {
    let mut odd = json!({"port": "http", "timeout": "90s", "micro": "2020-01-01T00:00:00Z", "raw": {"a": [1]}, "ratio": 1,
        "any": [null], "verbs": ["get"], "extra": {"a": ["b"]}, "quantity": 1, "props": {"additionalProperties": false,
        "items": {"type": "string", "zzz": 1}}});
    let decoded = decode(&types(), "core/v1.Odd", &mut odd).unwrap();
    assert_eq!(decoded.strict, ["unknown field \"props.items.zzz\""]);
    assert_eq!(
        odd,
        json!({"port": "http", "timeout": "1m30s", "micro": "2020-01-01T00:00:00.000000Z", "raw": {"a": [1]}, "ratio": 1,
            "any": [null], "verbs": ["get"], "extra": {"a": ["b"]}, "quantity": "1", "big": 0,
            "props": {"additionalProperties": false, "items": {"type": "string"}}})
    );
}
