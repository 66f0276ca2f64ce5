//! TaintNodesByCondition: a new node takes no pods before its conditions are known.

use machinery::{Status, Value, json};

use super::{AdmissionRequest, Operation, Reader};

pub(super) fn mutate(request: &AdmissionRequest<'_>, node: &mut Value, _: &dyn Reader) -> Result<(), Status> {
    if request.operation != Operation::Create || !request.is("", "nodes") {
        return Ok(());
    }
    let key = "node.kubernetes.io/not-ready";
    let taints = &mut node["spec"]["taints"];
    if taints.items().iter().any(|t| t.str_at(&["key"]) == key && t.str_at(&["effect"]) == "NoSchedule") {
        return Ok(());
    }
    if taints.is_null() {
        *taints = Value::Array(Vec::new());
    }
    if let Some(list) = taints.as_array_mut() {
        list.push(json!({"key": key, "effect": "NoSchedule"}));
    }
    Ok(())
}
