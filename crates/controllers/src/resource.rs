//! The resource types controllers know by name. Custom ones are described at run time by [`ResourceType`].

use machinery::{CompactString, GroupVersionResource};

/// A resource the API serves: what discovery tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResourceType {
    /// Group, version (the preferred one) and plural name.
    pub resource: GroupVersionResource,
    /// The kind of its objects.
    pub kind: CompactString,
    /// Do its objects live in namespaces?
    pub namespaced: bool,
    /// Can its objects be listed, watched and deleted? Others are left alone.
    pub collectable: bool,
}

const fn resource(group: &'static str, version: &'static str, resource: &'static str) -> GroupVersionResource {
    GroupVersionResource {
        group: CompactString::const_new(group),
        version: CompactString::const_new(version),
        resource: CompactString::const_new(resource),
    }
}

macro_rules! resources {
    ($($name:ident = $group:literal $version:literal $plural:literal $kind:literal $namespaced:literal;)*) => {
        $(#[doc = concat!("`", $plural, "`")] pub static $name: GroupVersionResource = resource($group, $version, $plural);)*
        /// The resource types above, as discovery would describe them.
        pub fn well_known() -> Vec<ResourceType> {
            vec![$(ResourceType {
                resource: $name.clone(),
                kind: CompactString::const_new($kind),
                namespaced: $namespaced,
                collectable: true,
            }),*]
        }
    };
}

resources! {
    CONFIG_MAPS = "" "v1" "configmaps" "ConfigMap" true;
    ENDPOINTS = "" "v1" "endpoints" "Endpoints" true;
    EVENTS = "" "v1" "events" "Event" true;
    NAMESPACES = "" "v1" "namespaces" "Namespace" false;
    NODES = "" "v1" "nodes" "Node" false;
    PERSISTENT_VOLUMES = "" "v1" "persistentvolumes" "PersistentVolume" false;
    PERSISTENT_VOLUME_CLAIMS = "" "v1" "persistentvolumeclaims" "PersistentVolumeClaim" true;
    PODS = "" "v1" "pods" "Pod" true;
    REPLICATION_CONTROLLERS = "" "v1" "replicationcontrollers" "ReplicationController" true;
    RESOURCE_QUOTAS = "" "v1" "resourcequotas" "ResourceQuota" true;
    SECRETS = "" "v1" "secrets" "Secret" true;
    SERVICES = "" "v1" "services" "Service" true;
    SERVICE_ACCOUNTS = "" "v1" "serviceaccounts" "ServiceAccount" true;
    CONTROLLER_REVISIONS = "apps" "v1" "controllerrevisions" "ControllerRevision" true;
    DAEMON_SETS = "apps" "v1" "daemonsets" "DaemonSet" true;
    DEPLOYMENTS = "apps" "v1" "deployments" "Deployment" true;
    REPLICA_SETS = "apps" "v1" "replicasets" "ReplicaSet" true;
    STATEFUL_SETS = "apps" "v1" "statefulsets" "StatefulSet" true;
    CRON_JOBS = "batch" "v1" "cronjobs" "CronJob" true;
    JOBS = "batch" "v1" "jobs" "Job" true;
    CERTIFICATE_SIGNING_REQUESTS = "certificates.k8s.io" "v1" "certificatesigningrequests" "CertificateSigningRequest" false;
    LEASES = "coordination.k8s.io" "v1" "leases" "Lease" true;
    ENDPOINT_SLICES = "discovery.k8s.io" "v1" "endpointslices" "EndpointSlice" true;
    POD_DISRUPTION_BUDGETS = "policy" "v1" "poddisruptionbudgets" "PodDisruptionBudget" true;
    CLUSTER_ROLES = "rbac.authorization.k8s.io" "v1" "clusterroles" "ClusterRole" false;
    STORAGE_CLASSES = "storage.k8s.io" "v1" "storageclasses" "StorageClass" false;
}
