//! The few defaults that are computed.

use machinery::Value;
use machinery::quantity::Quantity;

/// A function the table may name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Function {
    PullPolicy,
    Lower,
    ListKind,
    StorageVersion,
}

impl Function {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "pull-policy" => Self::PullPolicy,
            "lower" => Self::Lower,
            "list-kind" => Self::ListKind,
            "storage-version" => Self::StorageVersion,
            _ => return None,
        })
    }

    /// The default, given what lies at the function's argument.
    pub(super) fn call(self, argument: Option<&Value>) -> Option<Value> {
        let text = argument.and_then(Value::as_str).unwrap_or_default();
        match self {
            Self::PullPolicy => Some(if tag(text) == Some("latest") { "Always" } else { "IfNotPresent" }.into()),
            Self::Lower => (!text.is_empty()).then(|| text.to_lowercase().as_str().into()),
            Self::ListKind => Some(format!("{text}List").as_str().into()),
            Self::StorageVersion => {
                let stored = argument?.items().iter().find(|v| v.get("storage").and_then(Value::as_bool) == Some(true));
                Some(Value::Array(vec![stored?.get("name")?.clone()]))
            }
        }
    }
}

/// Rounds every quantity of a resource list up to thousandths. Those that need it have a fine suffix or many digits;
/// all others stay as written.
pub(super) fn round(list: &mut Value) {
    for (_, value) in list.as_object_mut().into_iter().flat_map(|map| map.iter_mut()) {
        let Some(text) = value.as_str() else { continue };
        let decimals = text.split_once('.').map_or(0, |(_, d)| d.bytes().take_while(u8::is_ascii_digit).count());
        if !(text.ends_with(['u', 'n']) || text.contains("e-") || text.contains("E-") || decimals > 3) {
            continue;
        }
        let milli = Quantity::parse(text).map(|quantity| Quantity::parse(&format!("{}m", quantity.milli_value())));
        if let Ok(Ok(rounded)) = milli {
            *value = rounded.to_string().as_str().into();
        }
    }
}

/// The tag of an image reference as the container tools read it: "latest" when it names neither tag nor digest, None
/// when it is malformed (upstream then goes on with an empty tag).
fn tag(image: &str) -> Option<&str> {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let slash = name.rfind('/').map_or(0, |i| i + 1);
    let (path, tag) = match name[slash..].find(':') {
        Some(colon) => (&name[..slash + colon], Some(&name[slash + colon + 1..])),
        None => (name, None),
    };
    let hex = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    if digest.is_none() && tag.is_none() && path.len() == 64 && path.bytes().all(hex) {
        return None;
    }
    let path = match path.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" || host.to_lowercase() != host => rest,
        _ => path,
    };
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let tag_fits = tag.is_none_or(|tag| {
        tag.len() <= 128
            && tag.bytes().next().is_some_and(word)
            && tag.bytes().all(|c| word(c) || matches!(c, b'.' | b'-'))
    });
    let digest_fits = digest.is_none_or(|digest| {
        digest.split_once(':').is_some_and(|(algorithm, sum)| {
            !algorithm.is_empty() && sum.len() >= 32 && sum.bytes().all(|c| c.is_ascii_hexdigit())
        })
    });
    if !path.split('/').all(component_fits) || !tag_fits || !digest_fits {
        return None;
    }
    tag.or_else(|| digest.is_none().then_some("latest"))
}

/// Lower-case letters and digits, with single dots, one or two underscores or any number of dashes between them.
fn component_fits(component: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    !component.is_empty()
        && component.starts_with(is_alphanumeric)
        && component.ends_with(is_alphanumeric)
        && component.split(is_alphanumeric).all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|c| c == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("localhost:5000/a/b", "Always"),
            ("registry.example.com:5000/a:v1", "IfNotPresent"),
            (&format!("nginx@{digest}"), "IfNotPresent"),
            (&format!("nginx:latest@{digest}"), "Always"),
            ("", "IfNotPresent"),
            ("UPPER/case", "Always"),
            ("a/UPPER", "IfNotPresent"),
            (&"a".repeat(64), "IfNotPresent"),
        ] {
            assert_eq!(Function::PullPolicy.call(Some(&image.into())), Some(policy.into()), "{image}");
        }
    }

    #[test]
    fn quantities_are_rounded_up_to_thousandths() {
        let mut list = machinery::json!({"cpu": "100u", "memory": "1Gi", "a": "0.0001"});
        round(&mut list);
        assert_eq!(list, machinery::json!({"cpu": "1m", "memory": "1Gi", "a": "1m"}));
    }
}
