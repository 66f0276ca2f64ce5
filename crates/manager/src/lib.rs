//! Runs what the crate `controllers` decides: informers fill one world, work queues call controllers, actions go through
//! the API under each controller's own identity.

mod config;

pub use config::{ManagerConfig, NodeSpec, NodesConfig, SignRequest};
