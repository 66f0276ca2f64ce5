//! The cloud's port as its clients see it. One program, so that it is linked once.

mod credentials;
mod endpoints;
mod fuzz;
mod gcloud;
mod groups;
mod headers;
mod iam;
mod kms;
mod privateca;
mod replay;
#[path = "../support/mod.rs"]
mod support;
mod tunnel;
mod workload_identity;
