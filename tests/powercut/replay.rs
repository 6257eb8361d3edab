//! What a disk may hold after a power cut, by a log of the system calls that came before it.
//!
//! POSIX promises little: data is on the disk after fsync of its file, and an entry of a directory after fsync of that
//! directory, if the fsync began after the change was made. Anything else may be there or not, each change by itself.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// A system call of an strace log (`-f -y -xx`), from its first line to its last.
#[derive(Debug)]
pub struct Call {
    pub thread: u32,
    pub name: String,
    pub arguments: Vec<String>,
    /// -1 for an error.
    pub result: i64,
    /// strace did not let the kernel do it.
    pub injected: bool,
    begins: usize,
    ends: usize,
}

/// What is there when the power is back.
#[derive(Debug)]
pub struct AfterCut<'a> {
    /// Every file that can be reached by a path.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// What had been written to sockets and standard error before the cut, each write by itself.
    pub said: &'a [String],
}

/// What becomes of changes that are not durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chance {
    /// All are lost.
    Nothing,
    /// All are there.
    Everything,
    /// Entries of directories are there, data is not.
    EntriesAlone,
    /// Each by itself.
    Some(u64),
}

const CHANCES: [Chance; 7] = [
    Chance::Nothing,
    Chance::Everything,
    Chance::EntriesAlone,
    Chance::Some(1),
    Chance::Some(2),
    Chance::Some(3),
    Chance::Some(4),
];

/// Checks every state that a cut at or after the call of the number `from` may leave below `root`, which is there and empty when the log
/// begins; gives how many there were, or the first complaint.
pub fn each_cut(
    calls: &[Call],
    from: usize,
    root: &Path,
    mut check: impl FnMut(&AfterCut<'_>) -> Result<(), String>,
) -> Result<usize, String> {
    let mut disk = Disk::new(root);
    let mut moments: Vec<(usize, bool, usize)> =
        calls.iter().enumerate().flat_map(|(at, call)| [(call.begins, false, at), (call.ends, true, at)]).collect();
    moments.sort_unstable();
    let mut states = 0;
    for (line, is_end, at) in moments {
        let changed = if is_end { disk.end(at, &calls[at]) } else { disk.begin(at, &calls[at]) };
        if !changed || at < from {
            continue;
        }
        for chance in CHANCES {
            let files = disk.files(chance);
            states += 1;
            check(&AfterCut { files, said: &disk.said })
                .map_err(|why| format!("cut at line {} ({:?}), {chance:?}: {why}", line + 1, calls[at]))?;
        }
    }
    Ok(states)
}

#[derive(Debug)]
enum Node {
    Directory(Ops<(String, Option<usize>)>),
    File { writes: Ops<(u64, Vec<u8>)>, position: u64 },
}

/// Changes in their order, of which the first ones are durable.
#[derive(Debug)]
struct Ops<T> {
    all: Vec<T>,
    durable: usize,
}

#[derive(Debug)]
struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
    fds: HashMap<i64, usize>,
    /// Of fsyncs that run: what they cover.
    syncs: HashMap<usize, (usize, usize)>,
    said: Vec<String>,
}

impl<T> Ops<T> {
    fn new() -> Self {
        Self { all: Vec::new(), durable: 0 }
    }

    fn kept(&self, node: usize, chance: impl Fn(usize, usize) -> bool) -> impl Iterator<Item = &T> {
        let durable = self.durable;
        self.all.iter().enumerate().filter(move |(at, _)| *at < durable || chance(node, *at)).map(|(_, op)| op)
    }
}

impl Disk {
    fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            nodes: vec![Node::Directory(Ops::new())],
            fds: HashMap::new(),
            syncs: HashMap::new(),
            said: Vec::new(),
        }
    }

    /// True if something was said.
    fn begin(&mut self, at: usize, call: &Call) -> bool {
        match call.name.as_str() {
            "fsync" | "fdatasync" => {
                if let Some(node) = self.node_of(&call.arguments[0]) {
                    let length = match &self.nodes[node] {
                        Node::Directory(ops) => ops.all.len(),
                        Node::File { writes, .. } => writes.all.len(),
                    };
                    self.syncs.insert(at, (node, length));
                }
                false
            }
            // It may be read before the call is over.
            "sendto" | "write" if !self.is_below(&call.arguments[0]) => {
                self.said.push(String::from_utf8_lossy(&string(&call.arguments[1])).into_owned());
                true
            }
            _ => false,
        }
    }

    /// True if the disk has changed.
    fn end(&mut self, at: usize, call: &Call) -> bool {
        let argument = |n: usize| call.arguments[n].as_str();
        if call.result < 0 {
            return false;
        }
        match call.name.as_str() {
            "openat" => return self.open(call),
            "mkdir" => {
                let path = path_of(argument(0));
                if !path.starts_with(&self.root) {
                    return false;
                }
                self.make(&path, Node::Directory(Ops::new()));
            }
            "fsync" | "fdatasync" => {
                let Some((node, length)) = self.syncs.remove(&at).filter(|_| !call.injected) else { return false };
                match &mut self.nodes[node] {
                    Node::Directory(ops) => ops.durable = ops.durable.max(length),
                    Node::File { writes, .. } => writes.durable = writes.durable.max(length),
                }
            }
            "write" | "pwrite64" if self.is_below(argument(0)) => {
                let mut data = string(argument(1));
                data.truncate(usize::try_from(call.result).unwrap());
                let place = (call.name == "pwrite64").then(|| argument(3).parse().unwrap());
                let node = self.node_of(argument(0)).unwrap_or_else(|| panic!("not opened: {call:?}"));
                let Node::File { writes, position } = &mut self.nodes[node] else { panic!("{call:?}") };
                let place: u64 = place.unwrap_or_else(|| std::mem::replace(position, *position + data.len() as u64));
                writes.all.push((place, data));
            }
            "linkat" => {
                let from = path_of(argument(1));
                let node = match from.to_str() {
                    Some("") => self.node_of(argument(0)),
                    Some(path) if path.starts_with("/proc/self/fd/") => self.fds.get(&path[14..].parse().unwrap()).copied(),
                    _ => self.lookup_at(argument(0), &from),
                };
                let Some(node) = node else { return false };
                self.enter(argument(2), &path_of(argument(3)), Some(node));
            }
            "renameat" | "renameat2" => {
                let from = path_of(argument(1));
                let Some(node) = self.lookup_at(argument(0), &from) else { return false };
                self.enter(argument(2), &path_of(argument(3)), Some(node));
                self.enter(argument(0), &from, None);
            }
            "rename" => {
                let (from, to) = (path_of(argument(0)), path_of(argument(1)));
                let Some(node) = self.lookup(&from) else { return false };
                self.enter("AT_FDCWD", &to, Some(node));
                self.enter("AT_FDCWD", &from, None);
            }
            "unlinkat" if self.lookup_at(argument(0), &path_of(argument(1))).is_some() => {
                self.enter(argument(0), &path_of(argument(1)), None);
            }
            "unlink" if self.lookup(&path_of(argument(0))).is_some() => {
                self.enter("AT_FDCWD", &path_of(argument(0)), None);
            }
            _ => return false,
        }
        true
    }

    fn open(&mut self, call: &Call) -> bool {
        let (path, flags) = (path_of(&call.arguments[1]), &call.arguments[2]);
        let fresh = || Node::File { writes: Ops::new(), position: 0 };
        let found = self.lookup_at(&call.arguments[0], &path);
        let (node, changed) = match found {
            Some(_) if flags.contains("O_TMPFILE") => {
                self.nodes.push(fresh());
                (self.nodes.len() - 1, false)
            }
            Some(node) => (node, false),
            None if flags.contains("O_CREAT") && self.directory_at(&call.arguments[0], &path).is_some() => {
                self.nodes.push(fresh());
                let node = self.nodes.len() - 1;
                self.enter(&call.arguments[0], &path, Some(node));
                (node, true)
            }
            None => {
                self.fds.remove(&call.result);
                return false;
            }
        };
        if let Node::File { writes, position } = &mut self.nodes[node] {
            *position = if flags.contains("O_APPEND") {
                writes.all.iter().map(|(at, data)| at + data.len() as u64).max().unwrap_or(0)
            } else {
                0
            };
        }
        self.fds.insert(call.result, node);
        changed
    }

    fn is_below(&self, fd: &str) -> bool {
        fd.split_once('<').is_some_and(|(_, path)| path_of(path).starts_with(&self.root))
    }

    fn node_of(&self, fd: &str) -> Option<usize> {
        let number = fd.split('<').next()?.parse().ok()?;
        self.is_below(fd).then(|| self.fds.get(&number).copied()).flatten()
    }

    fn lookup(&self, path: &Path) -> Option<usize> {
        self.walk(0, path.strip_prefix(&self.root).ok()?)
    }

    fn lookup_at(&self, fd: &str, path: &Path) -> Option<usize> {
        if path.is_absolute() { self.lookup(path) } else { self.walk(self.node_of(fd)?, path) }
    }

    fn walk(&self, from: usize, path: &Path) -> Option<usize> {
        path.components().filter(|part| part.as_os_str() != ".").try_fold(from, |node, part| {
            let Node::Directory(ops) = &self.nodes[node] else { return None };
            let name = part.as_os_str().to_str().unwrap();
            ops.all.iter().rev().find(|(entry, _)| entry == name).and_then(|(_, node)| *node)
        })
    }

    fn directory_at(&self, fd: &str, path: &Path) -> Option<usize> {
        self.lookup_at(fd, path.parent()?)
    }

    fn make(&mut self, path: &Path, node: Node) {
        self.nodes.push(node);
        let node = self.nodes.len() - 1;
        self.enter("AT_FDCWD", path, Some(node));
    }

    fn enter(&mut self, fd: &str, path: &Path, node: Option<usize>) {
        let directory = self.directory_at(fd, path).unwrap_or_else(|| panic!("nothing known above {path:?}"));
        let Node::Directory(ops) = &mut self.nodes[directory] else { panic!("{path:?} in a file") };
        ops.all.push((path.file_name().unwrap().to_str().unwrap().to_owned(), node));
    }

    fn files(&self, chance: Chance) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        self.collect(0, &self.root, chance, &mut files);
        files
    }

    fn collect(&self, node: usize, path: &Path, chance: Chance, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
        let by_chance = |is_entry: bool| {
            move |node: usize, at: usize| match chance {
                Chance::Nothing => false,
                Chance::Everything => true,
                Chance::EntriesAlone => is_entry,
                Chance::Some(seed) => {
                    let mixed =
                        (node as u64 * 0x9E37_79B9 + at as u64 + 1).wrapping_mul(seed.wrapping_mul(0xD6E8_FEB8_6659_FD93));
                    mixed >> 40 & 1 == 1
                }
            }
        };
        match &self.nodes[node] {
            Node::Directory(ops) => {
                let entries: BTreeMap<&String, Option<usize>> =
                    ops.kept(node, by_chance(true)).map(|(name, node)| (name, *node)).collect();
                for (name, node) in entries {
                    if let Some(node) = node {
                        self.collect(node, &path.join(name), chance, files);
                    }
                }
            }
            Node::File { writes, .. } => {
                let mut content = Vec::new();
                for (place, data) in writes.kept(node, by_chance(false)) {
                    let place = usize::try_from(*place).unwrap();
                    content.resize(content.len().max(place + data.len()), 0);
                    content[place..place + data.len()].copy_from_slice(data);
                }
                files.insert(path.to_owned(), content);
            }
        }
    }
}

/// Reads a log; lines of one call are put together.
pub fn parse(log: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut open: HashMap<&str, (usize, String)> = HashMap::new();
    for (number, line) in log.lines().enumerate() {
        let (pid, text) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
        let text = text.trim();
        if text.starts_with("---") || text.starts_with("+++") {
            continue;
        }
        let (begins, whole) = match text.strip_prefix("<... ") {
            None => (number, text.to_owned()),
            Some(rest) => {
                let (begins, before) = open.remove(pid).unwrap_or_else(|| panic!("{line}"));
                (begins, before + rest.split_once("resumed>").unwrap().1)
            }
        };
        if let Some(before) = whole.strip_suffix("<unfinished ...>") {
            open.insert(pid, (begins, before.trim_end().to_owned()));
            continue;
        }
        let (call, result) = whole.rsplit_once(" = ").unwrap_or_else(|| panic!("{line}"));
        let (name, arguments) = call.trim_end().split_once('(').unwrap_or_else(|| panic!("{line}"));
        let number_of = |text: &str| text.chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect::<String>();
        calls.push(Call {
            thread: pid.parse().unwrap(),
            name: name.to_owned(),
            arguments: arguments.strip_suffix(')').unwrap().split(", ").map(str::to_owned).collect(),
            result: number_of(result).parse().unwrap_or(-1),
            injected: result.contains("(INJECTED)"),
            begins,
            ends: number,
        });
    }
    calls
}

/// The octets of a string that strace wrote with `-xx`.
pub fn string(text: &str) -> Vec<u8> {
    assert!(!text.ends_with("..."), "cut short: give strace a larger -s");
    let text = text.trim_matches('"');
    text.split("\\x").skip(1).map(|hex| u8::from_str_radix(hex, 16).unwrap_or_else(|_| panic!("{text}"))).collect()
}

/// The path that an argument or the name of a descriptor is.
pub fn path_of(text: &str) -> PathBuf {
    // Of a descriptor, what stands between the angle brackets.
    let text = text.split('>').next().unwrap();
    PathBuf::from(String::from_utf8(string(text)).unwrap())
}
