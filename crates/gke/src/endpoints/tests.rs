use super::*;
use crate::cluster::{Creation, Profile};
use crate::exposure::EndpointSettings;
use crate::record::Cluster;
use crate::{ApiVersion, View};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const NAME: &str = "gke-0123456789abcdef0123456789abcdef0123-42.us-central1-a.gke.goog";

fn made(profile: Profile, fields: Value) -> Result<Cluster, String> {
    let mut cluster = json!({"name": "c", "initialNodeCount": 1});
    crate::merge::merge(&mut cluster, &fields);
    let now = base::Timestamp::from_unix_seconds(1_700_000_000);
    let creation = Creation { project: "p", location: "us-central1-a", now, id: ID, existing: &[], profile };
    let request = [("cluster", cluster)].into_iter().collect();
    let mut made = crate::cluster::create(&request, &creation).map_err(|error| error.message)?;
    made.access = Some(Access {
        endpoint: "127.1.1.1".to_owned(),
        private_endpoint: "127.2.2.2".to_owned(),
        ca_pem: String::new(),
        client: None,
    });
    Ok(made)
}

fn create(fields: Value) -> Result<Cluster, String> {
    made(Profile::Classic, fields)
}

fn change(cluster: &mut Cluster, update: Value) -> Result<(), String> {
    cluster.body = crate::update::update(cluster, &update).map_err(|error| error.message)?;
    Ok(())
}

fn shown(cluster: &Cluster) -> Value {
    let view = View { version: ApiVersion::V1, project: "p", project_number: "42", credentials: true };
    view.cluster(cluster)
}

fn ip(shown: &Value) -> &Value {
    &shown["controlPlaneEndpointsConfig"]["ipEndpointsConfig"]
}

#[test]
fn a_plain_cluster_shows_all_fields_of_both_forms() {
    let shown = shown(&create(json!({})).unwrap());
    assert_eq!(shown["endpoint"], "127.1.1.1".into());
    assert_eq!(
        *ip(&shown),
        json!({"enabled": true, "enablePublicEndpoint": true, "publicEndpoint": "127.1.1.1", "privateEndpoint": "127.2.2.2",
            "authorizedNetworksConfig": {"gcpPublicCidrsAccessEnabled": true}})
    );
    assert_eq!(shown["privateClusterConfig"], json!({"publicEndpoint": "127.1.1.1", "privateEndpoint": "127.2.2.2"}));
    assert_eq!(shown["masterAuthorizedNetworksConfig"], json!({"gcpPublicCidrsAccessEnabled": true}));
    let dns = &shown["controlPlaneEndpointsConfig"]["dnsEndpointConfig"];
    let off = json!({"allowExternalTraffic": false, "endpoint": NAME, "enableK8sTokensViaDns": false,
        "enableK8sCertsViaDns": false});
    assert_eq!(*dns, off);
    let new = made(Profile::Year2026, json!({})).unwrap();
    assert!(EndpointSettings::of(&new.body).dns && !EndpointSettings::of(&new.body).dns_tokens);
}

#[test]
fn both_forms_mean_the_same() {
    let networks = json!({"enabled": true, "cidrBlocks": [{"cidrBlock": "127.0.0.10/32"}]});
    let with = |outer: &[&str], value: &Value| {
        let mut fields = Value::object();
        *fields.at_mut(outer) = value.clone();
        fields
    };
    let path = ["controlPlaneEndpointsConfig", "ipEndpointsConfig"];
    let pairs = [
        (
            with(&["masterAuthorizedNetworksConfig"], &networks),
            with(&[path[0], path[1], "authorizedNetworksConfig"], &networks),
        ),
        (
            with(&["privateClusterConfig", "enablePrivateEndpoint"], &true.into()),
            with(&[path[0], path[1], "enablePublicEndpoint"], &false.into()),
        ),
        (
            with(&["privateClusterConfig", "masterGlobalAccessConfig", "enabled"], &true.into()),
            with(&[path[0], path[1], "globalAccess"], &true.into()),
        ),
    ];
    for (old, new) in pairs {
        let (a, b) = (create(old.clone()).unwrap(), create(new).unwrap());
        assert_eq!(shown(&a), shown(&b), "{old}");
        assert_ne!(EndpointSettings::of(&a.body), EndpointSettings::default(), "{old}");
    }
    let gcloud = json!({"privateClusterConfig": {"enablePrivateEndpoint": true, "enablePrivateNodes": true,
        "masterIpv4CidrBlock": "172.16.0.32/28"}, "controlPlaneEndpointsConfig": {"ipEndpointsConfig":
        {"enablePublicEndpoint": false}}, "networkConfig": {"defaultEnablePrivateNodes": true}});
    let private = shown(&create(gcloud).unwrap());
    assert_eq!(private["endpoint"], "127.2.2.2".into());
    assert_eq!(
        private["privateClusterConfig"],
        json!({"enablePrivateEndpoint": true, "enablePrivateNodes": true, "masterIpv4CidrBlock": "172.16.0.32/28",
            "publicEndpoint": "127.1.1.1", "privateEndpoint": "127.2.2.2"})
    );
    assert_eq!(private["masterAuthorizedNetworksConfig"], json!({"privateEndpointEnforcementEnabled": true}));
    let subnet = "projects/p/regions/us-central1/subnetworks/gke-c-01234567-pe-subnet";
    assert_eq!(ip(&private)["privateEndpointSubnetwork"], subnet.into());
    assert!(ip(&private).get("publicEndpoint").is_none());
}

#[test]
fn updates_switch_and_keep_what_they_do_not_name() {
    let mut cluster = create(json!({})).unwrap();
    let networks = |value: Value| {
        let mut update = Value::object();
        *update.at_mut(&["desiredControlPlaneEndpointsConfig", "ipEndpointsConfig", "authorizedNetworksConfig"]) =
            value;
        update
    };
    let list = json!({"enabled": true, "cidrBlocks": [{"cidrBlock": "127.0.0.10/32", "displayName": "here"}]});
    change(&mut cluster, networks(list.clone())).unwrap();
    let mut expected = list;
    expected.set("gcpPublicCidrsAccessEnabled", true);
    assert_eq!(shown(&cluster)["masterAuthorizedNetworksConfig"], expected);
    change(&mut cluster, json!({"desiredEnablePrivateEndpoint": true})).unwrap();
    assert_eq!(shown(&cluster)["endpoint"], "127.2.2.2".into());
    let dns = json!({"dnsEndpointConfig": {"allowExternalTraffic": true}, "ipEndpointsConfig": {"enabled": false}});
    change(&mut cluster, [("desiredControlPlaneEndpointsConfig", dns)].into_iter().collect()).unwrap();
    let off = shown(&cluster);
    assert_eq!(*ip(&off), json!({"enabled": false}));
    assert_eq!((&off["endpoint"], off.get("masterAuthorizedNetworksConfig")), (&NAME.into(), None));
    assert_eq!(off["privateClusterConfig"], json!({"publicEndpoint": "127.1.1.1"}));
    let on = json!({"desiredControlPlaneEndpointsConfig": {"ipEndpointsConfig": {"enabled": true}}});
    change(&mut cluster, on).unwrap();
    let settings = EndpointSettings::of(&cluster.body);
    assert!(!settings.public_endpoint && settings.authorized.is_some() && settings.dns, "{settings:?}");
    change(&mut cluster, json!({"desiredEnablePrivateEndpoint": false})).unwrap();
    change(&mut cluster, json!({"desiredMasterAuthorizedNetworksConfig": {"enabled": false}})).unwrap();
    assert_eq!(EndpointSettings::of(&cluster.body), EndpointSettings { dns: true, ..EndpointSettings::default() });
    change(&mut cluster, json!({"desiredPrivateClusterConfig": {"masterGlobalAccessConfig": {"enabled": true}}}))
        .unwrap();
    assert_eq!(ip(&shown(&cluster))["globalAccess"], true.into());
    change(&mut cluster, json!({"desiredDefaultEnablePrivateNodes": true})).unwrap();
    assert_eq!(shown(&cluster)["privateClusterConfig"]["enablePrivateNodes"], true.into());
    change(&mut cluster, json!({"desiredDefaultEnablePrivateNodes": false})).unwrap();
    assert!(shown(&cluster)["privateClusterConfig"].get("enablePrivateNodes").is_none());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let blocks = |n: usize| -> Value {
        let block = |i: usize| json!({"cidrBlock": format!("127.0.{i}.0/24")});
        let list: Vec<Value> = (0..n).map(block).collect();
        let mut networks = json!({"enabled": true});
        networks.set("cidrBlocks", list);
        [("masterAuthorizedNetworksConfig", networks)].into_iter().collect()
    };
    assert!(create(blocks(50)).is_ok());
    let list = |block: &str| {
        let mut fields = json!({"masterAuthorizedNetworksConfig": {"enabled": true}});
        fields["masterAuthorizedNetworksConfig"].set("cidrBlocks", vec![json!({"cidrBlock": block})]);
        fields
    };
    let prefix = "Invalid master authorized networks: ";
    assert!(create(blocks(51)).unwrap_err().starts_with(prefix));
    for malformed in ["", "127.0.0.1", "127.0.0.1/33", "127.0.0/24", "::/0", "here/8", "10.0.0.0/8 "] {
        let error = create(list(malformed)).unwrap_err();
        assert_eq!(error, format!("{prefix}network {malformed:?} is not a valid CIDR block."));
    }
    let mut public = list("73.89.231.174/32");
    public["privateClusterConfig"]["enablePrivateEndpoint"] = true.into();
    let reserved = "network \"73.89.231.174/32\" is not a reserved network, which is required for private endpoints.";
    assert_eq!(create(public).unwrap_err(), format!("{prefix}{reserved}"));
    for (fields, named) in [
        (
            json!({"masterAuthorizedNetworksConfig": {"enabled": true}, "controlPlaneEndpointsConfig":
            {"ipEndpointsConfig": {"authorizedNetworksConfig": {"enabled": true}}}}),
            "master_authorized_networks_config",
        ),
        (
            json!({"privateClusterConfig": {"enablePrivateEndpoint": true}, "controlPlaneEndpointsConfig":
            {"ipEndpointsConfig": {"enablePublicEndpoint": true}}}),
            "enable_private_endpoint",
        ),
        (
            json!({"controlPlaneEndpointsConfig": {"ipEndpointsConfig": {"enabled": false, "enablePublicEndpoint": true}}}),
            "IP endpoints cannot be configured",
        ),
        (
            json!({"privateClusterConfig": {"enablePrivateEndpoint": true},
            "masterAuthorizedNetworksConfig": {"gcpPublicCidrsAccessEnabled": true}}),
            "gcp_public_cidrs_access_enabled",
        ),
        (json!({"privateClusterConfig": {"masterIpv4CidrBlock": "172.16.0.0/24"}}), "master_ipv4_cidr_block"),
        (json!({"masterAuthorizedNetworksConfig": {"cidrBlocks": [{"cidrBlock": "10.0.0.0/8"}]}}), prefix),
    ] {
        let error = create(fields).unwrap_err();
        assert!(error.contains(named), "{error}");
    }
    let mut cluster = create(json!({})).unwrap();
    for old in [
        json!({"desiredMasterAuthorizedNetworksConfig": {"enabled": true}}),
        json!({"desiredEnablePrivateEndpoint": true}),
        json!({"desiredPrivateClusterConfig": {"masterGlobalAccessConfig": {"enabled": true}}}),
    ] {
        let mut update = json!({"desiredControlPlaneEndpointsConfig": {"ipEndpointsConfig": {"globalAccess": true}}});
        crate::merge::merge(&mut update, &old);
        let error = change(&mut cluster, update).unwrap_err();
        assert!(error.contains("must not be set when"), "{error}");
    }
}
