//! A replica, re-hashed against the version that its state records.

use std::path::Path;

use crate::error::{Error, Result};
use crate::progress::{Phase, Progress};
use crate::store::Source;
use crate::sync::changes::Protect;
use crate::sync::update::{keep_apart, sync_open};
use crate::sync::{Damage, SyncOptions, Synced, Target, Verified, VerifyOptions};
use crate::tree::{Replica, SurveyOptions};
use crate::version::{Content, Entry, EntryKind, Manifest};

/// Re-hashes a replica against the version its state records: every file is read.
pub fn verify_replica(dir: &Path, options: &VerifyOptions, progress: &dyn Progress) -> Result<Verified> {
    let replica = Replica::peek(dir)?;
    let Some(version) = replica.version() else {
        return Err(Error::NotFound { what: "version".into(), place: format!("`{}`", dir.display()) });
    };
    let protect = Protect::new(replica.protect(), &[])?;
    let totals = Manifest::open(replica.nodes(), version)?.totals();
    progress.phase(Phase::Verify, Some(totals.bytes));
    let survey = replica.survey(&SurveyOptions { rehash: true, threads: options.threads }, progress)?;
    let mut verified = Verified {
        versions: 1,
        files: totals.files,
        bytes: totals.bytes,
        chunks: totals.chunks,
        chunks_in_all: totals.chunks,
        paths_unpublishable: survey.unpublishable,
        ..Verified::default()
    };
    for change in &survey.drift {
        let reason = match (&change.have, &change.want) {
            (None, _) => {
                verified.files_foreign += 1;
                continue;
            }
            (Some(have), _) if protect.covers(&change.path, Some(have)) => {
                verified.spare(have);
                continue;
            }
            (Some(_), None) => "missing",
            (Some(have), Some(want)) => difference(have, want),
        };
        let what = format!("`{}`", change.path.as_str().escape_debug());
        verified.damage.push(Damage { what, reason: reason.into(), needed_by: Vec::new() });
    }
    Ok(verified)
}

impl Verified {
    // A protected path that is not as the version has it: left out of what was found good.
    fn spare(&mut self, entry: &Entry) {
        if let EntryKind::File { len, content, .. } = &entry.kind {
            self.files -= 1;
            self.files_protected += 1;
            self.bytes -= len;
            self.chunks -= content.chunk_count();
        }
    }
}

fn difference(have: &Entry, want: &Entry) -> &'static str {
    match (&have.kind, &want.kind) {
        (EntryKind::File { len, content, .. }, EntryKind::File { len: len2, content: content2, .. }) => {
            match (len == len2, content == content2) {
                (true, false) if *content2 == Content::Inline(Vec::new()) => "cannot be read",
                (false, _) => "has another length",
                (true, false) => "has other content",
                (true, true) => "has another mode",
            }
        }
        (EntryKind::Symlink { .. }, EntryKind::Symlink { .. }) => "points elsewhere",
        (EntryKind::Dir { .. }, EntryKind::Dir { .. }) => "has another mode",
        _ => "is another kind of file",
    }
}

/// Brings a replica back to the version its state records, re-reading every file; also when its nodes are lost.
/// Foreign files stay. Damaged state, which does not say any more which version it was, is an error.
pub fn repair_replica(
    dir: &Path,
    source: &dyn Source,
    options: &SyncOptions,
    progress: &dyn Progress,
) -> Result<Synced> {
    keep_apart(source, dir)?;
    // Opened for writing: an interrupted switch is finished before it is asked which version this is, and nobody else
    // moves it to another in between.
    let replica = Replica::open(dir, &options.replica(), progress)?;
    let (version, name) = (replica.version(), replica.name().map(str::to_owned));
    let mut protect = replica.protect().to_vec();
    protect.extend(options.protect.iter().filter(|glob| !replica.protect().contains(glob)).cloned());
    let Some(version) = version else {
        let none = || Error::NotFound { what: "version".into(), place: format!("`{}`", dir.display()) };
        return Err(replica.into_damage().unwrap_or_else(none));
    };
    let options = SyncOptions { rehash: true, protect, ..options.clone() };
    sync_open(source, &Target::Version(version), name.as_deref(), replica, &options, progress)
}
