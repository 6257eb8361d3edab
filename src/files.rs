//! Reads files that an operator writes: regular files only, bounded, and never waiting for another process.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;

/// Octets of a file of text, at most.
pub const TEXT_MAX: u64 = 64 << 20;

/// Opens a regular file. A FIFO or a device is an error of kind `InvalidInput`, and is not waited for.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // Without O_NONBLOCK the open of a FIFO waits for a writer.
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let data = file.metadata()?;
    if data.is_file() { Ok((file, data)) } else { Err(not_regular()) }
}

/// The octets of a regular file, `max` at most; a larger file is an error of kind `FileTooLarge`.
pub fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    read_with_mode(path, max).map(|(_, bytes)| bytes)
}

/// The same with the rights in the file's mode.
pub fn read_with_mode(path: &Path, max: u64) -> io::Result<(u32, Vec<u8>)> {
    let (file, data) = open(path)?;
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max { Err(too_large()) } else { Ok((data.mode() & 0o7777, bytes)) }
}

/// True if reading again may succeed though the file stays as it is: the system failed, not the file's content.
pub fn may_pass(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::FileTooLarge)
}

/// What a file is refused with that is none.
pub fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "is no regular file; put one in its place")
}

/// What a file is refused with that is larger than what is read.
pub fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "is too large")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_and_a_large_file_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, file) = (dir.path().join("fifo"), dir.path().join("file"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = read(&fifo, 10).unwrap_err();
        assert!(error.kind() == io::ErrorKind::InvalidInput && !may_pass(&error), "{error}");
        assert_eq!(read(dir.path(), 10).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        std::fs::write(&file, "0123456789").unwrap();
        assert_eq!(read(&file, 10).unwrap(), b"0123456789");
        let error = read(&file, 9).unwrap_err();
        assert!(error.kind() == io::ErrorKind::FileTooLarge && !may_pass(&error), "{error}");
        assert!(may_pass(&io::Error::from_raw_os_error(nix::Error::EMFILE as i32)));
        assert!(may_pass(&read(&dir.path().join("none"), 9).unwrap_err()));
    }
}
