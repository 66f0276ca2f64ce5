//! Changes of an existing cluster. What is cheap and true is done; everything else is refused, never swallowed.

use machinery::{Value, json};

use crate::merge::{is_empty, merge};
use crate::record::{Cluster, hex8};
use crate::{ApiError, Code, endpoints};

const LOGGING: &str = "logging.googleapis.com/kubernetes";
const MONITORING: &str = "monitoring.googleapis.com/kubernetes";
/// Read together: some are two forms of one thing.
const ENDPOINT_FIELDS: [&str; 5] = [
    "desiredControlPlaneEndpointsConfig",
    "desiredMasterAuthorizedNetworksConfig",
    "desiredEnablePrivateEndpoint",
    "desiredPrivateClusterConfig",
    "desiredDefaultEnablePrivateNodes",
];

/// The configuration after a decoded `ClusterUpdate`.
///
/// # Errors
/// 400 when nothing is to be updated or a value is wrong, 501 for a field that is not emulated.
pub fn update(cluster: &Cluster, update: &Value) -> Result<Value, ApiError> {
    let mut body = cluster.body.clone();
    if is_empty(update) {
        return Err(ApiError::invalid("Must specify a field to update."));
    }
    for (field, value) in update.members() {
        match field {
            "desiredLoggingService" => logging_service(&mut body, value.as_str().unwrap_or_default())?,
            "desiredMonitoringService" => monitoring_service(&mut body, value.as_str().unwrap_or_default())?,
            "desiredLoggingConfig" => {
                body.set("loggingConfig", value.clone());
                follow(&mut body, "loggingConfig", "loggingService", LOGGING);
            }
            "desiredMonitoringConfig" => {
                merge(&mut body["monitoringConfig"], value);
                follow(&mut body, "monitoringConfig", "monitoringService", MONITORING);
            }
            "desiredNotificationConfig" => body.set("notificationConfig", value.clone()),
            "desiredResourceUsageExportConfig" => body.set("resourceUsageExportConfig", value.clone()),
            "desiredCostManagementConfig" => body.set("costManagementConfig", value.clone()),
            "desiredSecurityPostureConfig" => merge(&mut body["securityPostureConfig"], value),
            "desiredReleaseChannel" => body.set("releaseChannel", value.clone()),
            // Whether it may be this pool, the project's name decides; an empty one switches it off.
            "desiredWorkloadIdentityConfig" => match value.str_at(&["workloadPool"]) {
                "" => {
                    body.remove("workloadIdentityConfig");
                }
                pool => body.set("workloadIdentityConfig", json!({"workloadPool": pool})),
            },
            "desiredAuthenticatorGroupsConfig" => {
                crate::access::check_groups(value)?;
                match value["enabled"].as_bool() {
                    Some(true) => body.set("authenticatorGroupsConfig", value.clone()),
                    _ => drop(body.remove("authenticatorGroupsConfig")),
                }
            }
            "desiredDatabaseEncryption" => body.set("databaseEncryption", crate::encryption::updated(cluster, value)?),
            "desiredRbacBindingConfig" => merge(&mut body["rbacBindingConfig"], value),
            "desiredAnonymousAuthenticationConfig" => match value.str_at(&["mode"]) {
                "ENABLED" | "LIMITED" => body.set("anonymousAuthenticationConfig", value.clone()),
                _ => return Err(ApiError::invalid("Anonymous authentication mode must be ENABLED or LIMITED.")),
            },
            field if ENDPOINT_FIELDS.contains(&field) => {}
            other => return Err(ApiError::unimplemented(&format!("update.{other}"))),
        }
    }
    if update.members().any(|(field, _)| ENDPOINT_FIELDS.contains(&field)) {
        endpoints::update(&mut body, update)?;
    }
    Ok(body)
}

/// A component list with SYSTEM_COMPONENTS turns the service on again, an empty one turns it off.
fn follow(body: &mut Value, config: &str, service: &str, on: &str) {
    let components = body[config]["componentConfig"]["enableComponents"].items();
    let system = components.iter().any(|c| c.as_str() == Some("SYSTEM_COMPONENTS"));
    body.set(service, if system { on } else { "none" });
}

fn logging_service(body: &mut Value, service: &str) -> Result<(), ApiError> {
    match service {
        "none" => body.set("loggingConfig", json!({"componentConfig": {}})),
        LOGGING => {
            let components = json!({"componentConfig": {"enableComponents": ["SYSTEM_COMPONENTS", "WORKLOADS"]}});
            body.set("loggingConfig", components);
        }
        other => return Err(ApiError::invalid(format!("Logging service {other:?} is not supported."))),
    }
    body.set("loggingService", service);
    Ok(())
}

fn monitoring_service(body: &mut Value, service: &str) -> Result<(), ApiError> {
    let components = match service {
        "none" => json!(["APISERVER", "SCHEDULER", "CONTROLLER_MANAGER"]),
        MONITORING => json!(["SYSTEM_COMPONENTS"]),
        other => return Err(ApiError::invalid(format!("Monitoring service {other:?} is not supported."))),
    };
    body["monitoringConfig"]["componentConfig"]["enableComponents"] = components;
    body.set("monitoringService", service);
    Ok(())
}

/// The configuration after a decoded `SetLabelsRequest`: labels are replaced whole.
///
/// # Errors
/// 400 FAILED_PRECONDITION when the fingerprint is not the current one, 400 for a label that is none.
pub fn set_labels(cluster: &Cluster, request: &Value) -> Result<Value, ApiError> {
    let sent = request.str_at(&["labelFingerprint"]);
    if !sent.is_empty() && sent != label_fingerprint(&cluster.body) {
        return Err(ApiError::new(Code::FailedPrecondition, "Labels could not be set due to fingerprint mismatch."));
    }
    for (key, value) in request["resourceLabels"].members() {
        let value = value.as_str().unwrap_or_default();
        let legal = |text: &str| {
            text.len() <= 63 && text.chars().all(|c| c.is_lowercase() || c.is_numeric() || matches!(c, '_' | '-'))
        };
        if !legal(key) || !legal(value) || !key.starts_with(char::is_lowercase) {
            return Err(ApiError::invalid(format!("Invalid label {key:?}: {value:?}.")));
        }
    }
    let mut body = cluster.body.clone();
    body.set("resourceLabels", request["resourceLabels"].clone());
    Ok(body)
}

/// The configuration after a decoded `SetMaintenancePolicyRequest`: the policy is replaced whole.
///
/// # Errors
/// 400 when the sent resource version is not the current one.
pub fn set_maintenance_policy(cluster: &Cluster, request: &Value) -> Result<Value, ApiError> {
    let policy = &request["maintenancePolicy"];
    let sent = policy.str_at(&["resourceVersion"]);
    if !sent.is_empty() && sent != maintenance_version(&cluster.body) {
        return Err(ApiError::new(Code::FailedPrecondition, "The maintenance policy has changed; read it again."));
    }
    let mut body = cluster.body.clone();
    let mut window = policy["window"].clone();
    if is_empty(&window) {
        body.remove("maintenancePolicy");
        return Ok(body);
    }
    if !is_empty(&window["dailyMaintenanceWindow"]) {
        window["dailyMaintenanceWindow"]["duration"] = "PT4H0M0S".into();
    }
    body.set("maintenancePolicy", [("window", window)].into_iter().collect::<Value>());
    Ok(body)
}

/// Eight hex digits that change with the labels.
pub(crate) fn label_fingerprint(body: &Value) -> String {
    let labels = &body["resourceLabels"];
    if is_empty(labels) { "a9dc16a7".to_owned() } else { hex8(&[&labels.to_string()]) }
}

/// `e3b0c442` without a policy, another value with one.
pub(crate) fn maintenance_version(body: &Value) -> String {
    let window = &body["maintenancePolicy"]["window"];
    if is_empty(window) { "e3b0c442".to_owned() } else { hex8(&[&window.to_string()]) }
}
