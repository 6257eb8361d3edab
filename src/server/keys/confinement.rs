//! What the key helper gives up before it is asked anything.

use std::path::PathBuf;

use nix::sched::{CloneFlags, unshare};
use rustix::thread::{CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities};

use super::directories;
use crate::server::privileges;
use crate::server::sandbox::{self, Access};

/// Confines this process; gives what the system granted, in words with commas between, or `none`. Each step stands by itself: in a
/// container or under a service manager's rules some are refused, and the helper is needed all the same.
pub(super) fn confine(paths: &[PathBuf]) -> String {
    privileges::forbid_core_dumps();
    let _ = nix::sys::prctl::set_no_new_privs();
    // It holds a key: no other process of root's may look into its memory either.
    let _ = nix::sys::prctl::set_dumpable(false);
    let mut granted = Vec::new();
    if give_up_capabilities_and_network(&mut granted) {
        granted.push("capabilities");
    }
    let access = Access { reads: paths.iter().flat_map(|path| directories(path)).collect(), ..Access::default() };
    if let Ok(enforced) = sandbox::confine(&access) {
        granted.extend(enforced.words());
    }
    if granted.is_empty() { "none".to_owned() } else { granted.join(",") }
}

/// True if no capability is left but CAP_DAC_READ_SEARCH: a key may belong to another user than root, in a directory which is
/// closed to root without it.
fn give_up_capabilities_and_network(granted: &mut Vec<&'static str>) -> bool {
    // Needs CAP_SYS_ADMIN, so it comes first.
    if unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        granted.push("namespace");
    }
    for capability in CapabilitySet::all().iter() {
        // Those that this kernel does not know are refused, and all of them without CAP_SETPCAP; what follows closes the rest.
        let _ = remove_capability_from_bounding_set(capability);
    }
    let kept = CapabilitySet::DAC_READ_SEARCH;
    let Ok(now) = rustix::thread::capabilities(None) else { return false };
    let left = now.permitted & kept;
    let sets = CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).is_ok()
}
