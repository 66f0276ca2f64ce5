//! Work queues of keys: each key once, never twice at the same time, failures with growing delays, all on one wheel.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use controllers::Key;
use machinery::Status;

const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Keys of all controllers. Times are of the monotonic clock.
#[derive(Default)]
pub(crate) struct Queue {
    wheel: BTreeSet<(Duration, Job)>,
    due: BTreeMap<Job, Duration>,
    running: BTreeSet<Job>,
    /// Changed while running: to be looked at again afterwards.
    again: BTreeMap<Job, Duration>,
    failures: BTreeMap<Job, (u32, Option<Status>)>,
}

/// A key of the controller with an index.
pub(crate) type Job = (usize, Key);

impl Queue {
    /// Wants a job done at an instant, or sooner when it was wanted sooner already.
    pub(crate) fn add(&mut self, job: Job, at: Duration) {
        if self.running.contains(&job) {
            let again = self.again.entry(job).or_insert(at);
            *again = at.min(*again);
            return;
        }
        match self.due.get(&job).copied() {
            Some(old) if old <= at => return,
            Some(old) => {
                self.wheel.remove(&(old, job.clone()));
            }
            None => {}
        }
        self.due.insert(job.clone(), at);
        self.wheel.insert((at, job));
    }

    /// The next job whose time has come. It is running until [`Queue::done`].
    pub(crate) fn pop(&mut self, now: Duration) -> Option<Job> {
        let (at, _) = self.wheel.first()?;
        if *at > now {
            return None;
        }
        let (_, job) = self.wheel.pop_first()?;
        self.due.remove(&job);
        self.running.insert(job.clone());
        Some(job)
    }

    /// When the next job is due.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.wheel.first().map(|(at, _)| *at)
    }

    /// Why the last attempt at a job failed.
    pub(crate) fn failure(&self, job: &Job) -> Option<&Status> {
        self.failures.get(job).and_then(|(_, status)| status.as_ref())
    }

    /// A job ended. A failed one comes back after a while.
    pub(crate) fn done(&mut self, job: Job, failure: Option<Status>, now: Duration) {
        self.running.remove(&job);
        let again = self.again.remove(&job);
        match failure {
            Some(status) => {
                let count = self.failures.get(&job).map_or(0, |(n, _)| *n).saturating_add(1);
                let delay = RETRY_FIRST.saturating_mul(2_u32.saturating_pow(count.min(16) - 1)).min(RETRY_MAX);
                // A conflict only means that we looked too early: it is no reason to be told.
                let told = if status.code == 409 { self.failure(&job).cloned() } else { Some(status) };
                self.failures.insert(job.clone(), (count, told));
                self.add(job, now + delay);
            }
            None => {
                self.failures.remove(&job);
                if let Some(at) = again {
                    self.add(job, at);
                }
            }
        }
    }

    /// How many jobs run now.
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_runs_twice_at_once_and_failures_wait_longer_each_time() {
        let ms = Duration::from_millis;
        let mut queue = Queue::default();
        let job: Job = (0, Key::default());
        queue.add(job.clone(), ms(10));
        queue.add(job.clone(), ms(5));
        assert_eq!(queue.next(), Some(ms(5)));
        assert_eq!(queue.pop(ms(5)), Some(job.clone()));
        queue.add(job.clone(), ms(6));
        assert_eq!(queue.pop(ms(9)), None, "it is still running");
        queue.done(job.clone(), None, ms(9));
        assert_eq!(queue.pop(ms(9)), Some(job.clone()));
        queue.done(job.clone(), Some(Status::bad_request("no")), ms(10));
        assert_eq!(queue.next(), Some(ms(15)));
        queue.pop(ms(15)).unwrap();
        queue.done(job.clone(), Some(Status::bad_request("no")), ms(20));
        assert_eq!(queue.next(), Some(ms(30)));
        assert!(queue.failure(&job).is_some());
    }
}
