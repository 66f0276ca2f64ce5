//! A new cluster: what was asked for, checked, over what GKE fills in (reference: gke-defaults §2).

use base::Timestamp;
use ipnet::Ipv4Net;
use machinery::{Value, json};

use crate::merge::{is_empty, long, merge, short};
use crate::places::Place;
use crate::record::Cluster;
use crate::{ApiError, Code, endpoints, names, pool, refused, user_managed, versions};

/// What a creation needs to know beside the request.
pub struct Creation<'a> {
    pub project: &'a str,
    pub location: &'a str,
    pub now: Timestamp,
    /// 64 random hex digits.
    pub id: &'a str,
    /// Every cluster of the project, whatever its location.
    pub existing: &'a [&'a Cluster],
    pub profile: Profile,
}

/// Which of GKE's ages the defaults of new clusters come from, where the version alone does not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Profile {
    /// As GKE's control plane security was first described.
    #[default]
    Classic,
    /// As GKE is in 2026: anonymous requests get no further than the health endpoints, and the DNS endpoint is on.
    Year2026,
}

/// Pods' range when none is named: the nth /14 of 10/8 that nobody uses. The first four hold nodes' subnets.
const FIRST_POD_BLOCK: u8 = 4;
/// Services' range that GKE manages itself.
const SERVICE_BLOCK: &str = "34.118.224.0/20";

/// Makes the record of a cluster from a decoded `CreateClusterRequest`.
///
/// # Errors
/// 400 for wrong values, 409 when the name is taken, 501 for what is not emulated yet.
pub fn create(request: &Value, creation: &Creation<'_>) -> Result<Cluster, ApiError> {
    let asked = &request["cluster"];
    let place = Place::parse(creation.location)?;
    let name = asked.str_at(&["name"]);
    names::check("cluster.name", name)?;
    if creation.existing.iter().any(|c| c.name == name && c.location == creation.location) {
        let path = names::cluster_path(creation.project, creation.location, name);
        return Err(ApiError::new(Code::AlreadyExists, format!("Already exists: {path}.")));
    }
    refused::at_create(asked)?;
    crate::access::check_master_auth(&asked["masterAuth"])?;
    crate::access::check_workload_pool(creation.project, &asked["workloadIdentityConfig"])?;
    crate::access::check_groups(&asked["authenticatorGroupsConfig"])?;
    let autopilot = asked["autopilot"]["enabled"].as_bool() == Some(true);
    if autopilot && place.zonal {
        return Err(ApiError::invalid("Autopilot clusters must be regional clusters."));
    }
    let pools = asked_pools(asked, autopilot)?;
    let channel = asked.str_at(&["releaseChannel", "channel"]);
    let master_version = versions::resolve_master(asked.str_at(&["initialClusterVersion"]), channel)?;
    user_managed::check(asked, creation.profile, &place, master_version)?;
    let mut body = defaults(creation, &place, versions::minor(master_version));
    if autopilot {
        merge(&mut body, &autopilot_defaults(creation.project));
    }
    let key = crate::encryption::asked_key(&asked["databaseEncryption"], creation.location)?;
    body.set("databaseEncryption", crate::encryption::created(key));
    let mut plain = asked.clone();
    for read_apart in ["controlPlaneEndpointsConfig", "databaseEncryption", "masterAuthorizedNetworksConfig"] {
        plain.remove(read_apart);
    }
    user_managed::drop_output(&mut plain);
    merge(&mut body, &plain);
    finish(&mut body, asked, creation, &place)?;
    let initial = pools.first().and_then(|pool| pool["initialNodeCount"].as_i64());
    if let Some(initial) = initial.filter(|_| !autopilot) {
        body.set("initialNodeCount", initial);
    }
    body.set("initialClusterVersion", master_version);
    let mut cluster = Cluster {
        id: creation.id.to_owned(),
        name: name.to_owned(),
        location: creation.location.to_owned(),
        created: creation.now.rfc3339().replace('Z', "+00:00"),
        status: "PROVISIONING".to_owned(),
        status_message: String::new(),
        master_version: master_version.to_owned(),
        body,
        pools: Vec::new(),
        access: None,
    };
    for asked in pools {
        let made = pool::create(&cluster, creation.project, &asked, &cluster.created, creation.id)?;
        cluster.pools.push(made);
    }
    Ok(cluster)
}

/// Pools come as a list, or as a count and a configuration for `default-pool`; not both.
fn asked_pools(asked: &Value, autopilot: bool) -> Result<Vec<Value>, ApiError> {
    let listed = asked["nodePools"].items();
    let count = asked["initialNodeCount"].as_i64().unwrap_or(0);
    if !listed.is_empty() {
        if count != 0 || !is_empty(&asked["nodeConfig"]) {
            let text =
                "Cluster.initial_node_count and Cluster.node_config must not be set when Cluster.node_pools is set.";
            return Err(ApiError::invalid(text));
        }
        return Ok(listed.to_vec());
    }
    if count <= 0 && !autopilot {
        return Err(ApiError::invalid("Cluster.initial_node_count must be greater than zero."));
    }
    let mut pool = json!({"name": "default-pool", "initialNodeCount": count.max(1)});
    if !is_empty(&asked["nodeConfig"]) {
        pool.set("config", asked["nodeConfig"].clone());
    }
    if autopilot {
        let autoscaling = json!({"enabled": true, "maxNodeCount": 1000, "autoprovisioned": true});
        pool.set("autoscaling", autoscaling);
        pool.set("maxPodsConstraint", json!({"maxPodsPerNode": "32"}));
        pool.set("podIpv4CidrSize", 26);
        pool["config"]["shieldedInstanceConfig"] = json!({"enableSecureBoot": true, "enableIntegrityMonitoring": true});
    }
    Ok(vec![pool])
}

fn defaults(creation: &Creation<'_>, place: &Place, minor: u32) -> Value {
    let short_id = &creation.id[..8];
    let limited = minor >= 35 || creation.profile == Profile::Year2026;
    let mut body = json!({
        "network": "default",
        "subnetwork": "default",
        "networkConfig": {"defaultSnatStatus": {}, "serviceExternalIpsConfig": {}},
        "ipAllocationPolicy": {
            "useIpAliases": true, "stackType": "IPV4", "servicesIpv4CidrBlock": SERVICE_BLOCK,
            "podCidrOverprovisionConfig": {}, "networkTierConfig": {"networkTier": "NETWORK_TIER_DEFAULT"},
        },
        "defaultMaxPodsConstraint": {"maxPodsPerNode": "110"},
        "addonsConfig": {
            "gcePersistentDiskCsiDriverConfig": {"enabled": true}, "kubernetesDashboard": {"disabled": true},
            "networkPolicyConfig": {"disabled": true},
        },
        "autopilot": {},
        "autoscaling": {"autoscalingProfile": "BALANCED", "autoprovisioningNodePoolDefaults": {
            "imageType": "COS_CONTAINERD", "management": {"autoRepair": true, "autoUpgrade": true},
            "oauthScopes": pool::default_scopes(), "serviceAccount": "default",
        }},
        "anonymousAuthenticationConfig": {"mode": if limited { "LIMITED" } else { "ENABLED" }},
        "controlPlaneEgress": {"mode": "VIA_CONTROL_PLANE"},
        "enterpriseConfig": {"clusterTier": "STANDARD"},
        "legacyAbac": {},
        "loggingService": "logging.googleapis.com/kubernetes",
        "loggingConfig": {"componentConfig": {"enableComponents": ["SYSTEM_COMPONENTS", "WORKLOADS"]}},
        "monitoringService": "monitoring.googleapis.com/kubernetes",
        "monitoringConfig": {
            "componentConfig": {"enableComponents": ["SYSTEM_COMPONENTS", "STORAGE", "HPA", "POD", "DAEMONSET",
                "DEPLOYMENT", "STATEFULSET", "JOBSET", "CADVISOR", "KUBELET", "DCGM"]},
            "managedPrometheusConfig": {"enabled": true}, "advancedDatapathObservabilityConfig": {},
        },
        "nodePoolAutoConfig": {"nodeKubeletConfig": {"insecureKubeletReadonlyPortEnabled": false}},
        "nodePoolDefaults": {"nodeConfigDefaults": {
            "loggingConfig": {"variantConfig": {"variant": "DEFAULT"}},
            "nodeKubeletConfig": {"insecureKubeletReadonlyPortEnabled": false},
        }},
        "notificationConfig": {"pubsub": {}},
        "podAutoscaling": {"hpaProfile": if minor >= 34 { "PERFORMANCE" } else { "HPA_PROFILE_UNSPECIFIED" }},
        "rbacBindingConfig": {"enableInsecureBindingSystemAuthenticated": true,
            "enableInsecureBindingSystemUnauthenticated": true},
        "releaseChannel": {"channel": "REGULAR"},
        "securityPostureConfig": {"mode": "BASIC", "vulnerabilityMode": "VULNERABILITY_MODE_UNSPECIFIED"},
        "shieldedNodes": {"enabled": true},
        "userManagedKeysConfig": {},
        "masterAuth": {"clientCertificateConfig": {}},
        "master": {},
        "privateCluster": true,
        "clusterTelemetry": {"type": "ENABLED"},
        "protectConfig": {"workloadConfig": {"auditMode": "BASIC"},
            "workloadVulnerabilityMode": "WORKLOAD_VULNERABILITY_MODE_UNSPECIFIED"},
        "controlPlaneEndpointsConfig": {
            "dnsEndpointConfig": {"allowExternalTraffic": creation.profile == Profile::Year2026,
                "enableK8sTokensViaDns": false, "enableK8sCertsViaDns": false},
            "ipEndpointsConfig": {"enabled": true, "enablePublicEndpoint": true,
                "authorizedNetworksConfig": {"gcpPublicCidrsAccessEnabled": true}},
        },
    });
    body.set("locations", place.default_zones());
    body["ipAllocationPolicy"]["clusterSecondaryRangeName"] = format!("gke-NAME-pods-{short_id}").into();
    if minor >= 34 {
        body["addonsConfig"]["dnsCacheConfig"] = json!({"enabled": true});
    }
    if minor >= 35 {
        body["addonsConfig"]["nodeReadinessConfig"] = json!({});
        body["nodeCreationConfig"] = json!({"nodeCreationMode": "VIA_KUBELET"});
    }
    body
}

fn autopilot_defaults(project: &str) -> Value {
    let limit = |kind: &str| json!({"resourceType": kind, "maximum": "1000000000"});
    let mut body = json!({
        "autopilot": {"enabled": true},
        "addonsConfig": {"httpLoadBalancing": {}, "horizontalPodAutoscaling": {}, "dnsCacheConfig": {"enabled": true},
            "gcpFilestoreCsiDriverConfig": {"enabled": true}},
        "autoscaling": {"enableNodeAutoprovisioning": true, "autoscalingProfile": "OPTIMIZE_UTILIZATION",
            "autoprovisioningNodePoolDefaults": {"upgradeSettings": {"maxSurge": 1}}},
        "verticalPodAutoscaling": {"enabled": true},
        "workloadIdentityConfig": {"workloadPool": format!("{project}.svc.id.goog")},
        "networkConfig": {"datapathProvider": "ADVANCED_DATAPATH",
            "dnsConfig": {"clusterDns": "CLOUD_DNS", "clusterDnsScope": "CLUSTER_SCOPE"}},
    });
    body["autoscaling"]["resourceLimits"] = vec![limit("cpu"), limit("memory")].into();
    body
}

/// Names, ranges and mirrors that follow from what was sent.
fn finish(body: &mut Value, asked: &Value, creation: &Creation<'_>, place: &Place) -> Result<(), ApiError> {
    let project = creation.project;
    for gone in ["name", "nodePools", "nodeConfig", "location", "zone", "selfLink", "status", "endpoint", "etag", "id"]
    {
        body.remove(gone);
    }
    for (field, kind) in
        [("network", "global/networks".to_owned()), ("subnetwork", format!("regions/{}/subnetworks", place.region))]
    {
        let sent = asked.str_at(&["networkConfig", field]);
        let link = if sent.is_empty() { body.str_at(&[field]).to_owned() } else { sent.to_owned() };
        body.set(field, short(&link));
        body["networkConfig"][field] = long(&link, &format!("projects/{project}/{kind}")).into();
    }
    let zones: Vec<&str> = body["locations"].items().iter().filter_map(Value::as_str).collect();
    if let Some(zone) = zones.iter().find(|z| !Place::parse(z).is_ok_and(|p| p.zonal && p.region == place.region)) {
        return Err(ApiError::invalid(format!("Location {zone:?} is not a zone in region {:?}.", place.region)));
    }
    if place.zonal && !zones.contains(&place.name.as_str()) {
        return Err(ApiError::invalid(format!("Cluster.locations must contain the cluster's zone {:?}.", place.name)));
    }
    ranges(body, asked, creation)?;
    let (name, id) = (asked.str_at(&["name"]), &creation.id[..8]);
    let subnet = format!("projects/{project}/regions/{}/subnetworks/gke-{name}-{id}-pe-subnet", place.region);
    endpoints::create(body, asked, &subnet)?;
    if is_empty(&body["networkPolicy"]) {
        body.remove("networkPolicy");
    }
    if is_empty(&body["maintenancePolicy"]["window"]) {
        body.remove("maintenancePolicy");
    }
    body["addonsConfig"]["gcePersistentDiskCsiDriverConfig"] = json!({"enabled": true});
    Ok(())
}

fn ranges(body: &mut Value, asked: &Value, creation: &Creation<'_>) -> Result<(), ApiError> {
    let used: Vec<Ipv4Net> = creation.existing.iter().filter_map(|c| c.pod_cidr().parse().ok()).collect();
    let name = asked.str_at(&["name"]);
    let named = asked.str_at(&["ipAllocationPolicy", "clusterSecondaryRangeName"]);
    let sent = [asked.str_at(&["ipAllocationPolicy", "clusterIpv4CidrBlock"]), asked.str_at(&["clusterIpv4Cidr"])];
    let sent = sent.into_iter().find(|block| !block.is_empty()).unwrap_or_default();
    let bits: u8 = if body["autopilot"]["enabled"].as_bool() == Some(true) { 17 } else { 14 };
    let pods = block("cluster.ip_allocation_policy.cluster_ipv4_cidr_block", sent, bits, &used)?;
    let services =
        [asked.str_at(&["ipAllocationPolicy", "servicesIpv4CidrBlock"]), asked.str_at(&["servicesIpv4Cidr"])];
    let services = services.into_iter().find(|block| !block.is_empty()).unwrap_or(SERVICE_BLOCK);
    let taken: Vec<Ipv4Net> = used.iter().copied().chain([pods]).collect();
    let services = block("cluster.ip_allocation_policy.services_ipv4_cidr_block", services, 20, &taken)?;
    let policy = &mut body["ipAllocationPolicy"];
    for field in ["clusterIpv4CidrBlock", "clusterIpv4Cidr"] {
        policy.set(field, pods.to_string());
    }
    for field in ["servicesIpv4CidrBlock", "servicesIpv4Cidr"] {
        policy.set(field, services.to_string());
    }
    if named.is_empty() {
        policy.set("clusterSecondaryRangeName", format!("gke-{name}-pods-{}", &creation.id[..8]));
    }
    let routes = policy["useRoutes"].as_bool() == Some(true);
    policy.set("useIpAliases", !routes);
    body.set("clusterIpv4Cidr", pods.to_string());
    body.set("servicesIpv4Cidr", services.to_string());
    Ok(())
}

/// A range as sent, a size (`/20`), or nothing: then a free one of `bits`.
fn block(field: &str, sent: &str, bits: u8, used: &[Ipv4Net]) -> Result<Ipv4Net, ApiError> {
    let wrong = || ApiError::invalid(format!("Invalid value for field {field:?}: {sent:?} is not a valid CIDR block."));
    if sent.is_empty() || sent.starts_with('/') {
        let bits = if sent.is_empty() { bits } else { sent[1..].parse().map_err(|_| wrong())? };
        if !(9..=29).contains(&bits) {
            return Err(wrong());
        }
        let free = (FIRST_POD_BLOCK..64)
            .filter_map(|n| Ipv4Net::new([10, n * 4, 0, 0].into(), bits).ok())
            .map(|net| net.trunc())
            .find(|net| !used.iter().any(|other| overlap(net, other)));
        let full =
            || ApiError::new(Code::FailedPrecondition, "No free range of the requested size is left in 10.0.0.0/8.");
        return free.ok_or_else(full);
    }
    let net: Ipv4Net = sent.parse().map_err(|_| wrong())?;
    if net.trunc() != net || net.prefix_len() > 29 {
        return Err(wrong());
    }
    Ok(net)
}

fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn make(cluster: serde_json::Value, location: &str, existing: &[&Cluster]) -> Result<Cluster, String> {
        let now = Timestamp::from_unix_seconds(1_700_000_000);
        let creation = Creation { project: "p", location, now, id: ID, existing, profile: Profile::Classic };
        create(&json!({"cluster": cluster}), &creation).map_err(|error| error.message)
    }

    #[test]
    fn a_minimal_request_becomes_a_whole_cluster() {
        let cluster = make(serde_json::json!({"name": "demo", "initialNodeCount": 1}), "us-central1", &[]).unwrap();
        assert_eq!(cluster.pools[0].groups.len(), 3);
        assert_eq!(cluster.pod_cidr(), "10.16.0.0/14");
        assert_eq!(cluster.service_cidr(), "34.118.224.0/20");
        assert_eq!(pool::nodes(&cluster).len(), 3);
        let next =
            make(serde_json::json!({"name": "two", "initialNodeCount": 1}), "us-central1-a", &[&cluster]).unwrap();
        assert_eq!(next.pod_cidr(), "10.20.0.0/14");
    }

    #[test]
    fn wrong_requests_are_refused_with_the_reason() {
        let demo = make(serde_json::json!({"name": "demo", "initialNodeCount": 1}), "us-central1-a", &[]).unwrap();
        let one = |name: &str| serde_json::json!({"name": name, "initialNodeCount": 1});
        let cases = [
            (one("demo"), "us-central1-a", "Already exists: projects/p/zones/us-central1-a/clusters/demo."),
            (one("Demo"), "us-central1-a", "Invalid value for field \"cluster.name\""),
            (one("a"), "mars-north1", "Location \"mars-north1\" does not exist."),
            (
                serde_json::json!({"name": "a"}),
                "us-central1-a",
                "Cluster.initial_node_count must be greater than zero.",
            ),
            (
                serde_json::json!({"name": "a", "initialNodeCount": 1, "initialClusterVersion": "1.12"}),
                "us-central1-a",
                "Master version \"1.12\" is unsupported.",
            ),
            (
                serde_json::json!({"name": "a", "initialNodeCount": 1, "clusterIpv4Cidr": "10.0.0.1/14"}),
                "us-central1-a",
                "Invalid value for field \"cluster.ip_allocation_policy.cluster_ipv4_cidr_block\"",
            ),
            (
                serde_json::json!({"name": "a", "initialNodeCount": 1, "networkPolicy": {"enabled": true}}),
                "us-central1-a",
                "cluster.networkPolicy.enabled is not implemented",
            ),
            (
                serde_json::json!({"name": "a", "initialNodeCount": 1, "masterAuth": {"username": "admin"}}),
                "us-central1-a",
                "Basic authentication was removed for GKE cluster versions >= 1.19.",
            ),
            (
                serde_json::json!({"name": "a", "autopilot": {"enabled": true}}),
                "us-central1-a",
                "Autopilot clusters must be regional clusters.",
            ),
        ];
        for (cluster, location, text) in cases {
            let error = make(cluster, location, &[&demo]).unwrap_err();
            assert!(error.starts_with(text), "{error}");
        }
    }
}
