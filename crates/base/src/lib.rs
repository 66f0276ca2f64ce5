//! What every other crate stands on: instants, clocks, randomness of both kinds, and who really asks for a certificate.
//!
//! Nothing here reads the real clock or the operating system's entropy: the binary makes both once and hands them down
//! (design: two clocks, two kinds of randomness).

mod clock;
mod entropy;
pub mod request_signature;
mod rng;
mod timestamp;

pub use clock::{Clock, ClockSource, FakeClock};
pub use entropy::Entropy;
pub use rng::Rng;
pub use timestamp::{CalendarTime, ParseTimestampError, Timestamp};
