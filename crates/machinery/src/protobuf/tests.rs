use proptest::prelude::*;

use super::*;
use crate::json;
use crate::schema::samples::types;

fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, bytes) in fields {
        out.put_bytes(*number, bytes);
    }
    out
}

#[test]
fn the_envelope_opens_and_closes_as_go_writes_it() {
    let bytes = wrap_unknown("v1", "Pod", &[1, 2]);
    assert_eq!(bytes, b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x02\x01\x02\x1a\x00\x22\x00");
    let unknown = unwrap_unknown(&bytes).unwrap();
    assert_eq!((unknown.api_version.as_str(), unknown.kind.as_str(), unknown.raw), ("v1", "Pod", &[1, 2][..]));
    assert_eq!(
        unwrap_unknown(b"{}").unwrap_err(),
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    );
}

#[test]
fn plain_zeros_are_dropped_and_zeros_behind_pointers_kept() {
    let mut spec = message(&[(3, b"")]);
    spec.put_uint(4, 0);
    spec.put_uint(11, 0);
    let pod = message(&[(1, &message(&[(1, b"a"), (3, b"")])), (2, &spec), (3, b"")]);
    assert_eq!(
        decode(&types(), "core/v1.Pod", &pod).unwrap(),
        json!({"metadata": {"name": "a", "creationTimestamp": null},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": null}, "status": {}})
    );
}

#[test]
fn zeros_of_plain_fields_are_written_as_go_does() {
    // metadata{name,namespace,generation,creationTimestamp} spec{…} status{phase}
    let bytes = encode(&types(), "core/v1.Pod", &json!({"metadata": {"name": "a"}})).unwrap();
    assert_eq!(
        bytes,
        [b"\x0a\x09\x0a\x01a\x1a\x00\x38\x00\x42\x00".as_slice(), b"\x12\x04\x1a\x00\x58\x00", b"\x1a\x02\x0a\x00"]
            .concat()
    );
}

#[test]
fn every_shape_survives_both_ways() {
    let cases = [
        (
            "core/v1.Pod",
            json!({"metadata": {"name": "a", "creationTimestamp": "2020-01-01T00:00:00Z", "labels": {"b": "c", "a": ""},
                "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}]},
                "spec": {"containers": [{"name": "c", "command": ["", "x"], "resources": {"limits": {"cpu": "500m"}},
                    "ports": [{"containerPort": -1}]}, {"name": "", "resources": {}}],
                    "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "hostPath": {"path": "/", "type": ""}}],
                    "securityContext": {"runAsNonRoot": false, "runAsUser": i64::MAX}}, "status": {}}),
        ),
        ("core/v1.Secret", json!({"metadata": {"creationTimestamp": null}, "data": {"a": "aGk=", "b": ""}})),
        (
            "core/v1.Odd",
            json!({"port": "http", "maybe": 0, "raw": {"a": [1, null]}, "timeout": "1m30s", "ratio": 0.5, "bytes": ["aGk="],
                "micro": "2020-01-01T00:00:00.000001Z", "any": [null], "verbs": ["get", ""], "extra": {"a": ["b"], "c": []},
                "quantity": "1Gi", "numbers": [0, -5], "big": -1, "props": {"type": "object",
                "additionalProperties": {"items": {"type": "string"}},
                "properties": {"a": {"additionalProperties": true, "items": [{"type": "x"}]}, "b": {"additionalProperties": false}}}}),
        ),
    ];
    let types = types();
    for (name, value) in cases {
        let bytes = encode(&types, name, &value).unwrap();
        assert_eq!(decode(&types, name, &bytes).unwrap(), value);
        let mut read = value.clone();
        crate::schema::decode(&types, name, &mut read).unwrap();
        assert_eq!(read, value, "the JSON reader agrees");
    }
}

#[test]
fn lists_are_joined_from_encoded_items() {
    let types = types();
    let items = json!([{"metadata": {"name": "a"}}, {"metadata": {"name": "b".repeat(200)}}]);
    let raw: Vec<Vec<u8>> = items.items().iter().map(|i| encode(&types, "core/v1.Pod", i).unwrap()).collect();
    let meta = json!({"resourceVersion": "5"});
    let joined = encode_list(&types, "v1", "PodList", &meta, raw.iter().map(Vec::as_slice)).unwrap();
    let whole = json!({"apiVersion": "v1", "kind": "PodList", "metadata": meta, "items": items});
    assert_eq!(joined, encode_object(&types, "core/v1.PodList", &whole).unwrap());
    let back = decode_object(&types, "core/v1.PodList", &unwrap_unknown(&joined).unwrap()).unwrap();
    assert_eq!((back["kind"].as_str(), back["items"].items().len()), (Some("PodList"), 2));
}

#[test]
fn watch_frames_carry_their_length() {
    let frame = watch_frame("ADDED", &[9; 200]);
    assert_eq!(frame[..4], u32::try_from(frame.len() - 4).unwrap().to_be_bytes());
    assert_eq!(frame[4..], watch_event("ADDED", &[9; 200]));
    assert_eq!(frame[4..15], *b"\x0a\x05ADDED\x12\xcb\x01\x0a");
}

#[test]
fn bottomless_or_swelling_messages_are_refused() {
    let types = types();
    let mut deep = Vec::new();
    for _ in 0..1000 {
        deep = message(&[(26, &message(&[(1, &deep)]))]);
    }
    assert!(decode(&types, "core/v1.Odd", &message(&[(14, &deep)])).unwrap_err().contains("deeply"));
    let swelling = message(&[(2, &b"\x12\x00".repeat(100_000))]);
    assert!(decode(&types, "core/v1.Pod", &swelling).unwrap_err().contains("too many"));
}

proptest! {
    #[test]
    fn any_bytes_decode_or_fail_and_what_decodes_encodes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let types = types();
        for name in ["core/v1.Pod", "core/v1.Odd", "core/v1.PodSpec", "meta/v1.ObjectMeta"] {
            if let Ok(value) = decode(&types, name, &bytes) {
                let again = encode(&types, name, &value).unwrap();
                prop_assert_eq!(decode(&types, name, &again).unwrap(), value);
            }
        }
        let _ = unwrap_unknown(&bytes);
        let _ = unwrap_unknown(&[MAGIC.as_slice(), &bytes].concat());
    }
}
