//! `floe sync SOURCE NAME DIR`

use floe::Result;
use floe::store::Counters;
use floe::sync::SyncOptions;
use serde::Serialize;

use crate::args::{Sync, SyncWhat};
use crate::output::Output;
use crate::place::{Opener, Place};
use crate::report::End;
use crate::settings::{self, Settings};
use crate::terms::{bytes, count, elapsed};

#[derive(Serialize)]
struct Report {
    version: String,
    from: Option<String>,
    unchanged: bool,
    bytes_fetched: u64,
    bytes_sent: u64,
    chunks_fetched: u64,
    bytes_reused: u64,
    bytes_written: u64,
    requests: u64,
    files_changed: u64,
    files_moved: u64,
    files_removed: u64,
    files_foreign: u64,
    paths_unpublishable: u64,
    files_protected: u64,
}

pub fn run(args: &Sync, settings: &Settings, output: &Output) -> Result<End> {
    let what = &args.what;
    let target = settings::target(&what.name)?;
    let place = Place::parse(&what.source)?;
    let opener = Opener::new(&place, &args.reach, settings, output).with_mirrors(&args.mirrors)?;
    let source = opener.read(&place)?;
    let options = SyncOptions { deltas: args.deltas.profile(), ..settings.sync_options(what) };
    let done = floe::sync::sync(&*source, &target, &what.dir, &options, output)?;
    // What the engine counts are frames and nodes; over a network all that was received is told.
    let moved = source.counters();
    let report = Report {
        version: done.version.to_string(),
        from: done.from.map(|version| version.to_string()),
        unchanged: done.unchanged,
        bytes_fetched: moved.map_or(done.bytes_fetched, Counters::received),
        bytes_sent: moved.map_or(0, Counters::sent),
        chunks_fetched: done.chunks_fetched,
        bytes_reused: done.bytes_reused,
        bytes_written: done.bytes_written,
        requests: moved.map_or(done.requests, Counters::requests),
        files_changed: done.files_changed,
        files_moved: done.files_moved,
        files_removed: done.files_removed,
        files_foreign: done.files_foreign,
        paths_unpublishable: done.paths_unpublishable,
        files_protected: done.files_protected,
    };
    output.report("sync", &report, &table(&report, what, elapsed(output.elapsed())))?;
    Ok(super::end(done.unchanged, args.exit_unchanged))
}

fn table(report: &Report, what: &SyncWhat, time: String) -> Vec<(&'static str, String)> {
    let Report { files_changed, files_moved, files_removed, .. } = report;
    let mut table = vec![
        (if report.unchanged { "unchanged" } else { "synced" }, what.name.clone()),
        ("version", report.version.clone()),
        ("files", format!("{files_changed} changed, {files_moved} moved, {files_removed} removed")),
        ("fetched", format!("{} in {}", bytes(report.bytes_fetched), count(report.requests, "request"))),
        ("reused", bytes(report.bytes_reused)),
        ("written", bytes(report.bytes_written)),
    ];
    if report.files_foreign > 0 {
        let why = if what.delete { "protected" } else { "--delete removes" };
        let files = count(report.files_foreign, "file");
        table.push(("kept", format!("{files} that no version wrote ({why})")));
    }
    if report.paths_unpublishable > 0 {
        let paths = count(report.paths_unpublishable, "path");
        table.push(("left", format!("{paths} that no version can hold, or that may not be looked into")));
    }
    if report.files_protected > 0 {
        table.push(("protected", format!("{} left as they are", count(report.files_protected, "path"))));
    }
    table.push(("time", time));
    table
}
