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
        let pairs = overrides.split(',').map(str::trim).filter(|p| !p.is_empty());
        for pair in pairs {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(format!("missing bool value for {pair}"));
            };
            let (name, value) = (name.trim(), value.trim());
            let on = match value {
                "true" | "True" | "TRUE" | "t" | "T" | "1" => true,
                "false" | "False" | "FALSE" | "f" | "F" | "0" => false,
                _ => {
                    return Err(format!(
                        "invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
                    ));
                }
            };
            if let Some(stage) = name.strip_prefix("All").filter(|s| *s == "Alpha" || *s == "Beta") {
                let of_stage = gates.values_mut().filter(|g| g.stage.eq_ignore_ascii_case(stage) && !g.locked);
                of_stage.for_each(|g| g.on = on);
                continue;
            }
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

/// `--runtime-config`: which group versions and resources are served beyond the defaults.
#[derive(Clone, Debug, Default)]
pub struct RuntimeConfig(BTreeMap<String, bool>);

impl RuntimeConfig {
    /// Reads `api/all=true,batch/v1beta1=false,apps/v1/deployments=false`.
    ///
    /// # Errors
    /// A value that is not a boolean.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut map = BTreeMap::new();
        for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
            let on = match value {
                "" | "true" | "1" => true,
                "false" | "0" => false,
                _ => return Err(format!("invalid value of {key}={value}")),
            };
            map.insert(key.to_owned(), on);
        }
        Ok(Self(map))
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
        for (flags, error) in [
            ("X=true", "unrecognized feature gate: X"),
            ("B=false", "cannot set feature gate B to false, feature is locked to true"),
            ("A", "missing bool value for A"),
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
}
