use super::*;
use crate::json;

fn schema() -> Structural {
    Structural::parse(&json!({"type": "object", "required": ["spec"], "properties": {
        "metadata": {"type": "object"},
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1, "maximum": 5, "format": "int32"},
            "name": {"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^[a-z]+$"},
            "color": {"type": "string", "enum": ["red", "green"], "default": "red"},
            "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "tags": {"type": "array", "maxItems": 2, "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "parts": {"type": "array", "items": {"type": "object", "required": ["id"], "properties": {
                "id": {"type": "string"}, "n": {"type": "integer", "default": 7}}},
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"]},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 1},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"known": {"type": "object", "properties": {"a": {"type": "string"}}}}},
            "maybe": {"type": "string", "nullable": true, "default": "x"},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}},
            "one": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            "ip": {"type": "string", "format": "ipv4"}
        }}
    }}))
    .unwrap()
}

#[test]
fn values_are_checked_with_upstreams_words() {
    let schema = schema();
    let cases = [
        (
            json!({"size": 0}),
            vec!["spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"],
        ),
        (json!({}), vec!["spec.size: Required value"]),
        (
            json!({"size": "x"}),
            vec!["spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\""],
        ),
        (
            json!({"size": null}),
            vec!["spec.size: Invalid value: \"null\": spec.size in body must be of type integer: \"null\""],
        ),
        (
            json!({"size": 1, "name": "a"}),
            vec!["spec.name: Invalid value: \"a\": spec.name in body should be at least 2 chars long"],
        ),
        (json!({"size": 1, "name": "abcde"}), vec!["spec.name: Too long: may not be more than 4 bytes"]),
        (
            json!({"size": 1, "name": "A1"}),
            vec!["spec.name: Invalid value: \"A1\": spec.name in body should match '^[a-z]+$'"],
        ),
        (
            json!({"size": 1, "color": "blue"}),
            vec!["spec.color: Unsupported value: \"blue\": supported values: \"red\", \"green\""],
        ),
        (
            json!({"size": 1, "port": true}),
            vec![
                "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
                "<nil>: Invalid value: \"\": \"spec.port\" must validate at least one schema (anyOf)",
                "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer: \"boolean\"",
            ],
        ),
        (json!({"size": 1, "tags": ["a", "a"]}), vec!["spec.tags[1]: Duplicate value: \"a\""]),
        (json!({"size": 1, "tags": ["a", "b", "c"]}), vec!["spec.tags: Too many: 3: must have at most 2 items"]),
        (
            json!({"size": 1, "parts": [{"id": "a"}, {"id": "a"}]}),
            vec!["spec.parts[1]: Duplicate value: map[string]interface {}{\"id\":\"a\"}"],
        ),
        (
            json!({"size": 1, "labels": {"a": "b", "c": "d"}}),
            vec!["spec.labels: Too many: 2: must have at most 1 items"],
        ),
        (
            json!({"size": 1, "labels": {"a": 1}}),
            vec![
                "spec.labels.a: Invalid value: \"integer\": spec.labels.a in body must be of type string: \"integer\"",
            ],
        ),
        (
            json!({"size": 1, "one": {}}),
            vec![
                "<nil>: Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf). Found none valid",
                "spec.one.a: Required value",
            ],
        ),
        (
            json!({"size": 1, "ip": "x"}),
            vec!["spec.ip: Invalid value: \"x\": spec.ip in body must be of type ipv4: \"x\""],
        ),
        (json!({"size": 1, "maybe": null, "port": "http"}), vec![]),
    ];
    for (spec, expect) in cases {
        let errors = schema.validate(&json!({"spec": spec}), &FieldPath::default());
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts, expect, "{spec}");
    }
}

#[test]
fn unknown_fields_are_pruned_and_named() {
    let mut object = json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}, "extra": 1,
        "spec": {"size": 1, "foo": {"a": 1}, "parts": [{"id": "a", "bar": 1}], "labels": {"any": "x"},
            "free": {"z": {"y": 1}, "known": {"a": "", "b": 1}}, "pod": {"kind": "Pod", "x": 1, "spec": {"y": 1}}}});
    assert_eq!(
        schema().prune(&mut object),
        [
            "unknown field \"extra\"",
            "unknown field \"spec.foo\"",
            "unknown field \"spec.free.known.b\"",
            "unknown field \"spec.parts[0].bar\"",
            "unknown field \"spec.pod.spec.y\"",
            "unknown field \"spec.pod.x\"",
        ]
    );
    assert_eq!(
        object,
        json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"},
            "spec": {"size": 1, "parts": [{"id": "a"}], "labels": {"any": "x"},
                "free": {"z": {"y": 1}, "known": {"a": ""}}, "pod": {"kind": "Pod", "spec": {}}}})
    );
}

#[test]
fn defaults_fill_what_is_absent_and_nulls_that_may_not_be() {
    let mut object = json!({"spec": {"color": null, "maybe": null, "parts": [{"id": "a"}]}});
    schema().apply_defaults(&mut object);
    assert_eq!(object, json!({"spec": {"color": "red", "maybe": null, "parts": [{"id": "a", "n": 7}]}}));
}

#[test]
fn what_is_not_structural_is_refused_with_reasons() {
    let cases = [
        (
            json!({"properties": {"a": {}}}),
            vec![
                "openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields",
                "openAPIV3Schema.type: Required value: must not be empty at the root",
            ],
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array"}}}),
            vec!["openAPIV3Schema.properties[a].items: Required value: must be specified"],
        ),
        (
            json!({"type": "object", "anyOf": [{"properties": {"a": {"type": "string"}}}]}),
            vec![
                "openAPIV3Schema.anyOf[0].properties[a].type: Forbidden: must be empty to be structural",
                "openAPIV3Schema.properties[a]: Required value: because it is defined in openAPIV3Schema.anyOf[0].properties[a]",
            ],
        ),
        (
            json!({"type": "object", "properties": {"a": {"$ref": "#/x"}}}),
            vec!["openAPIV3Schema.properties[a].$ref: Forbidden: $ref is not supported"],
        ),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            vec!["openAPIV3Schema.type: Invalid value: \"array\": must be object at the root"],
        ),
        (
            json!({"type": "object", "properties": {"l": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}),
            vec![
                "openAPIV3Schema.properties[l].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            ],
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            vec![
                "openAPIV3Schema.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
            ],
        ),
    ];
    for (schema, expect) in cases {
        let errors = Structural::parse(&schema).unwrap_err();
        assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), expect);
    }
}

/// What a real kube-apiserver 1.33 answered to merge patches of an object that was stored before its schema got strict.
#[test]
fn what_was_wrong_before_an_update_may_stay_as_it_was() {
    let schema = Structural::parse(&json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 10},
            "name": {"type": "string", "maxLength": 2},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                "items": {"type": "object", "required": ["id"], "properties": {
                    "id": {"type": "string"}, "n": {"type": "integer", "minimum": 10}}}},
            "plain": {"type": "array", "items": {"type": "integer", "minimum": 10}},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 2}},
            "one": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}}},
        "status": {"type": "object", "properties": {"phase": {"type": "string", "enum": ["A"]}}}}}))
    .unwrap();
    let old = json!({"metadata": {"name": "r"}, "spec": {"size": 1, "name": "long",
        "parts": [{"id": "a", "n": 1}, {"id": "b", "n": 20}], "plain": [1, 20], "tags": ["x", "x"],
        "labels": {"k": "long"}, "one": {"a": "1", "b": "2"}}, "status": {"phase": "B"}});
    let cases = [
        (json!({"metadata": {"labels": {"a": "b"}}}), ""),
        (
            json!({"spec": {"size": 2}}),
            "spec.size: Invalid value: 2: spec.size in body should be greater than or equal to 10",
        ),
        (json!({"spec": {"name": "longer"}}), "spec.name: Too long: may not be more than 2 bytes"),
        (json!({"spec": {"size": 11}}), ""),
        (json!({"spec": {"parts": [{"id": "b", "n": 20}, {"id": "a", "n": 1}]}}), ""),
        (
            json!({"spec": {"parts": [{"id": "b", "n": 2}, {"id": "a", "n": 1}]}}),
            "spec.parts[0].n: Invalid value: 2: spec.parts[0].n in body should be greater than or equal to 10",
        ),
        (
            json!({"spec": {"plain": [1, 20, 30]}}),
            "spec.plain[0]: Invalid value: 1: spec.plain[0] in body should be greater than or equal to 10",
        ),
        (json!({"spec": {"tags": ["x", "x", "y"]}}), ""),
        (json!({"spec": {"tags": ["y", "y"]}}), ""),
        (json!({"spec": {"labels": {"j": "x"}}}), ""),
        (json!({"spec": {"labels": {"j": "longer"}}}), "spec.labels.j: Too long: may not be more than 2 bytes"),
        (
            json!({"spec": {"one": {"a": "3"}}}),
            "<nil>: Invalid value: \"\": \"spec.one\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
        ),
        (json!({"spec": {"size": null}}), "spec.size: Required value"),
        (json!({"status": {"more": 1}}), ""),
        (json!({"status": {"phase": "C"}}), "status.phase: Unsupported value: \"C\": supported values: \"A\""),
    ];
    for (patch, expect) in cases {
        let mut new = old.clone();
        crate::patch::merge_patch(&mut new, &patch);
        let errors = schema.validate_update(&new, &old, &FieldPath::default());
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts.join(", "), expect, "{patch}");
    }
    assert!(!schema.validate(&old, &FieldPath::default()).is_empty());
}
