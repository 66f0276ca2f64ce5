//! One row per method of `google.container.v1.ClusterManager`: REST and gRPC are two codecs of this table.

use crate::ApiVersion;

/// What a method does here. `Unimplemented` ones exist at Google and answer 501.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    CancelOperation,
    CreateCluster,
    CreateNodePool,
    DeleteCluster,
    DeleteNodePool,
    GetCluster,
    GetJsonWebKeys,
    GetNodePool,
    GetOpenIdConfig,
    GetOperation,
    GetServerConfig,
    ListClusters,
    ListLocations,
    ListNodePools,
    ListOperations,
    ListUsableSubnetworks,
    SetLabels,
    SetLegacyAbac,
    SetLoggingService,
    SetMaintenancePolicy,
    SetMasterAuth,
    SetMonitoringService,
    SetNodePoolSize,
    UpdateCluster,
    UpdateNodePool,
    Unimplemented,
}

/// A method.
pub struct Method {
    /// Its name in gRPC and in audit entries.
    pub rpc: &'static str,
    pub call: Call,
    /// The message of the body; empty for none.
    pub request: &'static str,
    /// The IAM permission; empty for the public ones.
    pub permission: &'static str,
    /// HTTP verb and path below `/<version>/projects/<project>/`; `*` is one segment.
    pub paths: &'static [(&'static str, &'static str)],
}

/// The parts of a path that `*` stood for, in order: location, cluster, node pool (or location, operation).
pub type Parts<'a> = Vec<&'a str>;

/// All methods, by name.
pub static METHODS: &[Method] = &[
    Method {
        rpc: "CancelOperation",
        call: Call::CancelOperation,
        request: "CancelOperationRequest",
        permission: "container.operations.cancel",
        paths: &[("POST", "locations/*/operations/*:cancel"), ("POST", "zones/*/operations/*:cancel")],
    },
    Method {
        rpc: "CheckAutopilotCompatibility",
        call: Call::Unimplemented,
        request: "",
        permission: "container.clusters.get",
        paths: &[("GET", "locations/*/clusters/*:checkAutopilotCompatibility")],
    },
    Method {
        rpc: "CompleteControlPlaneUpgrade",
        call: Call::Unimplemented,
        request: "CompleteControlPlaneUpgradeRequest",
        permission: "container.clusters.update",
        paths: &[
            ("POST", "locations/*/clusters/*:completeControlPlaneUpgrade"),
            ("POST", "zones/*/clusters/*:completeControlPlaneUpgrade"),
        ],
    },
    Method {
        rpc: "CompleteIPRotation",
        call: Call::Unimplemented,
        request: "CompleteIPRotationRequest",
        permission: "container.clusters.update",
        paths: &[
            ("POST", "locations/*/clusters/*:completeIpRotation"),
            ("POST", "zones/*/clusters/*:completeIpRotation"),
        ],
    },
    Method {
        rpc: "CompleteNodePoolUpgrade",
        call: Call::Unimplemented,
        request: "CompleteNodePoolUpgradeRequest",
        permission: "container.clusters.update",
        paths: &[("POST", "locations/*/clusters/*/nodePools/*:completeUpgrade")],
    },
    Method {
        rpc: "CreateCluster",
        call: Call::CreateCluster,
        request: "CreateClusterRequest",
        permission: "container.clusters.create",
        paths: &[("POST", "locations/*/clusters"), ("POST", "zones/*/clusters")],
    },
    Method {
        rpc: "CreateNodePool",
        call: Call::CreateNodePool,
        request: "CreateNodePoolRequest",
        permission: "container.clusters.update",
        paths: &[("POST", "locations/*/clusters/*/nodePools"), ("POST", "zones/*/clusters/*/nodePools")],
    },
    Method {
        rpc: "DeleteCluster",
        call: Call::DeleteCluster,
        request: "",
        permission: "container.clusters.delete",
        paths: &[("DELETE", "locations/*/clusters/*"), ("DELETE", "zones/*/clusters/*")],
    },
    Method {
        rpc: "DeleteNodePool",
        call: Call::DeleteNodePool,
        request: "",
        permission: "container.clusters.update",
        paths: &[("DELETE", "locations/*/clusters/*/nodePools/*"), ("DELETE", "zones/*/clusters/*/nodePools/*")],
    },
    Method {
        rpc: "FetchClusterUpgradeInfo",
        call: Call::Unimplemented,
        request: "",
        permission: "container.clusters.get",
        paths: &[
            ("GET", "locations/*/clusters/*:fetchClusterUpgradeInfo"),
            ("GET", "zones/*/clusters/*:fetchClusterUpgradeInfo"),
        ],
    },
    Method {
        rpc: "FetchNodePoolUpgradeInfo",
        call: Call::Unimplemented,
        request: "",
        permission: "container.clusters.get",
        paths: &[
            ("GET", "locations/*/clusters/*/nodePools/*:fetchNodePoolUpgradeInfo"),
            ("GET", "zones/*/clusters/*/nodePools/*:fetchNodePoolUpgradeInfo"),
        ],
    },
    Method {
        rpc: "GetCluster",
        call: Call::GetCluster,
        request: "",
        permission: "container.clusters.get",
        paths: &[("GET", "locations/*/clusters/*"), ("GET", "zones/*/clusters/*")],
    },
    Method {
        rpc: "GetJSONWebKeys",
        call: Call::GetJsonWebKeys,
        request: "",
        permission: "",
        paths: &[("GET", "locations/*/clusters/*/jwks")],
    },
    Method {
        rpc: "GetNodePool",
        call: Call::GetNodePool,
        request: "",
        permission: "container.clusters.get",
        paths: &[("GET", "locations/*/clusters/*/nodePools/*"), ("GET", "zones/*/clusters/*/nodePools/*")],
    },
    Method {
        rpc: "GetOpenIDConfig",
        call: Call::GetOpenIdConfig,
        request: "",
        permission: "",
        paths: &[("GET", "locations/*/clusters/*/.well-known/openid-configuration")],
    },
    Method {
        rpc: "GetOperation",
        call: Call::GetOperation,
        request: "",
        permission: "container.operations.get",
        paths: &[("GET", "locations/*/operations/*"), ("GET", "zones/*/operations/*")],
    },
    Method {
        rpc: "GetServerConfig",
        call: Call::GetServerConfig,
        request: "",
        permission: "container.clusters.list",
        paths: &[("GET", "locations/*/serverConfig"), ("GET", "zones/*/serverconfig")],
    },
    Method {
        rpc: "ListClusters",
        call: Call::ListClusters,
        request: "",
        permission: "container.clusters.list",
        paths: &[("GET", "locations/*/clusters"), ("GET", "zones/*/clusters")],
    },
    Method {
        rpc: "ListLocations",
        call: Call::ListLocations,
        request: "",
        permission: "container.clusters.list",
        paths: &[("GET", "locations")],
    },
    Method {
        rpc: "ListNodePools",
        call: Call::ListNodePools,
        request: "",
        permission: "container.clusters.get",
        paths: &[("GET", "locations/*/clusters/*/nodePools"), ("GET", "zones/*/clusters/*/nodePools")],
    },
    Method {
        rpc: "ListOperations",
        call: Call::ListOperations,
        request: "",
        permission: "container.operations.list",
        paths: &[("GET", "locations/*/operations"), ("GET", "zones/*/operations")],
    },
    Method {
        rpc: "ListUsableSubnetworks",
        call: Call::ListUsableSubnetworks,
        request: "",
        permission: "compute.subnetworks.list",
        paths: &[("GET", "aggregated/usableSubnetworks")],
    },
    Method {
        rpc: "RollbackNodePoolUpgrade",
        call: Call::Unimplemented,
        request: "RollbackNodePoolUpgradeRequest",
        permission: "container.clusters.update",
        paths: &[
            ("POST", "locations/*/clusters/*/nodePools/*:rollback"),
            ("POST", "zones/*/clusters/*/nodePools/*:rollback"),
        ],
    },
    Method {
        rpc: "SetAddonsConfig",
        call: Call::Unimplemented,
        request: "SetAddonsConfigRequest",
        permission: "container.clusters.update",
        paths: &[("POST", "locations/*/clusters/*:setAddons"), ("POST", "zones/*/clusters/*/addons")],
    },
    Method {
        rpc: "SetLabels",
        call: Call::SetLabels,
        request: "SetLabelsRequest",
        permission: "container.clusters.update",
        paths: &[("POST", "locations/*/clusters/*:setResourceLabels"), ("POST", "zones/*/clusters/*/resourceLabels")],
    },
    Method {
        rpc: "SetLegacyAbac",
        call: Call::SetLegacyAbac,
        request: "SetLegacyAbacRequest",
        permission: "container.clusters.update",
        paths: &[("POST", "locations/*/clusters/*:setLegacyAbac"), ("POST", "zones/*/clusters/*/legacyAbac")],
    },
    Method {
        rpc: "SetLocations",
        call: Call::Unimplemented,
        request: "SetLocationsRequest",
        permission: "container.clusters.update",
        paths: &[("POST", "locations/*/clusters/*:setLocations"), ("POST", "zones/*/clusters/*/locations")],
    },
    Method {
        rpc: "SetLoggingService",
        call: Call::SetLoggingService,
        request: "SetLoggingServiceRequest",
        permission: "container.clusters.update",
        paths: &[("POST", "locations/*/clusters/*:setLogging"), ("POST", "zones/*/clusters/*/logging")],
    },
    Method {
        rpc: "SetMaintenancePolicy",
        call: Call::SetMaintenancePolicy,
        request: "SetMaintenancePolicyRequest",
        permission: "container.clusters.update",
        paths: &[
            ("POST", "locations/*/clusters/*:setMaintenancePolicy"),
            ("POST", "zones/*/clusters/*:setMaintenancePolicy"),
        ],
    },
    Method {
        rpc: "SetMasterAuth",
        call: Call::SetMasterAuth,
        request: "SetMasterAuthRequest",
        permission: "container.clusters.update",
        paths: &[("POST", "locations/*/clusters/*:setMasterAuth"), ("POST", "zones/*/clusters/*:setMasterAuth")],
    },
    Method {
        rpc: "SetMonitoringService",
        call: Call::SetMonitoringService,
        request: "SetMonitoringServiceRequest",
        permission: "container.clusters.update",
        paths: &[("POST", "locations/*/clusters/*:setMonitoring"), ("POST", "zones/*/clusters/*/monitoring")],
    },
    Method {
        rpc: "SetNetworkPolicy",
        call: Call::Unimplemented,
        request: "SetNetworkPolicyRequest",
        permission: "container.clusters.update",
        paths: &[("POST", "locations/*/clusters/*:setNetworkPolicy"), ("POST", "zones/*/clusters/*:setNetworkPolicy")],
    },
    Method {
        rpc: "SetNodePoolAutoscaling",
        call: Call::Unimplemented,
        request: "SetNodePoolAutoscalingRequest",
        permission: "container.clusters.update",
        paths: &[
            ("POST", "locations/*/clusters/*/nodePools/*:setAutoscaling"),
            ("POST", "zones/*/clusters/*/nodePools/*/autoscaling"),
        ],
    },
    Method {
        rpc: "SetNodePoolManagement",
        call: Call::Unimplemented,
        request: "SetNodePoolManagementRequest",
        permission: "container.clusters.update",
        paths: &[
            ("POST", "locations/*/clusters/*/nodePools/*:setManagement"),
            ("POST", "zones/*/clusters/*/nodePools/*/setManagement"),
        ],
    },
    Method {
        rpc: "SetNodePoolSize",
        call: Call::SetNodePoolSize,
        request: "SetNodePoolSizeRequest",
        permission: "container.clusters.update",
        paths: &[
            ("POST", "locations/*/clusters/*/nodePools/*:setSize"),
            ("POST", "zones/*/clusters/*/nodePools/*/setSize"),
        ],
    },
    Method {
        rpc: "StartIPRotation",
        call: Call::Unimplemented,
        request: "StartIPRotationRequest",
        permission: "container.clusters.update",
        paths: &[("POST", "locations/*/clusters/*:startIpRotation"), ("POST", "zones/*/clusters/*:startIpRotation")],
    },
    Method {
        rpc: "UpdateCluster",
        call: Call::UpdateCluster,
        request: "UpdateClusterRequest",
        permission: "container.clusters.update",
        paths: &[("PUT", "locations/*/clusters/*"), ("PUT", "zones/*/clusters/*")],
    },
    Method {
        rpc: "UpdateMaster",
        call: Call::Unimplemented,
        request: "UpdateMasterRequest",
        permission: "container.clusters.update",
        paths: &[("POST", "locations/*/clusters/*:updateMaster"), ("POST", "zones/*/clusters/*/master")],
    },
    Method {
        rpc: "UpdateNodePool",
        call: Call::UpdateNodePool,
        request: "UpdateNodePoolRequest",
        permission: "container.clusters.update",
        paths: &[("PUT", "locations/*/clusters/*/nodePools/*"), ("POST", "zones/*/clusters/*/nodePools/*/update")],
    },
];

/// The method that a request calls, and the parts of its path. `path` begins after `projects/<project>/`, decoded.
pub fn find<'a>(version: ApiVersion, verb: &str, path: &'a str) -> Option<(&'static Method, Parts<'a>)> {
    METHODS
        .iter()
        .filter(|method| method.call != Call::ListLocations || version != ApiVersion::V1)
        .flat_map(|method| method.paths.iter().map(move |row| (method, row)))
        .filter(|(_, (its_verb, _))| *its_verb == verb)
        .find_map(|(method, (_, pattern))| Some((method, parts(pattern, path)?)))
}

fn parts<'a>(pattern: &str, path: &'a str) -> Option<Parts<'a>> {
    let mut found = Vec::new();
    let (mut patterns, mut segments) = (pattern.split('/'), path.split('/'));
    loop {
        match (patterns.next(), segments.next()) {
            (None, None) => return Some(found),
            (Some(pattern), Some(segment)) => match pattern.strip_prefix('*') {
                Some(action) => {
                    let name = segment.strip_suffix(action)?;
                    if name.is_empty() || name.contains(':') {
                        return None;
                    }
                    found.push(name);
                }
                None if pattern == segment => {}
                None => return None,
            },
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_path_forms_lead_to_the_same_method() {
        let cases = [
            ("GET", "locations/-/clusters", "ListClusters", vec!["-"]),
            ("GET", "zones/us-central1-a/clusters/c", "GetCluster", vec!["us-central1-a", "c"]),
            ("POST", "locations/l/clusters/c:setResourceLabels", "SetLabels", vec!["l", "c"]),
            ("POST", "zones/z/clusters/c/resourceLabels", "SetLabels", vec!["z", "c"]),
            ("POST", "locations/l/clusters/c/nodePools/p:setSize", "SetNodePoolSize", vec!["l", "c", "p"]),
            ("GET", "zones/z/serverconfig", "GetServerConfig", vec!["z"]),
            ("GET", "locations/l/clusters/c/jwks", "GetJSONWebKeys", vec!["l", "c"]),
        ];
        for (verb, path, rpc, expected) in cases {
            let (method, parts) = find(ApiVersion::V1, verb, path).expect(path);
            assert_eq!((method.rpc, parts), (rpc, expected));
        }
        assert!(find(ApiVersion::V1, "GET", "locations/l/clusters/c:nonsense").is_none());
        assert!(find(ApiVersion::V1, "GET", "locations").is_none());
        assert!(find(ApiVersion::V1Beta1, "GET", "locations").is_some());
    }
}
