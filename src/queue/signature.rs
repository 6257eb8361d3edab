//! Signs what enters the spool.
//!
//! Which route a message takes may change while it waits, and what a route wants signed differs. So a message gets the
//! signatures of every configured route's mode when it is accepted, and the courier sends those of the route it takes.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::spool::{Draft, Signature};
use crate::config::outgoing::{DkimMode, Outgoing};
use crate::journal;
use crate::mail::dkim::Fields;
use crate::mail::signing::{Keyring, Signer};

/// What a mode signs; `None` if nothing.
pub fn fields(mode: DkimMode) -> Option<Fields> {
    match mode {
        DkimMode::All => Some(Fields::All),
        DkimMode::Off => None,
        DkimMode::WithoutId => Some(Fields::WithoutId),
    }
}

/// A signer of the message that begins with `start`, if there is a key for it and a route that wants a signature.
pub fn begin(outgoing: &Outgoing, keyring: &Arc<Keyring>, start: &[u8]) -> Option<Signer> {
    wanted(outgoing).next()?;
    Signer::begin(keyring, start)
}

/// Adds the signatures to a message of which the signer has seen all. One that cannot be made is logged, and the message goes
/// without it.
pub fn sign(draft: &mut Draft, signer: &Signer, outgoing: &Outgoing) {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    for fields in wanted(outgoing) {
        match signer.sign(time, fields) {
            Some(texts) => texts.into_iter().for_each(|text| draft.sign(Signature { fields, text })),
            None => journal::notice("dkim", format!("{}: cannot be signed: the key is refused", draft.id())),
        }
    }
}

fn wanted(outgoing: &Outgoing) -> impl Iterator<Item = Fields> {
    let modes: Vec<Fields> = outgoing.dkim_modes().filter_map(fields).collect();
    [Fields::All, Fields::WithoutId].into_iter().filter(move |fields| modes.contains(fields))
}
