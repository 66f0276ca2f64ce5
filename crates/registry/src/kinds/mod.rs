//! One file per kind that has rules, and the look-up from resource to rules.

mod addresses;
mod admission_policies;
mod autoscaler;
mod batch;
mod config;
mod cron;
mod csi;
mod definition;
mod endpoints;
mod events;
mod flow_control;
mod job_policies;
mod namespace;
mod networking;
mod node;
mod pod;
mod policy;
mod quota;
mod rbac;
mod runtime_class;
mod service;
mod signing_request;
mod storage;
mod webhooks;
mod workloads;

use crate::strategy::{Generation, Strategy};

static PLAIN: Strategy = Strategy::PLAIN;
/// No rules, but changes of the spec are counted.
static COUNTED: Strategy = Strategy { generation: Generation::Spec, ..Strategy::PLAIN };
static CONDITIONAL: Strategy = Strategy { unconditional_update: false, ..Strategy::PLAIN };
static CREATED_BY_UPDATE: Strategy =
    Strategy { create_on_update: true, unconditional_update: false, ..Strategy::PLAIN };

/// The rules of a built-in resource.
pub(crate) fn strategy(group: &str, plural: &str) -> &'static Strategy {
    match (group, plural) {
        ("", "pods") => &pod::STRATEGY,
        ("", "podtemplates") => &workloads::POD_TEMPLATE,
        ("", "replicationcontrollers") => &workloads::REPLICATION_CONTROLLER,
        ("", "namespaces") => &namespace::STRATEGY,
        ("", "nodes") => &node::STRATEGY,
        ("", "services") => &service::STRATEGY,
        ("", "endpoints") => &endpoints::ENDPOINTS,
        ("", "configmaps") => &config::CONFIG_MAP,
        ("", "secrets") => &config::SECRET,
        ("", "events") => &events::CORE,
        ("", "limitranges") => &quota::LIMIT_RANGE,
        ("", "resourcequotas") => &quota::QUOTA,
        ("", "persistentvolumes") => &storage::VOLUME,
        ("", "persistentvolumeclaims") => &storage::CLAIM,
        ("apps", "deployments") => &workloads::DEPLOYMENT,
        ("apps", "replicasets") => &workloads::REPLICA_SET,
        ("apps", "statefulsets") => &workloads::STATEFUL_SET,
        ("apps", "daemonsets") => &workloads::DAEMON_SET,
        ("apps", "controllerrevisions") => &workloads::CONTROLLER_REVISION,
        ("batch", "jobs") => &batch::JOB,
        ("batch", "cronjobs") => &batch::CRON_JOB,
        ("autoscaling", "horizontalpodautoscalers") => &autoscaler::STRATEGY,
        ("policy", "poddisruptionbudgets") => &policy::BUDGET,
        ("scheduling.k8s.io", "priorityclasses") => &policy::PRIORITY_CLASS,
        ("networking.k8s.io", "ingresses") => &networking::INGRESS,
        ("networking.k8s.io", "ingressclasses") => &networking::INGRESS_CLASS,
        ("networking.k8s.io", "ipaddresses") => &addresses::ADDRESS,
        ("networking.k8s.io", "servicecidrs") => &addresses::RANGE,
        ("networking.k8s.io", "networkpolicies") => &networking::NETWORK_POLICY,
        ("discovery.k8s.io", "endpointslices") => &endpoints::SLICE,
        ("events.k8s.io", "events") => &events::NEW,
        ("coordination.k8s.io", "leases") => &events::LEASE,
        ("coordination.k8s.io", "leasecandidates") => &CREATED_BY_UPDATE,
        _ => access_and_extension(group, plural),
    }
}

fn access_and_extension(group: &str, plural: &str) -> &'static Strategy {
    match (group, plural) {
        ("rbac.authorization.k8s.io", "roles") => &rbac::ROLE,
        ("rbac.authorization.k8s.io", "clusterroles") => &rbac::CLUSTER_ROLE,
        ("rbac.authorization.k8s.io", "rolebindings") => &rbac::ROLE_BINDING,
        ("rbac.authorization.k8s.io", "clusterrolebindings") => &rbac::CLUSTER_ROLE_BINDING,
        ("certificates.k8s.io", "certificatesigningrequests") => &signing_request::STRATEGY,
        ("certificates.k8s.io", "clustertrustbundles") => &CONDITIONAL,
        ("storage.k8s.io", "storageclasses") => &storage::CLASS,
        ("storage.k8s.io", "volumeattributesclasses") => &storage::ATTRIBUTES_CLASS,
        ("storage.k8s.io", "volumeattachments") => &csi::ATTACHMENT,
        ("storage.k8s.io", "csidrivers") => &csi::DRIVER,
        ("storage.k8s.io", "csinodes") => &csi::NODE,
        ("storage.k8s.io", "csistoragecapacities") => &csi::CAPACITY,
        ("node.k8s.io", "runtimeclasses") => &runtime_class::STRATEGY,
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => &flow_control::LEVEL,
        ("flowcontrol.apiserver.k8s.io", _) => &flow_control::SCHEMA,
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations") => &webhooks::MUTATING,
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations") => &webhooks::VALIDATING,
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => &admission_policies::POLICY,
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => &admission_policies::BINDING,
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => &admission_policies::MUTATING_POLICY,
        ("admissionregistration.k8s.io", _) => &admission_policies::MUTATING_BINDING,
        ("resource.k8s.io", "resourceslices" | "deviceclasses" | "devicetaintrules") => &COUNTED,
        ("internal.apiserver.k8s.io" | "storagemigration.k8s.io", _) => &CONDITIONAL,
        ("apiextensions.k8s.io", "customresourcedefinitions") => &definition::STRATEGY,
        ("apiregistration.k8s.io", "apiservices") => &webhooks::API_SERVICE,
        _ => &PLAIN,
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Standard base64 with padding.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let sextet = (n >> (18 - 6 * i)) & 63;
            text.push(if i <= chunk.len() { char::from(BASE64[sextet as usize]) } else { '=' });
        }
    }
    text
}

/// The bytes of standard base64; `None` when it is not.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut n, mut bits) = (0_u32, 0);
    for c in text.bytes().filter(|c| *c != b'=' && !c.is_ascii_whitespace()) {
        let sextet = BASE64.iter().position(|b| *b == c)?;
        n = n << 6 | u32::try_from(sextet).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(n >> bits & 0xff).ok()?);
        }
    }
    Some(bytes)
}

/// Where a resource's objects are stored, as upstream's storage factory has it.
pub(crate) fn etcd_prefix(group: &str, plural: &str) -> String {
    let path = match (group, plural) {
        ("", "services") => "services/specs",
        ("", "endpoints") => "services/endpoints",
        ("", "nodes") => "minions",
        ("", "replicationcontrollers") => "controllers",
        ("networking.k8s.io", "ingresses") => "ingress",
        ("apiextensions.k8s.io", _) | ("apiregistration.k8s.io", _) => return format!("/registry/{group}/{plural}/"),
        _ => plural,
    };
    format!("/registry/{path}/")
}

/// The gate that a resource needs although its group version is served. Others do without theirs.
pub(crate) fn feature_of(group: &str, plural: &str) -> Option<&'static str> {
    match (group, plural) {
        ("certificates.k8s.io", "clustertrustbundles") => Some("ClusterTrustBundle"),
        ("storagemigration.k8s.io", _) => Some("StorageVersionMigrator"),
        _ => None,
    }
}
