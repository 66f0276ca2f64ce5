//! Metadata servers, on the fleet's side: what a hypervisor tells a machine of itself. What they say is decided in
//! [`gke::metadata`].
//!
//! ```text
//! instance ─ socket it was born with ─► its own server ─► the etcd API CA, bootstrap data, tokens
//! anybody else ─► closed at accept
//! ```

mod addresses;
mod http;
pub(crate) mod instance;

use std::collections::BTreeMap;

/// Compute Engine's number for a machine: any, but always the same for the same machine.
pub(crate) fn machine_id(cluster: &str, name: &str) -> u64 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("{cluster}/{name}").as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_ref()[..8]);
    // Positive as a signed number too, which is how some clients read it.
    u64::from_be_bytes(first) >> 1
}

/// `kube-env`: one `NAME: "value"` a line, as YAML.
pub(crate) fn kube_env(values: &BTreeMap<&str, String>) -> String {
    let line = |(name, value): (&&str, &String)| {
        let value = serde_json::to_string(value).expect("text always serializes");
        format!("{name}: {value}\n")
    };
    values.iter().map(line).collect()
}
