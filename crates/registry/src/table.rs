//! The table of resources: built-ins from the facts, custom resources from their definitions.
//!
//! A `Registry` is a persistent value: adding a definition makes a new one in O(log n) that shares all the rest.

use std::sync::Arc;

use facts::Set;
use imbl::OrdMap;
use machinery::{CompactString, FieldErrors, GroupResource, GroupVersionKind, GroupVersionResource, Value};

use crate::custom;
use crate::features::{Features, RuntimeConfig};
use crate::row::{Column, Resource, SchemaRef, SubresourceRow};

/// Which minor's facts, with what switched on.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--feature-gates`
    pub feature_gates: String,
    /// `--runtime-config`
    pub runtime_config: String,
}

impl Options {
    /// Would a server of the newest minor start with these?
    ///
    /// # Errors
    /// As [`Registry::builtin`].
    pub fn check(&self) -> Result<(), String> {
        Registry::builtin(facts::newest(), self).map(|_| ())
    }
}

/// One version of an API group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupVersion {
    pub group: CompactString,
    pub version: CompactString,
    /// `APIService.spec.groupPriorityMinimum` and `.versionPriority`.
    pub priority: (i64, i64),
}

/// All resources that are served. Clone is O(1).
#[derive(Clone, Debug)]
pub struct Registry {
    pub(crate) set: &'static Set,
    pub(crate) features: Features,
    rows: OrdMap<GroupVersionResource, Arc<Resource>>,
    kinds: OrdMap<GroupVersionKind, Arc<Resource>>,
    builtin_versions: Arc<Vec<GroupVersion>>,
    /// Definitions by name, as stored.
    definitions: OrdMap<CompactString, Arc<Value>>,
}

impl Registry {
    /// The built-in resources of a minor version.
    ///
    /// # Errors
    /// Feature gates or runtime configuration that upstream refuses too.
    pub fn builtin(set: &'static Set, options: &Options) -> Result<Self, String> {
        let features = Features::parse(set.features).with(&options.feature_gates)?;
        let runtime = RuntimeConfig::parse(&options.runtime_config)?;
        let versions = read_versions(set.groups);
        runtime.check(&|group, version| {
            versions.iter().any(|v| v.group == group && version.is_none_or(|name| v.version == name))
        })?;
        let rows = read_rows(set, &features, &runtime);
        let mut registry = Self {
            set,
            features,
            rows: OrdMap::new(),
            kinds: OrdMap::new(),
            builtin_versions: Arc::new(Vec::new()),
            definitions: OrdMap::new(),
        };
        let served = |v: &GroupVersion| rows.iter().any(|r| r.gvk.group == v.group && r.gvk.version == v.version);
        registry.builtin_versions = Arc::new(versions.into_iter().filter(served).collect());
        for row in rows {
            registry.insert(row);
        }
        Ok(registry)
    }

    /// The feature gates in force.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The facts behind the built-ins.
    pub fn facts(&self) -> &'static Set {
        self.set
    }

    /// The row of a resource in one version.
    pub fn lookup(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Resource>> {
        self.rows.get(&GroupVersionResource::new(group, version, resource))
    }

    /// The row of a kind in one version.
    pub fn kind(&self, gvk: &GroupVersionKind) -> Option<&Arc<Resource>> {
        self.kinds.get(gvk)
    }

    /// All rows, by group, version and plural name.
    pub fn rows(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.rows.values()
    }

    /// The rows of one version of a group.
    pub fn rows_of<'a>(&'a self, group: &'a str, version: &'a str) -> impl Iterator<Item = &'a Arc<Resource>> {
        let first = GroupVersionResource::new(group, version, "");
        self.rows
            .range(first..)
            .map(|(_, row)| row)
            .take_while(move |r| r.gvk.group == group && r.gvk.version == version)
    }

    /// One row per stored resource: where its objects are in the store.
    pub fn stored(&self) -> Vec<Arc<Resource>> {
        let is_stored = |r: &&Arc<Resource>| {
            !r.etcd_prefix.is_empty() && r.gvk.version == r.storage_version && r.gvk.group == r.storage_group
        };
        self.rows.values().filter(is_stored).cloned().collect()
    }

    /// The row in the version its objects are stored in.
    pub fn storage_row(&self, resource: &Resource) -> Option<&Arc<Resource>> {
        self.lookup(&resource.storage_group, &resource.storage_version, &resource.plural)
    }

    /// The row of a group's resource in its preferred version.
    pub fn preferred(&self, resource: &GroupResource) -> Option<&Arc<Resource>> {
        let builtin = self.builtin_versions.iter().filter(|v| v.group == resource.group);
        let mut builtin = builtin.filter_map(|v| self.lookup(&v.group, &v.version, &resource.resource));
        builtin.next().or_else(|| {
            let ours = |row: &&Arc<Resource>| row.gvk.group == resource.group && row.plural == resource.resource;
            let custom = self.rows.values().filter(|row| row.custom.is_some()).filter(ours);
            custom.max_by(|a, b| custom::compare_versions(&a.gvk.version, &b.gvk.version))
        })
    }

    /// Groups in discovery order with their versions, best first. The core group is first, its name empty.
    pub fn groups(&self) -> Vec<(CompactString, Vec<CompactString>)> {
        let mut groups: Vec<(CompactString, Vec<CompactString>)> = Vec::new();
        for entry in self.group_versions() {
            match groups.iter_mut().find(|(name, _)| *name == entry.group) {
                Some((_, versions)) => versions.push(entry.version),
                None => groups.push((entry.group, vec![entry.version])),
            }
        }
        groups
    }

    /// Every served group version in discovery order: built-ins as upstream sorts them, then custom groups by name.
    pub fn group_versions(&self) -> Vec<GroupVersion> {
        let mut all: Vec<GroupVersion> = self.builtin_versions.to_vec();
        let mut custom: Vec<GroupVersion> = Vec::new();
        for row in self.rows.values().filter(|r| r.custom.is_some()) {
            let known = |v: &GroupVersion| v.group == row.gvk.group && v.version == row.gvk.version;
            if !all.iter().any(known) && !custom.iter().any(known) {
                let entry = GroupVersion {
                    group: row.gvk.group.clone(),
                    version: row.gvk.version.clone(),
                    priority: (1000, 100),
                };
                custom.push(entry);
            }
        }
        custom.sort_by(|a, b| a.group.cmp(&b.group).then_with(|| custom::compare_versions(&b.version, &a.version)));
        all.append(&mut custom);
        all
    }

    /// The definition a custom group resource comes from.
    pub fn definition(&self, name: &str) -> Option<&Arc<Value>> {
        self.definitions.get(name)
    }

    /// All definitions by name.
    pub fn definitions(&self) -> impl Iterator<Item = (&str, &Arc<Value>)> {
        self.definitions.iter().map(|(name, definition)| (name.as_str(), definition))
    }

    /// With the versions a stored CustomResourceDefinition serves; replaces what the same definition brought before.
    /// Names are taken from `status.acceptedNames` when they are set there, as upstream serves only accepted names.
    ///
    /// # Errors
    /// None today: definitions are checked when they are written.
    pub fn with_crd(&self, definition: &Value) -> Result<Self, FieldErrors> {
        let mut registry = self.without_crd(machinery::meta::name(definition));
        for row in custom::rows(definition) {
            registry.insert(row);
        }
        let name = CompactString::from(machinery::meta::name(definition));
        registry.definitions.insert(name, Arc::new(definition.clone()));
        Ok(registry)
    }

    /// Without what the definition of that name brought.
    #[must_use]
    pub fn without_crd(&self, name: &str) -> Self {
        let mut registry = self.clone();
        let gone: Vec<Arc<Resource>> = registry
            .rows
            .values()
            .filter(|r| r.custom.as_ref().is_some_and(|c| c.definition == name))
            .cloned()
            .collect();
        for row in gone {
            registry.rows.remove(&row.gvr());
            registry.kinds.remove(&row.gvk);
        }
        registry.definitions.remove(name);
        registry
    }

    fn insert(&mut self, row: Resource) {
        let row = Arc::new(row);
        self.rows.insert(row.gvr(), row.clone());
        // Built-in kinds that several resources share (Scale, Eviction) are subresources and never get here.
        self.kinds.insert(row.gvk.clone(), row);
    }
}

/// A line of `resources.txt`, split.
struct Line<'a> {
    file: &'a str,
    plural: &'a str,
    subresource: Option<&'a str>,
    singular: &'a str,
    kind: &'a str,
    words: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (file, path, singular, kind) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let (plural, subresource) = path.split_once('/').map_or((path, None), |(p, s)| (p, Some(s)));
        Some(Self { file, plural, subresource, singular, kind, words: words.collect() })
    }

    fn value(&self, key: &str) -> &'a str {
        self.words.iter().find_map(|w| w.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default()
    }

    fn list(&self, key: &str) -> Vec<CompactString> {
        self.value(key).split(',').filter(|s| !s.is_empty()).map(CompactString::from).collect()
    }

    fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }

    fn group(&self) -> &'a str {
        self.value("group")
    }

    fn version(&self) -> &'a str {
        let version = self.value("version");
        if version.is_empty() { self.file.rsplit_once('/').map_or("v1", |(_, v)| v) } else { version }
    }
}

fn read_rows(set: &'static Set, features: &Features, runtime: &RuntimeConfig) -> Vec<Resource> {
    let lines: Vec<Line<'_>> = set.resources.lines().filter(|l| !l.starts_with('#')).filter_map(Line::parse).collect();
    let served = |line: &Line<'_>| {
        let feature = crate::kinds::feature_of(line.group(), line.plural);
        runtime.serves(line.group(), line.version(), line.plural, !line.has("off"))
            && feature.is_none_or(|name| features.enabled(name))
    };
    let mut rows: Vec<Resource> = Vec::new();
    for line in lines.iter().filter(|l| served(l)) {
        match line.subresource {
            None => rows.push(read_row(set, line)),
            Some(name) => {
                let parent = rows.iter_mut().rev().find(|r| {
                    r.plural == line.plural && r.gvk.group == line.group() && r.gvk.version == line.version()
                });
                if let Some(parent) = parent {
                    parent.subresources.push(read_subresource(line, name));
                }
            }
        }
    }
    choose_storage(&mut rows);
    rows
}

fn read_row(set: &'static Set, line: &Line<'_>) -> Resource {
    let gvk = GroupVersionKind::new(line.group(), line.version(), line.kind);
    let verbs = line.list("verbs");
    let stored = verbs.iter().any(|v| v == "watch");
    Resource {
        plural: line.plural.into(),
        singular: line.singular.into(),
        short: line.list("short"),
        categories: line.list("cat"),
        namespaced: line.has("namespaced"),
        subresources: Vec::new(),
        storage_version: gvk.version.clone(),
        storage_group: gvk.group.clone(),
        etcd_prefix: if stored { crate::kinds::etcd_prefix(&gvk.group, line.plural) } else { String::new() },
        storage_version_hash: line.value("hash").into(),
        schema: SchemaRef::Builtin(line.value("type").into()),
        strategy: crate::kinds::strategy(&gvk.group, line.plural),
        columns: read_columns(set.columns, line),
        custom: None,
        warning: deprecation(line),
        verbs,
        gvk,
    }
}

/// The `Warning` upstream sends for deprecated APIs (`k8s.io/apiserver/pkg/endpoints/deprecation`).
fn deprecation(line: &Line<'_>) -> Option<String> {
    let (since, removed, instead) = (line.value("deprecated"), line.value("removed"), line.value("instead"));
    let minor = |v: &str| v.split_once('.').and_then(|(_, m)| m.parse::<u32>().ok());
    if since.is_empty() || minor(since)? > 33 {
        return None;
    }
    let what = if line.group().is_empty() {
        line.version().to_owned()
    } else {
        format!("{}/{}", line.group(), line.version())
    };
    let mut text = format!("{what} {} is deprecated in v{since}+", line.kind);
    if !removed.is_empty() {
        text.push_str(&format!(", unavailable in v{removed}+"));
    }
    if let Some((version, kind)) = instead.rsplit_once('/') {
        text.push_str(&format!("; use {version} {kind}"));
    }
    Some(text)
}

fn read_subresource(line: &Line<'_>, name: &str) -> SubresourceRow {
    let (group, version) = (line.value("kindgroup"), line.value("kindversion"));
    let kind = if version.is_empty() {
        GroupVersionKind::new(line.group(), line.version(), line.kind)
    } else {
        GroupVersionKind::new(group, version, line.kind)
    };
    SubresourceRow { name: name.into(), kind, verbs: line.list("verbs"), type_name: line.value("type").into() }
}

fn read_columns(text: &'static str, line: &Line<'_>) -> Vec<Column> {
    let group = if line.group().is_empty() { "core" } else { line.group() };
    let mut columns = Vec::new();
    for row in text.lines().filter(|l| !l.starts_with('#')) {
        let mut words = row.splitn(6, ' ');
        if words.next() != Some(group) || words.next() != Some(line.kind) {
            continue;
        }
        let (Some(type_name), Some(format), Some(priority), Some(name)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        columns.push(Column {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            format: if format == "-" { String::new() } else { format.to_owned() },
            priority: priority.parse().unwrap_or(0),
            ..Column::default()
        });
    }
    // Upstream has a printer for storage capacities that its storage does not use.
    if columns.is_empty() || line.kind == "CSIStorageCapacity" {
        columns = columns_without_facts(line);
    }
    columns
}

/// The aggregator prints its own kind; everything else that upstream has no printer for shows name and time.
fn columns_without_facts(line: &Line<'_>) -> Vec<Column> {
    let column = |name: &str, type_name: &str, format: &str| Column {
        name: name.into(),
        type_name: type_name.into(),
        format: format.into(),
        ..Column::default()
    };
    if line.kind == "APIService" {
        let rest = ["Service", "Available", "Age"].map(|name| column(name, "string", ""));
        return [column("Name", "string", "name")].into_iter().chain(rest).collect();
    }
    vec![column("Name", "string", "name"), column("Created At", "date", "")]
}

/// Objects of several versions are stored in one: the stablest that has the resource; events as core.
fn choose_storage(rows: &mut [Resource]) {
    let best: Vec<(CompactString, CompactString, CompactString)> = rows
        .iter()
        .map(|row| {
            if row.gvk.group == "events.k8s.io" {
                return ("".into(), "v1".into(), row.plural.clone());
            }
            let same = rows.iter().filter(|r| r.gvk.group == row.gvk.group && r.plural == row.plural);
            let version = same.map(|r| &r.gvk.version).max_by(|a, b| custom::compare_versions(a, b));
            (row.gvk.group.clone(), version.cloned().unwrap_or_else(|| row.gvk.version.clone()), row.plural.clone())
        })
        .collect();
    for (row, (group, version, _)) in rows.iter_mut().zip(best) {
        row.storage_group = group;
        row.storage_version = version;
    }
}

fn read_versions(text: &str) -> Vec<GroupVersion> {
    let mut versions = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let mut words = line.split_whitespace();
        let (Some(group), Some(version)) = (words.next(), words.next()) else { continue };
        let priority = words.find_map(|w| w.strip_prefix("priority=")).and_then(|p| {
            let (group, version) = p.split_once(',')?;
            Some((group.parse().ok()?, version.parse().ok()?))
        });
        let group = if group == "core" { "" } else { group };
        versions.push(GroupVersion {
            group: group.into(),
            version: version.into(),
            priority: priority.unwrap_or((20_000, 100)),
        });
    }
    versions
}
