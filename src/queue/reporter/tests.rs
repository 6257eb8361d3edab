use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Mailboxes that keep what is delivered, unless they are full.
#[derive(Default)]
pub(in crate::queue) struct Mailboxes {
    /// Each letter, after a line with its recipient.
    pub letters: Mutex<Vec<String>>,
    pub are_full: AtomicBool,
}

impl Mailer for Mailboxes {
    fn hostname(&self) -> String {
        "mail.example.org".into()
    }

    fn from(&self) -> Address {
        self.postmaster()
    }

    fn deliver(&self, to: &Address, letter: &Letter) -> Result<String, String> {
        if self.are_full.load(Ordering::Relaxed) {
            return Err("the mailbox is full".into());
        }
        self.letters.lock().unwrap().push(format!("{to}\n{}", String::from_utf8_lossy(&letter.text)));
        Ok(to.to_string())
    }

    fn postmaster(&self) -> Address {
        Address::parse("postmaster@example.org").unwrap()
    }

    fn reports_to(&self, _: &str, sender: &Address) -> Address {
        sender.clone()
    }

    fn address_of(&self, login: &str) -> Option<Address> {
        Address::parse(login).ok()
    }
}
