//! What a server serves: `/api`, `/apis`, `/apis/G`, `/apis/G/V` and the aggregated form.

use machinery::{CompactString, GroupVersionKind, Value, json};

use crate::row::{Resource, SubresourceRow};
use crate::table::Registry;

/// `/api`. `address` is what `serverAddressByClientCIDRs` tells, as `10.0.0.1:6443`.
pub fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`.
pub fn groups(registry: &Registry) -> Value {
    let groups: Value =
        registry.groups().into_iter().filter(|(name, _)| !name.is_empty()).map(|(n, v)| group_value(&n, &v)).collect();
    let mut list = json!({"kind": "APIGroupList", "apiVersion": "v1"});
    list.set("groups", groups);
    list
}

/// `/apis/G`.
pub fn group(registry: &Registry, name: &str) -> Option<Value> {
    let (name, versions) = registry.groups().into_iter().find(|(n, _)| n == name && !n.is_empty())?;
    let mut value = group_value(&name, &versions);
    value.set("kind", "APIGroup");
    value.set("apiVersion", "v1");
    Some(value)
}

fn group_value(name: &str, versions: &[CompactString]) -> Value {
    let entry =
        |version: &CompactString| json!({"groupVersion": format!("{name}/{version}"), "version": version.as_str()});
    let mut value = json!({"name": name});
    value.set("versions", versions.iter().map(entry).collect::<Value>());
    value.set("preferredVersion", versions.first().map(entry));
    value
}

/// `/api/v1` (group empty) and `/apis/G/V`.
pub fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut list: Vec<(String, Value)> = Vec::new();
    for row in registry.rows_of(group, version) {
        list.push((row.plural.to_string(), resource_value(row)));
        for subresource in &row.subresources {
            let name = format!("{}/{}", row.plural, subresource.name);
            let value = subresource_value(row, subresource, &name);
            list.push((name, value));
        }
    }
    if list.is_empty() {
        return None;
    }
    let custom = registry.rows_of(group, version).any(|r| r.custom.is_some());
    if !custom {
        list.sort_by(|a, b| a.0.cmp(&b.0));
    }
    let mut value = json!({"kind": "APIResourceList"});
    if !(group.is_empty() && version == "v1") {
        value.set("apiVersion", "v1");
    }
    value.set("groupVersion", GroupVersionKind::new(group, version, "").api_version());
    value.set("resources", list.into_iter().map(|(_, v)| v).collect::<Value>());
    Some(value)
}

fn resource_value(row: &Resource) -> Value {
    let mut value = json!({
        "name": row.plural.as_str(), "singularName": row.singular.as_str(), "namespaced": row.namespaced,
        "kind": row.gvk.kind.as_str(),
    });
    value.set("verbs", texts(&row.verbs));
    for (key, list) in [("shortNames", &row.short), ("categories", &row.categories)] {
        if !list.is_empty() {
            value.set(key, texts(list));
        }
    }
    if !row.storage_version_hash.is_empty() {
        value.set("storageVersionHash", row.storage_version_hash.as_str());
    }
    value
}

fn subresource_value(row: &Resource, subresource: &SubresourceRow, name: &str) -> Value {
    let mut value = json!({
        "name": name, "singularName": "", "namespaced": row.namespaced, "kind": subresource.kind.kind.as_str(),
    });
    if foreign(row, subresource) {
        value.set("group", subresource.kind.group.as_str());
        value.set("version", subresource.kind.version.as_str());
    }
    value.set("verbs", texts(&subresource.verbs));
    value
}

fn foreign(row: &Resource, subresource: &SubresourceRow) -> bool {
    subresource.kind.group != row.gvk.group || subresource.kind.version != row.gvk.version
}

fn texts(list: &[CompactString]) -> Value {
    list.iter().map(|s| Value::from(s.as_str())).collect()
}

/// The aggregated form of `/api` (`core`: true) or `/apis`, `apidiscovery.k8s.io/v2`.
pub fn aggregated(registry: &Registry, core: bool) -> Value {
    let items: Value = registry
        .groups()
        .into_iter()
        .filter(|(name, _)| name.is_empty() == core)
        .map(|(name, versions)| {
            let mut item = json!({"metadata": {"creationTimestamp": null}});
            if !name.is_empty() {
                item["metadata"].set("name", name.as_str());
            }
            let versions: Value = versions.iter().map(|version| aggregated_version(registry, &name, version)).collect();
            item.set("versions", versions);
            item
        })
        .collect();
    let mut list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}});
    list.set("items", items);
    list
}

fn aggregated_version(registry: &Registry, group: &str, version: &str) -> Value {
    let mut rows: Vec<_> = registry.rows_of(group, version).collect();
    rows.sort_by(|a, b| a.plural.cmp(&b.plural));
    let mut value = json!({"version": version, "freshness": "Current"});
    value.set("resources", rows.into_iter().map(|row| aggregated_resource(row)).collect::<Value>());
    value
}

fn aggregated_resource(row: &Resource) -> Value {
    let mut value = json!({
        "resource": row.plural.as_str(), "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": row.singular.as_str(),
    });
    // Built-ins leave group and version of their own kind empty here; custom resources spell them out.
    let own = if row.custom.is_some() { row.gvk.clone() } else { GroupVersionKind::new("", "", &row.gvk.kind) };
    value.set("responseKind", kind_value(&own));
    value.set("verbs", texts(&row.verbs));
    for (key, list) in [("shortNames", &row.short), ("categories", &row.categories)] {
        if !list.is_empty() {
            value.set(key, texts(list));
        }
    }
    if !row.subresources.is_empty() {
        let subresources: Value = row
            .subresources
            .iter()
            .map(|s| {
                let kind = if foreign(row, s) || row.custom.is_some() {
                    s.kind.clone()
                } else {
                    GroupVersionKind::new("", "", &s.kind.kind)
                };
                let mut value = json!({"subresource": s.name.as_str()});
                value.set("responseKind", kind_value(&kind));
                value.set("verbs", texts(&s.verbs));
                value
            })
            .collect();
        value.set("subresources", subresources);
    }
    value
}

fn kind_value(kind: &GroupVersionKind) -> Value {
    json!({"group": kind.group.as_str(), "version": kind.version.as_str(), "kind": kind.kind.as_str()})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    const RECORDED: &str = include_str!("../testdata/discovery.txt");

    fn answer(registry: &Registry, path: &str) -> Option<Value> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (path, parts.as_slice()) {
            ("aggregated:/api", _) => Some(aggregated(registry, true)),
            ("aggregated:/apis", _) => Some(aggregated(registry, false)),
            ("/api", _) => Some(api_versions("127.0.0.1:27443")),
            ("/apis", _) => Some(groups(registry)),
            (_, ["api", version]) => resources(registry, "", version),
            (_, ["apis", name]) => group(registry, name),
            (_, ["apis", group, version]) => resources(registry, group, version),
            _ => None,
        }
    }

    #[test]
    fn discovery_is_that_of_a_real_server() {
        let registry = Registry::builtin(facts::set("1.33").unwrap(), &Options::default()).unwrap();
        for line in RECORDED.lines().filter(|l| !l.starts_with('#')) {
            let (path, expect) = line.split_once(' ').unwrap();
            let expect = Value::from_slice(expect.as_bytes()).unwrap();
            let ours = answer(&registry, path).unwrap_or_default();
            assert!(ours == expect, "{path}\n real: {expect}\n ours: {ours}");
        }
    }

    #[test]
    fn groups_off_by_default_are_served_when_asked_for() {
        let options = Options { runtime_config: "networking.k8s.io/v1beta1=true".into(), ..Options::default() };
        let registry = Registry::builtin(facts::set("1.33").unwrap(), &options).unwrap();
        assert!(registry.lookup("networking.k8s.io", "v1beta1", "ipaddresses").is_some());
        assert_eq!(group(&registry, "networking.k8s.io").unwrap()["preferredVersion"]["version"], "v1".into());
    }

    /// Group versions and resources of a file like `apps/v1 deployments/status gated`.
    fn listed(gated: bool) -> Vec<String> {
        const ALL: &str = include_str!("../testdata/discovery_all.txt");
        let lines = ALL.lines().filter(|l| !l.starts_with('#') && (gated || !l.ends_with(" gated")));
        let mut lines: Vec<String> = lines.map(|l| l.trim_end_matches(" gated").to_owned()).collect();
        lines.sort();
        lines
    }

    #[test]
    fn everything_is_served_when_everything_is_asked_for() {
        for gates in ["", "AllAlpha=true,AllBeta=true"] {
            let options = Options { runtime_config: "api/all=true".into(), feature_gates: gates.into() };
            let registry = Registry::builtin(facts::set("1.33").unwrap(), &options).unwrap();
            let mut ours = Vec::new();
            for (group, versions) in registry.groups() {
                for version in versions {
                    let list = resources(&registry, &group, &version).expect("a version that is served");
                    let names = list["resources"].items().iter();
                    let gv = list.str_at(&["groupVersion"]).to_owned();
                    ours.extend(names.map(|r| format!("{gv} {}", r.str_at(&["name"]))));
                }
            }
            ours.sort();
            assert_eq!(ours, listed(!gates.is_empty()), "{gates}");
        }
    }
}
