//! Rolling updates of a DaemonSet, once every node has its pod.

use std::sync::Arc;

use machinery::{Value, meta};

use super::{Set, fits};
use crate::Action;
use crate::conditions::scaled;

/// The pods of a node that stay: the new one and the old one.
type Pair<'a> = (Option<&'a Arc<Value>>, Option<&'a Arc<Value>>);

impl Set<'_> {
    pub(super) fn roll_out(&self, actions: &mut Vec<Action>) {
        let strategy = &self.object["spec"]["updateStrategy"];
        if strategy.str_at(&["type"]) == "OnDelete" {
            return;
        }
        let surge = self.surge_max();
        if surge == 0 {
            let unavailable = scaled(&strategy["rollingUpdate"]["maxUnavailable"], self.desired(), true).max(1);
            self.replace(unavailable, actions);
        } else {
            self.surge(surge, actions);
        }
    }

    /// None when there is more than one of a kind: those are thinned first.
    fn pair(&self, node: &str) -> Option<Pair<'_>> {
        let alive = || self.on(node).iter().copied().filter(|p| !meta::is_terminating(p));
        let mut new = alive().filter(|p| self.is_current(p));
        let mut old = alive().filter(|p| !self.is_current(p));
        let pair = (new.next(), old.next());
        (new.next().is_none() && old.next().is_none()).then_some(pair)
    }

    /// Deletes old pods, so that no more than so many nodes are without an available one.
    fn replace(&self, unavailable_max: i64, actions: &mut Vec<Action>) {
        let (mut unavailable, mut candidates) = (0, Vec::new());
        for node in self.pods.keys() {
            match self.pair(node) {
                Some((Some(new), None)) => unavailable += i64::from(!self.is_available(new)),
                Some((None, Some(old))) if self.is_available(old) => candidates.push(old),
                // Nobody misses it.
                Some((None, Some(old))) => {
                    unavailable += 1;
                    self.delete(old, actions);
                }
                None | Some((None, None) | (Some(_), Some(_))) => unavailable += 1,
            }
        }
        let budget = usize::try_from(unavailable_max - unavailable).unwrap_or(0);
        candidates.into_iter().take(budget).for_each(|p| self.delete(p, actions));
    }

    /// Makes new pods beside old ones; an old one goes when its successor is available.
    fn surge(&self, surge_max: i64, actions: &mut Vec<Action>) {
        let (mut surging, mut available) = (0, 0);
        let (mut candidates, mut outcasts) = (Vec::new(), Vec::new());
        for node in self.pods.keys() {
            let Some((new, old)) = self.pair(node) else {
                surging += 1;
                continue;
            };
            available += i64::from(old.or(new).is_some_and(|p| self.is_available(p)));
            let Some(old) = old else { continue };
            if let Some(new) = new {
                if self.is_available(new) {
                    self.delete(old, actions)
                } else {
                    surging += 1
                }
                continue;
            }
            let wanted = self.nodes.iter().any(|n| meta::name(n) == *node && fits(self.object, n).0);
            match (wanted, self.is_available(old)) {
                (true, true) => candidates.push(*node),
                (true, false) => self.create(node, actions),
                (false, true) => outcasts.push(old),
                (false, false) => self.delete(old, actions),
            }
        }
        // On nodes that are not wanted any more old pods go as far as others do their work.
        let spare = usize::try_from(available - self.desired()).unwrap_or(0);
        outcasts.into_iter().take(spare).for_each(|p| self.delete(p, actions));
        let budget = usize::try_from(surge_max - surging).unwrap_or(0);
        candidates.into_iter().take(budget).for_each(|node| self.create(node, actions));
    }
}
