//! Automatic compaction (`--auto-compaction-mode`, `--auto-compaction-retention`), as etcd does it: by time it keeps
//! at least the revisions of the retention, by revision the last so many.

use std::collections::VecDeque;
use std::time::Duration;

use mvcc::MvccError;

use crate::flags::duration_of;
use crate::{LocalStore, StoreError};

/// Revisions are noted this many times in a retention (or an hour).
const NOTES: u32 = 10;
const HOUR: Duration = Duration::from_secs(3600);
/// How often the count of revisions is looked at.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);

/// What to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The revisions of this time.
    Time(Duration),
    /// This many.
    Revisions(i64),
}

impl Keep {
    /// Reads the two flags. Nothing for a retention of nothing.
    ///
    /// # Errors
    /// In etcd's words, for a retention that is neither a number nor a duration.
    pub(crate) fn parse(mode: &str, retention: &str) -> Result<Option<Self>, String> {
        let by_revision = mode == "revision";
        let keep = match retention.parse::<u32>() {
            Ok(number) if by_revision => Self::Revisions(i64::from(number)),
            Ok(hours) => Self::Time(HOUR * hours),
            Err(_) => {
                let time = duration_of(retention).ok_or_else(|| {
                    let why = if retention.chars().all(|c| c.is_ascii_digit()) && !retention.is_empty() {
                        "missing unit in duration"
                    } else {
                        "invalid duration"
                    };
                    format!("error parsing CompactionRetention: time: {why} {retention:?}")
                })?;
                // etcd keeps the number of nanoseconds then, and calls them revisions.
                let nanos = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
                if by_revision { Self::Revisions(nanos) } else { Self::Time(time) }
            }
        };
        Ok(Some(keep).filter(|keep| !matches!(keep, Self::Time(Duration::ZERO) | Self::Revisions(0))))
    }
}

/// When to compact, and to where. Time is an argument.
pub(crate) struct Compactor {
    keep: Keep,
    /// The last noted revisions, the oldest first.
    noted: VecDeque<i64>,
    last_revision: i64,
    last_success: Duration,
    /// How long to wait after a compaction; the first waits for a whole retention.
    wait: Duration,
}

impl Compactor {
    /// Begins at this moment and revision.
    pub(crate) fn new(keep: Keep, now: Duration, revision: i64) -> Self {
        let wait = match keep {
            Keep::Time(retention) => retention,
            Keep::Revisions(_) => Duration::ZERO,
        };
        Self { keep, noted: [revision].into(), last_revision: 0, last_success: now, wait }
    }

    /// How often to call [`Self::due`].
    pub(crate) fn interval(&self) -> Duration {
        match self.keep {
            Keep::Time(retention) => retention.min(HOUR) / NOTES,
            Keep::Revisions(_) => REVISION_INTERVAL,
        }
    }

    /// The revision to compact to now. `leads` is false on members that leave it to the leader.
    pub(crate) fn due(&mut self, now: Duration, revision: i64, leads: bool) -> Option<i64> {
        let due = match self.keep {
            Keep::Time(retention) => {
                let oldest = self.noted.front().copied().unwrap_or(revision);
                let due = leads && now.saturating_sub(self.last_success) >= self.wait && oldest != self.last_revision;
                if due {
                    self.wait = retention.min(HOUR);
                }
                due.then_some(oldest)
            }
            Keep::Revisions(kept) => {
                let due = revision - kept;
                (leads && due > 0 && due != self.last_revision).then_some(due)
            }
        };
        // Noted after the decision: the next one is made an interval from now.
        self.note(revision);
        due
    }

    fn note(&mut self, revision: i64) {
        let Keep::Time(retention) = self.keep else { return };
        self.noted.push_back(revision);
        let notes = retention.as_nanos() / self.interval().as_nanos().max(1) + 1;
        while self.noted.len() as u128 > notes {
            self.noted.pop_front();
        }
    }

    /// The compaction to `revision` was done.
    pub(crate) fn done(&mut self, now: Duration, revision: i64) {
        self.last_revision = revision;
        self.last_success = now;
    }
}

/// Compacts a member's store for as long as it runs.
pub(crate) async fn run(store: LocalStore, keep: Keep) {
    let shared = store.shared.clone();
    let clock = &shared.clock;
    let mut compactor = Compactor::new(keep, clock.monotonic(), shared.published().snapshot.revision());
    let mut ticks = tokio::time::interval(compactor.interval().max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    while !shared.is_stopped() {
        ticks.tick().await;
        let published = shared.published();
        let leads = published.leader == shared.member_id;
        let Some(revision) = compactor.due(clock.monotonic(), published.snapshot.revision(), leads) else { continue };
        tracing::info!(target: "etcd", revision, ?keep, "starting auto compaction");
        match store.compact(revision, false).await {
            Ok(_) | Err(StoreError::Compacted { .. } | StoreError::Refused(MvccError::Compacted { .. })) => {
                compactor.done(clock.monotonic(), revision);
            }
            Err(error) => tracing::warn!(target: "etcd", revision, %error, "auto compaction failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn retentions_are_read_as_etcd_reads_them() {
        let check = |mode: &str, text: &str, expect: Option<Keep>| assert_eq!(Keep::parse(mode, text), Ok(expect));
        check("periodic", "0", None);
        check("periodic", "2", Some(Keep::Time(2 * HOUR)));
        check("periodic", "30m", Some(Keep::Time(30 * MINUTE)));
        check("revision", "1000", Some(Keep::Revisions(1000)));
        check("revision", "1us", Some(Keep::Revisions(1000)));
        let fault = Keep::parse("periodic", "abc").expect_err("no duration");
        assert_eq!(fault, "error parsing CompactionRetention: time: invalid duration \"abc\"");
    }

    /// One revision a minute; what is compacted, by the minute it happens in.
    fn run(keep: Keep, minutes: u32, leads: impl Fn(u32) -> bool) -> Vec<(u32, i64)> {
        let mut compactor = Compactor::new(keep, Duration::ZERO, 1);
        let mut out = Vec::new();
        let step = u32::try_from(compactor.interval().as_secs() / 60).expect("few");
        for minute in (step..=minutes).step_by(step as usize) {
            let now = minute * MINUTE;
            if let Some(revision) = compactor.due(now, i64::from(minute) + 1, leads(minute)) {
                compactor.done(now, revision);
                out.push((minute, revision));
            }
        }
        out
    }

    #[test]
    fn by_time_the_retention_is_kept_and_then_moves_on() {
        // Hourly at most; what is left is at least an hour's, to the note before it.
        assert_eq!(run(Keep::Time(HOUR), 180, |_| true), [(60, 1), (120, 55), (180, 115)]);
        assert_eq!(run(Keep::Time(3 * HOUR), 300, |_| true), [(180, 1), (240, 55), (300, 115)]);
        // A member that begins to lead has noted what went before.
        assert_eq!(run(Keep::Time(HOUR), 120, |minute| minute > 90), [(96, 31)]);
    }

    #[test]
    fn by_revision_the_last_ones_are_kept() {
        assert_eq!(run(Keep::Revisions(10), 20, |_| true), [(10, 1), (15, 6), (20, 11)]);
        assert_eq!(run(Keep::Revisions(100), 20, |_| true), []);
    }

    #[test]
    fn a_failed_compaction_is_tried_again() {
        let mut compactor = Compactor::new(Keep::Time(HOUR), Duration::ZERO, 1);
        for minute in (6..60).step_by(6) {
            assert_eq!(compactor.due(minute * MINUTE, 9, true), None);
        }
        assert_eq!(compactor.due(HOUR, 9, true), Some(1));
        assert_eq!(compactor.due(HOUR + 6 * MINUTE, 9, true), Some(1), "nothing was done");
    }
}
