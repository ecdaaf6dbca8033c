//! `floe diff A B --store STORE`

use std::collections::HashSet;

use floe::Result;
use floe::version::{Change, Plan, Step};
use serde::Serialize;

use crate::args::Diff;
use crate::output::Output;
use crate::place::{Opener, Place};
use crate::report::End;
use crate::settings::{self, Settings};
use crate::terms::{bytes, count, safe};

#[derive(Serialize)]
struct Report {
    from: String,
    version: String,
    unchanged: bool,
    files_added: u64,
    files_removed: u64,
    files_changed: u64,
    files_moved: u64,
    chunks_missing: u64,
    bytes_missing: u64,
    bytes_update: u64,
}

/// One path as an object.
#[derive(Serialize)]
struct Line<'a> {
    kind: &'static str,
    change: &'static str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
}

pub fn run(args: &Diff, settings: &Settings, output: &Output) -> Result<End> {
    let (a, b) = (settings::target(&args.a)?, settings::target(&args.b)?);
    let place = Place::parse(&args.store)?;
    let store = Opener::new(&place, &args.reach, settings, output).read(&place)?;
    let have = floe::sync::resolve(&*store, &a)?;
    let want = floe::sync::resolve(&*store, &b)?;
    let found = floe::sync::diff(&*store, have, want)?;
    paths(found.changes, output)?;
    let report = Report {
        from: have.to_string(),
        version: want.to_string(),
        unchanged: have == want,
        files_added: found.delta.files_added,
        files_removed: found.delta.files_removed,
        files_changed: found.delta.files_changed,
        files_moved: found.delta.files_moved,
        chunks_missing: found.delta.missing.len() as u64,
        bytes_missing: found.delta.bytes_missing(),
        bytes_update: found.bytes_update,
    };
    let Report { files_added, files_changed, files_removed, files_moved, .. } = report;
    let files =
        format!("{files_added} added, {files_changed} changed, {files_removed} removed, {files_moved} moved");
    let missing = format!("{} ({})", count(report.chunks_missing, "chunk"), bytes(report.bytes_missing));
    let table = [("files", files), ("missing", missing), ("update", bytes(report.bytes_update))];
    output.report("diff", &report, &table)?;
    Ok(super::end(report.unchanged, args.exit_unchanged))
}

// The plan knows what was moved or copied; a bare list of changes does not.
fn paths(changes: Vec<Change>, output: &Output) -> Result<()> {
    let there = |change: &Change| change.have.as_ref().map(|_| change.path.clone());
    let there: HashSet<_> = changes.iter().filter_map(there).collect();
    for step in Plan::from_changes(changes).steps {
        let (letter, change, from, entry) = match &step {
            Step::Move { from, want } => ("R", "moved", Some(from.as_str()), want),
            Step::Copy { from, want } => ("C", "copied", Some(from.as_str()), want),
            Step::Delete { have } => ("D", "removed", None, have),
            Step::Build { want } | Step::Make { want } if !there.contains(&want.path) => {
                ("A", "added", None, want)
            }
            Step::Build { want } | Step::Make { want } | Step::SetMode { want } => {
                ("M", "changed", None, want)
            }
        };
        let path = entry.path.as_str();
        output.object(&Line { kind: "change", change, path, from })?;
        let from = from.map(|from| format!("{} -> ", safe(from))).unwrap_or_default();
        output.line(format_args!("{letter} {from}{}", safe(path)))?;
    }
    Ok(())
}
