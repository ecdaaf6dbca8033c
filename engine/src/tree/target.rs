//! The files that a stage has to build: what each will be, under which key it lies in `.floe/stage/`, and how many
//! of its chunks are still to come. A key is the hash of path and content, so an interrupted run finds its files.

use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{At, Error, Result};
use crate::id::ChunkRef;
use crate::version::{Content, Entry, EntryKind, Plan, RelPath, Step};

use super::disk::{Disk, own};
use super::replica::Replica;
use super::seed::read_proven;
use super::spot::Kind;
use super::state::StageKey;

// Files kept open by one batch of work.
const OPEN_MAX: usize = 64;
const MODE_STAGED: u16 = 0o600;

/// A file to build.
#[derive(Debug)]
pub(super) struct Target<'p> {
    pub(super) path: &'p RelPath,
    pub(super) content: &'p Content,
    pub(super) len: u64,
    pub(super) mode: u16,
    /// A file of the tree with the same content.
    pub(super) from: Option<&'p RelPath>,
    pub(super) key: StageKey,
    /// An interrupted run left a file under this key.
    pub(super) existing: bool,
    left: AtomicU64,
}

/// A symlink to make.
#[derive(Debug)]
pub(super) struct Link<'p> {
    pub(super) target: &'p str,
    pub(super) key: StageKey,
}

/// The key of what `entry` will be. The mode is not part of it: it is set last.
pub(super) fn key_of(entry: &Entry) -> StageKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(entry.path.as_str().as_bytes());
    match &entry.kind {
        EntryKind::File { len, content, .. } => {
            hasher.update(b"\0F");
            hasher.update(&len.to_le_bytes());
            match content {
                Content::Inline(chunks) => {
                    chunks.iter().for_each(|chunk| {
                        hasher.update(chunk.id.as_bytes());
                    });
                }
                Content::Tree { root, .. } => {
                    hasher.update(b"T");
                    hasher.update(root.as_bytes());
                }
            }
        }
        EntryKind::Symlink { target } => {
            hasher.update(b"\0L");
            hasher.update(target.as_bytes());
        }
        EntryKind::Dir { .. } => {
            hasher.update(b"\0D");
        }
    }
    StageKey(*hasher.finalize().as_bytes())
}

/// The files and links that `plan` wants from the stage, in the order of the plan.
pub(super) fn collect(plan: &Plan) -> (Vec<Target<'_>>, Vec<Link<'_>>) {
    let (mut targets, mut links) = (Vec::new(), Vec::new());
    for step in &plan.steps {
        let (want, from) = match step {
            Step::Build { want } => (want, None),
            Step::Copy { from, want } => (want, Some(from)),
            Step::Make { want } => (want, None),
            Step::Move { .. } | Step::SetMode { .. } | Step::Delete { .. } => continue,
        };
        match &want.kind {
            EntryKind::File { mode, len, content } => {
                let chunks = match content {
                    Content::Inline(chunks) => chunks.len() as u64,
                    Content::Tree { chunks, .. } => *chunks,
                };
                targets.push(Target {
                    path: &want.path,
                    content,
                    len: *len,
                    mode: *mode,
                    from,
                    key: key_of(want),
                    existing: false,
                    left: AtomicU64::new(chunks),
                });
            }
            EntryKind::Symlink { target } => links.push(Link { target, key: key_of(want) }),
            EntryKind::Dir { .. } => {}
        }
    }
    (targets, links)
}

/// Brings the stage directory to what `targets` and `links` can continue from: what else lies there is removed.
pub(super) fn resume(disk: &Disk, targets: &mut [Target<'_>], links: &[Link<'_>]) -> Result<()> {
    let left: HashMap<String, Kind> = disk
        .list(&own("stage"))?
        .into_iter()
        .filter_map(|(name, kind)| Some((name.into_string().ok()?, kind)))
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    let mut kept = HashSet::new();
    for target in targets {
        let name = target.key.file_name();
        if left.get(&name) == Some(&Kind::File) {
            // Its mode may be the final one already, which need not let us in.
            disk.chmod(&target.key.path(), Kind::File, MODE_STAGED)?;
            target.existing = true;
            kept.insert(name);
        }
    }
    for link in links {
        let name = link.key.file_name();
        let same = || disk.read_link(&link.key.path()).is_ok_and(|target| target == link.target.as_bytes());
        if left.get(&name) == Some(&Kind::Symlink) && same() {
            kept.insert(name);
        }
    }
    for (name, kind) in left {
        let path = own(&format!("stage/{name}"));
        match kind {
            _ if kept.contains(&name) => {}
            Kind::Dir => disk.rmdir(&path)?,
            _ => disk.unlink(&path)?,
        }
    }
    Ok(())
}

impl Target<'_> {
    /// Opens its file in the stage, making it where missing.
    pub(super) fn open(&self, disk: &Disk, path: &str) -> Result<File> {
        let file = disk.open_write(path, false)?;
        if self.existing || self.left.load(Ordering::Relaxed) > 1 {
            let len = file.metadata().at("look at", disk.full(path))?.len();
            if len != self.len {
                disk.set_len(&file, path, self.len)?;
            }
        }
        Ok(file)
    }

    /// Notes that `chunks` of its chunks are there; with the last one it gets its mode.
    pub(super) fn done(&self, disk: &Disk, file: &File, path: &str, chunks: u64) -> Result<()> {
        let before =
            self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(chunks));
        match before {
            Ok(before) if before == chunks => disk.set_mode(file, path, self.mode),
            Ok(_) => Ok(()),
            Err(_) => Err(self.uneven()),
        }
    }

    /// Notes that all of it is there.
    pub(super) fn done_whole(&self, disk: &Disk, file: &File, path: &str) -> Result<()> {
        self.left.store(0, Ordering::Release);
        disk.set_mode(file, path, self.mode)
    }

    /// An error unless all of it is there.
    pub(super) fn check_done(&self) -> Result<()> {
        if self.left.load(Ordering::Acquire) == 0 { Ok(()) } else { Err(self.uneven()) }
    }

    /// The error of a chunk list that does not add up.
    pub(super) fn uneven(&self) -> Error {
        Error::Malformed {
            kind: "entry",
            place: format!("the version, at `{}`", self.path.as_str().escape_debug()),
            reason: "its chunks do not add up to its length".into(),
        }
    }
}

/// A file that an interrupted run left in the stage.
pub struct StagedFile {
    file: File,
    buffer: Vec<u8>,
}

impl StagedFile {
    /// True if it holds `chunk` at `offset`: that is read and hashed.
    pub fn holds(&mut self, offset: u64, chunk: &ChunkRef) -> bool {
        read_proven(&self.file, offset, chunk, &mut self.buffer)
    }
}

impl Replica {
    /// What an interrupted run left of the file that `want` is to be. `None` if there is nothing, or nothing that can be
    /// read.
    pub fn staged(&self, want: &Entry) -> Option<StagedFile> {
        let file = self.disk()?.open_file(&key_of(want).path()).ok()?;
        Some(StagedFile { file, buffer: Vec::new() })
    }
}

/// Staged files kept open by one batch of work.
#[derive(Debug, Default)]
pub(super) struct OpenTargets(HashMap<u32, (File, String)>);

impl OpenTargets {
    /// The file of the target with number `index`, and its path.
    pub(super) fn get(&mut self, disk: &Disk, targets: &[Target<'_>], index: u32) -> Result<(&File, &str)> {
        if self.0.len() >= OPEN_MAX && !self.0.contains_key(&index) {
            self.0.clear();
        }
        let (file, path) = match self.0.entry(index) {
            Occupied(open) => open.into_mut(),
            Vacant(slot) => {
                let target = targets.get(index as usize).expect("jobs name targets that exist");
                let path = target.key.path();
                slot.insert((target.open(disk, &path)?, path))
            }
        };
        Ok((file, path))
    }
}
