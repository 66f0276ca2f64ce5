//! DefaultTolerationSeconds: a pod stays five minutes on a node that stops answering.

use machinery::{Status, Value, json};

use super::{AdmissionRequest, Operation, Reader};

const SECONDS: i64 = 300;

pub(super) fn mutate(request: &AdmissionRequest<'_>, pod: &mut Value, _: &dyn Reader) -> Result<(), Status> {
    let watched = matches!(request.operation, Operation::Create | Operation::Update);
    if !watched || !request.is("", "pods") {
        return Ok(());
    }
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = pod["spec"]["tolerations"].items().iter().any(|t| {
            let (its_key, effect) = (t.str_at(&["key"]), t.str_at(&["effect"]));
            (its_key == key || its_key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if tolerated {
            continue;
        }
        let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS});
        let tolerations = &mut pod["spec"]["tolerations"];
        if tolerations.is_null() {
            *tolerations = Value::Array(Vec::new());
        }
        if let Some(list) = tolerations.as_array_mut() {
            list.push(toleration);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, reader};

    #[test]
    fn both_tolerations_are_added_once_unless_the_pod_has_its_own() {
        let pod = json!({"spec": {"tolerations": [{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}]}});
        let pod = Case::create("", "pods", "default", pod).mutate_by(mutate, &reader()).unwrap();
        let tolerations = pod["spec"]["tolerations"].items();
        assert_eq!(tolerations.len(), 2);
        assert_eq!(tolerations[1]["tolerationSeconds"].as_i64(), Some(300));
        let any = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        let any = Case::create("", "pods", "default", any).mutate_by(mutate, &reader()).unwrap();
        assert_eq!(any["spec"]["tolerations"].items().len(), 1);
    }
}
