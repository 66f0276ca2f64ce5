//! Node pools: defaults, validation, and the machines they want.

use std::collections::BTreeMap;

use machinery::{Value, json};

use crate::merge::{is_empty, long, merge};
use crate::places::Place;
use crate::record::{Cluster, Group, NodeSpec, Pool, digest, hex8};
use crate::{ApiError, MachineSettings, names, versions, workload};

const SCOPES: [&str; 6] = [
    "devstorage.read_only",
    "logging.write",
    "monitoring",
    "service.management.readonly",
    "servicecontrol",
    "trace.append",
];

/// The scopes a node gets when none were asked for.
pub(crate) fn default_scopes() -> Vec<String> {
    SCOPES.iter().map(|scope| format!("https://www.googleapis.com/auth/{scope}")).collect()
}

/// Machine families whose numbers follow a rule: prefix, MiB a CPU.
const FAMILIES: &[(&str, u64)] =
    &[("-standard-", 4096), ("-highmem-", 8192), ("-highcpu-", 1024), ("-megamem-", 14336), ("-ultramem-", 28672)];
/// Shared-core and other odd types: name, CPUs, MiB.
const TYPES: &[(&str, u32, u64)] = &[
    ("e2-micro", 2, 1024),
    ("e2-small", 2, 2048),
    ("e2-medium", 2, 4096),
    ("f1-micro", 1, 614),
    ("g1-small", 1, 1740),
];

/// CPUs and MiB of a machine type; `None` when there is none of that name.
pub fn machine(machine_type: &str) -> Option<(u32, u64)> {
    if let Some((_, cpus, memory)) = TYPES.iter().find(|(name, ..)| *name == machine_type) {
        return Some((*cpus, *memory));
    }
    let family = FAMILIES.iter().find(|(infix, _)| machine_type.contains(infix));
    if let Some((infix, memory)) = family {
        let (prefix, cpus) = machine_type.split_once(infix)?;
        let memory = if prefix == "n1" && *infix == "-standard-" { 3840 } else { *memory };
        let cpus: u32 = cpus.split('-').next()?.parse().ok().filter(|n| (1..=416).contains(n))?;
        return (!prefix.is_empty() && prefix.len() <= 3).then(|| (cpus, memory * u64::from(cpus)));
    }
    let mut custom = machine_type.rsplitn(3, '-');
    let (memory, cpus, head) = (custom.next()?.parse().ok()?, custom.next()?.parse().ok()?, custom.next()?);
    (head == "custom" || head.ends_with("-custom")).then_some((cpus, memory))
}

/// Makes a pool of a cluster from what was asked for. `seed` makes the groups' names.
///
/// # Errors
/// 400 with the field at fault, 409 when the cluster has a pool of that name.
pub fn create(cluster: &Cluster, project: &str, asked: &Value, created: &str, seed: &str) -> Result<Pool, ApiError> {
    let name = asked.str_at(&["name"]);
    names::check("node_pool.name", name)?;
    if cluster.pool(name).is_some() {
        let path = names::cluster_path(project, &cluster.location, &cluster.name);
        return Err(ApiError::new(crate::Code::AlreadyExists, format!("Already exists: {path}/nodePools/{name}.")));
    }
    let place = Place::parse(&cluster.location)?;
    let initial = asked["initialNodeCount"].as_i64().unwrap_or(0);
    let autoscaling = asked["autoscaling"]["enabled"].as_bool() == Some(true);
    let least = asked["autoscaling"]["minNodeCount"].as_i64().filter(|_| autoscaling).unwrap_or(0);
    let nodes = u32::try_from(initial.max(least)).ok().filter(|n| *n <= 1000).ok_or_else(|| {
        ApiError::invalid(format!("Node pool {name:?}: initial_node_count must be between 0 and 1000."))
    })?;
    let version = versions::resolve_node(asked.str_at(&["version"]), &cluster.master_version)?;
    let mode = workload::checked(&cluster.body, &asked["config"]["workloadMetadataConfig"])?;
    let mut body = defaults(cluster, project, &place);
    merge(&mut body, asked);
    if let Some(mode) = mode {
        body["config"].set("workloadMetadataConfig", mode);
    }
    for gone in ["name", "version", "status", "selfLink", "instanceGroupUrls", "etag", "statusMessage", "conditions"] {
        body.remove(gone);
    }
    let zones: Vec<String> = body["locations"].items().iter().filter_map(Value::as_str).map(str::to_owned).collect();
    for zone in &zones {
        if !Place::parse(zone).is_ok_and(|z| z.zonal && z.region == place.region) {
            return Err(ApiError::invalid(format!("Location {zone:?} is not a zone in region {:?}.", place.region)));
        }
    }
    let machine_type = body.str_at(&["config", "machineType"]);
    if machine(machine_type).is_none() {
        let zone = zones.first().map_or("", String::as_str);
        return Err(ApiError::invalid(format!(
            "Machine type with name {machine_type:?} does not exist in zone {zone:?}."
        )));
    }
    finish(&mut body, &version);
    let prefix = cluster.body["autopilot"]["enabled"].as_bool() == Some(true);
    let stem = names::group_stem(if prefix { "gk3" } else { "gke" }, &cluster.name, name);
    let groups = zones
        .iter()
        .map(|zone| Group { zone: zone.clone(), base: format!("{stem}-{}", hex8(&[&cluster.id, name, zone, seed])) })
        .collect();
    Ok(Pool {
        name: name.to_owned(),
        status: "PROVISIONING".to_owned(),
        version,
        nodes,
        groups,
        body,
        created: created.to_owned(),
    })
}

fn defaults(cluster: &Cluster, project: &str, place: &Place) -> Value {
    let policy = &cluster.body["ipAllocationPolicy"];
    let mut body = json!({
        "management": {"autoRepair": true, "autoUpgrade": true},
        "maxPodsConstraint": cluster.body["defaultMaxPodsConstraint"],
        "podIpv4CidrSize": 24,
        "upgradeSettings": {"maxSurge": 1, "strategy": "SURGE"},
        "networkConfig": {
            "podRange": policy["clusterSecondaryRangeName"],
            "podIpv4CidrBlock": policy["clusterIpv4CidrBlock"],
            "subnetwork": cluster.body["networkConfig"]["subnetwork"],
            "networkTierConfig": policy["networkTierConfig"],
        },
        "config": {
            "machineType": "e2-medium", "imageType": "COS_CONTAINERD", "diskSizeGb": 100, "diskType": "pd-balanced",
            "effectiveCgroupMode": "EFFECTIVE_CGROUP_MODE_V2",
            "kubeletConfig": {"insecureKubeletReadonlyPortEnabled": false},
            "metadata": {"disable-legacy-endpoints": "true"},
            "oauthScopes": default_scopes(),
            "serviceAccount": "default",
            "resourceLabels": {"goog-gke-node-pool-provisioning-model": "on-demand"},
            "shieldedInstanceConfig": {"enableIntegrityMonitoring": true},
            "windowsNodeConfig": {},
        },
    });
    body.set("locations", cluster.zones());
    if cluster.body["networkConfig"]["defaultEnablePrivateNodes"].as_bool() == Some(true) {
        body["networkConfig"]["enablePrivateNodes"] = true.into();
    }
    if !is_empty(&cluster.body["workloadIdentityConfig"]) {
        body["config"]["workloadMetadataConfig"] = workload::default_mode();
    }
    if body["networkConfig"]["subnetwork"].is_null() {
        let prefix = format!("projects/{project}/regions/{}/subnetworks", place.region);
        body["networkConfig"]["subnetwork"] = long("default", &prefix).into();
    }
    body
}

/// What follows from other fields once everything is merged.
fn finish(body: &mut Value, version: &str) {
    let minor = versions::minor(version);
    if minor >= 33 && body["config"]["kubeletConfig"]["maxParallelImagePulls"].is_null() {
        body["config"]["kubeletConfig"]["maxParallelImagePulls"] = 2.into();
    }
    let disk_size = body["config"]["diskSizeGb"].as_i64().filter(|size| *size > 0).unwrap_or(100);
    // The newer form repeats the older one; where it was sent, it counts.
    let mut boot_disk = json!({"diskType": body["config"]["diskType"], "sizeGb": disk_size.to_string()});
    if !body["config"]["bootDisk"].is_null() {
        merge(&mut boot_disk, &body["config"]["bootDisk"]);
    }
    body["config"]["diskType"] = boot_disk["diskType"].clone();
    body["config"]["diskSizeGb"] = boot_disk.str_at(&["sizeGb"]).parse().unwrap_or(disk_size).into();
    body["config"]["bootDisk"] = boot_disk;
    let plain: String = version.chars().filter(|c| !matches!(c, '.' | '-')).collect();
    body["config"]["nodeImageConfig"] =
        json!({"image": format!("gke-{plain}-cos-121-18867-199-12-c-pre"), "imageProject": "gke-node-images"});
    if body["upgradeSettings"].str_at(&["strategy"]) == "SURGE"
        && is_empty(&body["upgradeSettings"]["blueGreenSettings"])
        && let Some(settings) = body.get_mut("upgradeSettings")
    {
        settings.remove("blueGreenSettings");
    }
    if body["autoscaling"]["enabled"].as_bool() == Some(true) {
        if body["autoscaling"]["locationPolicy"].is_null() {
            body["autoscaling"]["locationPolicy"] = "BALANCED".into();
        }
    } else if is_empty(&body["autoscaling"]) {
        body.remove("autoscaling");
    }
}

/// The machines of all pools of a cluster, in order.
pub fn nodes(cluster: &Cluster) -> Vec<NodeSpec> {
    let specs = cluster.pools.iter().filter(|pool| pool.status != "STOPPING").flat_map(|pool| {
        let groups = pool.groups.iter().flat_map(|group| (0..pool.nodes).map(move |index| (group, index)));
        groups.map(|(group, index)| node(cluster, pool, group, index))
    });
    specs.collect()
}

fn node(cluster: &Cluster, pool: &Pool, group: &Group, index: u32) -> NodeSpec {
    let config = &pool.body["config"];
    let machine_type = config.str_at(&["machineType"]);
    let (cpus, memory_mib) = machine(machine_type).unwrap_or((2, 4096));
    let region = group.zone.rsplit_once('-').map_or("", |(region, _)| region).to_owned();
    let name = format!("{}-{}", group.base, suffix(&[&cluster.id, &group.base, &index.to_string()]));
    let mut labels: BTreeMap<String, String> = config["labels"]
        .members()
        .map(|(key, value)| (key.to_owned(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    let given = [
        ("cloud.google.com/gke-nodepool", pool.name.as_str()),
        ("cloud.google.com/gke-os-distribution", "cos"),
        ("cloud.google.com/gke-container-runtime", "containerd"),
        ("cloud.google.com/gke-boot-disk", config.str_at(&["diskType"])),
        ("cloud.google.com/gke-cpu-scaling-level", &cpus.to_string()),
        ("cloud.google.com/gke-logging-variant", "DEFAULT"),
        ("cloud.google.com/gke-max-pods-per-node", pool.body.str_at(&["maxPodsConstraint", "maxPodsPerNode"])),
        ("cloud.google.com/gke-provisioning", "standard"),
        ("cloud.google.com/gke-stack-type", "IPV4"),
        ("cloud.google.com/machine-family", machine_type.split('-').next().unwrap_or_default()),
        ("node.kubernetes.io/instance-type", machine_type),
        ("beta.kubernetes.io/instance-type", machine_type),
        ("topology.gke.io/zone", &group.zone),
        ("topology.kubernetes.io/zone", &group.zone),
        ("topology.kubernetes.io/region", &region),
        ("failure-domain.beta.kubernetes.io/zone", &group.zone),
        ("failure-domain.beta.kubernetes.io/region", &region),
    ];
    labels.extend(given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    if workload::is_on(config) {
        labels.insert("iam.gke.io/gke-metadata-server-enabled".to_owned(), "true".to_owned());
    }
    let taint = |t: &Value| {
        let effect = match t.str_at(&["effect"]) {
            "NO_EXECUTE" => "NoExecute",
            "PREFER_NO_SCHEDULE" => "PreferNoSchedule",
            _ => "NoSchedule",
        };
        (t.str_at(&["key"]).to_owned(), t.str_at(&["value"]).to_owned(), effect.to_owned())
    };
    NodeSpec {
        name,
        zone: group.zone.clone(),
        region,
        pool: pool.name.clone(),
        machine_type: machine_type.to_owned(),
        cpus,
        memory_mib,
        version: pool.version.clone(),
        labels,
        taints: config["taints"].items().iter().map(taint).collect(),
        shielded: cluster.body["shieldedNodes"]["enabled"].as_bool() != Some(false),
        settings: MachineSettings::of(cluster, pool),
    }
}

/// Four letters and digits, as instances of a managed group end.
fn suffix(parts: &[&str]) -> String {
    const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut number = digest(parts);
    let mut letter = || {
        let c = ALPHABET[(number % 36) as usize];
        number /= 36;
        char::from(c)
    };
    (0..4).map(|_| letter()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_types_follow_their_families() {
        let cases = [
            ("e2-medium", Some((2, 4096))),
            ("e2-standard-4", Some((4, 16384))),
            ("n1-standard-1", Some((1, 3840))),
            ("n2-highcpu-8", Some((8, 8192))),
            ("n2-custom-6-3072", Some((6, 3072))),
            ("gigantic", None),
            ("e2-standard-0", None),
        ];
        for (name, expected) in cases {
            assert_eq!(machine(name), expected, "{name}");
        }
    }

    #[test]
    fn the_boot_disk_repeats_the_older_fields_and_counts_where_it_was_sent() {
        let check = |config: Value| {
            let mut body = json!({"config": config, "upgradeSettings": {}});
            finish(&mut body, "1.33.13-gke.1350000");
            let config = &body["config"];
            (config["diskType"].clone(), config["diskSizeGb"].clone(), config["bootDisk"].clone())
        };
        let plain = check(json!({"diskType": "pd-balanced", "diskSizeGb": 50, "kubeletConfig": {}}));
        let boot_disk = json!({"diskType": "pd-balanced", "sizeGb": "50"});
        assert_eq!(plain, ("pd-balanced".into(), 50.into(), boot_disk));
        let sent = json!({"sizeGb": "20", "diskType": "pd-ssd", "provisionedIops": "9"});
        let newer = check(json!({"diskType": "pd-balanced", "diskSizeGb": 100, "kubeletConfig": {}, "bootDisk": sent}));
        assert_eq!(newer, ("pd-ssd".into(), 20.into(), sent));
    }
}
