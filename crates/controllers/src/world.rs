//! What controllers see: every object of the cluster, in persistent maps, so that a snapshot costs nothing.
//!
//! Objects arrive by [`World::apply`] and leave by [`World::remove`]; both keep the indexes (by owner, by uid, by node)
//! and say what changed. An object older than the one held is ignored, so answers to our own writes and watch events may
//! arrive in any order.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use machinery::{CompactString, GroupResource, GroupVersionResource, ObjectKey, Value, meta};

use crate::resource::{NODES, PODS, ResourceType};

/// One object: its resource, namespace and name. Also what work queues hold.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Key {
    /// Which resource.
    pub resource: GroupResource,
    /// Which object of it.
    pub object: ObjectKey,
}

impl Key {
    /// From its parts.
    pub fn new(resource: &GroupVersionResource, namespace: &str, name: &str) -> Self {
        Self { resource: resource.group_resource(), object: ObjectKey::new(namespace, name) }
    }

    /// The key of an object of a resource.
    pub fn of(resource: &GroupVersionResource, object: &Value) -> Self {
        Self::new(resource, meta::namespace(object), meta::name(object))
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.resource, self.object)
    }
}

/// What the cluster's operator decided and no object tells.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The cluster root CA certificate, for `kube-root-ca.crt`.
    pub root_ca_pem: Arc<str>,
    /// The range pods live in, for `spec.podCIDR` of nodes; none: nobody assigns ranges.
    pub pod_cidr: Option<ipnet::Ipv4Net>,
    /// Prefix length of one node's range; GKE gives /24.
    pub node_prefix_length: u8,
}

/// An object came, changed or went.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which resource.
    pub resource: GroupResource,
    /// What it was.
    pub old: Option<Arc<Value>>,
    /// What it is now.
    pub new: Option<Arc<Value>>,
}

type Table = OrdMap<ObjectKey, Arc<Value>>;
type Reference = (CompactString, Key);

/// Every object of the cluster at one moment. Cloning is O(1).
#[derive(Clone, Default)]
pub struct World {
    tables: OrdMap<GroupResource, Table>,
    types: OrdMap<GroupResource, Arc<ResourceType>>,
    kinds: OrdMap<(CompactString, CompactString), GroupResource>,
    by_uid: OrdMap<CompactString, Key>,
    by_owner: OrdSet<Reference>,
    by_node: OrdSet<Reference>,
    settings: Arc<Settings>,
}

impl World {
    /// An empty cluster.
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), ..Self::default() }
    }

    /// The operator's decisions.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Learns of a resource type, as discovery told it.
    pub fn define(&mut self, resource_type: ResourceType) {
        let resource = resource_type.resource.group_resource();
        self.kinds.insert((resource.group.clone(), resource_type.kind.clone()), resource.clone());
        self.types.insert(resource, Arc::new(resource_type));
    }

    /// Forgets a resource type and its objects.
    pub fn undefine(&mut self, resource: &GroupResource) {
        let keys: Vec<ObjectKey> = self.tables.get(resource).into_iter().flat_map(|t| t.keys().cloned()).collect();
        for key in keys {
            self.remove(resource, &key);
        }
        if let Some(old) = self.types.remove(resource) {
            self.kinds.remove(&(resource.group.clone(), old.kind.clone()));
        }
        self.tables.remove(resource);
    }

    /// Every known resource type.
    pub fn types(&self) -> impl Iterator<Item = &Arc<ResourceType>> {
        self.types.values()
    }

    /// One resource type.
    pub fn resource_type(&self, resource: &GroupResource) -> Option<&Arc<ResourceType>> {
        self.types.get(resource)
    }

    /// The resource type of a kind in a group.
    pub fn type_of_kind(&self, group: &str, kind: &str) -> Option<&Arc<ResourceType>> {
        self.types.get(self.kinds.get(&(group.into(), kind.into()))?)
    }

    /// Takes an object in. `None` when what we have is at least as new; of two equally new ones the later is kept, as
    /// it is the one that is shared with the watch cache.
    pub fn apply(&mut self, resource: &GroupResource, object: Arc<Value>) -> Option<Change> {
        let key = meta::key(&object);
        let old = self.tables.get(resource).and_then(|t| t.get(&key)).cloned();
        if let Some(old) = old.as_ref().filter(|old| !newer(&object, old)) {
            if meta::resource_version(old) == meta::resource_version(&object)
                && let Some(table) = self.tables.get_mut(resource)
            {
                table.insert(key, object);
            }
            return None;
        }
        if let Some(old) = &old {
            self.unindex(resource, old);
        }
        self.index(resource, &object);
        let mut table = self.tables.get(resource).cloned().unwrap_or_default();
        table.insert(key, object.clone());
        self.tables.insert(resource.clone(), table);
        Some(Change { resource: resource.clone(), old, new: Some(object) })
    }

    /// Lets an object go. `None` when it was not there.
    pub fn remove(&mut self, resource: &GroupResource, key: &ObjectKey) -> Option<Change> {
        let table = self.tables.get_mut(resource)?;
        let old = table.remove(key)?;
        self.unindex(resource, &old);
        Some(Change { resource: resource.clone(), old: Some(old), new: None })
    }

    fn index(&mut self, resource: &GroupResource, object: &Value) {
        let key = Key { resource: resource.clone(), object: meta::key(object) };
        for owner in meta::owner_references(object) {
            self.by_owner.insert((owner.str_at(&["uid"]).into(), key.clone()));
        }
        if is(resource, &PODS) && !object.str_at(&["spec", "nodeName"]).is_empty() {
            self.by_node.insert((object.str_at(&["spec", "nodeName"]).into(), key.clone()));
        }
        self.by_uid.insert(meta::uid(object).into(), key);
    }

    fn unindex(&mut self, resource: &GroupResource, object: &Value) {
        let key = Key { resource: resource.clone(), object: meta::key(object) };
        for owner in meta::owner_references(object) {
            self.by_owner.remove(&(owner.str_at(&["uid"]).into(), key.clone()));
        }
        if is(resource, &PODS) {
            self.by_node.remove(&(object.str_at(&["spec", "nodeName"]).into(), key.clone()));
        }
        let uid = meta::uid(object);
        if self.by_uid.get(uid).is_some_and(|held| *held == key) {
            self.by_uid.remove(uid);
        }
    }

    /// One object.
    pub fn get(&self, resource: &GroupVersionResource, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.table(resource)?.get(&ObjectKey::new(namespace, name))
    }

    /// The object a key names.
    pub fn lookup(&self, key: &Key) -> Option<&Arc<Value>> {
        self.tables.get(&key.resource)?.get(&key.object)
    }

    /// All objects of a resource, by namespace and name.
    pub fn list(&self, resource: &GroupVersionResource) -> impl Iterator<Item = &Arc<Value>> {
        self.table(resource).into_iter().flat_map(|t| t.values())
    }

    /// The objects of a resource in one namespace, by name.
    pub fn in_namespace<'a>(
        &'a self,
        resource: &GroupVersionResource,
        namespace: &str,
    ) -> impl Iterator<Item = &'a Arc<Value>> + use<'a> {
        self.objects_in(&resource.group_resource(), namespace)
    }

    /// As [`World::in_namespace`], for a resource of any version.
    pub fn objects_in<'a>(
        &'a self,
        resource: &GroupResource,
        namespace: &str,
    ) -> impl Iterator<Item = &'a Arc<Value>> + use<'a> {
        let namespace = CompactString::from(namespace);
        let from = ObjectKey { namespace: namespace.clone(), name: CompactString::default() };
        self.tables.get(resource).into_iter().flat_map(move |table| {
            let namespace = namespace.clone();
            table.range(from.clone()..).take_while(move |(k, _)| k.namespace == namespace).map(|(_, v)| v)
        })
    }

    /// The object with a uid.
    pub fn find_uid(&self, uid: &str) -> Option<&Key> {
        self.by_uid.get(uid)
    }

    /// Objects of any resource whose ownerReferences name the uid.
    pub fn dependents<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Key> + use<'a> {
        referring(&self.by_owner, uid)
    }

    /// The objects of a resource whose ownerReferences name the uid.
    pub fn owned<'a>(
        &'a self,
        resource: &'a GroupVersionResource,
        uid: &str,
    ) -> impl Iterator<Item = &'a Arc<Value>> + use<'a> {
        self.dependents(uid).filter(|k| is(&k.resource, resource)).filter_map(|k| self.lookup(k))
    }

    /// The objects of a resource controlled (not only owned) by the uid.
    pub fn controlled<'a>(&'a self, resource: &'a GroupVersionResource, uid: &'a str) -> Vec<&'a Arc<Value>> {
        let by = |o: &&'a Arc<Value>| meta::controller_of(o).is_some_and(|c| c.str_at(&["uid"]) == uid);
        self.owned(resource, uid).filter(by).collect()
    }

    /// The pods bound to a node.
    pub fn pods_on<'a>(&'a self, node: &str) -> impl Iterator<Item = &'a Arc<Value>> + use<'a> {
        referring(&self.by_node, node).filter_map(|k| self.lookup(k))
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&Arc<Value>> {
        self.get(&NODES, "", name)
    }

    /// How many objects are held.
    pub fn len(&self) -> usize {
        self.by_uid.len()
    }

    /// Is nothing held?
    pub fn is_empty(&self) -> bool {
        self.by_uid.is_empty()
    }

    /// The keys of a resource, for comparing with a fresh list.
    pub fn keys(&self, resource: &GroupResource) -> Vec<ObjectKey> {
        self.tables.get(resource).into_iter().flat_map(|t| t.keys().cloned()).collect()
    }

    fn table(&self, resource: &GroupVersionResource) -> Option<&Table> {
        self.tables.get(&resource.group_resource())
    }
}

/// Is this resource that one, whatever the version?
pub fn is(resource: &GroupResource, known: &GroupVersionResource) -> bool {
    resource.resource == known.resource && resource.group == known.group
}

fn referring<'a>(index: &'a OrdSet<Reference>, value: &str) -> impl Iterator<Item = &'a Key> + use<'a> {
    let value = CompactString::from(value);
    index.range((value.clone(), Key::default())..).take_while(move |(v, _)| *v == value).map(|(_, key)| key)
}

/// Revisions are numbers on our server and on upstream's; anything else counts as newer.
fn newer(object: &Value, held: &Value) -> bool {
    let revision = |o: &Value| meta::resource_version(o).parse::<u64>();
    match (revision(object), revision(held)) {
        (Ok(new), Ok(old)) => new > old,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::json;

    fn pod(name: &str, node: &str, owner: &str, revision: u64) -> Arc<Value> {
        Arc::new(json!({"metadata": {"namespace": "d", "name": name, "uid": format!("u-{name}"),
            "resourceVersion": revision.to_string(), "ownerReferences": [{"uid": owner, "controller": true}]},
            "spec": {"nodeName": node}}))
    }

    #[test]
    fn indexes_follow_the_objects() {
        let mut world = World::default();
        let pods = PODS.group_resource();
        world.apply(&pods, pod("a", "n1", "o1", 1)).unwrap();
        world.apply(&pods, pod("b", "", "o1", 2)).unwrap();
        let before = world.clone();
        assert!(world.apply(&pods, pod("b", "n9", "o1", 2)).is_none(), "an old object changes nothing");
        world.apply(&pods, pod("b", "n1", "o2", 3)).unwrap();
        assert_eq!(world.pods_on("n1").count(), 2);
        assert_eq!(world.dependents("o1").count(), 1);
        assert_eq!(world.controlled(&PODS, "o2").len(), 1);
        world.remove(&pods, &ObjectKey::new("d", "a")).unwrap();
        assert_eq!(world.in_namespace(&PODS, "d").count(), 1);
        assert!(world.find_uid("u-a").is_none());
        assert_eq!((before.dependents("o1").count(), before.pods_on("n1").count()), (2, 1), "a snapshot stays");
    }
}
