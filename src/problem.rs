//! Something that is wrong in a file that an operator wrote: which file, which line, which key, what, and the cure.

use std::fmt;
use std::path::{Path, PathBuf};

/// See the module's description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// The file; empty where only the text of one was looked at.
    pub file: PathBuf,
    /// The line, from 1; 0 if it is about the whole file.
    pub line: usize,
    /// The key with its section; empty if it is about none.
    pub key: String,
    /// What is wrong, and the cure.
    pub text: String,
}

impl Problem {
    /// About a line of a text; the file is named by [`Self::in_file`].
    pub fn at(line: usize, text: impl Into<String>) -> Self {
        Self { line, text: text.into(), ..Self::default() }
    }

    /// About a whole file.
    pub fn with(file: &Path, text: impl Into<String>) -> Self {
        Self::at(0, text).in_file(file)
    }

    /// The same, in this file.
    pub fn in_file(mut self, file: &Path) -> Self {
        self.file = file.to_owned();
        self
    }
}

/// What stands in a file, as a problem may quote it: its first 64 characters, without control characters.
pub fn printable(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.text)
    }
}
