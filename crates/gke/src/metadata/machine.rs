//! The tree of a machine.

use std::collections::BTreeMap;

use super::Entry;

/// What is known of a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    pub name: String,
    /// As Compute Engine numbers machines.
    pub id: u64,
    /// `us-central1-a`
    pub zone: String,
    pub machine_type: String,
    pub project: String,
    pub project_number: String,
    /// Its address in the network.
    pub address: String,
    pub tags: Vec<String>,
    pub attributes: BTreeMap<String, String>,
    /// The email of its service account.
    pub account: String,
    pub scopes: Vec<String>,
}

impl Machine {
    /// `NAME.ZONE.c.PROJECT.internal`
    pub fn hostname(&self) -> String {
        format!("{}.{}.c.{}.internal", self.name, self.zone, self.project)
    }

    /// Everything under `computeMetadata/v1/`.
    pub fn tree(&self) -> Entry {
        let text = |text: &str| Entry::text_of(text);
        let number = &self.project_number;
        let attributes = self.attributes.iter().map(|(name, value)| (name.clone(), text(value)));
        let scheduling = vec![
            ("automatic-restart", text("TRUE")),
            ("on-host-maintenance", text("MIGRATE")),
            ("preemptible", text("FALSE")),
        ];
        let interface =
            vec![("ip", text(&self.address)), ("network", text(&format!("projects/{number}/networks/default")))];
        let disk = vec![
            ("device-name", text("persistent-disk-0")),
            ("index", Entry::Number(0)),
            ("mode", text("READ_WRITE")),
            ("type", text("PERSISTENT-BALANCED")),
        ];
        let instance = vec![
            ("attributes", Entry::Named(attributes.collect())),
            ("cpu-platform", text("Unknown CPU Platform")),
            ("description", text("")),
            ("disks", Entry::Numbered(vec![Entry::Fixed(disk)])),
            ("hostname", text(&self.hostname())),
            ("id", Entry::Number(self.id)),
            ("machine-type", text(&format!("projects/{number}/machineTypes/{}", self.machine_type))),
            ("maintenance-event", text("NONE")),
            ("name", text(&self.name)),
            ("network-interfaces", Entry::Numbered(vec![Entry::Fixed(interface)])),
            ("preempted", text("FALSE")),
            ("scheduling", Entry::Fixed(scheduling)),
            ("service-accounts", self.accounts()),
            ("tags", Entry::Array(self.tags.clone())),
            ("zone", text(&format!("projects/{number}/zones/{}", self.zone))),
        ];
        Entry::Fixed(vec![("instance", Entry::Fixed(instance)), ("project", self.project()), ("universe", universe())])
    }

    /// What a pod sees of the machine it runs on, with Workload Identity: GKE's own metadata server answers there.
    pub fn tree_for_pods(&self) -> Entry {
        let shown = ["cluster-location", "cluster-name", "cluster-uid"];
        let attributes = self.attributes.iter().filter(|(name, _)| shown.contains(&name.as_str()));
        let attributes = attributes.map(|(name, value)| (name.clone(), Entry::text_of(value)));
        let instance = vec![
            ("attributes", Entry::Named(attributes.collect())),
            ("hostname", Entry::text_of(self.hostname())),
            ("id", Entry::Number(self.id)),
            ("service-accounts", self.accounts()),
            ("zone", Entry::text_of(format!("projects/{}/zones/{}", self.project_number, self.zone))),
        ];
        Entry::Fixed(vec![("instance", Entry::Fixed(instance)), ("project", self.project()), ("universe", universe())])
    }

    fn project(&self) -> Entry {
        Entry::Fixed(vec![
            ("attributes", Entry::Named(BTreeMap::new())),
            ("numeric-project-id", self.project_number.parse().map_or(Entry::Number(0), Entry::Number)),
            ("project-id", Entry::text_of(&self.project)),
        ])
    }

    fn accounts(&self) -> Entry {
        let account = Entry::Fixed(vec![
            ("aliases", Entry::Lines(vec!["default".to_owned()])),
            ("email", Entry::text_of(&self.account)),
            ("identity", Entry::Identity),
            ("scopes", Entry::Lines(self.scopes.clone())),
            ("token", Entry::Token),
        ]);
        let mut accounts = BTreeMap::from([("default".to_owned(), account.clone())]);
        accounts.insert(self.account.clone(), account);
        Entry::Named(accounts)
    }
}

fn universe() -> Entry {
    Entry::Fixed(vec![("universe-domain", Entry::text_of("googleapis.com"))])
}
