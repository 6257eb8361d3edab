//! Reads `[listen] local` and `[unix_users]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::{Reader, Value};
use crate::config::LocalSocket;

/// Octets of a socket's path: what the system allows, less a suffix.
const PATH_MAX: usize = 100;
const KEY: &str = "listen.local";
/// The keys of an entry that is a table.
const KEYS: [&str; 4] = ["group", "login", "mode", "path"];

impl Reader<'_> {
    /// Reads the local sockets.
    pub(super) fn local_sockets(&mut self, value: &Value<'_>) -> Vec<LocalSocket> {
        let Some(list) = value.get_ref().as_array() else {
            self.problem(&value.span(), KEY, "must be a list of paths in brackets");
            return Vec::new();
        };
        let mut sockets: Vec<LocalSocket> = Vec::new();
        for value in list.iter() {
            let Some(socket) = self.local_socket(value) else { continue };
            if sockets.iter().any(|known| known.path == socket.path) {
                self.problem(&value.span(), KEY, format!("`{}` is listed already", socket.path.display()));
            } else {
                sockets.push(socket);
            }
        }
        sockets
    }

    fn local_socket(&mut self, value: &Value<'_>) -> Option<LocalSocket> {
        let mut socket = LocalSocket::default();
        let path = match value.get_ref() {
            DeValue::Table(table) => {
                for key in table.keys().filter(|key| !KEYS.contains(&key.get_ref().as_ref())) {
                    let text = format!("unknown key; there are {}", KEYS.join(", "));
                    self.problem(&key.span(), &format!("{KEY}.{}", key.get_ref()), text);
                }
                socket.login = table.get("login").and_then(|value| self.string(value, KEY)).map(|login| login.to_lowercase());
                socket.group = table.get("group").and_then(|value| self.string(value, KEY));
                if let Some(value) = table.get("mode") {
                    let text = self.string(value, KEY)?;
                    match u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777) {
                        Some(mode) => socket.mode = mode,
                        None => self.problem(&value.span(), KEY, format!("`{text}` is no mode such as \"0660\"")),
                    }
                }
                match table.get("path") {
                    Some(path) => path,
                    None => {
                        self.problem(&value.span(), KEY, "must have a path = \"/run/…\"");
                        return None;
                    }
                }
            }
            _ => value,
        };
        let text = self.string(path, KEY)?;
        if !text.starts_with('/') || text.ends_with('/') || text.len() > PATH_MAX {
            let text = format!("`{text}` is no absolute path of at most {PATH_MAX} octets, such as \"/run/pillarbox/submit\"");
            self.problem(&path.span(), KEY, text);
        }
        socket.path = PathBuf::from(text);
        Some(socket)
    }

    /// Reads which login a user of this machine is.
    pub(super) fn unix_users(&mut self, section: &DeTable<'_>) -> BTreeMap<String, String> {
        let mut users = BTreeMap::new();
        for (user, value) in section.iter() {
            let user = user.get_ref().as_ref();
            if let Some(login) = self.string(value, &format!("unix_users.{user:?}")) {
                users.insert(user.to_owned(), login.to_lowercase());
            }
        }
        users
    }
}
