//! For whom a kubelet may have a pod's token (gate `ServiceAccountNodeAudienceRestriction`, on since 1.33): audiences that the
//! pod's volumes name, and those that it was granted.

use machinery::{GroupResource, Value};

use super::{AdmissionRequest, Reader};
use crate::Attributes;

/// The verb of such a grant; the resource is the audience, the name the service account.
const VERB: &str = "request-serviceaccounts-token-audience";
/// Volumes of old that a driver took over: the field, and the driver.
const MIGRATED: [(&str, &str); 7] = [
    ("awsElasticBlockStore", "ebs.csi.aws.com"),
    ("azureDisk", "disk.csi.azure.com"),
    ("azureFile", "file.csi.azure.com"),
    ("cinder", "cinder.csi.openstack.org"),
    ("gcePersistentDisk", "pd.csi.storage.gke.io"),
    ("portworxVolume", "pxd.portworx.com"),
    ("vsphereVolume", "csi.vsphere.vmware.com"),
];

/// Looks at the audiences of a node's TokenRequest for this pod.
///
/// # Errors
/// Why not, in upstream's words.
pub(super) fn check(
    request: &AdmissionRequest<'_>,
    review: &Value,
    pod: &Value,
    reader: &dyn Reader,
) -> Result<(), String> {
    let audience = match review["spec"]["audiences"].items() {
        [] => "",
        [audience] => audience.as_str().unwrap_or_default(),
        _ => return Err("node may only request 0 or 1 audiences".to_owned()),
    };
    if is_referenced(pod, request.namespace, audience, reader)
        .map_err(|why| format!("error validating audience {audience:?}: {why}"))?
    {
        return Ok(());
    }
    let asked = Attributes::resource(request.user, VERB, "", audience);
    let asked = Attributes { namespace: request.namespace, version: "v1", name: request.name, ..asked };
    if (request.may)(&asked) {
        return Ok(());
    }
    let user = &request.user.name;
    Err(format!(
        "audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"
    ))
}

fn is_referenced(pod: &Value, namespace: &str, audience: &str, reader: &dyn Reader) -> Result<bool, String> {
    let names = |list: &Value, field: &[&str]| list.items().iter().any(|item| item.str_at(field) == audience);
    let mut troubles = Vec::new();
    for volume in pod["spec"]["volumes"].items() {
        let projected = volume["projected"]["sources"].items().iter();
        if projected
            .map(|source| &source["serviceAccountToken"])
            .any(|t| !t.is_null() && t.str_at(&["audience"]) == audience)
        {
            return Ok(true);
        }
        let found = driver(volume, pod, namespace, reader).and_then(|driver| match driver.as_str() {
            "" => Ok(false),
            driver => {
                let drivers = GroupResource::new("storage.k8s.io", "csidrivers");
                let found =
                    reader.get(&drivers, "", driver).ok_or_else(|| missing("csidriver.storage.k8s.io", driver))?;
                Ok(names(&found["spec"]["tokenRequests"], &["audience"]))
            }
        });
        match found {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(why) => troubles.push(why),
        }
    }
    match &troubles[..] {
        [] => Ok(false),
        [one] => Err(one.clone()),
        several => Err(format!("[{}]", several.join(", "))),
    }
}

/// The driver behind a volume; empty for none.
fn driver(volume: &Value, pod: &Value, namespace: &str, reader: &dyn Reader) -> Result<String, String> {
    if !volume["ephemeral"]["volumeClaimTemplate"].is_null() {
        let claim = format!("{}-{}", machinery::meta::name(pod), volume.str_at(&["name"]));
        return of_claim(namespace, &claim, reader);
    }
    if !volume["persistentVolumeClaim"].is_null() {
        return of_claim(namespace, volume.str_at(&["persistentVolumeClaim", "claimName"]), reader);
    }
    Ok(of_source(volume).to_owned())
}

fn of_claim(namespace: &str, name: &str, reader: &dyn Reader) -> Result<String, String> {
    let claims = GroupResource::new("", "persistentvolumeclaims");
    let claim = reader.get(&claims, namespace, name).ok_or_else(|| missing("persistentvolumeclaim", name))?;
    let name = claim.str_at(&["spec", "volumeName"]);
    let volume = reader.get(&GroupResource::new("", "persistentvolumes"), "", name);
    let volume = volume.ok_or_else(|| missing("persistentvolume", name))?;
    Ok(of_source(&volume["spec"]).to_owned())
}

fn of_source(source: &Value) -> &str {
    match source.str_at(&["csi", "driver"]) {
        "" => MIGRATED.iter().find(|(field, _)| !source[*field].is_null()).map_or("", |(_, driver)| driver),
        driver => driver,
    }
}

fn missing(kind: &str, name: &str) -> String {
    format!("{kind} {name:?} not found")
}

#[cfg(test)]
mod tests {
    use machinery::json;

    use super::*;
    use crate::admission::MapReader;

    #[test]
    fn audiences_come_from_projected_tokens_and_from_drivers() {
        let mut reader = MapReader::default();
        let named =
            |name: &str, spec: Value| [("metadata", json!({"name": name})), ("spec", spec)].into_iter().collect();
        reader.put("storage.k8s.io", "csidrivers", named("d", json!({"tokenRequests": [{"audience": "vault"}]})));
        reader.put(
            "storage.k8s.io",
            "csidrivers",
            named("pd.csi.storage.gke.io", json!({"tokenRequests": [{"audience": "pd"}]})),
        );
        reader.put("", "persistentvolumes", named("v", json!({"csi": {"driver": "d"}})));
        let claim = json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": {"volumeName": "v"}});
        reader.put("", "persistentvolumeclaims", claim);
        let made = json!({"metadata": {"name": "p-e", "namespace": "ns"}, "spec": {"volumeName": "v"}});
        reader.put("", "persistentvolumeclaims", made);
        let check = |volume: Value, audience: &str| {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {}});
            pod["spec"].set("volumes", vec![volume]);
            is_referenced(&pod, "ns", audience, &reader)
        };
        let projected =
            |token: Value| json!({"projected": {"sources": [{"configMap": {}}, {"serviceAccountToken": token}]}});
        assert_eq!(check(projected(json!({"audience": "vault"})), "vault"), Ok(true));
        assert_eq!(check(projected(json!({"audience": "vault"})), "other"), Ok(false));
        assert_eq!(check(projected(json!({"path": "token"})), ""), Ok(true), "the API server's own");
        assert_eq!(check(json!({"configMap": {}}), ""), Ok(false));
        assert_eq!(check(json!({"csi": {"driver": "d"}}), "vault"), Ok(true));
        assert_eq!(check(json!({"persistentVolumeClaim": {"claimName": "c"}}), "vault"), Ok(true));
        assert_eq!(check(json!({"name": "e", "ephemeral": {"volumeClaimTemplate": {}}}), "vault"), Ok(true));
        assert_eq!(check(json!({"gcePersistentDisk": {"pdName": "x"}}), "pd"), Ok(true));
        for (volume, why) in [
            (json!({"csi": {"driver": "x"}}), "csidriver.storage.k8s.io \"x\" not found"),
            (json!({"persistentVolumeClaim": {"claimName": "x"}}), "persistentvolumeclaim \"x\" not found"),
        ] {
            assert_eq!(check(volume, "vault"), Err(why.to_owned()));
        }
    }
}
