//! What each command does.

pub(crate) mod env;
pub(crate) mod explain;
pub(crate) mod logs;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod token;
pub(crate) mod trust;
pub(crate) mod up;
