//! The place of one process of a cluster: what runs there, and how soon it is started again when it ends.

use std::time::Duration;

use crate::fleet::cluster::State;
use crate::fleet::process::Process;

/// A process that lived so long was well: its next end is a first one.
const STEADY: Duration = Duration::from_secs(10);
/// So often a process is started again at once.
const PROMPT_RESTARTS: u32 = 3;
/// Between two starts of a process that goes on ending; doubled each time, up to the second.
const RESTART_DELAY: Duration = Duration::from_millis(250);
const RESTART_DELAY_MAX: Duration = Duration::from_secs(10);

/// The place of one process.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) process: Option<Process>,
    /// Starts after the first.
    pub(super) restarts: u32,
    /// Ends and failed starts without a good while between them.
    failures: u32,
    started: Duration,
    /// Why it does not run.
    pub(super) trouble: Option<String>,
}

impl Slot {
    pub(super) fn delay(&self) -> Duration {
        match self.failures.checked_sub(PROMPT_RESTARTS) {
            None => Duration::ZERO,
            Some(more) => RESTART_DELAY.saturating_mul(1 << more.min(10)).min(RESTART_DELAY_MAX),
        }
    }

    pub(super) fn started(&mut self, process: Process, now: Duration) {
        self.process = Some(process);
        self.started = now;
        self.trouble = None;
    }

    /// It ended, or could not be started.
    pub(super) fn failed(&mut self, cause: String, now: Duration) {
        let was_steady = self.process.take().is_some() && now.saturating_sub(self.started) > STEADY;
        self.failures = if was_steady { 1 } else { self.failures.saturating_add(1) };
        self.restarts = self.restarts.saturating_add(1);
        self.trouble = Some(cause);
    }

    /// That it runs and does not answer.
    pub(super) fn silence(&self) -> Option<String> {
        let silent = self.process.as_ref().is_some_and(|process| !process.hearing.answers());
        silent.then(|| "it does not answer; new connections go to the others".to_owned())
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.child.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// Completes when the process ends; never while there is none.
    pub(super) async fn ended(&mut self) {
        match &mut self.process {
            Some(process) => {
                let _ = process.child.wait().await;
            }
            None => std::future::pending().await,
        }
    }
}

/// What the end of a process says of its next start.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It ran, or was killed from outside: the next start goes well, as far as one can know.
    Passing,
    /// It will come again until somebody mends it.
    Lasting,
}

/// Where a cluster stands whose process ended. One that is killed at each start has a lasting fault all the same.
pub(super) fn state_after(cause: Cause, slot: &Slot, why: String) -> State {
    if cause == Cause::Passing && slot.failures <= PROMPT_RESTARTS { State::Starting } else { State::Failed(why) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_start_is_no_fault_until_it_repeats() {
        let mut slot = Slot::default();
        let mut failed = |cause| {
            slot.failed("it ended".to_owned(), Duration::ZERO);
            matches!(state_after(cause, &slot, String::new()), State::Failed(_))
        };
        assert!(failed(Cause::Lasting));
        assert!(!failed(Cause::Passing));
        assert!(!failed(Cause::Passing));
        assert!(failed(Cause::Passing));
    }

    #[test]
    fn restarts_are_prompt_until_they_repeat() {
        let mut slot = Slot::default();
        let mut delays = Vec::new();
        for _ in 0..12 {
            slot.failed("it ended".to_owned(), Duration::ZERO);
            delays.push(slot.delay().as_millis());
        }
        assert_eq!(delays, [0, 0, 250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000, 10_000]);
        assert_eq!((slot.restarts, slot.trouble.as_deref()), (12, Some("it ended")));
    }
}
