//! Compares with what the published libraries say.

use crate::functions::{Authorizer, Decision, Question};
use crate::opaque::Opaque;
use crate::program::{CompileError, PER_CALL_COST_MAX, Program};
use crate::time::Time;
use crate::types::{Declared, Type};
use crate::value::Val;
use crate::{Environment, Fault};
use machinery::Value;

fn environment() -> Environment {
    let texts = || Type::list(Type::String);
    let fields = [
        ("username", Type::String),
        ("uid", Type::String),
        ("groups", texts()),
        ("extra", Type::map(Type::String, texts())),
    ];
    Environment::new()
        .with_struct("kubernetes.UserInfo", fields)
        .with("claims", Type::map(Type::String, Type::Any))
        .with("user", Type::object("kubernetes.UserInfo"))
        .with("object", Type::Dyn)
        .with("x", Type::Int)
        .with("u", Type::Uint)
        .with("f", Type::Double)
        .with("b", Type::Bool)
        .with("s", Type::String)
        .with("d", Type::Dyn)
        .with("l", Type::list(Type::Int))
        .with("ls", texts())
        .with("m", Type::map(Type::String, Type::Int))
        .with("ts", Type::Timestamp)
        .with("dur", Type::Duration)
        .with("opt", Type::optional(Type::Int))
        .with("authorizer", Type::object("kubernetes.authorization.Authorizer"))
}

const DATA: &str = r#"{
  "claims": {"sub": "alice", "exp": 1700000000, "ratio": 0.5, "email_verified": false, "none": null, "which": "sub",
    "groups": ["admin", "dev"], "nested": {"deep": [{"name": "first"}, {"name": "second"}]}},
  "user": {"username": "bob", "uid": "u-1", "groups": ["dev", "system:authenticated"], "extra": {"scopes": ["read"]}},
  "object": {"metadata": {"name": "web", "labels": {"app": "web"}}, "spec": {"replicas": 3},
    "list": [{"name": "a", "value": 1}, {"value": 2}]},
  "l": [1, 2, 3], "ls": ["a", "b"], "m": {"a": 1, "b": 2}}"#;

fn variables(data: &Value) -> Vec<Val<'_>> {
    let of = |name: &str| Val::from(&data[name]);
    vec![
        of("claims"),
        of("user"),
        of("object"),
        Val::Int(5),
        Val::Uint(7),
        Val::Double(2.5),
        Val::Bool(true),
        Val::from_string("hello world, this is a longer text"),
        Val::Null,
        of("l"),
        of("ls"),
        of("m"),
        Val::Timestamp(Time::utc(1_577_934_245, 678_000_000)),
        Val::Duration(5_400_000_000_000),
        Val::some(Val::Int(1)),
        Val::from_opaque(Opaque::Authorizer(Authorizer::Requester)),
    ]
}

/// As the recorder prints values.
fn show(value: &Val<'_>) -> String {
    let texts = |items: Vec<String>| items.join(", ");
    match value {
        Val::Null => "null".to_owned(),
        Val::Uint(u) => format!("{u}u"),
        Val::Double(d) if d.is_finite() => format!("double {}", crate::number::double_text(*d)),
        Val::String(text) => serde_json::to_string(&**text).unwrap_or_default(),
        Val::Bytes(bytes) => format!("b'{}'", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()),
        Val::Timestamp(time) => format!("timestamp {time}"),
        Val::Duration(nanos) => format!("duration {nanos}"),
        Val::Type(known) => format!("type {}", known.name()),
        Val::Optional(Some(inner)) => format!("optional({})", show(inner)),
        Val::List(list) => format!("[{}]", texts(list.iter().map(|item| show(&item)).collect())),
        Val::Map(map) => {
            let mut entries: Vec<_> = map.iter().map(|(k, v)| format!("{}: {}", show(&k), show(&v))).collect();
            entries.sort();
            format!("{{{}}}", texts(entries))
        }
        Val::Opaque(opaque) => match value.to_string() {
            text if text == opaque.type_name() => text,
            text => format!("{} {text}", opaque.type_name()),
        },
        other => other.to_string(),
    }
}

/// The recorder's authorizer.
fn answer(question: &Question) -> Decision {
    let name = |subject: &Authorizer| match subject {
        Authorizer::Requester => "bob".to_owned(),
        Authorizer::ServiceAccount(namespace, name) => format!("system:serviceaccount:{namespace}:{name}"),
    };
    let count = |selector: &str| usize::from(!selector.is_empty());
    let (verb, reason) = match question {
        Question::Path { subject, path, verb } => (verb, format!("{} {verb} //// 0 0 {path}", name(subject))),
        Question::Resource { of, verb } => {
            let (fields, labels) = (count(&of.field_selector), count(&of.label_selector));
            let path =
                [&of.group, &of.resource, &of.subresource, &of.namespace, &of.name].map(String::as_str).join("/");
            (verb, format!("{} {verb} {path} {fields} {labels} ", name(&of.subject)))
        }
    };
    let error = (verb == "fail").then(|| "it failed".to_owned());
    Decision { is_allowed: verb == "get", reason, error }
}

fn ours(expression: &str, environment: &Environment, data: &Value) -> Value {
    let mut out = Value::object();
    out.set("expression", expression);
    let program = match Program::compile(expression, environment) {
        Ok(program) => program,
        Err(CompileError::Issues(issues)) => {
            out.set("compile", issues.to_string());
            return out;
        }
        Err(CompileError::Program(text)) => {
            out.set("program", text);
            return out;
        }
    };
    out.set("type", Declared(program.output_type()).to_string());
    let mut answers = Vec::new();
    loop {
        let (outcome, cost) = program.run_within(variables(data), &answers, PER_CALL_COST_MAX);
        match outcome {
            Err(Fault::Need(question)) => {
                let decision = answer(&question);
                answers.push((*question, decision));
                continue;
            }
            Ok(value) => out.set("value", show(&value)),
            Err(Fault::Error(text)) => out.set("error", text),
        }
        out.set("cost", cost);
        return out;
    }
}

#[test]
fn all_is_as_the_published_libraries_have_it() {
    let recorded = include_str!("../testdata/recorded.jsonl");
    let (environment, data) = (environment(), Value::from_slice(DATA.as_bytes()).unwrap());
    let mut wrong = Vec::new();
    for line in recorded.lines() {
        let mut theirs = Value::from_slice(line.as_bytes()).unwrap();
        theirs.remove("estimate");
        let is_type_without_program = theirs.get("program").is_some();
        if is_type_without_program {
            theirs.remove("type");
        }
        // The published checker panics on these; ours lets them pass.
        if theirs.str_at(&["compile"]).starts_with("panic") {
            continue;
        }
        let ours = ours(theirs.str_at(&["expression"]), &environment, &data);
        if ours != theirs {
            wrong.push(format!("theirs {theirs}\n  ours {ours}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
