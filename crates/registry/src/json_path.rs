//! The part of kubectl's JSONPath that definitions use: `.a.b`, `.a[0]`, `.a['b.c']`, `.a[*].b`, `.a[?(@.x=="y")].z`.

use machinery::Value;

/// The first value at the path.
pub(crate) fn first<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    all(value, path)?.into_iter().next()
}

/// All values at the path; `None` when the path cannot be read.
pub(crate) fn all<'a>(value: &'a Value, path: &str) -> Option<Vec<&'a Value>> {
    let mut found = vec![value];
    for step in parse(path)? {
        found = found.into_iter().flat_map(|v| follow(v, &step)).collect();
    }
    Some(found)
}

/// Can the path be read?
pub(crate) fn is_valid(path: &str) -> bool {
    parse(path).is_some()
}

#[derive(Debug, PartialEq)]
enum Step {
    Member(String),
    Index(i64),
    All,
    /// `@.path == "text"`
    Where(String, String),
}

fn follow<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match step {
        Step::Member(name) => value.get(name).into_iter().collect(),
        Step::Index(i) => {
            let items = value.items();
            let at = if *i < 0 { i64::try_from(items.len()).unwrap_or(0) + i } else { *i };
            usize::try_from(at).ok().and_then(|i| items.get(i)).into_iter().collect()
        }
        Step::All => match value {
            Value::Object(o) => o.values().collect(),
            other => other.items().iter().collect(),
        },
        Step::Where(path, text) => value
            .items()
            .iter()
            .filter(|item| {
                first(item, path).is_some_and(|v| v.as_str().map_or_else(|| v.to_string() == *text, |s| s == text))
            })
            .collect(),
    }
}

fn parse(path: &str) -> Option<Vec<Step>> {
    let path = path.strip_prefix('$').unwrap_or(path);
    let mut rest = path.strip_prefix('{').and_then(|p| p.strip_suffix('}')).unwrap_or(path);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let end = closing(inner)?;
            steps.push(bracket(&inner[..end])?);
            rest = &inner[end + 1..];
            continue;
        }
        rest = rest.strip_prefix('.')?;
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let name = &rest[..end];
        match name {
            "" if rest.is_empty() && steps.is_empty() => {}
            "" if rest.starts_with('[') => {}
            "" => return None,
            "*" => steps.push(Step::All),
            _ => steps.push(Step::Member(name.replace('\\', ""))),
        }
        rest = &rest[end..];
    }
    Some(steps)
}

/// Where the bracket closes, quotes respected.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if c == q => quote = None,
            (None, ']') => return Some(i),
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Option<Step> {
    let unquote = |t: &str| -> Option<String> {
        let t = t.trim();
        let inner = t.strip_prefix('\'').and_then(|t| t.strip_suffix('\''));
        inner.or_else(|| t.strip_prefix('"')?.strip_suffix('"')).map(str::to_owned)
    };
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquote(text) {
        return Some(Step::Member(name));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        let (left, right) = filter.split_once("==")?;
        let path = left.trim().strip_prefix('@')?.to_owned();
        return Some(Step::Where(path, unquote(right).unwrap_or_else(|| right.trim().to_owned())));
    }
    text.parse().ok().map(Step::Index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::json;

    #[test]
    fn paths_reach_what_printer_columns_name() {
        let object = json!({"spec": {"a": [{"n": "x", "v": 1}, {"n": "y", "v": 2}], "b.c": "dot", "m": {"k": true}}});
        for (path, expect) in [
            (".spec.a[0].v", "1"),
            (".spec.a[-1].v", "2"),
            (".spec['b.c']", "\"dot\""),
            (".spec.b\\.c", ""),
            (".spec.a[*].n", "\"x\""),
            (".spec.a[?(@.n==\"y\")].v", "2"),
            ("{.spec.m.k}", "true"),
            (".spec.none", ""),
            ("spec", ""),
        ] {
            assert_eq!(first(&object, path).map(ToString::to_string).unwrap_or_default(), expect, "{path}");
        }
        assert!(!is_valid(".spec[") && is_valid(".spec.a[?(@.n=='y')]"));
    }
}
