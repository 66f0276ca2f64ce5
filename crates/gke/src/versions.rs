//! Which versions are offered, per channel. The API servers here speak one minor, so that all versions are of that one.

use machinery::{Value, json};

use crate::ApiError;

/// Newest first, over all channels.
const VALID: &[&str] = &["1.33.13-gke.1450000", "1.33.13-gke.1350000", "1.33.12-gke.1240000"];

struct Channel {
    name: &'static str,
    /// Newest first.
    valid: &'static [&'static str],
    default: &'static str,
}

const CHANNELS: &[Channel] = &[
    Channel { name: "RAPID", valid: &["1.33.13-gke.1450000", "1.33.13-gke.1350000"], default: "1.33.13-gke.1450000" },
    Channel { name: "REGULAR", valid: &["1.33.13-gke.1350000", "1.33.12-gke.1240000"], default: "1.33.13-gke.1350000" },
    Channel { name: "STABLE", valid: &["1.33.12-gke.1240000"], default: "1.33.12-gke.1240000" },
    Channel {
        name: "EXTENDED",
        valid: &["1.33.13-gke.1350000", "1.33.12-gke.1240000"],
        default: "1.33.13-gke.1350000",
    },
];

/// The answer of `GetServerConfig`.
pub fn server_config() -> Value {
    let channels: Vec<Value> = CHANNELS
        .iter()
        .map(|c| {
            json!({"channel": c.name, "defaultVersion": c.default, "validVersions": c.valid,
                "upgradeTargetVersion": c.default})
        })
        .collect();
    let mut config = json!({
        "defaultClusterVersion": default_of("REGULAR"), "validMasterVersions": VALID, "validNodeVersions": VALID,
        "defaultImageType": "COS_CONTAINERD",
        "validImageTypes": ["COS_CONTAINERD", "UBUNTU_CONTAINERD", "WINDOWS_LTSC_CONTAINERD"],
    });
    config.set("channels", channels);
    config
}

fn default_of(channel: &str) -> &'static str {
    CHANNELS.iter().find(|c| c.name == channel).map_or(VALID[0], |c| c.default)
}

/// The version a new control plane gets: an exact one, an alias (`1.33`, `latest`, `-`), or the channel's default.
///
/// # Errors
/// 400 when nothing on offer fits.
pub fn resolve_master(asked: &str, channel: &str) -> Result<&'static str, ApiError> {
    let of = |name: &str| CHANNELS.iter().find(|c| c.name == name).map_or(VALID, |c| c.valid);
    // Without a channel a cluster joins REGULAR: what that one has is taken first.
    let joined = if matches!(channel, "" | "UNSPECIFIED") { "REGULAR" } else { channel };
    let offered = of(channel);
    match asked {
        "" | "-" => Ok(default_of(joined)),
        "latest" => Ok(offered[0]),
        _ => matching(of(joined), asked)
            .or_else(|| matching(offered, asked))
            .ok_or_else(|| ApiError::invalid(format!("Master version {asked:?} is unsupported."))),
    }
}

/// The version of new nodes: the control plane's unless another one on offer, not newer, is asked for.
///
/// # Errors
/// 400 when nothing on offer fits.
pub fn resolve_node(asked: &str, master: &str) -> Result<String, ApiError> {
    if matches!(asked, "" | "-" | "latest") {
        return Ok(master.to_owned());
    }
    let version =
        matching(VALID, asked).ok_or_else(|| ApiError::invalid(format!("Node version {asked:?} is unsupported.")))?;
    if minor(version) > minor(master) {
        let text =
            format!("Node version {version:?} must not have a greater minor version than master version {master:?}.");
        return Err(ApiError::invalid(text));
    }
    Ok(version.to_owned())
}

fn matching(offered: &[&'static str], asked: &str) -> Option<&'static str> {
    let exact = offered.iter().find(|v| **v == asked);
    let prefix = |version: &str| version.starts_with(&format!("{asked}.")) || version.starts_with(&format!("{asked}-"));
    exact.or_else(|| offered.iter().find(|v| prefix(v))).copied()
}

/// The minor of `1.33.13-gke.1350000`: 33.
pub fn minor(version: &str) -> u32 {
    version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_resolve_within_the_channel_and_the_rest_is_refused() {
        let cases = [
            ("", "", Ok("1.33.13-gke.1350000")),
            ("", "STABLE", Ok("1.33.12-gke.1240000")),
            ("latest", "RAPID", Ok("1.33.13-gke.1450000")),
            ("1.33", "REGULAR", Ok("1.33.13-gke.1350000")),
            ("1.33", "", Ok("1.33.13-gke.1350000")),
            ("1.33.12", "", Ok("1.33.12-gke.1240000")),
            ("1.33.1", "", Err("Master version \"1.33.1\" is unsupported.")),
            ("1.33.13-gke.1450000", "STABLE", Err("Master version \"1.33.13-gke.1450000\" is unsupported.")),
        ];
        for (asked, channel, expected) in cases {
            let got = resolve_master(asked, channel).map_err(|e| e.message);
            assert_eq!(got, expected.map_err(str::to_owned), "{asked} {channel}");
        }
    }

    #[test]
    fn every_offered_version_is_in_the_server_config() {
        let config = server_config();
        for channel in config["channels"].items() {
            for version in channel["validVersions"].items() {
                assert!(config["validMasterVersions"].items().contains(version));
            }
        }
    }
}
