//! The `Clock` port: `now` dates things and may be shifted, `monotonic` never jumps.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::Timestamp;

/// What a clock can tell. The real form lives in the binary, [`FakeClock`] is the simulated one.
pub trait ClockSource: Send + Sync {
    /// The emulator's wall time: dates objects, leases, tokens and certificates.
    fn now(&self) -> Timestamp;
    /// Time since some fixed point; never jumps. For elections, time-outs and back-off.
    fn monotonic(&self) -> Duration;
}

/// A shared handle on a [`ClockSource`].
#[derive(Clone)]
pub struct Clock(Arc<dyn ClockSource>);

impl Clock {
    /// Wraps a source.
    pub fn new(source: impl ClockSource + 'static) -> Self {
        Self(Arc::new(source))
    }

    /// See [`ClockSource::now`].
    pub fn now(&self) -> Timestamp {
        self.0.now()
    }

    /// See [`ClockSource::monotonic`].
    pub fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

/// A clock that stands still until it is advanced.
#[derive(Clone)]
pub struct FakeClock(Arc<FakeState>);

struct FakeState {
    now_nanos: AtomicI64,
    monotonic_nanos: AtomicU64,
}

impl FakeClock {
    /// A clock standing at `now`, its monotonic time at zero.
    pub fn new(now: Timestamp) -> Self {
        Self(Arc::new(FakeState { now_nanos: AtomicI64::new(now.unix_nanos()), monotonic_nanos: AtomicU64::new(0) }))
    }

    /// Moves both times forward.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).expect("less than 584 years");
        self.0.monotonic_nanos.fetch_add(nanos, Ordering::SeqCst);
        self.0.now_nanos.fetch_add(i64::try_from(nanos).expect("less than 292 years"), Ordering::SeqCst);
    }

    /// A handle for the code under test.
    pub fn clock(&self) -> Clock {
        Clock(self.0.clone())
    }
}

impl ClockSource for FakeState {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_nanos(self.now_nanos.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.monotonic_nanos.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fake_clock_moves_only_when_told() {
        let fake = FakeClock::new(Timestamp::from_unix_seconds(100));
        let clock = fake.clock();
        fake.advance(Duration::from_secs(3));
        assert_eq!(clock.now(), Timestamp::from_unix_seconds(103));
        assert_eq!(clock.monotonic(), Duration::from_secs(3));
    }
}
