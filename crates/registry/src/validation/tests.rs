//! Every complaint of a real kube-apiserver about bad objects, recorded in `testdata/validation.txt`, is ours as well.

use machinery::{GroupVersionKind, Value, meta};

use crate::{Context, Options, Registry, create, defaults};

const RECORDED: &str = include_str!("../../testdata/validation.txt");

fn context(object: &Value, namespaced: bool) -> Context {
    Context {
        user: "admin".into(),
        now: base::Timestamp::from_unix_seconds(1_700_000_000),
        uid: "00000000-0000-4000-8000-000000000000".into(),
        name_suffix: "abcde".into(),
        namespace: if namespaced { "default".into() } else { meta::namespace(object).to_owned() },
        allow_privileged: true,
        // The recorded requests were dry runs.
        dry_run: true,
        network: Some(std::sync::Arc::new(crate::allocation::ServiceNetwork::of(
            vec!["10.96.0.0/16".parse().unwrap()],
            [],
            0,
        ))),
        ..Context::default()
    }
}

#[test]
fn bad_objects_are_refused_in_the_words_of_a_real_server() {
    let set = facts::set("1.33").unwrap();
    let registry = Registry::builtin(set, &Options::default()).unwrap();
    let defaults = defaults::Defaults::parse(set.defaults);
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in RECORDED.lines().filter(|l| !l.starts_with('#')) {
        let case = Value::from_slice(line.as_bytes()).unwrap();
        count += 1;
        let mut object = case["object"].clone();
        let gvk = GroupVersionKind::of(object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
        let row = registry.kind(&gvk).unwrap();
        defaults::apply(&defaults, &gvk, &mut object);
        let message = match create(row, object.clone(), &context(&object, row.namespaced)) {
            Ok(_) => String::new(),
            Err(status) => status.message,
        };
        let expect = case.str_at(&["message"]);
        if message != expect {
            wrong.push(format!("{}\n  real: {expect}\n  ours: {message}\n", case["object"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}
