//! Sets of completion indexes, written as upstream writes them: `0,2-5,7`.

use std::collections::BTreeSet;
use std::fmt;

use machinery::{Value, meta};

/// The annotation, and since 1.28 the label, that tells a pod's index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// The completion index of a pod.
pub(super) fn of_pod(pod: &Value) -> Option<i64> {
    meta::annotation(pod, INDEX)?.parse::<i32>().ok().map(i64::from).filter(|index| *index >= 0)
}

/// Intervals of indexes, both ends included, in order and with gaps between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(Vec<(i64, i64)>);

impl Indexes {
    /// Reads a list; what lies at or beyond `completions` is left out, and so is what is no number.
    pub(super) fn parse(text: &str, completions: i64) -> Self {
        let intervals = text.split(',').filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.parse().ok()?, last.parse::<i64>().ok()?.min(completions - 1)))
        });
        let mut all: Vec<(i64, i64)> = intervals.filter(|(first, last)| first <= last).collect();
        all.sort_unstable();
        Self::default().union(&Self(all))
    }

    /// These and those.
    pub(super) fn union(&self, others: &Self) -> Self {
        let mut all: Vec<(i64, i64)> = self.0.iter().chain(&others.0).copied().collect();
        all.sort_unstable();
        let mut joined: Vec<(i64, i64)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match joined.last_mut() {
                Some(open) if first <= open.1 + 1 => open.1 = open.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    pub(super) fn contains(&self, index: i64) -> bool {
        let after = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(after).is_some_and(|(first, _)| *first <= index)
    }

    /// How many indexes.
    pub(super) fn len(&self) -> i64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many are in both.
    pub(super) fn common(&self, others: &Self) -> i64 {
        let (mut mine, mut theirs) = (self.0.iter().peekable(), others.0.iter().peekable());
        let mut count = 0;
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            count += (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
            if a.1 < b.1 {
                mine.next();
            } else {
                theirs.next();
            }
        }
        count
    }

    /// The first `count` indexes below `completions` that are not in here.
    pub(super) fn missing(&self, count: i64, completions: i64) -> Vec<i64> {
        let (mut found, mut candidate) = (Vec::new(), 0);
        let end = (completions, completions);
        for (first, last) in self.0.iter().chain([&end]) {
            while candidate < (*first).min(completions) && (found.len() as i64) < count {
                found.push(candidate);
                candidate += 1;
            }
            candidate = candidate.max(last + 1);
        }
        found
    }
}

impl FromIterator<i64> for Indexes {
    fn from_iter<I: IntoIterator<Item = i64>>(indexes: I) -> Self {
        let sorted: BTreeSet<i64> = indexes.into_iter().collect();
        Self::default().union(&Self(sorted.into_iter().map(|index| (index, index)).collect()))
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                // Two neighbours are no range yet.
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_upstream_does() {
        let check = |text: &str, shown: &str| assert_eq!(Indexes::parse(text, 10).to_string(), shown, "{text}");
        check("", "");
        check("0,1,3", "0,1,3");
        check("0,1,2,4", "0-2,4");
        check("1,3-5,7-20", "1,3-5,7-9");
        check("3,x,12", "3");
        let some: Indexes = [7, 1, 2, 0].into_iter().collect();
        assert_eq!((some.to_string().as_str(), some.len()), ("0-2,7", 4));
    }

    #[test]
    fn an_index_is_a_number_that_a_job_can_have() {
        let index = |text: &str| of_pod(&machinery::json!({"metadata": {"annotations": {INDEX: text}}}));
        assert_eq!((index("3"), index("-1"), index("9223372036854775807")), (Some(3), None, None));
    }

    #[test]
    fn sets_are_joined_and_compared() {
        let (a, b) = (Indexes::parse("0-3,8", 10), Indexes::parse("2-5,8,9", 10));
        assert_eq!(a.union(&b).to_string(), "0-5,8,9");
        assert_eq!((a.common(&b), b.common(&a)), (3, 3));
        assert!(a.contains(3) && a.contains(8) && !a.contains(4) && !a.contains(9));
        assert_eq!(a.missing(3, 10), [4, 5, 6]);
        assert_eq!(a.missing(9, 10), [4, 5, 6, 7, 9]);
        assert_eq!(Indexes::default().missing(2, 1), [0]);
    }
}
