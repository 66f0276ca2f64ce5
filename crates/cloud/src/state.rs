//! Everything the cloud remembers, and how it is kept: one sealed file, written whole and synced before any answer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use disk::{DiskError, Platform};
use gke::{ApiError, Cluster, Code, Operation};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::pods::PodIdentity;
use crate::services::PrivateCa;

const FILE: &str = "state.sealed";
const CONTEXT: &str = "cloud/state";
/// Groups of one account that clusters are told of: their answers have a length.
const SEEN_GROUPS_MAX: usize = 400;

/// A Google account of this sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) service: bool,
    /// 21 digits.
    pub(crate) unique_id: String,
    #[serde(default)]
    pub(crate) display_name: String,
    #[serde(default)]
    pub(crate) keys: BTreeMap<String, Key>,
    /// Of a service account: the key that Google keeps for it; made at first use.
    #[serde(default)]
    pub(crate) system_key: Option<SystemKey>,
    /// Of a service account: who may act as it, or manage it.
    #[serde(default)]
    pub(crate) policy: Vec<Binding>,
    #[serde(default)]
    pub(crate) policy_revision: u64,
}

/// The public half of a service account's key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Key {
    /// base64url, without padding.
    pub(crate) n: String,
    pub(crate) e: String,
    pub(crate) uploaded: bool,
    /// RFC 3339.
    pub(crate) created: String,
    /// PEM, around the same key; empty for keys of an earlier build.
    #[serde(default)]
    pub(crate) certificate: String,
}

/// A key whose private half Google keeps, for signatures in the account's name.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct SystemKey {
    pub(crate) id: String,
    /// PKCS #8, base64.
    pub(crate) private: String,
    pub(crate) public: Key,
}

impl std::fmt::Debug for SystemKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SystemKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A Google group of this sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) id: String,
    pub(crate) display_name: String,
    pub(crate) description: String,
    /// `customers/C…`
    pub(crate) parent: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// RFC 3339.
    pub(crate) created: String,
    /// By the member's address: people, service accounts and groups.
    pub(crate) members: BTreeMap<String, Membership>,
}

/// Somebody's place in a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Membership {
    pub(crate) id: String,
    /// `MEMBER`, and perhaps `OWNER` or `MANAGER`.
    pub(crate) roles: Vec<String>,
    /// RFC 3339.
    pub(crate) created: String,
}

/// What is known of a token; the token itself is not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Token {
    pub(crate) email: String,
    pub(crate) scopes: Vec<String>,
    /// Unix seconds; none for the sandbox's own token, which lives as long as the sandbox.
    pub(crate) expires: Option<i64>,
    #[serde(default)]
    pub(crate) refresh: bool,
}

/// Who has a role.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Binding {
    pub(crate) role: String,
    pub(crate) members: Vec<String>,
}

/// All of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) created: String,
    pub(crate) accounts: BTreeMap<String, Account>,
    /// By the SHA-256 of the token, in hex.
    pub(crate) tokens: BTreeMap<String, Token>,
    pub(crate) policy: Vec<Binding>,
    pub(crate) policy_revision: u64,
    pub(crate) services: Vec<String>,
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) operations: Vec<Operation>,
    /// PKCS #8 of the key that signs identity tokens, base64; made at first use.
    #[serde(default)]
    pub(crate) identity_key: Option<String>,
    /// By address, in lower case.
    #[serde(default)]
    pub(crate) groups: BTreeMap<String, Group>,
    /// Counts the changes of members.
    #[serde(default)]
    pub(crate) groups_revision: u64,
    /// Cloud KMS.
    #[serde(default)]
    pub(crate) kms: crate::kms::Rings,
    #[serde(default)]
    pub(crate) privateca: PrivateCa,
    /// Counts the changes of keys, and of who may use them.
    #[serde(default)]
    pub(crate) kms_revision: u64,
}

impl State {
    pub(crate) fn cluster(&self, location: &str, name: &str) -> Option<&Cluster> {
        self.clusters.iter().find(|c| c.location == location && c.name == name)
    }

    pub(crate) fn cluster_mut(&mut self, id: &str) -> Option<&mut Cluster> {
        self.clusters.iter_mut().find(|c| c.id == id)
    }

    pub(crate) fn operation_mut(&mut self, name: &str) -> Option<&mut Operation> {
        self.operations.iter_mut().find(|o| o.name == name)
    }

    /// Is there a policy, token, account or key that was another before? New tokens and accounts are none: nobody was told of
    /// them.
    fn takes_access_from(&self, before: &Self) -> bool {
        self.policy_revision != before.policy_revision
            || self.groups_revision != before.groups_revision
            || self.kms_revision != before.kms_revision
            || before.tokens.keys().any(|token| !self.tokens.contains_key(token))
            || before.accounts.keys().any(|email| !self.accounts.contains_key(email))
    }

    /// The roles an account has by the project's policy.
    pub(crate) fn roles_of(&self, email: &str) -> Vec<String> {
        roles_in(&self.policy, email, &self.groups_of(email))
    }

    /// The roles an account has by the policy of some other resource.
    pub(crate) fn roles_in(&self, policy: &[Binding], email: &str) -> Vec<String> {
        if policy.is_empty() { Vec::new() } else { roles_in(policy, email, &self.groups_of(email)) }
    }

    /// The groups that have an address as a member, themselves or by groups in them.
    pub(crate) fn groups_of(&self, email: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![email.to_lowercase()];
        while let Some(member) = waiting.pop() {
            for (group, _) in self.groups.iter().filter(|(_, group)| group.members.contains_key(&member)) {
                if found.insert(group.as_str()) {
                    waiting.push(group.clone());
                }
            }
        }
        found
    }

    /// What clusters may see of somebody's groups: under each group for security the ones in it that somebody is a member of.
    pub(crate) fn security_groups_of(&self, email: &str) -> BTreeMap<String, Vec<String>> {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let pairs = self.groups_of(email).into_iter().flat_map(|own| {
            let above = self.groups_of(own).into_iter().filter(|group| gke::access::is_security_group(group));
            above.map(move |above| (above.to_owned(), own.to_owned()))
        });
        for (above, own) in pairs.take(SEEN_GROUPS_MAX) {
            found.entry(above).or_default().push(own);
        }
        found
    }

    /// The roles an account has on a service account, by that one's own policy.
    pub(crate) fn roles_on(&self, service_account: &str, email: &str) -> Vec<String> {
        let groups = self.groups_of(email);
        self.accounts.get(service_account).map(|account| roles_in(&account.policy, email, &groups)).unwrap_or_default()
    }
}

/// The roles that somebody has in a policy: a mail address, or a pod as [`crate::pods::PodIdentity`] writes it.
fn roles_in(policy: &[Binding], email: &str, groups: &BTreeSet<&str>) -> Vec<String> {
    let pod = PodIdentity::parse(email);
    let is = |member: &String| {
        let (kind, name) = member.split_once(':').unwrap_or((member, ""));
        match kind {
            // Names in a cluster have no capital letters, and are told apart by them if they had.
            "serviceAccount" if pod.is_some() => name == email,
            "user" | "serviceAccount" => name.eq_ignore_ascii_case(email),
            "domain" => email.rsplit_once('@').is_some_and(|(_, domain)| domain.eq_ignore_ascii_case(name)),
            "group" => groups.contains(name.to_lowercase().as_str()),
            "allUsers" | "allAuthenticatedUsers" => true,
            "principal" | "principalSet" => pod.as_ref().is_some_and(|pod| pod.is_meant_by(kind, name)),
            _ => false,
        }
    };
    policy.iter().filter(|b| b.members.iter().any(is)).map(|b| b.role.clone()).collect()
}

/// The state in memory and on disk. Readers take a snapshot; writers come one after the other.
pub(crate) struct Store {
    current: ArcSwap<State>,
    writer: Mutex<()>,
    /// Changes when whom tokens stand for, what accounts may do, or what keys do, may have changed.
    access: watch::Sender<u64>,
    platform: Platform,
    path: PathBuf,
}

impl Store {
    /// Reads the state, or begins with what `fresh` makes.
    pub(crate) fn open(
        dir: &std::path::Path,
        platform: Platform,
        fresh: impl FnOnce() -> State,
    ) -> Result<Self, DiskError> {
        let path = dir.join(FILE);
        let (state, new) = match platform.open_file(&path, CONTEXT) {
            Ok(bytes) => {
                let what = "the cloud's state is not readable";
                let damaged = |_| DiskError::Damaged { path: path.clone(), offset: 0, what };
                (serde_json::from_slice(&bytes).map_err(damaged)?, false)
            }
            Err(DiskError::Missing { .. }) => (fresh(), true),
            Err(other) => return Err(other),
        };
        let store = Self {
            current: ArcSwap::from_pointee(state),
            writer: Mutex::new(()),
            access: watch::Sender::new(0),
            platform,
            path,
        };
        if new {
            store.save(&store.read())?;
        }
        Ok(store)
    }

    fn save(&self, state: &State) -> Result<(), DiskError> {
        let bytes = serde_json::to_vec(state).expect("plain data");
        self.platform.seal_file(&self.path, CONTEXT, &bytes)
    }

    /// The state as it is now.
    pub(crate) fn read(&self) -> Arc<State> {
        self.current.load_full()
    }

    /// Changes the state; it is on disk when this returns. A change that fails changes nothing. Blocks.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut State) -> Result<T, ApiError>) -> Result<T, ApiError> {
        let _one = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = State::clone(&self.current.load());
        let value = change(&mut state)?;
        self.save(&state).map_err(|error| {
            tracing::error!(%error, "the cloud's state cannot be written");
            ApiError::new(Code::Unavailable, "The service is currently unavailable.")
        })?;
        let access_changed = state.takes_access_from(&self.current.load());
        self.current.store(Arc::new(state));
        if access_changed {
            self.access.send_modify(|revision| *revision += 1);
        }
        Ok(value)
    }

    /// See [`crate::Cloud::access_changes`].
    pub(crate) fn access_changes(&self) -> watch::Receiver<u64> {
        self.access.subscribe()
    }
}
