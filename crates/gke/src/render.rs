//! Records as the API shows them, in the version that was asked for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use machinery::{Value, json};

use crate::merge::is_empty;
use crate::places::segment;
use crate::record::{Access, Cluster, Operation, OperationStatus, Pool, Work, digest, hex8};
use crate::update::{label_fingerprint, maintenance_version};
use crate::{ApiVersion, endpoints, schema};

/// Who looks, and through which version.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub version: ApiVersion,
    pub project: &'a str,
    pub project_number: &'a str,
    /// Does the caller hold `container.clusters.getCredentials`? Without it the client certificate is not shown.
    pub credentials: bool,
}

impl View<'_> {
    fn link(&self, path: &str) -> String {
        format!("https://container.googleapis.com/{}/{path}", self.version.as_str())
    }

    fn cluster_link(&self, cluster: &Cluster) -> String {
        self.link(&crate::names::cluster_path(self.project, &cluster.location, &cluster.name))
    }

    /// `Cluster`.
    pub fn cluster(&self, cluster: &Cluster) -> Value {
        let mut out = cluster.body.clone();
        let running = cluster.status != "PROVISIONING";
        for (field, text) in [
            ("name", &cluster.name),
            ("id", &cluster.id),
            ("createTime", &cluster.created),
            ("location", &cluster.location),
            ("zone", &cluster.location),
            ("status", &cluster.status),
            ("statusMessage", &cluster.status_message),
            ("currentMasterVersion", &cluster.master_version),
            ("selfLink", &self.cluster_link(cluster)),
        ] {
            out.set(field, text);
        }
        let node_version = cluster.pools.first().map_or(&cluster.master_version, |pool| &pool.version);
        out.set("currentNodeVersion", node_version);
        out.set("labelFingerprint", label_fingerprint(&cluster.body));
        out["maintenancePolicy"]["resourceVersion"] = maintenance_version(&cluster.body).into();
        let dns_name = endpoints::dns_name(&cluster.id, self.project_number, &cluster.location);
        out["controlPlaneEndpointsConfig"]["dnsEndpointConfig"]["endpoint"] = dns_name.as_str().into();
        if let Some(access) = &cluster.access {
            show_access(&mut out, access, self.credentials);
            endpoints::show(&mut out, access, &dns_name);
        }
        let pools: Vec<Value> = cluster.pools.iter().map(|pool| self.raw_pool(cluster, pool)).collect();
        let groups: Vec<Value> = pools.iter().flat_map(|pool| pool["instanceGroupUrls"].items().to_vec()).collect();
        out.set("instanceGroupUrls", groups);
        if let Some(pool) = cluster.pool("default-pool") {
            out.set("nodeConfig", pool.body["config"].clone());
        }
        out.set("nodePools", pools);
        if running {
            let nodes: usize = cluster.pools.iter().map(|pool| pool.nodes as usize * pool.groups.len()).sum();
            out.set("currentNodeCount", nodes);
        }
        let content = out.to_string();
        out.set("etag", format!("{:016x}", digest(&[&content])));
        schema::encode("Cluster", self.version, &out)
    }

    /// `NodePool`.
    pub fn pool(&self, cluster: &Cluster, pool: &Pool) -> Value {
        schema::encode("NodePool", self.version, &self.raw_pool(cluster, pool))
    }

    fn raw_pool(&self, cluster: &Cluster, pool: &Pool) -> Value {
        let mut out = pool.body.clone();
        out.set("name", pool.name.as_str());
        out.set("status", pool.status.as_str());
        out.set("version", pool.version.as_str());
        out.set("selfLink", format!("{}/nodePools/{}", self.cluster_link(cluster), pool.name));
        let urls = pool.groups.iter().map(|group| {
            format!(
                "https://www.googleapis.com/compute/v1/projects/{}/zones/{}/instanceGroupManagers/{}-grp",
                self.project, group.zone, group.base
            )
        });
        out.set("instanceGroupUrls", urls.collect::<Vec<_>>());
        let expires = base::Timestamp::parse(&pool.created).unwrap_or_default();
        let expires = expires + std::time::Duration::from_secs(5 * 365 * 86_400);
        out["kubeletCertInfo"] = json!({"tpmBootstrapCertExpireTime": expires.rfc3339()});
        let (a, b) = (digest(&[&cluster.id, &out.to_string()]), digest(&[&pool.name, &out.to_string()]));
        out.set("etag", uuid(a, b));
        out
    }

    /// `Operation`; links carry the project's number.
    pub fn operation(&self, operation: &Operation) -> Value {
        let place = format!("projects/{}/{}", self.project_number, segment(&operation.location));
        let mut target = format!("{place}/clusters/{}", operation.cluster);
        if let Some(pool) = &operation.pool {
            target = format!("{target}/nodePools/{pool}");
        }
        let mut out = json!({
            "name": operation.name, "operationType": operation.operation_type, "status": operation.status.as_str(),
            "zone": operation.location, "startTime": operation.start,
            "selfLink": self.link(&format!("{place}/operations/{}", operation.name)), "targetLink": self.link(&target),
        });
        if let Some(end) = &operation.end {
            out.set("endTime", end);
        }
        if let Some((code, message)) = &operation.error {
            out.set("error", json!({"code": code, "message": message}));
            out.set("statusMessage", message);
        } else if operation.status == OperationStatus::Done && operation.work == Work::CreateCluster {
            out.set("progress", progress());
        }
        schema::encode("Operation", self.version, &out)
    }
}

fn show_access(out: &mut Value, access: &Access, credentials: bool) {
    out["masterAuth"]["clusterCaCertificate"] = STANDARD.encode(&access.ca_pem).into();
    if let Some(client) = access.client.as_ref().filter(|_| credentials) {
        out["masterAuth"]["clientCertificate"] = STANDARD.encode(&client.certificate).into();
        out["masterAuth"]["clientKey"] = STANDARD.encode(&client.key).into();
    }
}

/// The numbers a finished creation shows, in the real order.
fn progress() -> Value {
    let counts = [
        ("CLUSTER_CONFIGURING", 8),
        ("CLUSTER_CONFIGURING_TOTAL", 8),
        ("CLUSTER_DEPLOYING", 10),
        ("CLUSTER_DEPLOYING_TOTAL", 10),
        ("CLUSTER_HEALTHCHECKING", 1),
        ("CLUSTER_HEALTHCHECKING_TOTAL", 2),
    ];
    let metric = |(name, n): &(&str, i64)| json!({"name": name, "intValue": n.to_string()});
    [("metrics", counts.iter().map(metric).collect::<Value>())].into_iter().collect()
}

fn uuid(a: u64, b: u64) -> String {
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff
    )
}

/// What Compute shows of a pool's group in a zone (`compute#instanceGroupManager`).
pub fn group_manager(project: &str, cluster: &Cluster, pool: &Pool, zone: &str) -> Option<Value> {
    let group = pool.groups.iter().find(|group| group.zone == zone)?;
    let root = format!("https://www.googleapis.com/compute/v1/projects/{project}");
    let name = format!("{}-grp", group.base);
    let id = digest(&[&cluster.id, &name]) >> 1;
    let template = format!("{}-{}", group.base, hex8(&[&name, &pool.version]));
    let idle = [
        "abandoning",
        "creating",
        "creatingWithoutRetries",
        "deleting",
        "recreating",
        "refreshing",
        "restarting",
        "resuming",
        "starting",
        "stopping",
        "suspending",
        "verifying",
    ];
    let mut actions: Value = idle.iter().map(|action| (*action, 0_i64)).collect();
    actions.set("none", pool.nodes);
    Some(json!({
        "kind": "compute#instanceGroupManager", "id": id.to_string(), "creationTimestamp": pool.created, "name": name,
        "baseInstanceName": group.base, "targetSize": pool.nodes, "zone": format!("{root}/zones/{zone}"),
        "selfLink": format!("{root}/zones/{zone}/instanceGroupManagers/{name}"),
        "instanceGroup": format!("{root}/zones/{zone}/instanceGroups/{name}"),
        "instanceTemplate": format!("{root}/global/instanceTemplates/{template}"),
        "fingerprint": STANDARD.encode(id.to_be_bytes()),
        "currentActions": actions,
        "status": {"isStable": true, "versionTarget": {"isReached": true}},
        "updatePolicy": {"type": "OPPORTUNISTIC", "minimalAction": "REPLACE", "replacementMethod": "SUBSTITUTE",
            "maxSurge": {"fixed": 1, "calculated": 1}, "maxUnavailable": {"fixed": 1, "calculated": 1}},
        "instanceLifecyclePolicy": {"defaultActionOnFailure": "REPAIR", "forceUpdateOnRepair": "YES"},
    }))
}

/// `ListUsableSubnetworks`: the default network's subnetworks of all regions.
pub fn usable_subnetworks(project: &str) -> Value {
    let subnet = |(i, region): (usize, &str)| {
        json!({"network": format!("projects/{project}/global/networks/default"), "ipCidrRange": format!("10.{}.0.0/20", 128 + i * 2),
            "subnetwork": format!("projects/{project}/regions/{region}/subnetworks/default")})
    };
    let list: Vec<Value> = crate::places::regions().enumerate().map(subnet).collect();
    [("subnetworks", list)].into_iter().collect()
}

/// `{name: [..]}`, or `{}` when there is nothing.
pub fn list(name: &str, items: Vec<Value>) -> Value {
    let mut out = Value::object();
    if !items.is_empty() {
        out.set(name, items);
    }
    debug_assert!(is_empty(&out) || out.get(name).is_some());
    out
}
