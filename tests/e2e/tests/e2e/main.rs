//! The real clients against the built binary: one module a client or promise, a sandbox of its own for each test.

mod authentication;
mod authorization;
mod bad_input;
mod cli;
mod clients;
mod dns_endpoint;
mod doors;
mod durability;
mod etcd_client;
mod exposure;
mod external_etcd;
mod failures;
mod fleet;
mod gcloud;
mod history;
mod identities;
mod isolation;
mod issuers;
mod keys;
mod kube_rs;
mod kubectl;
mod manifests;
mod metadata;
mod nodes;
mod regional;
mod workload_identity;
