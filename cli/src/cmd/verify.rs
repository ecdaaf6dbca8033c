//! `floe verify STORE|DIR [--repair SOURCE]`

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use floe::sync::{Damage, SyncOptions, Verified, VerifyOptions};
use floe::{Error, Faults, Notice, Phase, Progress, Result, limits};
use serde::Serialize;

use crate::args::Verify;
use crate::output::Output;
use crate::place::{Kind, Opener, Place};
use crate::report::End;
use crate::settings::Settings;
use crate::terms::{bytes, count, elapsed, safe};

#[derive(Serialize)]
struct Report {
    place: &'static str,
    sound: bool,
    versions: u64,
    files: u64,
    chunks: u64,
    chunks_in_all: u64,
    nodes: u64,
    bytes: u64,
    damaged: u64,
    repaired: u64,
    files_foreign: u64,
    paths_unpublishable: u64,
    files_protected: u64,
    old_database: Option<&'static str>,
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
    let place = Place::parse(&args.place)?;
    let options = settings.verify_options(args.subset.as_deref(), args.accept_loss)?;
    let source = args.repair.as_deref().map(Place::parse).transpose()?;
    let main = source.as_ref().filter(|_| place.url().is_none()).unwrap_or(&place);
    let opener = Opener::new(main, &args.reach, settings, output).with_mirrors(&args.mirrors)?;
    let same = |source: &Place| match (place.url(), source.url()) {
        (Some(place), Some(source)) => place.to_string() == source.to_string(),
        _ => {
            place.dir().zip(source.dir()).is_some_and(|(place, source)| super::same_directory(place, source))
        }
    };
    if source.as_ref().is_some_and(same) {
        return Err(Error::Usage {
            what: "option `--repair`".to_owned(),
            reason: "names the store that is to be mended: give another one that has the same versions"
                .to_owned(),
        });
    }
    let kind = place.kind()?;
    let mut old_database = None;
    let found = match kind {
        Kind::Store => store(&place, source.as_ref(), &opener, &options, output, &mut old_database)?,
        Kind::Replica(_) if args.subset.is_some() => {
            return Err(Error::Usage {
                what: "option `--subset`".to_owned(),
                reason: "is for stores; a directory is always verified whole".to_owned(),
            });
        }
        Kind::Replica(dir) => replica(dir, source.as_ref(), &opener, &options, output)?,
    };
    tell(&found, kind, old_database, output)?;
    if found.damage.is_empty() {
        return Ok(End::Done);
    }
    Ok(End::Damaged {
        things: found.damage.len() as u64,
        place: args.place.clone(),
        repairing: source.is_some(),
        doubt: found.damage.iter().any(|damage| damage.what == "list of names"),
    })
}

fn store(
    place: &Place,
    source: Option<&Place>,
    opener: &Opener<'_>,
    options: &VerifyOptions,
    output: &Output,
    old_database: &mut Option<&'static str>,
) -> Result<Verified> {
    let Some(source) = source else {
        return floe::sync::verify_store(&*opener.read(place)?, options, output);
    };
    // The source first: nothing is put aside for one that does not open.
    let source = opener.read(source)?;
    let mended = opener.mend(place)?;
    let aside = || place.dir().is_some_and(|dir| dir.join("db-damaged").is_dir());
    let was_aside = aside();
    let found = floe::sync::repair_store(&*mended, &*source, options, output)?;
    *old_database = was_aside.then(|| if aside() { "kept" } else { "removed" });
    Ok(found)
}

fn replica(
    path: &Path,
    source: Option<&Place>,
    opener: &Opener<'_>,
    options: &VerifyOptions,
    output: &Output,
) -> Result<Verified> {
    let Some(source) = source else { return floe::sync::verify_replica(path, options, output) };
    let sync = SyncOptions {
        delete: false,
        overwrite: false,
        protect: Vec::new(),
        rehash: true,
        deltas: None,
        threads: options.threads,
        in_flight_bytes_max: limits::IN_FLIGHT_BYTES_MAX,
        faults: Faults::default(),
    };
    // Repairing reads every file and tells which are not as recorded; verifying reads them once more, so that what
    // is reported as sound was sound on disk.
    let counting = Counting { output, modified: AtomicU64::new(0) };
    let synced = floe::sync::repair_replica(path, &*opener.read(source)?, &sync, &counting)?;
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

fn tell(found: &Verified, kind: Kind<'_>, old_database: Option<&'static str>, output: &Output) -> Result<()> {
    for Damage { what, reason, needed_by } in &found.damage {
        output.object(&Line { kind: "damage", what, reason, needed_by })?;
        output.line(format_args!("damaged   {}: {}", safe(what), safe(reason)))?;
        for user in needed_by {
            output.line(format_args!("          needed by {}", safe(user)))?;
        }
    }
    let damaged = found.damage.len() as u64;
    let report = Report {
        place: kind.word(),
        sound: damaged == 0,
        versions: found.versions,
        files: found.files,
        chunks: found.chunks,
        chunks_in_all: found.chunks_in_all,
        nodes: found.nodes,
        bytes: found.bytes,
        damaged,
        repaired: found.repaired,
        files_foreign: found.files_foreign,
        paths_unpublishable: found.paths_unpublishable,
        files_protected: found.files_protected,
        old_database,
    };
    let checked = match kind {
        Kind::Store => format!(
            "{}, {}, {} ({})",
            count(found.versions, "name"),
            count(found.nodes, "node"),
            count(found.chunks, "chunk"),
            bytes(found.bytes)
        ),
        Kind::Replica(_) if found.files_protected > 0 => format!(
            "{} ({}); not checked: {} of yours (--protect)",
            count(found.files, "file"),
            bytes(found.bytes),
            count(found.files_protected, "file")
        ),
        Kind::Replica(_) => format!("{} ({})", count(found.files, "file"), bytes(found.bytes)),
    };
    let in_part = kind == Kind::Store && found.chunks < found.chunks_in_all;
    let read =
        format!("no damage in the nodes and in {} of {}", found.chunks, count(found.chunks_in_all, "chunk"));
    let result = match (damaged, found.repaired) {
        (0, 0) if in_part => read,
        (0, repaired) if in_part => format!("{repaired} repaired, {read}"),
        (0, 0) => "everything is as it should be".to_owned(),
        (0, repaired) => format!("{repaired} repaired, everything is as it should be now"),
        (damaged, 0) => format!("{damaged} damaged"),
        (damaged, repaired) => format!("{repaired} repaired, {damaged} still damaged"),
    };
    let mut table = vec![("verified", checked), ("result", result)];
    match old_database {
        Some("kept") => table
            .push(("database", "the damaged one is kept as db-damaged/ until a repair ends well".to_owned())),
        Some(_) => table.push((
            "database",
            "the damaged one is removed, with what no name needs and could not be read".to_owned(),
        )),
        None => {}
    }
    table.push(("time", elapsed(output.elapsed())));
    output.report("verify", &report, &table)
}
