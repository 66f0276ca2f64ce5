//! Which resources the server has, built-in and custom, from aggregated discovery.

use std::collections::BTreeSet;

use controllers::ResourceType;
use machinery::{GroupVersionResource, Status, Value};

use crate::api::{Api, Request};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// Every resource type, in its group's preferred version that has it.
pub(crate) async fn discover(api: &Api) -> Result<Vec<ResourceType>, Status> {
    let mut found = Vec::new();
    for root in ["/api", "/apis"] {
        let request = Request { accept: AGGREGATED, ..Request::get(root) };
        let answer = api.call(request).await?;
        for group in answer["items"].items() {
            read_group(group, &mut found);
        }
    }
    Ok(found)
}

fn read_group(group: &Value, found: &mut Vec<ResourceType>) {
    let group_name = group.str_at(&["metadata", "name"]);
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for version in group["versions"].items() {
        if version.str_at(&["freshness"]) == "Stale" {
            continue;
        }
        for resource in version["resources"].items() {
            let plural = resource.str_at(&["resource"]);
            if !seen.insert(plural) {
                continue;
            }
            let can = |verb: &str| resource["verbs"].items().iter().any(|v| v.as_str() == Some(verb));
            found.push(ResourceType {
                resource: GroupVersionResource::new(group_name, version.str_at(&["version"]), plural),
                kind: resource.str_at(&["responseKind", "kind"]).into(),
                namespaced: resource.str_at(&["scope"]) == "Namespaced",
                collectable: ["list", "watch", "delete"].iter().all(|v| can(v)),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::json;

    #[test]
    fn the_preferred_version_is_taken() {
        let resource = json!([{"resource": "widgets", "responseKind": {"kind": "Widget"}, "scope": "Namespaced",
            "verbs": ["list", "watch", "delete"]}]);
        let group = json!({"metadata": {"name": "example.com"}, "versions": [
            {"version": "v2", "resources": resource}, {"version": "v1", "resources": resource}]});
        let mut found = Vec::new();
        read_group(&group, &mut found);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].resource, GroupVersionResource::new("example.com", "v2", "widgets"));
        assert!(found[0].namespaced && found[0].collectable);
    }
}
