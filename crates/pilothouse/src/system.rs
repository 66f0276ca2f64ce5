//! The two things only the binary may take from the operating system: real time and real randomness.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base::{Clock, ClockSource, Entropy, Timestamp};

struct SystemClock;

/// The fixed point of the monotonic clock: the process' first reading.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the real clock")]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl ClockSource for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the real clock")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Timestamp::from_unix_nanos(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Duration {
        START.elapsed()
    }
}

/// The real clock.
pub(crate) fn clock() -> Clock {
    LazyLock::force(&START);
    Clock::new(SystemClock)
}

/// The operating system's randomness, from the kernel itself: the crypto library's own generator first spends a tenth of a
/// second on self-tests, which a start that is over in half of that cannot afford.
pub(crate) fn entropy() -> Entropy {
    Entropy::new(|buffer| {
        let mut filled = 0;
        while filled < buffer.len() {
            let flags = rustix::rand::GetRandomFlags::empty();
            filled += rustix::rand::getrandom(&mut buffer[filled..], flags).expect("the kernel gives randomness");
        }
    })
}
