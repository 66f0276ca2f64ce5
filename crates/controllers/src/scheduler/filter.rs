//! Which nodes a pod may run on, and why not on the others, in the words of upstream's plugins.

use std::collections::{BTreeMap, BTreeSet};

use machinery::{CompactString, Value, json, meta};

use super::Node;
use super::request::{Amounts, host_ports, of_pod};
use crate::nodes::tolerates;
use crate::selector;

/// Why a node does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Upstream's sentences, without the count.
    pub reasons: Vec<String>,
    /// Could the removal of other pods help?
    pub resolvable: bool,
}

fn misfit(reason: &str, resolvable: bool) -> Option<Misfit> {
    Some(Misfit { reasons: vec![reason.to_owned()], resolvable })
}

/// A pod prepared for being compared with many nodes.
pub(super) struct Candidate<'a> {
    pub(super) pod: &'a Value,
    pub(super) request: Amounts,
    ports: Vec<(CompactString, CompactString, i64)>,
    affinity: Vec<Term>,
    anti: Vec<Term>,
    /// Topologies where a running pod refuses this one.
    refused: BTreeSet<(CompactString, CompactString)>,
    spread: Vec<Spread>,
}

/// A required pod (anti-)affinity term: where pods that match it run.
struct Term {
    key: CompactString,
    values: BTreeSet<CompactString>,
    /// Nobody matches yet, but the pod itself would: it may be the first.
    first: bool,
}

struct Spread {
    key: CompactString,
    max_skew: i64,
    counts: BTreeMap<CompactString, i64>,
    itself: i64,
}

type Nodes = BTreeMap<CompactString, Node>;

fn topology<'a>(node: &'a Value, key: &str) -> Option<&'a str> {
    meta::label(node, key)
}

/// Does an affinity term of `owner` mean this pod?
pub(super) fn term_matches(term: &Value, owner: &Value, pod: &Value) -> bool {
    let namespace = meta::namespace(pod);
    let listed = term["namespaces"].items();
    let named = listed.iter().any(|n| n.as_str() == Some(namespace));
    let everywhere = !term["namespaceSelector"].is_null() && selector::is_empty(&term["namespaceSelector"]);
    let home = listed.is_empty() && term["namespaceSelector"].is_null() && namespace == meta::namespace(owner);
    (named || everywhere || home) && selector::matches(&term["labelSelector"], selector::labels(pod))
}

pub(super) const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

pub(super) fn terms<'a>(pod: &'a Value, kind: &str) -> &'a [Value] {
    pod.at(&["spec", "affinity", kind, REQUIRED]).map_or(&[], Value::items)
}

impl<'a> Candidate<'a> {
    pub(super) fn new(pod: &'a Value, nodes: &Nodes, refusing: &BTreeSet<machinery::ObjectKey>) -> Self {
        let term = |term: &Value| {
            let key: CompactString = term.str_at(&["topologyKey"]).into();
            let mut values = BTreeSet::new();
            for node in nodes.values().filter(|n| n.pods.values().any(|other| term_matches(term, pod, other))) {
                values.extend(topology(&node.object, &key).map(CompactString::from));
            }
            let first = values.is_empty() && term_matches(term, pod, pod);
            Term { key, values, first }
        };
        let mut refused = BTreeSet::new();
        for node in nodes.values().filter(|_| !refusing.is_empty()) {
            for other in node.pods.iter().filter(|(k, _)| refusing.contains(k)).map(|(_, p)| p) {
                let theirs = terms(other, "podAntiAffinity").iter().filter(|t| term_matches(t, other, pod));
                let at = theirs.filter_map(|t| {
                    let key = t.str_at(&["topologyKey"]);
                    Some((CompactString::from(key), CompactString::from(topology(&node.object, key)?)))
                });
                refused.extend(at);
            }
        }
        let hard = |c: &&Value| c.str_at(&["whenUnsatisfiable"]) == "DoNotSchedule";
        Self {
            pod,
            request: of_pod(pod),
            ports: host_ports(pod),
            affinity: terms(pod, "podAffinity").iter().map(term).collect(),
            anti: terms(pod, "podAntiAffinity").iter().map(term).collect(),
            refused,
            spread: pod["spec"]["topologySpreadConstraints"]
                .items()
                .iter()
                .filter(hard)
                .map(|c| spread(c, pod, nodes))
                .collect(),
        }
    }

    /// `None` when the pod fits. The checks stand in upstream's order; the first that fails is told.
    pub(super) fn check(&self, node: &Node) -> Option<Misfit> {
        self.check_node(&node.object).or_else(|| self.check_room(node)).or_else(|| self.check_neighbours(&node.object))
    }

    fn check_node(&self, node: &Value) -> Option<Misfit> {
        let spec = &self.pod["spec"];
        let tolerated = |taint: &Value| spec["tolerations"].items().iter().any(|t| tolerates(t, taint));
        if node["spec"]["unschedulable"].as_bool() == Some(true) {
            let taint = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
            if !tolerated(&taint) {
                return misfit("node(s) were unschedulable", false);
            }
        }
        let wanted = spec.str_at(&["nodeName"]);
        if !wanted.is_empty() && wanted != meta::name(node) {
            return misfit("node(s) didn't match the requested node name", false);
        }
        let hard = |t: &&Value| matches!(t.str_at(&["effect"]), "NoSchedule" | "NoExecute");
        if let Some(taint) = node["spec"]["taints"].items().iter().filter(hard).find(|t| !tolerated(t)) {
            let (key, value) = (taint.str_at(&["key"]), taint.str_at(&["value"]));
            return misfit(&format!("node(s) had untolerated taint {{{key}: {value}}}"), false);
        }
        (!matches_node(self.pod, node)).then(|| misfit("node(s) didn't match Pod's node affinity/selector", false))?
    }

    fn check_room(&self, node: &Node) -> Option<Misfit> {
        let clash = |(protocol, address, port): &(CompactString, CompactString, i64)| {
            node.ports.keys().any(|(p, a, n)| {
                let any = |a: &str| a == "0.0.0.0";
                p == protocol && n == port && (a == address || any(a) || any(address))
            })
        };
        if self.ports.iter().any(clash) {
            return misfit("node(s) didn't have free ports for the requested pod ports", true);
        }
        let (mut reasons, mut resolvable) = (Vec::new(), true);
        if node.pods.len() as i64 + 1 > node.allocatable.get("pods") {
            reasons.push("Too many pods".to_owned());
        }
        for (name, units) in self.request.iter().filter(|(_, units)| *units > 0) {
            let allocatable = node.allocatable.get(name);
            if units > allocatable - node.requested.get(name) {
                reasons.push(format!("Insufficient {name}"));
                resolvable &= units <= allocatable;
            }
        }
        (!reasons.is_empty()).then_some(Misfit { reasons, resolvable })
    }

    fn check_neighbours(&self, node: &Value) -> Option<Misfit> {
        for spread in &self.spread {
            let Some(value) = topology(node, &spread.key) else {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return misfit(reason, false);
            };
            let least = spread.counts.values().min().copied().unwrap_or(0);
            let here = spread.counts.get(value).copied().unwrap_or(0);
            if here + spread.itself - least > spread.max_skew {
                return misfit("node(s) didn't match pod topology spread constraints", true);
            }
        }
        let within = |t: &Term| topology(node, &t.key).is_some_and(|v| t.values.contains(v));
        if !self.affinity.iter().all(|t| within(t) || (t.first && topology(node, &t.key).is_some())) {
            return misfit("node(s) didn't match pod affinity rules", false);
        }
        if self.anti.iter().any(within) {
            return misfit("node(s) didn't match pod anti-affinity rules", true);
        }
        let refuses = |(key, value): &(CompactString, CompactString)| topology(node, key) == Some(value.as_str());
        if self.refused.iter().any(refuses) {
            return misfit("node(s) didn't satisfy existing pods anti-affinity rules", true);
        }
        None
    }
}

/// `nodeSelector` and required node affinity.
pub(crate) fn matches_node(pod: &Value, node: &Value) -> bool {
    let spec = &pod["spec"];
    let selected = spec["nodeSelector"].members().all(|(k, v)| selector::labels(node).get(k) == Some(v));
    let required = spec.at(&["affinity", "nodeAffinity", REQUIRED]).filter(|r| !r.is_null());
    selected && required.is_none_or(|r| selector::node_selector(r, node))
}

fn spread(constraint: &Value, pod: &Value, nodes: &Nodes) -> Spread {
    let key: CompactString = constraint.str_at(&["topologyKey"]).into();
    let same = |other: &Value| {
        let keys = constraint["matchLabelKeys"].items().iter().filter_map(Value::as_str);
        meta::namespace(other) == meta::namespace(pod)
            && !meta::is_terminating(other)
            && selector::matches(&constraint["labelSelector"], selector::labels(other))
            && keys.into_iter().all(|k| meta::label(other, k) == meta::label(pod, k))
    };
    let mut counts = BTreeMap::new();
    for node in nodes.values().filter(|n| matches_node(pod, &n.object)) {
        if let Some(value) = topology(&node.object, &key) {
            let here = node.pods.values().filter(|p| same(p)).count() as i64;
            *counts.entry(CompactString::from(value)).or_default() += here;
        }
    }
    let max_skew = constraint["maxSkew"].as_i64().unwrap_or(1);
    Spread { key, max_skew, counts, itself: i64::from(same(pod)) }
}
