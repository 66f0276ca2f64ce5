//! How well a node suits a pod: higher is better. Upstream's scores and weights, image locality left out.

use machinery::{Value, meta};

use super::Node;
use super::filter::Candidate;
use crate::nodes::tolerates;
use crate::selector;

/// Requests that pods without any count as having, so that they spread too.
const CPU_DEFAULT_MILLI: i64 = 100;
const MEMORY_DEFAULT_BYTES: i64 = 200 * 1024 * 1024;

/// Share of a resource that would be in use, 0 to 1.
fn fraction(node: &Node, name: &str, request: i64, default: i64) -> f64 {
    let allocatable = node.allocatable.get(name);
    if allocatable <= 0 {
        return 1.0;
    }
    let wanted = if request > 0 { request } else { default };
    ((node.requested.get(name) + wanted) as f64 / allocatable as f64).min(1.0)
}

/// The node's score: least allocated and balanced (weight 1 each), soft taints (3), node affinity and spreading (2 each).
pub(super) fn score(candidate: &Candidate<'_>, node: &Node) -> i64 {
    let cpu = fraction(node, "cpu", candidate.request.get("cpu"), CPU_DEFAULT_MILLI);
    let memory = fraction(node, "memory", candidate.request.get("memory"), MEMORY_DEFAULT_BYTES);
    let least = ((1.0 - cpu) + (1.0 - memory)) * 50.0;
    let balanced = (1.0 - (cpu - memory).abs() / 2.0) * 100.0;
    let spec = &candidate.pod["spec"];
    let soft = node.object["spec"]["taints"].items().iter().filter(|t| t.str_at(&["effect"]) == "PreferNoSchedule");
    let untolerated = soft.filter(|t| !spec["tolerations"].items().iter().any(|s| tolerates(s, t))).count() as i64;
    let taints = 100 - (untolerated * 50).min(100);
    least as i64 + balanced as i64 + 3 * taints + 2 * preference(spec, node) + 2 * spreading(candidate.pod, node)
}

fn preference(spec: &Value, node: &Node) -> i64 {
    let path = ["affinity", "nodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution"];
    let terms = spec.at(&path).map_or(&[][..], Value::items);
    let hit = |t: &&Value| selector::node_selector_term(&t["preference"], &node.object);
    terms.iter().filter(hit).filter_map(|t| t["weight"].as_i64()).sum::<i64>().min(100)
}

/// Fewer siblings of the same controller on the node are better.
fn spreading(pod: &Value, node: &Node) -> i64 {
    let Some(owner) = meta::controller_of(pod) else { return 100 };
    let siblings = node.owners.get(owner.str_at(&["uid"])).copied().unwrap_or(0) as i64;
    100 / (1 + siblings)
}
