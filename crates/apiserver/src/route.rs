//! Which paths and methods exist, as upstream's routers see it.
//!
//! Built-in groups are routed by go-restful: a path without a route is a `Status` 404 made of the code alone, a path
//! with routes for other methods a 405. Custom resources have a handler of their own, which answers unknown paths in
//! plain text and leaves methods to the verbs.

use machinery::Status;
use registry::{Registry, Resource};

use crate::info::RequestInfo;
use crate::message::Reply;

const ON_ITEM: [&str; 4] = ["get", "update", "patch", "delete"];
const ON_COLLECTION: [&str; 4] = ["list", "watch", "create", "deletecollection"];
const ACROSS_NAMESPACES: [&str; 2] = ["list", "watch"];

/// The answer for a path whose group, version or resource is not there.
pub(crate) fn unknown(registry: &Registry, group: &str) -> Reply {
    let versions = registry.groups().into_iter().find(|(known, _)| known == group).map(|(_, v)| v).unwrap_or_default();
    let builtin = versions.iter().any(|v| registry.rows_of(group, v).any(|row| row.custom.is_none()));
    if builtin { Status::path_not_found().into() } else { no_page() }
}

/// What a server without any route says.
pub(crate) fn no_page() -> Reply {
    Reply::text(404, "404 page not found\n").nosniff()
}

/// The answer when there is no route for the request on this row.
pub(crate) fn refusal(row: &Resource, info: &RequestInfo) -> Option<Reply> {
    let verb = info.verb.as_str();
    let everywhere = row.namespaced && info.namespace.is_empty();
    let misplaced = !row.namespaced && !info.namespace.is_empty() && row.plural != "namespaces";
    let on_item = !info.name.is_empty() && !matches!(verb, "list" | "watch" | "deletecollection");
    if row.custom.is_some() {
        let served = !misplaced && (!everywhere || ACROSS_NAMESPACES.contains(&verb));
        return if served { custom_name(row, info, on_item).map(Reply::from) } else { Some(no_page()) };
    }
    if misplaced || (everywhere && !info.subresource.is_empty()) {
        return Some(Status::path_not_found().into());
    }
    let (verbs, known): (Vec<&str>, bool) = if info.subresource.is_empty() {
        let here: &[&str] = match (on_item, everywhere) {
            (true, true) => &[],
            (true, false) => &ON_ITEM,
            (false, true) => &ACROSS_NAMESPACES,
            (false, false) => &ON_COLLECTION,
        };
        let verbs: Vec<&str> = here.iter().copied().filter(|v| row.allows(v)).collect();
        let known = !verbs.is_empty();
        (verbs, known)
    } else {
        let part = row.subresource(&info.subresource);
        let verbs = part.map(|p| p.verbs.iter().map(AsRef::as_ref).collect()).unwrap_or_default();
        (verbs, part.is_some())
    };
    if !known {
        Some(Status::path_not_found().into())
    } else {
        (!info.routed || !verbs.contains(&verb)).then(|| Status::method_not_allowed().into())
    }
}

/// Custom resources: subresources the definition does not have, writes without a name, and new objects of a definition that
/// is being deleted.
fn custom_name(row: &Resource, info: &RequestInfo, on_item: bool) -> Option<Status> {
    if !info.subresource.is_empty() && row.subresource(&info.subresource).is_none() {
        return Some(Status::not_found(&row.group_resource(), &info.name));
    }
    if !on_item && matches!(info.verb.as_str(), "update" | "patch") {
        return Some(Status::bad_request("name must be provided"));
    }
    if info.verb == "create" && info.subresource.is_empty() && !row.allows("create") {
        let mut refused = Status::method_not_supported(&row.group_resource(), "create");
        refused.message = "create not allowed while custom resource definition is terminating".to_owned();
        return Some(refused);
    }
    None
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::info::Query;

    fn answer(method: &str, path: &str) -> u16 {
        let registry = Registry::builtin(facts::set("1.33").unwrap(), &registry::Options::default()).unwrap();
        let info = RequestInfo::parse(&method.parse::<Method>().unwrap(), path, &Query::default());
        match registry.lookup(&info.group, &info.version, &info.resource) {
            Some(row) => refusal(row, &info).map_or(200, |reply| reply.code),
            None => unknown(&registry, &info.group).code,
        }
    }

    #[test]
    fn paths_without_routes_are_404_and_other_methods_405() {
        let cases = [
            ("GET", "/api/v1/namespaces/d/configmaps/c", 200),
            ("HEAD", "/api/v1/namespaces/d/configmaps/c", 405),
            ("OPTIONS", "/api/v1/namespaces/d/configmaps/c", 405),
            ("POST", "/api/v1/namespaces/d/configmaps/c", 405),
            ("PUT", "/api/v1/namespaces/d/configmaps", 405),
            ("GET", "/api/v1/namespaces/d/configmaps/c/status", 404),
            ("GET", "/api/v1/configmaps", 200),
            ("POST", "/api/v1/configmaps", 405),
            ("DELETE", "/api/v1/configmaps", 405),
            ("GET", "/api/v1/configmaps/c", 404),
            ("GET", "/api/v1/namespaces/d/nodes", 404),
            ("DELETE", "/api/v1/namespaces", 405),
            ("PUT", "/api/v1/namespaces/d/finalize", 200),
            ("GET", "/api/v1/namespaces/d/bindings/b", 404),
            ("GET", "/api/v1/namespaces/d/pods/p/binding", 405),
            ("GET", "/apis/authentication.k8s.io/v1/tokenreviews", 405),
            ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", 200),
            ("GET", "/apis/apps/v9/deployments", 404),
            ("GET", "/apis/nope/v1/foos", 404),
        ];
        for (method, path, expect) in cases {
            assert_eq!(answer(method, path), expect, "{method} {path}");
        }
    }

    #[test]
    fn a_group_nobody_serves_has_no_status() {
        let registry = Registry::builtin(facts::set("1.33").unwrap(), &registry::Options::default()).unwrap();
        assert!(matches!(unknown(&registry, "apps").content, crate::message::Content::Status(_)));
        assert!(matches!(unknown(&registry, "nope").content, crate::message::Content::Bytes { .. }));
    }
}
