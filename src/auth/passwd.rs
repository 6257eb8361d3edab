//! Names of this machine's users, by /etc/passwd alone: no other source of names is asked, since that would need libraries,
//! sockets and time that a sandbox and a worker do not have.

use std::fs::File;
use std::io::Read as _;

/// Where the names are.
pub const PATH: &str = "/etc/passwd";
/// The uid that the kernel gives for all users of another user namespace (user_namespaces(7)).
pub const OVERFLOW_UID: u32 = 65_534;
/// Octets that are read, at most.
const SIZE_MAX: u64 = 4 << 20;

/// The name of a user as the file has it now.
pub fn name_of(uid: u32) -> Option<String> {
    let mut text = Vec::new();
    File::open(PATH).and_then(|file| file.take(SIZE_MAX).read_to_end(&mut text)).ok()?;
    name_in(&String::from_utf8_lossy(&text), uid)
}

/// The first name with this uid.
fn name_in(text: &str, uid: u32) -> Option<String> {
    let row = |line: &str| {
        let mut fields = line.split(':');
        let (name, found) = (fields.next()?, fields.nth(1)?);
        (found.parse() == Ok(uid) && !name.is_empty()).then(|| name.to_owned())
    };
    text.lines().find_map(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_row_with_the_uid_counts() {
        let text = "root:x:0:0::/:\n\nbroken\nwww-data:x:33:33:a:b:33:/\nalias:x:33:33::/:\n:x:7:7::/:\nx:y:-1:0\n";
        for (uid, want) in [(0, Some("root")), (33, Some("www-data")), (7, None), (1, None)] {
            assert_eq!(name_in(text, uid).as_deref(), want, "{uid}");
        }
        assert_eq!(name_of(0).as_deref(), Some("root"));
    }
}
