//! The part of Compute v1 that GKE's clients read: the project, zones, regions, and node pools' instance groups.

use gke::{ApiError, places, render};
use machinery::{Value, json};

use super::{Answer, method_not_found, require};
use crate::Inner;
use crate::identity::Caller;

/// `/compute/v1/projects/<project>/…`; reads only.
pub(super) fn answer(inner: &Inner, caller: &Caller, verb: &str, rest: &[&str]) -> Answer {
    let ["projects", project, rest @ ..] = rest else { return Err(method_not_found()) };
    if verb != "GET" {
        require(inner, caller, project, "compute.instances.create")?;
        return Err(ApiError::unimplemented(&format!("{verb} of compute")));
    }
    let may = |permission: &str| require(inner, caller, project, permission);
    let root = format!("https://www.googleapis.com/compute/v1/projects/{}", inner.project);
    match rest {
        [] => {
            may("compute.projects.get")?;
            let email = format!("{}-compute@developer.gserviceaccount.com", inner.project_number);
            Ok(json!({"kind": "compute#project", "id": inner.project_number, "name": inner.project, "selfLink": root,
                "defaultServiceAccount": email, "commonInstanceMetadata": {"kind": "compute#metadata",
                "fingerprint": "AAAAAAAAAAA="}, "xpnProjectStatus": "UNSPECIFIED_XPN_PROJECT_STATUS"}))
        }
        ["zones"] => {
            may("compute.zones.list")?;
            let zones = places::regions().flat_map(places::zones).map(|zone| zone_value(&root, &zone));
            Ok(collection("compute#zoneList", zones.collect()))
        }
        ["zones", zone] => {
            may("compute.zones.get")?;
            known_zone(inner, zone)?;
            Ok(zone_value(&root, zone))
        }
        ["regions"] => {
            may("compute.regions.list")?;
            Ok(collection("compute#regionList", places::regions().map(|region| region_value(&root, region)).collect()))
        }
        ["regions", region] => {
            may("compute.regions.get")?;
            let missing = || not_found(&format!("projects/{}/regions/{region}", inner.project));
            places::regions().find(|r| r == region).map(|r| region_value(&root, r)).ok_or_else(missing)
        }
        ["zones", zone, "instanceGroupManagers"] => {
            may("compute.instanceGroupManagers.list")?;
            known_zone(inner, zone)?;
            Ok(collection("compute#instanceGroupManagerList", group_managers(inner, zone)))
        }
        ["zones", zone, "instanceGroupManagers", name] => {
            may("compute.instanceGroupManagers.get")?;
            let found = group_managers(inner, zone).into_iter().find(|group| group.str_at(&["name"]) == *name);
            let path = format!("projects/{}/zones/{zone}/instanceGroupManagers/{name}", inner.project);
            found.ok_or_else(|| not_found(&path))
        }
        ["aggregated", "instances"] => {
            may("compute.instances.list")?;
            Ok(json!({"kind": "compute#instanceAggregatedList", "items": {}}))
        }
        _ => Err(ApiError::unimplemented(&format!("compute {}", rest.join("/")))),
    }
}

fn not_found(path: &str) -> ApiError {
    ApiError::not_found(format!("The resource '{path}' was not found"))
}

fn known_zone(inner: &Inner, zone: &str) -> Result<(), ApiError> {
    match places::Place::parse(zone) {
        Ok(place) if place.zonal => Ok(()),
        _ => Err(not_found(&format!("projects/{}/zones/{zone}", inner.project))),
    }
}

fn group_managers(inner: &Inner, zone: &str) -> Vec<Value> {
    let state = inner.store.read();
    let pools = state.clusters.iter().flat_map(|cluster| cluster.pools.iter().map(move |pool| (cluster, pool)));
    pools.filter_map(|(cluster, pool)| render::group_manager(&inner.project, cluster, pool, zone)).collect()
}

fn collection(kind: &str, items: Vec<Value>) -> Value {
    let mut out = json!({"kind": kind});
    if !items.is_empty() {
        out.set("items", items);
    }
    out
}

fn zone_value(root: &str, zone: &str) -> Value {
    let region = zone.rsplit_once('-').map_or("", |(region, _)| region);
    json!({"kind": "compute#zone", "name": zone, "description": zone, "status": "UP",
        "region": format!("{root}/regions/{region}"), "selfLink": format!("{root}/zones/{zone}")})
}

fn region_value(root: &str, region: &str) -> Value {
    let zones: Vec<String> = places::zones(region).iter().map(|zone| format!("{root}/zones/{zone}")).collect();
    json!({"kind": "compute#region", "name": region, "description": region, "status": "UP", "zones": zones,
        "selfLink": format!("{root}/regions/{region}")})
}
