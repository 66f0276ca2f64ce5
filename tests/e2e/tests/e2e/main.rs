//! The real clients against the built binary: one module a client or promise, a sandbox of its own for each test.

mod cli;
mod clients;
mod durability;
mod gcloud;
mod kubectl;
