//! A simulated machine: what its Node says of it.

use base::Timestamp;
use machinery::{Value, json};

use crate::conditions;

/// One machine, as the node pool made it.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Node name; the kubelet's user is `system:node:NAME`.
    pub name: String,
    /// Google project.
    pub project: String,
    /// Zone, as `us-central1-a`.
    pub zone: String,
    /// Node pool.
    pub pool: String,
    /// Compute Engine machine type.
    pub machine_type: String,
    /// Internal address.
    pub internal_ip: String,
    /// External address; empty: none.
    pub external_ip: String,
    /// `v1.33.5-gke.1080000`
    pub kubelet_version: String,
    /// Further labels.
    pub labels: Vec<(String, String)>,
    /// Further taints, as `key=value:Effect`.
    pub taints: Vec<String>,
    /// Makes machine ids differ between runs with different seeds.
    pub seed: u64,
}

const MIB: i64 = 1024 * 1024;
const GIB: i64 = 1024 * MIB;
const PODS_MAX: i64 = 110;
const DISK_CAPACITY_BYTES: i64 = 101_203_873_792;
const DISK_ALLOCATABLE_BYTES: i64 = 47_060_071_478;

/// Virtual CPUs and bytes of memory of a machine type, by the families' rules; e2-medium for what is no machine type.
fn size(machine_type: &str) -> (i64, i64) {
    match machine_type {
        "e2-micro" => return (2, GIB),
        "e2-small" => return (2, 2 * GIB),
        "e2-medium" => return (2, 4 * GIB),
        "g1-small" => return (1, 17 * GIB / 10),
        "f1-micro" => return (1, 6 * GIB / 10),
        _ => {}
    }
    let parts: Vec<&str> = machine_type.split('-').collect();
    let [family, class, count, ..] = parts.as_slice() else { return (2, 4 * GIB) };
    if *family == "custom" {
        let (cpus, mib) = (class.parse().unwrap_or(2), count.parse::<i64>().unwrap_or(4096));
        return (cpus, mib * MIB);
    }
    let Ok(cpus) = count.parse::<i64>() else { return (2, 4 * GIB) };
    if *class == "custom" {
        let mib = parts.get(3).and_then(|m| m.parse::<i64>().ok()).unwrap_or(cpus * 4096);
        return (cpus, mib * MIB);
    }
    let per_cpu = match (*family, *class) {
        ("n1", "standard") => 3840,
        ("n1", "highmem") => 6656,
        ("n1", "highcpu") => 922,
        (_, "highmem") => 8192,
        ("e2" | "n2" | "n2d", "highcpu") => 1024,
        (_, "highcpu") => 2048,
        _ => 4096,
    };
    (cpus, cpus * per_cpu * MIB)
}

/// Milli-CPUs that GKE leaves to pods.
fn allocatable_cpu(machine_type: &str, cpus: i64) -> i64 {
    if matches!(machine_type, "e2-micro" | "e2-small" | "e2-medium" | "f1-micro" | "g1-small") {
        return cpus * 1000 - 1060.min(cpus * 1000 - 100);
    }
    // 6 % of the first, 1 % of the second, 0.5 % of the next two, 0.25 % of the rest; in hundredths of a milli-CPU.
    let reserved = (1..=cpus).map(|n| match n {
        1 => 6000,
        2 => 1000,
        3 | 4 => 500,
        _ => 250,
    });
    cpus * 1000 - reserved.sum::<i64>() / 100
}

/// Bytes that GKE leaves to pods.
fn allocatable_memory(bytes: i64) -> i64 {
    if bytes < GIB {
        return bytes - 255 * MIB;
    }
    let steps = [(4 * GIB, 25), (4 * GIB, 20), (8 * GIB, 10), (112 * GIB, 6), (i64::MAX, 2)];
    let (mut rest, mut reserved) = (bytes, 100 * MIB);
    for (width, percent) in steps {
        let part = rest.min(width);
        reserved += part / 100 * percent;
        rest -= part;
    }
    bytes - reserved
}

impl Machine {
    /// The Node a kubelet registers, status included.
    pub fn node(&self, now: Timestamp) -> Value {
        let labels: Value = self.all_labels().into_iter().collect();
        let taints: Vec<Value> = self.taints.iter().filter_map(|t| taint(t)).collect();
        let mut node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.name,
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
            "spec": {"providerID": format!("gce://{}/{}/{}", self.project, self.zone, self.name)},
        });
        node["metadata"].set("labels", labels);
        if !taints.is_empty() {
            node["spec"].set("taints", taints);
        }
        node.set("status", self.status(now, &Value::Null));
        node
    }

    fn all_labels(&self) -> Vec<(String, String)> {
        let region = self.zone.rsplit_once('-').map_or(self.zone.as_str(), |(region, _)| region);
        let family = self.machine_type.split('-').next().unwrap_or_default();
        let (cpus, memory) = size(&self.machine_type);
        let fixed = [
            ("beta.kubernetes.io/arch", "amd64"),
            ("beta.kubernetes.io/instance-type", &self.machine_type),
            ("beta.kubernetes.io/os", "linux"),
            ("cloud.google.com/gke-boot-disk", "pd-balanced"),
            ("cloud.google.com/gke-container-runtime", "containerd"),
            ("cloud.google.com/gke-cpu-scaling-level", &cpus.to_string()),
            ("cloud.google.com/gke-logging-variant", "DEFAULT"),
            ("cloud.google.com/gke-max-pods-per-node", &PODS_MAX.to_string()),
            ("cloud.google.com/gke-memory-gb-scaling-level", &(memory / GIB).to_string()),
            ("cloud.google.com/gke-nodepool", &self.pool),
            ("cloud.google.com/gke-os-distribution", "cos"),
            ("cloud.google.com/gke-provisioning", "standard"),
            ("cloud.google.com/gke-stack-type", "IPV4"),
            ("cloud.google.com/machine-family", family),
            ("failure-domain.beta.kubernetes.io/region", region),
            ("failure-domain.beta.kubernetes.io/zone", &self.zone),
            ("kubernetes.io/arch", "amd64"),
            ("kubernetes.io/hostname", &self.name),
            ("kubernetes.io/os", "linux"),
            ("node.kubernetes.io/instance-type", &self.machine_type),
            ("topology.gke.io/zone", &self.zone),
            ("topology.kubernetes.io/region", region),
            ("topology.kubernetes.io/zone", &self.zone),
        ];
        let fixed = fixed.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned()));
        fixed.chain(self.labels.iter().cloned()).filter(|(_, v)| !v.is_empty()).collect()
    }

    /// The Node's status now; conditions of others in `old` stay.
    pub fn status(&self, now: Timestamp, old: &Value) -> Value {
        let (cpus, memory) = size(&self.machine_type);
        let mut addresses = vec![json!({"type": "InternalIP", "address": self.internal_ip})];
        if !self.external_ip.is_empty() {
            addresses.push(json!({"type": "ExternalIP", "address": self.external_ip}));
        }
        addresses.push(json!({"type": "Hostname", "address": self.name}));
        let huge = |map: &mut Value| {
            map.set("hugepages-1Gi", "0");
            map.set("hugepages-2Mi", "0");
            map.set("pods", PODS_MAX.to_string());
        };
        let mut capacity = json!({"cpu": cpus.to_string(), "memory": format!("{}Ki", memory / 1024),
            "ephemeral-storage": format!("{}Ki", DISK_CAPACITY_BYTES / 1024)});
        let mut allocatable = json!({"cpu": format!("{}m", allocatable_cpu(&self.machine_type, cpus)),
            "memory": format!("{}Ki", allocatable_memory(memory) / 1024),
            "ephemeral-storage": DISK_ALLOCATABLE_BYTES.to_string()});
        huge(&mut capacity);
        huge(&mut allocatable);
        let mut status = json!({
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "architecture": "amd64", "operatingSystem": "linux", "kernelVersion": "6.6.97+",
                "osImage": "Container-Optimized OS from Google", "containerRuntimeVersion": "containerd://2.0.6",
                "kubeletVersion": self.kubelet_version, "kubeProxyVersion": "",
                "machineID": self.id(1), "systemUUID": self.id(2), "bootID": self.id(3),
            },
        });
        status.set("addresses", addresses);
        status.set("capacity", capacity);
        status.set("allocatable", allocatable);
        status.set("conditions", node_conditions(now, &old["conditions"]));
        status
    }

    fn id(&self, salt: u64) -> String {
        let name = self.name.bytes().fold(self.seed ^ salt, |n, b| n.wrapping_mul(31).wrapping_add(u64::from(b)));
        let mut rng = base::Rng::new(name);
        format!("{:016x}{:016x}", rng.next_u64(), rng.next_u64())
    }

    /// The node's heartbeat in kube-node-lease. `owner` is the Node's uid.
    pub fn lease(&self, now: Timestamp, owner: &str) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": self.name, "namespace": "kube-node-lease", "ownerReferences":
                [{"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": owner}]},
            "spec": {"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": now.rfc3339_micros()},
        })
    }
}

const CONDITIONS: [(&str, &str, &str, &str); 4] = [
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
];

fn node_conditions(now: Timestamp, old: &Value) -> Value {
    let mut list = old.clone();
    for (kind, status, reason, message) in CONDITIONS {
        let condition = conditions::new(kind, status, reason, message, now);
        conditions::set(&mut list, condition);
        let ours = list.as_array_mut().and_then(|l| l.iter_mut().find(|c| c["type"].as_str() == Some(kind)));
        ours.expect("just set").set("lastHeartbeatTime", now.rfc3339());
    }
    list
}

fn taint(text: &str) -> Option<Value> {
    let (pair, effect) = text.rsplit_once(':')?;
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    let mut taint = json!({"key": key, "effect": effect});
    if !value.is_empty() {
        taint.set("value", value);
    }
    Some(taint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_types_have_the_sizes_google_documents() {
        assert_eq!(size("e2-standard-4"), (4, 16 * GIB));
        assert_eq!(size("n2-highmem-2"), (2, 16 * GIB));
        assert_eq!(allocatable_cpu("e2-medium", 2), 940);
        assert_eq!(allocatable_cpu("e2-standard-4", 4), 3920);
        assert_eq!(allocatable_memory(16 * GIB) / MIB, 13_621);
    }

    #[test]
    fn a_node_says_where_and_what_it_is() {
        let machine = Machine {
            name: "n1".into(),
            zone: "us-central1-a".into(),
            machine_type: "e2-medium".into(),
            project: "p".into(),
            taints: vec!["k=v:NoSchedule".into()],
            ..Machine::default()
        };
        let node = machine.node(Timestamp::EPOCH);
        assert_eq!(node.str_at(&["spec", "providerID"]), "gce://p/us-central1-a/n1");
        assert_eq!(node["metadata"]["labels"]["topology.kubernetes.io/region"].as_str(), Some("us-central1"));
        assert_eq!(node["spec"]["taints"][0], json!({"key": "k", "value": "v", "effect": "NoSchedule"}));
        assert!(conditions::is_true(&node, "Ready"));
    }
}
