//! The tables of types against Go's own bytes: protobuf decoded to what Go prints as JSON, and encoded byte for byte.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::Value;
use machinery::protobuf::{decode, decode_object, encode, encode_object, unwrap_unknown};
use machinery::schema::Types;

const SAMPLES: &str = include_str!("../testdata/protobuf/objects.jsonl");

fn types() -> Types {
    Types::new(facts::newest().types)
}

/// The first place where two trees differ.
fn difference(path: &str, got: &Value, want: &Value) -> Option<String> {
    match (got, want) {
        (Value::Object(a), Value::Object(b)) => {
            let ours = a.iter().find_map(|(key, value)| {
                difference(&format!("{path}.{key}"), value, b.get(key).unwrap_or(&Value::Null))
            });
            ours.or_else(|| {
                let key = b.keys().find(|key| a.get(key).is_none())?;
                Some(format!("{path}.{key}: absent, Go has {}", b.get(key)?))
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (x, y))| difference(&format!("{path}[{i}]"), x, y))
        }
        _ if got == want => None,
        _ => Some(format!("{path}: got {got}, Go has {want}")),
    }
}

fn check(types: &Types, type_name: &str, bytes: &[u8], json: &Value, failures: &mut Vec<String>) {
    let enveloped = bytes.starts_with(b"k8s\0");
    let decoded = if enveloped {
        unwrap_unknown(bytes).and_then(|unknown| decode_object(types, type_name, &unknown))
    } else {
        decode(types, type_name, bytes)
    };
    let problem = match decoded {
        Ok(object) => difference("", &object, json),
        Err(error) => Some(error),
    };
    failures.extend(problem.map(|text| format!("decode {type_name}{text}")));
    let encoded = if enveloped { encode_object(types, type_name, json) } else { encode(types, type_name, json) };
    match encoded {
        Ok(ours) if ours == bytes => {}
        Ok(ours) => {
            let at = ours.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or(ours.len().min(bytes.len()));
            failures.push(format!(
                "encode {type_name}: {} bytes, Go writes {}, differ at {at}",
                ours.len(),
                bytes.len()
            ));
        }
        Err(error) => failures.push(format!("encode {type_name}: {error}")),
    }
}

fn report(failures: &[String], known: &[&str]) {
    let new: Vec<_> = failures.iter().filter(|text| !known.iter().any(|known| text.starts_with(known))).collect();
    assert!(
        new.is_empty(),
        "{} failures:\n{}",
        new.len(),
        new.iter().map(|s| s.as_str()).collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn sparse_objects_cross_as_go_writes_them() {
    let types = types();
    let mut failures = Vec::new();
    for line in SAMPLES.lines() {
        let sample = Value::from_slice(line.as_bytes()).expect("a sample is JSON");
        let bytes = STANDARD.decode(sample.str_at(&["protobuf"])).expect("a sample has base64");
        check(&types, sample.str_at(&["type"]), &bytes, &sample["json"], &mut failures);
    }
    report(&failures, &[]);
}

/// The samples of the k8s.io/api module with every field filled, where the Go module cache has them.
#[test]
fn full_objects_cross_as_kubernetes_own_samples() {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join("go/pkg/mod"));
    let Some(cache) = std::env::var_os("GOMODCACHE").map(PathBuf::from).or(home) else { return };
    let Ok(folder) = std::fs::read_dir(cache.join("k8s.io/api@v0.33.13/testdata/HEAD")) else { return };
    let types = types();
    let (mut failures, mut count) = (Vec::new(), 0);
    for path in folder.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "pb")) {
        let bytes = std::fs::read(&path).expect("a sample can be read");
        let json = std::fs::read(path.with_extension("json")).expect("a sample has its JSON");
        let json = Value::from_slice(&json).expect("a sample is JSON");
        let api_version = json.str_at(&["apiVersion"]);
        let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
        let name = format!("{}/{version}.{}", group.split('.').next().unwrap_or(group), json.str_at(&["kind"]));
        if types.get(&name).is_some() {
            count += 1;
            check(&types, &name, &bytes, &json, &mut failures);
        }
    }
    assert!(count > 90, "only {count} samples");
    report(&failures, &[]);
}
