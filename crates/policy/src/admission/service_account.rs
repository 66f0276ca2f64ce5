//! ServiceAccount: every pod runs as one, and gets its token, the root CA and its namespace mounted.

use base::Rng;
use machinery::{GroupResource, Status, Value, json};

use super::{AdmissionRequest, Operation, Reader};
use crate::node::MIRROR_ANNOTATION;
use crate::pod_references;

const VOLUME_PREFIX: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// One hour and seven seconds: what upstream uses for tokens that it extends (`WarnOnlyBoundTokenExpirationSeconds`).
const TOKEN_SECONDS: i64 = 3607;

fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"][MIRROR_ANNOTATION].is_null()
}

pub(super) fn mutate(request: &AdmissionRequest<'_>, pod: &mut Value, reader: &dyn Reader) -> Result<(), Status> {
    if request.operation != Operation::Create || !request.is("", "pods") {
        return Ok(());
    }
    if is_mirror(pod) {
        return validate_mirror(request, pod);
    }
    if pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        pod["spec"]["serviceAccountName"] = "default".into();
        pod["spec"]["serviceAccount"] = "default".into();
    }
    let account = account_of(request, pod, reader)?;
    let wanted = |object: &Value| object["automountServiceAccountToken"].as_bool();
    if wanted(&pod["spec"]).or_else(|| wanted(&account)).unwrap_or(true) {
        mount_token(pod, request.seed);
    }
    let secrets = &account["imagePullSecrets"];
    if pod["spec"]["imagePullSecrets"].items().is_empty() && !secrets.items().is_empty() {
        pod["spec"]["imagePullSecrets"] = secrets.clone();
    }
    Ok(())
}

pub(super) fn validate(request: &AdmissionRequest<'_>, reader: &dyn Reader) -> Result<(), Status> {
    if request.operation != Operation::Create || !request.is("", "pods") {
        return Ok(());
    }
    let pod = request.object();
    if is_mirror(pod) {
        return validate_mirror(request, pod);
    }
    if pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        let why = format!("no service account specified for pod {}/{}", request.namespace, machinery::meta::name(pod));
        return Err(request.forbidden(None, why));
    }
    let account = account_of(request, pod, reader)?;
    let enforce = account["metadata"]["annotations"]["kubernetes.io/enforce-mountable-secrets"].as_str();
    if !matches!(enforce, Some("1" | "t" | "T" | "TRUE" | "true" | "True")) {
        return Ok(());
    }
    mountable_secrets(&account, pod).map_err(|why| request.forbidden(None, why))
}

fn account_of(
    request: &AdmissionRequest<'_>,
    pod: &Value,
    reader: &dyn Reader,
) -> Result<std::sync::Arc<Value>, Status> {
    let name = pod.str_at(&["spec", "serviceAccountName"]);
    reader.get(&GroupResource::new("", "serviceaccounts"), request.namespace, name).ok_or_else(|| {
        let missing = format!("serviceaccount {name:?} not found");
        let why = format!("error looking up service account {}/{name}: {missing}", request.namespace);
        request.forbidden(Some(pod), why)
    })
}

fn validate_mirror(request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), Status> {
    let refuse = |why: &str| Err(request.forbidden(Some(pod), why));
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return refuse("a mirror pod may not reference service accounts");
    }
    if pod_references::secrets(pod).next().is_some() {
        return refuse("a mirror pod may not reference secrets");
    }
    let mut sources = pod_references::volumes(pod).flat_map(pod_references::projected);
    if sources.any(|source| !source["serviceAccountToken"].is_null()) {
        return refuse("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

fn containers(spec: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    let kinds = [("init container", "initContainers"), ("container", "containers")];
    kinds.into_iter().flat_map(|(title, key)| spec[key].items().iter().map(move |container| (title, container)))
}

/// How a container refers to secrets: the text that names the place, and the secret.
fn secret_names(container: &Value) -> impl Iterator<Item = (String, &str)> {
    let env = container["env"]
        .items()
        .iter()
        .map(|e| (format!("envVar {}", e.str_at(&["name"])), e.str_at(&["valueFrom", "secretKeyRef", "name"])));
    let from = container["envFrom"].items().iter().map(|e| ("envFrom".to_owned(), e.str_at(&["secretRef", "name"])));
    env.chain(from).filter(|(_, secret)| !secret.is_empty())
}

fn mountable_secrets(account: &Value, pod: &Value) -> Result<(), String> {
    let name = machinery::meta::name(account);
    let listed = |field: &str, secret: &str| account[field].items().iter().any(|s| s.str_at(&["name"]) == secret);
    for volume in pod["spec"]["volumes"].items() {
        let secret = volume.str_at(&["secret", "secretName"]);
        if !secret.is_empty() && !listed("secrets", secret) {
            return Err(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {name} does not \
                 reference that secret"
            ));
        }
    }
    for (title, container) in containers(&pod["spec"]) {
        if let Some((place, secret)) = secret_names(container).find(|(_, secret)| !listed("secrets", secret)) {
            return Err(format!(
                "{title} {} with {place} referencing secret.secretName=\"{secret}\" is not allowed because service \
                 account {name} does not reference that secret",
                container.str_at(&["name"])
            ));
        }
    }
    for (i, pull) in pod["spec"]["imagePullSecrets"].items().iter().enumerate() {
        let secret = pull.str_at(&["name"]);
        if !listed("imagePullSecrets", secret) {
            return Err(format!(
                "imagePullSecrets[{i}].name=\"{secret}\" is not allowed because service account {name} does not \
                 reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

fn mount_token(pod: &mut Value, seed: u64) {
    let existing =
        pod["spec"]["volumes"].items().iter().map(|v| v.str_at(&["name"])).find(|n| n.starts_with(VOLUME_PREFIX));
    let has_volume = existing.is_some();
    let volume = existing.map_or_else(|| format!("{VOLUME_PREFIX}{}", Rng::new(seed).suffix(5)), str::to_owned);
    let mut needed = false;
    for kind in ["initContainers", "containers"] {
        let Some(list) = pod["spec"].get_mut(kind).and_then(Value::as_array_mut) else { continue };
        for container in list.iter_mut().filter(|c| c.as_object().is_some()) {
            if container["volumeMounts"].items().iter().any(|m| m.str_at(&["mountPath"]) == MOUNT_PATH) {
                continue;
            }
            push(container, "volumeMounts", json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
            needed = true;
        }
    }
    if needed && !has_volume {
        push(&mut pod["spec"], "volumes", token_volume(&volume));
    }
}

fn push(object: &mut Value, field: &str, item: Value) {
    let list = &mut object[field];
    if list.is_null() {
        *list = Value::Array(Vec::new());
    }
    if let Some(list) = list.as_array_mut() {
        list.push(item);
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, reader};

    #[test]
    fn a_pod_gets_account_volume_and_mounts() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"mountPath": MOUNT_PATH}]}]}});
        let pod = Case::create("", "pods", "default", pod).mutate_by(mutate, &reader()).unwrap();
        assert_eq!(pod.str_at(&["spec", "serviceAccountName"]), "default");
        let volume = pod["spec"]["volumes"][0].str_at(&["name"]).to_owned();
        assert!(volume.starts_with(VOLUME_PREFIX) && volume.len() == VOLUME_PREFIX.len() + 5);
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0].str_at(&["name"]), volume);
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].items().len(), 1);
    }

    #[test]
    fn a_mirror_pod_has_no_account_and_no_secrets() {
        let refused = |spec: Value| {
            let mut pod = json!({"metadata": {"name": "p", "annotations": {"kubernetes.io/config.mirror": "x"}}});
            pod.set("spec", spec);
            let answer = Case::create("", "pods", "default", pod).mutate_by(mutate, &reader());
            answer.map_or_else(|status| status.message, |_| String::new())
        };
        let why = |why: &str| format!("pods \"p\" is forbidden: a mirror pod may not {why}");
        assert_eq!(refused(json!({"serviceAccountName": "sa"})), why("reference service accounts"));
        let secrets = why("reference secrets");
        assert_eq!(refused(json!({"imagePullSecrets": [{"name": "s"}]})), secrets);
        assert_eq!(refused(json!({"ephemeralContainers": [{"envFrom": [{"secretRef": {"name": "s"}}]}]})), secrets);
        assert_eq!(refused(json!({"volumes": [{"rbd": {"secretRef": {"name": "s"}}}]})), secrets);
        let token = json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]});
        assert_eq!(refused(token), why("use ServiceAccountToken volume projections"));
        assert_eq!(refused(json!({"volumes": [{"configMap": {"name": "m"}}]})), "");
    }

    #[test]
    fn automounting_can_be_turned_off_and_unknown_accounts_are_refused() {
        let off = json!({"spec": {"automountServiceAccountToken": false, "containers": [{"name": "a"}]}});
        let pod = Case::create("", "pods", "default", off).mutate_by(mutate, &reader()).unwrap();
        assert!(pod["spec"]["volumes"].is_null());
        let lost = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "x"}});
        assert_eq!(
            Case::create("", "pods", "default", lost).mutate_by(mutate, &reader()).unwrap_err().message,
            "pods \"p\" is forbidden: error looking up service account default/x: serviceaccount \"x\" not found"
        );
    }
}
