//! `controlPlaneEndpointsConfig` and the older fields for the same things: read in either form, kept in the new one, shown
//! in both (reference: gke-defaults §2 and §5).
//!
//! ```text
//! masterAuthorizedNetworksConfig ─┐                                     ┌─► masterAuthorizedNetworksConfig
//! privateClusterConfig.* ─────────┼─► controlPlaneEndpointsConfig (kept) ┼─► privateClusterConfig.*
//! controlPlaneEndpointsConfig ────┘                                     └─► controlPlaneEndpointsConfig, endpoint
//! ```

use ipnet::Ipv4Net;
use machinery::{Value, json};

use crate::ApiError;
use crate::merge::is_empty;
use crate::record::Access;

/// The API's limit for authorized networks.
const CIDR_BLOCKS_MAX: usize = 50;
/// Of the network between a control plane and its nodes.
const MASTER_BLOCK_BITS: u8 = 28;
const NEW: &str = "control_plane_endpoints_config.ip_endpoints_config";

/// A request in the new form: what was not sent is not there.
#[derive(Default, Debug)]
struct Wish {
    dns: Value,
    ip_access: Option<bool>,
    public_endpoint: Option<bool>,
    global_access: Option<bool>,
    subnetwork: Option<String>,
    networks: Option<Value>,
}

/// Lays what a new cluster asks of its endpoints over the defaults in `body`, whichever form it was sent in.
///
/// # Errors
/// 400 for both forms of one thing, switches that contradict each other, and networks that are none.
pub(crate) fn create(body: &mut Value, asked: &Value, subnet: &str) -> Result<(), ApiError> {
    let (new, old) = (&asked["controlPlaneEndpointsConfig"], &asked["privateClusterConfig"]);
    let mut wish = Wish::new_form(new);
    let both = |old: &str, new: &str| {
        ApiError::invalid(format!("Cluster.{old} must not be set when Cluster.{NEW}.{new} is set."))
    };
    if !is_empty(&asked["masterAuthorizedNetworksConfig"]) {
        if wish.networks.as_ref().is_some_and(|networks| !is_empty(networks)) {
            return Err(both("master_authorized_networks_config", "authorized_networks_config"));
        }
        wish.networks = Some(asked["masterAuthorizedNetworksConfig"].clone());
    }
    // Older clients send the old switch beside the new one; only a contradiction is wrong.
    if old["enablePrivateEndpoint"].as_bool() == Some(true) {
        if wish.public_endpoint == Some(true) {
            return Err(both("private_cluster_config.enable_private_endpoint", "enable_public_endpoint"));
        }
        wish.public_endpoint = Some(false);
    }
    if old["masterGlobalAccessConfig"]["enabled"].as_bool() == Some(true) {
        if wish.global_access == Some(false) {
            return Err(both("private_cluster_config.master_global_access_config", "global_access"));
        }
        wish.global_access = Some(true);
    }
    let old_subnetwork = old.str_at(&["privateEndpointSubnetwork"]);
    if !old_subnetwork.is_empty() {
        if wish.subnetwork.as_ref().is_some_and(|new| new != old_subnetwork) {
            return Err(both("private_cluster_config.private_endpoint_subnetwork", "private_endpoint_subnetwork"));
        }
        wish.subnetwork = Some(old_subnetwork.to_owned());
    }
    for output_only in ["publicEndpoint", "privateEndpoint", "peeringName"] {
        body["privateClusterConfig"].remove(output_only);
    }
    let master_block = old.str_at(&["masterIpv4CidrBlock"]);
    check_master_block(master_block)?;
    // A control plane in a subnetwork of its own guards its internal address too, and does not know Google's addresses.
    if !master_block.is_empty() || wish.subnetwork.is_some() {
        let networks = &mut body["controlPlaneEndpointsConfig"]["ipEndpointsConfig"]["authorizedNetworksConfig"];
        *networks = json!({"privateEndpointEnforcementEnabled": true});
        let ip = &mut body["controlPlaneEndpointsConfig"]["ipEndpointsConfig"];
        ip.set("privateEndpointSubnetwork", subnet);
    }
    wish.lay_over(body)?;
    mirror(body);
    Ok(())
}

/// Lays what an update asks of the endpoints over `body`.
///
/// # Errors
/// As [`create`].
pub(crate) fn update(body: &mut Value, update: &Value) -> Result<(), ApiError> {
    let (new, old) = (&update["desiredControlPlaneEndpointsConfig"], &update["desiredPrivateClusterConfig"]);
    let mut wish = Wish::new_form(new);
    let new_ip = !is_empty(&new["ipEndpointsConfig"]);
    let both = |old: &str| {
        let text = format!("Update.{old} must not be set when Update.desired_{NEW} is set.");
        if new_ip { Err(ApiError::invalid(text)) } else { Ok(()) }
    };
    let networks = &update["desiredMasterAuthorizedNetworksConfig"];
    if !networks.is_null() {
        both("desired_master_authorized_networks_config")?;
        wish.networks = Some(networks.clone());
    }
    if let Some(private) = update["desiredEnablePrivateEndpoint"].as_bool() {
        both("desired_enable_private_endpoint")?;
        wish.public_endpoint = Some(!private);
    }
    if !is_empty(old) {
        both("desired_private_cluster_config")?;
        if let Some(field) = old.members().map(|(field, _)| field).find(|field| *field != "masterGlobalAccessConfig") {
            return Err(ApiError::invalid(format!(
                "Update.desired_private_cluster_config: only master_global_access_config can be updated, not {field}."
            )));
        }
        wish.global_access = Some(old["masterGlobalAccessConfig"]["enabled"].as_bool() == Some(true));
    }
    if wish.subnetwork.is_some() {
        return Err(ApiError::invalid("The private endpoint's subnetwork cannot be changed."));
    }
    wish.lay_over(body)?;
    if let Some(nodes) = update["desiredDefaultEnablePrivateNodes"].as_bool() {
        body["networkConfig"]["defaultEnablePrivateNodes"] = nodes.into();
        body["privateClusterConfig"]["enablePrivateNodes"] = nodes.into();
    }
    mirror(body);
    Ok(())
}

impl Wish {
    fn new_form(config: &Value) -> Self {
        let ip = &config["ipEndpointsConfig"];
        let subnetwork = ip.str_at(&["privateEndpointSubnetwork"]);
        let networks = &ip["authorizedNetworksConfig"];
        Self {
            dns: config["dnsEndpointConfig"].clone(),
            ip_access: ip["enabled"].as_bool(),
            public_endpoint: ip["enablePublicEndpoint"].as_bool(),
            global_access: ip["globalAccess"].as_bool(),
            subnetwork: (!subnetwork.is_empty()).then(|| subnetwork.to_owned()),
            networks: (!networks.is_null()).then(|| networks.clone()),
        }
    }

    fn lay_over(self, body: &mut Value) -> Result<(), ApiError> {
        let off = self.ip_access == Some(false);
        let needs_ip = self.public_endpoint == Some(true)
            || self.global_access == Some(true)
            || self.networks.as_ref().is_some_and(|networks| networks["enabled"].as_bool() == Some(true));
        if off && needs_ip {
            let text = "IP endpoints cannot be configured when ip_endpoints_config.enabled is false.";
            return Err(ApiError::invalid(text));
        }
        let config = &mut body["controlPlaneEndpointsConfig"];
        for field in ["allowExternalTraffic", "enableK8sTokensViaDns", "enableK8sCertsViaDns"] {
            if let Some(on) = self.dns[field].as_bool() {
                config["dnsEndpointConfig"][field] = on.into();
            }
        }
        let ip = &mut config["ipEndpointsConfig"];
        for (field, value) in [
            ("enabled", self.ip_access),
            ("enablePublicEndpoint", self.public_endpoint),
            ("globalAccess", self.global_access),
        ] {
            if let Some(value) = value {
                ip.set(field, value);
            }
        }
        if let Some(subnetwork) = self.subnetwork {
            ip.set("privateEndpointSubnetwork", subnetwork.as_str());
            body["privateClusterConfig"].set("privateEndpointSubnetwork", subnetwork);
        }
        let ip = &mut body["controlPlaneEndpointsConfig"]["ipEndpointsConfig"];
        let private = ip["enablePublicEndpoint"].as_bool() == Some(false);
        if let Some(networks) = self.networks {
            if private && networks["gcpPublicCidrsAccessEnabled"].as_bool() == Some(true) {
                return Err(ApiError::invalid(
                    "Invalid value for \"cluster.master_authorized_networks_config\": \
                     \"cluster.master_authorized_networks_config.gcp_public_cidrs_access_enabled\" cannot be enabled if \
                     private endpoint is enabled.",
                ));
            }
            ip["authorizedNetworksConfig"] = networks_after(&ip["authorizedNetworksConfig"], &networks)?;
        }
        if private && ip["enabled"].as_bool() != Some(false) {
            check_reserved(&ip["authorizedNetworksConfig"])?;
        }
        Ok(())
    }
}

/// The list and its switch are replaced; the two other switches stay unless they are sent.
fn networks_after(before: &Value, sent: &Value) -> Result<Value, ApiError> {
    let enabled = sent["enabled"].as_bool() == Some(true);
    let blocks = sent["cidrBlocks"].items();
    if !enabled && !blocks.is_empty() {
        return Err(wrong_networks("CIDR blocks cannot be set unless authorized networks are enabled."));
    }
    if blocks.len() > CIDR_BLOCKS_MAX {
        return Err(wrong_networks(&format!(
            "{} CIDR blocks were specified, which is more than the limit of {CIDR_BLOCKS_MAX}.",
            blocks.len()
        )));
    }
    for block in blocks {
        let text = block.str_at(&["cidrBlock"]);
        if text.parse::<Ipv4Net>().is_err() {
            return Err(wrong_networks(&format!("network {text:?} is not a valid CIDR block.")));
        }
    }
    let mut after = Value::object();
    if enabled {
        after.set("enabled", true);
        if !blocks.is_empty() {
            after.set("cidrBlocks", blocks.to_vec());
        }
    }
    for switch in ["gcpPublicCidrsAccessEnabled", "privateEndpointEnforcementEnabled"] {
        if let Some(on) = sent[switch].as_bool().or(before[switch].as_bool()) {
            after.set(switch, on);
        }
    }
    Ok(after)
}

/// GKE's rule for a control plane without an external endpoint. Here the network is made of loopback addresses, so these
/// count as reserved ones.
fn check_reserved(networks: &Value) -> Result<(), ApiError> {
    const RESERVED: [&str; 8] = [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "192.0.0.0/24",
        "198.18.0.0/15",
        "240.0.0.0/4",
        "127.0.0.0/8",
    ];
    for block in networks["cidrBlocks"].items() {
        let text = block.str_at(&["cidrBlock"]);
        let Ok(net) = text.parse::<Ipv4Net>() else { continue };
        let mut reserved = RESERVED.iter().filter_map(|range| range.parse::<Ipv4Net>().ok());
        if !reserved.any(|range| range.contains(&net)) {
            return Err(wrong_networks(&format!(
                "network {text:?} is not a reserved network, which is required for private endpoints."
            )));
        }
    }
    Ok(())
}

fn check_master_block(text: &str) -> Result<(), ApiError> {
    let good = |net: Ipv4Net| net.trunc() == net && net.prefix_len() == MASTER_BLOCK_BITS;
    if text.is_empty() || text.parse().is_ok_and(good) {
        return Ok(());
    }
    let field = "cluster.private_cluster_config.master_ipv4_cidr_block";
    Err(ApiError::invalid(format!("Invalid value for field {field:?}: {text:?} is not a valid /28 CIDR block.")))
}

fn wrong_networks(why: &str) -> ApiError {
    ApiError::invalid(format!("Invalid master authorized networks: {why}"))
}

/// The old fields after the new ones; private nodes are said in three places.
pub(crate) fn mirror(body: &mut Value) {
    let ip = body["controlPlaneEndpointsConfig"]["ipEndpointsConfig"].clone();
    body.set("masterAuthorizedNetworksConfig", ip["authorizedNetworksConfig"].clone());
    if body["privateClusterConfig"].is_null() {
        body.set("privateClusterConfig", Value::object());
    }
    let nodes = body["networkConfig"]["defaultEnablePrivateNodes"].as_bool() == Some(true)
        || body["privateClusterConfig"]["enablePrivateNodes"].as_bool() == Some(true);
    if nodes {
        body["privateClusterConfig"]["enablePrivateNodes"] = true.into();
        body["networkConfig"]["defaultEnablePrivateNodes"] = true.into();
    }
    let old = &mut body["privateClusterConfig"];
    let mut switch = |field: &str, on: bool, value: Value| {
        if on {
            old.set(field, value);
        } else {
            old.remove(field);
        }
    };
    switch("enablePrivateEndpoint", ip["enablePublicEndpoint"].as_bool() == Some(false), true.into());
    let global = ip["globalAccess"].as_bool() == Some(true);
    switch("masterGlobalAccessConfig", global, json!({"enabled": true}));
}

/// Puts the addresses of a running cluster where GKE shows them, by what is on.
pub(crate) fn show(out: &mut Value, access: &Access, dns_name: &str) {
    let public = access.endpoint.as_str();
    out["privateClusterConfig"]["publicEndpoint"] = public.into();
    let ip = &mut out["controlPlaneEndpointsConfig"]["ipEndpointsConfig"];
    if ip["enabled"].as_bool() == Some(false) {
        // What else is set is kept, and shown again when access is on again.
        *ip = json!({"enabled": false});
        out.remove("masterAuthorizedNetworksConfig");
        out["privateClusterConfig"].remove("enablePrivateEndpoint");
        out.set("endpoint", dns_name);
        return;
    }
    ip.set("privateEndpoint", access.private_endpoint.as_str());
    let is_public = ip["enablePublicEndpoint"].as_bool() != Some(false);
    if is_public {
        ip.set("publicEndpoint", public);
    }
    out["privateClusterConfig"]["privateEndpoint"] = access.private_endpoint.as_str().into();
    out.set("endpoint", if is_public { public } else { access.private_endpoint.as_str() });
}

/// `gke-<36 hex>-<project number>.<location>.gke.goog`, for the cluster's life.
pub fn dns_name(id: &str, project_number: &str, location: &str) -> String {
    format!("gke-{}-{project_number}.{location}.gke.goog", &id[..id.len().min(36)])
}

#[cfg(test)]
#[path = "endpoints/tests.rs"]
mod tests;
