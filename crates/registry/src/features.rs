//! Feature gates and `--runtime-config`: what is switched on.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Feature gates of a minor with the user's overrides. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Features(Arc<BTreeMap<String, Gate>>);

#[derive(Clone, Debug)]
struct Gate {
    on: bool,
    locked: bool,
    stage: String,
}

impl Features {
    /// Reads the facts' `features.txt`: `Name default=true stage=BETA lock=false`, one a line.
    pub fn parse(text: &str) -> Self {
        let mut gates = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let mut words = line.split_whitespace();
            let Some(name) = words.next() else { continue };
            let mut gate = Gate { on: false, locked: false, stage: String::new() };
            for (key, value) in words.filter_map(|w| w.split_once('=')) {
                match key {
                    "default" => gate.on = value == "true",
                    "lock" => gate.locked = value == "true",
                    "stage" => gate.stage = value.to_owned(),
                    _ => {}
                }
            }
            gates.insert(name.to_owned(), gate);
        }
        Self(Arc::new(gates))
    }

    /// Is the gate on? Unknown gates are off.
    pub fn enabled(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|gate| gate.on)
    }

    /// Applies `--feature-gates` (`A=true,B=false`, also `AllAlpha`, `AllBeta`).
    ///
    /// # Errors
    /// Unknown gates, locked gates and values that are not booleans, in component-base's words.
    pub fn with(&self, overrides: &str) -> Result<Self, String> {
        let mut gates = (*self.0).clone();
        let mut named = Vec::new();
        for pair in overrides.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(format!("missing bool value for {pair}"));
            };
            let (name, value) = (name.trim(), value.trim());
            let on = parse_bool(value).map_err(|e| format!("invalid value of {name}={value}, err: {e}"))?;
            match name.strip_prefix("All").filter(|s| *s == "Alpha" || *s == "Beta") {
                Some(stage) => gates
                    .values_mut()
                    .filter(|g| g.stage.eq_ignore_ascii_case(stage) && !g.locked)
                    .for_each(|g| g.on = on),
                None => named.push((name, on)),
            }
        }
        // What is named wins over what is meant together, in whichever order they stand.
        for (name, on) in named {
            let gate = gates.get_mut(name).ok_or_else(|| format!("unrecognized feature gate: {name}"))?;
            if gate.locked && gate.on != on {
                let kept = gate.on;
                return Err(format!("cannot set feature gate {name} to {on}, feature is locked to {kept}"));
            }
            gate.on = on;
        }
        Ok(Self(Arc::new(gates)))
    }

    /// All gates with their state, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, bool)> {
        self.0.iter().map(|(name, gate)| (name.as_str(), gate.on))
    }
}

/// Keys of `--runtime-config` that mean many versions.
const TOGETHER: [&str; 4] = ["api/all", "api/ga", "api/beta", "api/alpha"];

/// As Go's `strconv.ParseBool`.
fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "true" | "True" | "TRUE" | "t" | "T" | "1" => Ok(true),
        "false" | "False" | "FALSE" | "f" | "F" | "0" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

/// `--runtime-config`: which group versions and resources are served beyond the defaults.
#[derive(Clone, Debug, Default)]
pub struct RuntimeConfig(BTreeMap<String, bool>);

impl RuntimeConfig {
    /// Reads `api/all=true,batch/v1beta1=false,apps/v1/deployments=false`.
    ///
    /// # Errors
    /// A key that names no group version, and a value that is not a boolean, in the API server's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut map = BTreeMap::new();
        for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (key.trim(), value.trim());
            let together = TOGETHER.contains(&key);
            if !together && key != "v1" && !matches!(key.split('/').count(), 2 | 3) {
                return Err(format!("runtime-config invalid key {key}"));
            }
            let on = match parse_bool(value) {
                _ if value.is_empty() => true,
                Ok(on) => on,
                Err(_) if together => return Err(format!("invalid value {key}={value}")),
                Err(e) => return Err(format!("invalid value of {key}: {value}, err: {e}")),
            };
            map.insert(key.to_owned(), on);
        }
        Ok(Self(map))
    }

    /// Does it name only groups and versions that there are?
    ///
    /// # Errors
    /// The groups that are unknown, or the first version that is, in the API server's words.
    pub fn check(&self, known: &dyn Fn(&str, Option<&str>) -> bool) -> Result<(), String> {
        let named =
            || self.0.keys().filter(|key| !TOGETHER.contains(&key.as_str())).filter_map(|key| key.split_once('/'));
        let unknown: Vec<&str> =
            named().map(|(group, _)| group).filter(|group| *group != "api" && !known(group, None)).collect();
        if !unknown.is_empty() {
            return Err(format!("unknown api groups {}", unknown.join(",")));
        }
        for (group, rest) in named().filter(|(group, _)| *group != "api") {
            let version = rest.split('/').next().unwrap_or_default();
            if !known(group, Some(version)) {
                return Err(format!("group version {group}/{version} that has not been registered"));
            }
        }
        Ok(())
    }

    /// Is the resource of this group version served? `default` is what upstream does without flags.
    pub fn serves(&self, group: &str, version: &str, plural: &str, default: bool) -> bool {
        let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let stability = ["alpha", "beta"].into_iter().find(|s| version.contains(s)).unwrap_or("ga");
        let keys =
            [format!("{group_version}/{plural}"), group_version, format!("api/{stability}"), "api/all".to_owned()];
        keys.iter().find_map(|key| self.0.get(key).copied()).unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_follow_overrides_and_refuse_what_is_locked_or_unknown() {
        let features = Features::parse(
            "A default=true stage=BETA lock=false\nB default=true stage=GA lock=true\nC default=false stage=ALPHA\n",
        );
        assert!(features.enabled("A") && !features.enabled("C") && !features.enabled("X"));
        let changed = features.with("AllAlpha=true,A=false").unwrap();
        assert!(!changed.enabled("A") && changed.enabled("C"));
        assert!(!features.with("C=false,AllAlpha=true").unwrap().enabled("C"));
        for (flags, error) in [
            ("X=true", "unrecognized feature gate: X"),
            ("B=false", "cannot set feature gate B to false, feature is locked to true"),
            ("A", "missing bool value for A"),
            (
                "AllAlpha=maybe",
                "invalid value of AllAlpha=maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
        ] {
            assert_eq!(features.with(flags).unwrap_err(), error);
        }
    }

    #[test]
    fn the_most_specific_runtime_config_key_decides() {
        let config = RuntimeConfig::parse("api/alpha=true,g/v1alpha1/b=false").unwrap();
        assert!(config.serves("g", "v1alpha1", "a", false));
        assert!(!config.serves("g", "v1alpha1", "b", false));
        assert!(!config.serves("g", "v1beta1", "a", false));
        assert!(config.serves("", "v1", "pods", true));
    }

    #[test]
    fn runtime_config_that_names_nothing_is_refused_in_the_words_of_a_real_server() {
        let known = |group: &str, version: Option<&str>| group == "apps" && version.is_none_or(|v| v == "v1");
        for (flag, error) in [
            ("foo/v1=true", "unknown api groups foo"),
            ("apps/v9=true", "group version apps/v9 that has not been registered"),
            (
                "apps/v1=maybe",
                "invalid value of apps/v1: maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
            ("api/all=maybe", "invalid value api/all=maybe"),
            ("nonsense", "runtime-config invalid key nonsense"),
            ("v1=false,apps/v1/nothings=true,api/beta", ""),
        ] {
            let outcome = RuntimeConfig::parse(flag).and_then(|config| config.check(&known));
            assert_eq!(outcome.err().unwrap_or_default(), error, "{flag}");
        }
    }
}
