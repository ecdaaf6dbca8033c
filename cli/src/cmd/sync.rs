//! `floe sync SOURCE NAME DIR`

use floe::Result;
use serde::Serialize;

use crate::args::{Sync, SyncWhat};
use crate::output::Output;
use crate::report::End;
use crate::settings::{self, Settings};
use crate::terms::{bytes, count, elapsed};

#[derive(Serialize)]
struct Report {
    version: String,
    from: Option<String>,
    unchanged: bool,
    bytes_fetched: u64,
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
    let source = settings::open_to_read(settings::place(&what.source)?)?;
    let done = floe::sync::sync(&*source, &target, &what.dir, &settings.sync_options(what), output)?;
    let report = Report {
        version: done.version.to_string(),
        from: done.from.map(|version| version.to_string()),
        unchanged: done.unchanged,
        bytes_fetched: done.bytes_fetched,
        chunks_fetched: done.chunks_fetched,
        bytes_reused: done.bytes_reused,
        bytes_written: done.bytes_written,
        requests: done.requests,
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
