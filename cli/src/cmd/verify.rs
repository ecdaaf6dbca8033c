//! `floe verify STORE|DIR [--repair SOURCE]`

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use floe::sync::{Damage, SyncOptions, Verified, VerifyOptions};
use floe::{Error, Faults, Notice, Phase, Progress, Result, limits};
use serde::Serialize;

use crate::args::Verify;
use crate::output::Output;
use crate::report::End;
use crate::settings::{self, Place, Settings};
use crate::terms::{bytes, count, elapsed, safe};

#[derive(Serialize)]
struct Report {
    place: &'static str,
    sound: bool,
    versions: u64,
    files: u64,
    chunks: u64,
    nodes: u64,
    bytes: u64,
    damaged: u64,
    repaired: u64,
    files_foreign: u64,
    paths_unpublishable: u64,
    files_protected: u64,
}

/// One damaged thing as an object.
#[derive(Serialize)]
struct Line<'a> {
    kind: &'static str,
    what: &'a str,
    reason: &'a str,
    needed_by: &'a [String],
}

pub fn run(args: &Verify, settings: &Settings, output: &Output) -> Result<End> {
    let path = settings::place(&args.place)?;
    let options = settings.verify_options(args.subset.as_deref())?;
    let repair = args.repair.as_deref().map(settings::place).transpose()?;
    let place = settings::what_is_at(path)?;
    let found = match place {
        Place::Store => store(path, repair, &options, output)?,
        Place::Replica if args.subset.is_some() => {
            return Err(Error::Usage {
                what: "option `--subset`".to_owned(),
                reason: "is for stores; a directory is always verified whole".to_owned(),
            });
        }
        Place::Replica => replica(path, repair, &options, output)?,
    };
    tell(&found, place, output)?;
    if found.damage.is_empty() {
        return Ok(End::Done);
    }
    Ok(End::Damaged {
        things: found.damage.len() as u64,
        place: args.place.clone(),
        repairing: repair.is_some(),
    })
}

fn store(path: &Path, repair: Option<&Path>, options: &VerifyOptions, output: &Output) -> Result<Verified> {
    let Some(source) = repair else {
        return floe::sync::verify_store(&*settings::open_to_read(path)?, options, output);
    };
    // The source first: nothing is put aside for one that does not open.
    let source = settings::open_to_read(source)?;
    floe::sync::repair_store(&*settings::open_to_mend(path)?, &*source, options, output)
}

fn replica(path: &Path, repair: Option<&Path>, options: &VerifyOptions, output: &Output) -> Result<Verified> {
    let Some(source) = repair else { return floe::sync::verify_replica(path, options, output) };
    let sync = SyncOptions {
        delete: false,
        overwrite: false,
        protect: Vec::new(),
        rehash: true,
        threads: options.threads,
        in_flight_bytes_max: limits::IN_FLIGHT_BYTES_MAX,
        faults: Faults::default(),
    };
    // Repairing reads every file and tells which are not as recorded; verifying reads them once more, so that what
    // is reported as sound was sound on disk.
    let counting = Counting { output, modified: AtomicU64::new(0) };
    let synced = floe::sync::repair_replica(path, &*settings::open_to_read(source)?, &sync, &counting)?;
    let found = floe::sync::verify_replica(path, options, output)?;
    let repaired = counting.modified.into_inner().saturating_sub(synced.files_protected);
    Ok(Verified { repaired: repaired.saturating_sub(found.damage.len() as u64), ..found })
}

/// Passes everything on to the output, and counts the paths that are not what the replica recorded.
struct Counting<'a> {
    output: &'a Output,
    modified: AtomicU64,
}

impl Progress for Counting<'_> {
    fn phase(&self, phase: Phase, total: Option<u64>) {
        self.output.phase(phase, total);
    }

    fn advance(&self, amount: u64) {
        self.output.advance(amount);
    }

    fn notice(&self, notice: Notice) {
        if matches!(notice, Notice::LocallyModified { .. }) {
            self.modified.fetch_add(1, Ordering::Relaxed);
        }
        self.output.notice(notice);
    }

    fn cancelled(&self) -> bool {
        self.output.cancelled()
    }
}

fn tell(found: &Verified, place: Place, output: &Output) -> Result<()> {
    for Damage { what, reason, needed_by } in &found.damage {
        output.object(&Line { kind: "damage", what, reason, needed_by })?;
        output.line(format_args!("damaged   {}: {}", safe(what), safe(reason)))?;
        for user in needed_by {
            output.line(format_args!("          needed by {}", safe(user)))?;
        }
    }
    let damaged = found.damage.len() as u64;
    let report = Report {
        place: place.word(),
        sound: damaged == 0,
        versions: found.versions,
        files: found.files,
        chunks: found.chunks,
        nodes: found.nodes,
        bytes: found.bytes,
        damaged,
        repaired: found.repaired,
        files_foreign: found.files_foreign,
        paths_unpublishable: found.paths_unpublishable,
        files_protected: found.files_protected,
    };
    let checked = match place {
        Place::Store => format!(
            "{}, {}, {} ({})",
            count(found.versions, "name"),
            count(found.nodes, "node"),
            count(found.chunks, "chunk"),
            bytes(found.bytes)
        ),
        Place::Replica if found.files_protected > 0 => format!(
            "{} ({}); not checked: {} of yours (--protect)",
            count(found.files, "file"),
            bytes(found.bytes),
            count(found.files_protected, "file")
        ),
        Place::Replica => format!("{} ({})", count(found.files, "file"), bytes(found.bytes)),
    };
    let result = match (damaged, found.repaired) {
        (0, 0) => "everything is as it should be".to_owned(),
        (0, repaired) => format!("{repaired} repaired, everything is as it should be now"),
        (damaged, 0) => format!("{damaged} damaged"),
        (damaged, repaired) => format!("{repaired} repaired, {damaged} still damaged"),
    };
    output.report(
        "verify",
        &report,
        &[("verified", checked), ("result", result), ("time", elapsed(output.elapsed()))],
    )
}
