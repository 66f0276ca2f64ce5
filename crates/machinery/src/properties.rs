//! Properties of everything here that reads what strangers send: no input panics, and what was read is read again.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;

use crate::patch::{json_patch, merge_patch, strategic_merge};
use crate::quantity::Quantity;
use crate::schema::samples::types;
use crate::{Value, fields, json, labels, schema, yaml};

/// Names with a meaning: fields of the sample types, and the directives of strategic merge patches.
const KEYS: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "name",
    "labels",
    "containers",
    "command",
    "ports",
    "containerPort",
    "resources",
    "limits",
    "cpu",
    "volumes",
    "emptyDir",
    "hostPath",
    "tolerations",
    "key",
    "value",
    "items",
    "maybe",
    "raw",
    "timeout",
    "props",
    "any",
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "$setElementOrder/command",
    "$deleteFromPrimitiveList/command",
    "",
];
/// Texts that YAML, or a reader of patches, may take for something else.
const TEXTS: &[&str] = &[
    "",
    "yes",
    "No",
    "on",
    "true",
    "null",
    "~",
    "014",
    "0o14",
    "0x1f",
    "1_000",
    "1e3",
    ".5",
    ".inf",
    "-.INF",
    ".nan",
    "1:30",
    "<<",
    "=",
    "2020-01-01",
    "- a",
    "a: b",
    "#c",
    " a",
    "a ",
    "a\nb\n",
    "\n",
    "\t",
    "'",
    "\"",
    "&a",
    "*a",
    "!t",
    "%",
    "@",
    "`",
    "---",
    "...",
    "{",
    "[",
    "|",
    ">",
    "?",
    ":",
    "-",
    "é\u{85}\u{2028}",
    "\u{feff}x",
    "\0",
    "replace",
    "delete",
    "merge",
    "500m",
    "1Gi",
    "name",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![3 => select(TEXTS).prop_map(str::to_owned), 1 => ".{0,12}"]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![5 => select(KEYS).prop_map(str::to_owned), 1 => text()]
}

/// Any document as it is read, made of pieces that mean something to the code under test.
fn tree() -> impl Strategy<Value = Value> {
    raw_tree().prop_map(|tree| normal(&tree))
}

fn raw_tree() -> impl Strategy<Value = Value> {
    let number =
        prop_oneof![Just(0.5), Just(1e300), Just(-2.5e-7), any::<f64>().prop_filter("finite", |n| n.is_finite())];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        number.prop_map(Value::Float),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::Array),
            btree_map(key(), inner, 0..5).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let container = (select(&["a", "b", "c"][..]), tree()).prop_map(|(name, more)| {
        let mut container = json!({"name": name, "command": ["x", "y"], "ports": [{"containerPort": 80}]});
        container.set("resources", more);
        container
    });
    (vec(container, 0..4), tree()).prop_map(|(containers, labels)| {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        pod["metadata"].set("labels", labels);
        pod["spec"].set("containers", containers);
        pod
    })
}

fn pointer() -> impl Strategy<Value = String> {
    let token = prop_oneof![3 => key(), 1 => select(&["0", "1", "-1", "-", "99", "-99", "~0", "~1", "~", "9223372036854775808"][..]).prop_map(str::to_owned)];
    vec(token, 0..4).prop_map(|tokens| tokens.iter().map(|t| format!("/{t}")).collect())
}

fn operation() -> impl Strategy<Value = Value> {
    let name = select(&["add", "remove", "replace", "move", "copy", "test", "other"][..]);
    (name, pointer(), pointer(), tree()).prop_map(|(op, path, from, value)| {
        let mut operation = json!({"op": op, "path": path, "from": from});
        operation.set("value", value);
        operation
    })
}

/// What a float becomes on its way through Go's JSON.
fn normal(value: &Value) -> Value {
    Value::from_slice(&value.to_vec()).expect("what is written is JSON")
}

proptest! {
    #[test]
    fn json_that_is_read_is_written_and_read_the_same(bytes in vec(any::<u8>(), 0..100), tree in raw_tree()) {
        if let Ok(value) = Value::from_slice(&bytes) {
            prop_assert_eq!(normal(&value), normal(&normal(&value)));
        }
        let once = normal(&tree);
        prop_assert_eq!(&normal(&once), &once);
        let (checked, twice) = Value::from_slice_checked(&once.to_vec()).unwrap();
        prop_assert_eq!((&checked, twice.len()), (&once, 0));
    }

    #[test]
    fn cut_json_fails_without_a_panic(tree in tree(), at in any::<prop::sample::Index>()) {
        let text = json!({"a": tree}).to_vec();
        prop_assert!(Value::from_slice(&text[..at.index(text.len())]).is_err());
    }

    #[test]
    fn any_text_is_yaml_or_an_error(text in "(.|\n){0,60}", pieces in vec(select(TEXTS), 0..12)) {
        for text in [text, pieces.join(" "), pieces.join("\n  ")] {
            let _ = yaml::documents(text.as_bytes());
            if let Ok(strict) = yaml::to_value_strict(text.as_bytes()) {
                prop_assert_eq!(yaml::to_value(text.as_bytes()), Ok(strict), "strict reads no other value");
            }
        }
    }

    #[test]
    fn yaml_that_is_written_is_read_the_same(tree in tree()) {
        let tree = normal(&tree);
        let text = yaml::from_value(&tree);
        prop_assert_eq!(yaml::to_value(text.as_bytes()).map(|v| normal(&v)), Ok(tree), "{}", text);
    }

    #[test]
    fn label_selectors_are_printed_as_they_are_read(
        text in ".{0,40}", parts in vec(select(&["a", "b.c/d", "in", "notin", "(", ")", ",", "!", "=", "==", "!=", ">", "<", " ", "5", ""][..]), 0..12),
        labels in btree_map("[ab]", "[a-c]{0,2}", 0..3),
    ) {
        let labels: Value = labels.into_iter().map(|(k, v)| (k, Value::from(v))).collect();
        for text in [text, parts.concat(), parts.join(" ")] {
            if let Ok(selector) = labels::Selector::parse(&text) {
                let printed = selector.to_string();
                let again = labels::Selector::parse(&printed);
                prop_assert_eq!(again.as_ref().map(ToString::to_string), Ok(printed));
                prop_assert_eq!(again.unwrap().matches(Some(&labels)), selector.matches(Some(&labels)), "{}", text);
            }
        }
    }

    #[test]
    fn field_selectors_are_printed_as_they_are_read(text in ".{0,40}", parts in vec(select(&["a", ".b", ",", "=", "==", "!=", "!", "\\", "\\,", "é", ""][..]), 0..12), value in ".{0,10}") {
        for text in [text, parts.concat()] {
            if let Ok(selector) = fields::Selector::parse(&text) {
                // Terms are ordered as they were written (as upstream's), and `==` may stand for `=`.
                let terms = |selector: &fields::Selector| {
                    let mut terms: Vec<String> = selector.requirements().map(|term| format!("{term:?}")).collect();
                    terms.sort_unstable();
                    terms
                };
                let again = fields::Selector::parse(&selector.to_string());
                prop_assert_eq!(again.as_ref().map(terms), Ok(terms(&selector)));
            }
        }
        let exact = fields::Selector::parse(&format!("metadata.name={}", fields::escape(&value))).unwrap();
        prop_assert_eq!(exact.exact("metadata.name"), Some(value.as_str()));
    }

    #[test]
    fn quantities_are_printed_canonically(text in prop_oneof![".{0,12}", "[+-]?[0-9]{0,12}\\.?[0-9]{0,12}([numkKMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?"]) {
        if let Ok(quantity) = Quantity::parse(&text) {
            let printed = quantity.to_string();
            let again = Quantity::parse(&printed).unwrap();
            prop_assert_eq!(again.to_string(), printed, "{}", text);
            prop_assert_eq!(again.value(), quantity.value(), "{}", text);
            let _ = (quantity.milli_value(), quantity.as_i64(), quantity.as_f64(), quantity.sign());
            prop_assert!(quantity.minus(&quantity).is_zero(), "{}", text);
            let _ = (quantity.plus(&again), quantity.cmp(&again));
        }
    }

    #[test]
    fn json_patches_apply_whole_or_not_at_all(document in pod(), operations in vec(operation(), 0..6), odd in tree()) {
        let _ = json_patch(&document, &odd);
        let patch = Value::Array(operations);
        if let Ok(patched) = json_patch(&document, &patch) {
            let undo = json!([{"op": "replace", "path": "", "value": document.clone()}]);
            prop_assert_eq!(json_patch(&patched, &undo).unwrap(), document);
        }
    }

    #[test]
    fn merge_patches_applied_twice_change_nothing_more(document in tree(), patch in tree()) {
        let mut once = document;
        merge_patch(&mut once, &patch);
        let mut twice = once.clone();
        merge_patch(&mut twice, &patch);
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn strategic_merges_never_panic_and_an_empty_one_changes_nothing(document in pod(), patch in pod(), odd in tree()) {
        let types = types();
        for patch in [&patch, &odd] {
            let _ = strategic_merge(&document, patch, &types, "core/v1.Pod");
            let _ = strategic_merge(&odd, patch, &types, "core/v1.Odd");
        }
        prop_assert_eq!(strategic_merge(&document, &json!({}), &types, "core/v1.Pod").unwrap(), document);
    }

    #[test]
    fn any_tree_decodes_as_any_type_once_and_for_all(document in pod(), odd in tree()) {
        let types = types();
        for name in ["core/v1.Pod", "core/v1.Odd", "core/v1.Secret"] {
            for tree in [&document, &odd] {
                let mut first = tree.clone();
                if schema::decode(&types, name, &mut first).is_ok() {
                    // `items: false` becomes null, as in Go, and null becomes nothing.
                    schema::decode(&types, name, &mut first).unwrap();
                    let mut second = first.clone();
                    let again = schema::decode(&types, name, &mut second).unwrap();
                    prop_assert_eq!((second, again.strict), (first, Vec::new()), "{}", name);
                }
            }
        }
    }
}
