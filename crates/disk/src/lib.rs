//! What is written to disk, and in which form: sealed, checked, owned, and honest about crashes.
//!
//! ```text
//!  Platform (key service) ──wraps──► DataKey ──derives──► one AES-256-GCM key per file and opening
//!  DataDir (identity, lock)            │
//!                                      ├─ Log          segments of records; the answer to a client waits for its sync
//!                                      ├─ checkpoints  a whole state; the log before it may be cut
//!                                      └─ View         sled; lags, may be lost, is built again
//! ```
//! `Disk` is the port: [`RealDisk`] are files, [`SimDisk`] loses what was not synced.

mod checkpoint;
mod datadir;
mod error;
mod frame;
mod handover;
mod key;
mod last;
mod log;
mod platform;
mod real;
mod sim;
mod view;

pub use checkpoint::{CheckpointWriter, read_checkpoint, write_checkpoint};
pub use datadir::{DataDir, Identity};
pub use error::DiskError;
pub use frame::Record;
pub use key::DataKey;
pub use log::{Log, SEGMENT_BYTES};
pub use platform::{Platform, WrappedKey};
pub use real::{Disk, DiskFile, RealDisk};
pub use sim::SimDisk;
pub use view::{Batch, View};
