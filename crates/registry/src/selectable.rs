//! Fields that field selectors may name.

use machinery::{Status, Value, meta};

use crate::row::Resource;

/// The selectable fields of an object: `(label, value)`, names first. Unset fields have their zero value.
pub fn selectable_fields(resource: &Resource, object: &Value) -> Vec<(String, String)> {
    labels(resource).into_iter().filter_map(|label| Some((label.clone(), field(resource, object, &label)?))).collect()
}

/// The value of one selectable field; `None` when selectors may not name it.
pub fn field(resource: &Resource, object: &Value, label: &str) -> Option<String> {
    match label {
        "metadata.name" => return Some(meta::name(object).to_owned()),
        "metadata.namespace" if resource.namespaced || is_plain(resource) => {
            return Some(meta::namespace(object).to_owned());
        }
        _ => {}
    }
    if let Some(custom) = &resource.custom {
        let path = custom.selectable.iter().find(|path| path.trim_start_matches('.') == label)?;
        let value = crate::json_path::first(object, path);
        return Some(value.map(show).unwrap_or_default());
    }
    let field = resource.strategy.selectable.iter().find(|f| f.label == label)?;
    let at = |path: &str| {
        let path: Vec<&str> = path.split('.').collect();
        object.at(&path).filter(|value| !value.is_null()).map(show)
    };
    let instead = || if field.instead.is_empty() { None } else { at(field.instead) };
    let found = at(field.path).filter(|text| field.instead.is_empty() || !text.is_empty()).or_else(instead);
    Some(found.unwrap_or_else(|| field.unset.to_owned()))
}

/// Has it no fields of its own? Such kinds take the namespace even where there is none; others only where there is.
fn is_plain(resource: &Resource) -> bool {
    resource.custom.is_none() && resource.strategy.selectable.is_empty()
}

fn labels(resource: &Resource) -> Vec<String> {
    let mut labels = vec!["metadata.name".to_owned()];
    if resource.namespaced || is_plain(resource) {
        labels.push("metadata.namespace".to_owned());
    }
    match &resource.custom {
        Some(custom) => labels.extend(custom.selectable.iter().map(|p| p.trim_start_matches('.').to_owned())),
        None => labels.extend(resource.strategy.selectable.iter().map(|f| f.label.to_owned())),
    }
    labels
}

/// 400 when the selector names a field that is not selectable.
///
/// # Errors
/// In upstream's words, which name the field.
pub fn check_selector(resource: &Resource, label: &str) -> Result<(), Status> {
    if field(resource, &Value::object(), label).is_some() {
        return Ok(());
    }
    Err(Status::bad_request(match resource.gvk.kind.as_str() {
        _ if is_plain(resource) => {
            format!("{label:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }
        "Job" => format!("field label {label:?} not supported for Job"),
        _ => format!("field label not supported: {label}"),
    }))
}

fn show(value: &Value) -> String {
    match value {
        Value::String(s) => s.to_string(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use crate::{Options, Registry};

    use super::*;

    const RECORDED: &str = include_str!("../testdata/selectors.txt");

    #[test]
    fn an_event_without_a_source_has_its_reporter_as_one() {
        let registry = Registry::builtin(facts::set("1.33").unwrap(), &Options::default()).unwrap();
        let row = registry.lookup("", "v1", "events").unwrap();
        let source = |event: Value| field(row, &event, "source").unwrap();
        let both = machinery::json!({"source": {"component": "a"}, "reportingComponent": "b"});
        assert_eq!(source(both), "a");
        assert_eq!(source(machinery::json!({"source": {}, "reportingComponent": "b"})), "b");
        assert_eq!(source(machinery::json!({})), "");
    }

    #[test]
    fn selectors_may_name_what_a_real_server_takes() {
        let registry = Registry::builtin(facts::set("1.33").unwrap(), &Options::default()).unwrap();
        let labels: Vec<&str> = RECORDED.lines().nth(2).unwrap().split_whitespace().skip(1).collect();
        for line in RECORDED.lines().filter(|l| !l.starts_with('#')) {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            let [gv, plural, taken, refusal] = words[..] else { panic!("{line}") };
            let (group, version) = gv.split_once('/').unwrap_or(("", gv));
            let row = registry.lookup(group, version, plural).unwrap();
            let ours: Vec<&str> = labels.iter().copied().filter(|l| check_selector(row, l).is_ok()).collect();
            let mut real: Vec<&str> = taken.split(',').collect();
            real.sort_by_key(|l| labels.iter().position(|k| k == l));
            assert_eq!(ours, real, "{gv} {plural}");
            assert_eq!(check_selector(row, "spec.group").unwrap_err().message, refusal, "{gv} {plural}");
        }
    }
}
