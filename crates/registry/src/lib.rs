//! The table of resources and what can be done with their objects, as pure functions.
//!
//! ```text
//! facts ─► Registry::builtin ─► rows (Resource) ◄─ with_crd ◄─ CustomResourceDefinition
//!            │ discovery, openapi        │ create · update · delete · convert · selectable_fields · table
//!            ▼                           ▼
//!          answers                     objects ─► cache (a persistent value per resource) ─► lists and watches
//! ```
//! Nothing here knows HTTP, storage, clocks or randomness: a [`Context`] brings time, uid and suffix, and what else a
//! verb must know is asked for as a [`Need`] first.
// `Status` is large, and every error here ends as one in an answer; boxing would only move it.
#![allow(clippy::result_large_err)]

pub mod allocation;
pub mod cache;
pub mod certificate_request;
mod context;
mod convert;
pub mod custom;
pub mod defaults;
pub mod discovery;
mod features;
mod json_path;
mod kinds;
mod names;
mod printing;
pub mod quota;
mod row;
mod selectable;
pub mod special;
mod strategy;
mod table;
mod validation;
mod verbs;

pub use context::{Context, DeleteOptions, Deletion, Need, Propagation, Subresource};
pub use convert::{convert, shared, to_storage};
pub use features::{Features, RuntimeConfig};
pub use printing::{IncludeObject, partial_metadata, table};
pub use row::{Column, CustomRow, Resource, ScalePaths, SchemaRef, SubresourceRow};
pub use selectable::{check_selector, field, selectable_fields};
pub use strategy::Strategy;
pub use table::{GroupVersion, Options, Registry};
pub use verbs::{create, delete, ensure_namespace, fill_name, needs, remove_on_update, update, wipe_system_fields};

#[cfg(test)]
mod tests;
