//! Verbs that are not the generic ones, as pure functions: scale, binding, eviction, token requests, names of definitions.

pub mod binding;
pub mod eviction;
pub mod scale;
pub mod token;
