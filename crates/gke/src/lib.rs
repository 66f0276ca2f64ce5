//! What GKE decides: which requests are right, what it fills in, what it answers, and what a cluster should consist of.
//!
//! ```text
//! body ─schema::decode─► request ─cluster::create, update─► record ─View─► answer        pool::nodes ─► machines wanted
//! ```
//! Pure functions over records; `cloud` stores them, runs operations and asks the fleet for control planes.

pub mod access;
pub mod cluster;
pub mod encryption;
pub mod endpoints;
mod error;
pub mod exposure;
mod merge;
pub mod metadata;
pub mod methods;
pub mod names;
pub mod places;
pub mod pool;
pub mod query;
pub mod record;
mod refused;
pub mod render;
pub mod schema;
pub mod update;
pub mod user_managed;
pub mod versions;
pub mod workload;

pub use error::{ApiError, Code};
pub use exposure::EndpointSettings;
pub use merge::is_empty;
pub use methods::{Call, METHODS, Method};
pub use record::{Access, ClientCertificate, Cluster, NodeSpec, Operation, OperationStatus, Pool, Work};
pub use refused::refused_fields;
pub use render::View;
pub use workload::MachineSettings;

/// The versions of the container API. v1alpha1 shows what v1beta1 shows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ApiVersion {
    V1,
    V1Beta1,
    V1Alpha1,
}

impl ApiVersion {
    /// The version's path segment.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1Beta1 => "v1beta1",
            Self::V1Alpha1 => "v1alpha1",
        }
    }

    /// Reads a path segment.
    pub fn parse(segment: &str) -> Option<Self> {
        [Self::V1, Self::V1Beta1, Self::V1Alpha1].into_iter().find(|version| version.as_str() == segment)
    }
}
