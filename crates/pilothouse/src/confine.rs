//! What a signer or an instance gives up before it does anything: new privileges, core dumps, being looked into.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;

/// Confines this process; must run before it has a second thread. What could not be had is told, not fatal: `inspect
/// hardening` looks from outside at what holds.
pub(crate) fn confine() -> Vec<String> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let steps = [
        // No program that is started from here gains rights that this one has not (prctl(2), PR_SET_NO_NEW_PRIVS).
        ("no new privileges", set_no_new_privs(true)),
        // Others of the same user can neither trace it nor read its memory and environment (PR_SET_DUMPABLE).
        ("not dumpable", set_dumpable_behavior(DumpableBehavior::NotDumpable)),
        ("no core dumps", setrlimit(Resource::Core, none)),
    ];
    steps.into_iter().filter_map(|(what, done)| Some(format!("{what}: {}", done.err()?))).collect()
}
