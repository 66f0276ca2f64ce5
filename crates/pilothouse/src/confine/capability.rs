//! Capabilities: what root may do beyond others, given up.

use rustix::io::{Errno, Result};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities,
};

/// What the process may do, or could take.
pub(super) fn held() -> CapabilitySet {
    capabilities(None).map(|sets| sets.effective | sets.permitted).unwrap_or(CapabilitySet::empty())
}

/// Gives up all others, and whether those cannot come back with a program that is started: the bounding set comes first, as
/// it takes a capability to lower it. Without privilege it stays, and grants nothing.
///
/// # Errors
/// When the kernel does not let it.
pub(super) fn keep_only(kept: CapabilitySet) -> Result<bool> {
    let bounded = (0..u64::BITS)
        .map(|bit| CapabilitySet::from_bits_retain(1 << bit))
        .filter(|one| !kept.contains(*one))
        .all(|one| !matches!(remove_capability_from_bounding_set(one), Err(Errno::PERM)));
    let _ = clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: none })?;
    Ok(bounded)
}
