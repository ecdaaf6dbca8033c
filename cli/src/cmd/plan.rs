//! `floe plan SOURCE NAME DIR`

use floe::Result;
use floe::version::{Entry, EntryKind, Step};
use serde::Serialize;

use crate::args::Plan;
use crate::output::Output;
use crate::place::{Opener, Place};
use crate::report::End;
use crate::settings::{self, Settings};
use crate::terms::{bytes, count, elapsed, safe};

#[derive(Serialize)]
struct Report {
    version: String,
    from: Option<String>,
    unchanged: bool,
    bytes_fetched: u64,
    chunks_missing: u64,
    bytes_missing: u64,
    bytes_reused: u64,
    bytes_written: u64,
    bytes_extra_peak: u64,
    requests: u64,
    files_changed: u64,
    files_moved: u64,
    files_removed: u64,
}

/// One step as an object.
#[derive(Serialize)]
struct Line<'a> {
    kind: &'static str,
    step: &'static str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    bytes: u64,
}

pub fn run(args: &Plan, settings: &Settings, output: &Output) -> Result<End> {
    let what = &args.what;
    let target = settings::target(&what.name)?;
    let place = Place::parse(&what.source)?;
    let opener = Opener::new(&place, &args.reach, settings, output).with_mirrors(&args.mirrors)?;
    let source = opener.read(&place)?;
    let planned = floe::sync::plan(&*source, &target, &what.dir, &settings.sync_options(what), output)?;
    for step in &planned.plan.steps {
        let line = line(step);
        output.object(&line)?;
        let from = line.from.map(|from| format!("{} -> ", safe(from))).unwrap_or_default();
        output.line(format_args!("{:<8}{from}{}", line.step, safe(line.path)))?;
    }
    let totals = planned.plan.totals();
    let unchanged = planned.plan.steps.is_empty() && planned.from == Some(planned.version);
    let report = Report {
        version: planned.version.to_string(),
        from: planned.from.map(|version| version.to_string()),
        unchanged,
        bytes_fetched: planned.bytes_fetched,
        chunks_missing: planned.chunks_missing,
        bytes_missing: planned.bytes_missing,
        bytes_reused: planned.bytes_reused,
        bytes_written: planned.bytes_written,
        bytes_extra_peak: planned.bytes_extra_peak,
        requests: planned.requests,
        files_changed: totals.files_changed,
        files_moved: totals.files_moved,
        files_removed: totals.files_removed,
    };
    output.report("plan", &report, &table(&report, &what.name, elapsed(output.elapsed())))?;
    Ok(super::end(unchanged, args.exit_unchanged))
}

fn line(step: &Step) -> Line<'_> {
    let (name, from, entry) = match step {
        Step::SetMode { want } => ("mode", None, want),
        Step::Move { from, want } => ("move", Some(from.as_str()), want),
        Step::Copy { from, want } => ("copy", Some(from.as_str()), want),
        Step::Build { want } => ("build", None, want),
        Step::Make { want } => ("make", None, want),
        Step::Delete { have } => ("delete", None, have),
    };
    Line { kind: "step", step: name, path: entry.path.as_str(), from, bytes: len(entry) }
}

fn len(entry: &Entry) -> u64 {
    match entry.kind {
        EntryKind::File { len, .. } => len,
        _ => 0,
    }
}

fn table(report: &Report, name: &str, time: String) -> Vec<(&'static str, String)> {
    let Report { files_changed, files_moved, files_removed, .. } = report;
    vec![
        ("plan", if report.unchanged { format!("{name}: nothing to do") } else { name.to_owned() }),
        ("version", report.version.clone()),
        ("files", format!("{files_changed} to change, {files_moved} to move, {files_removed} to remove")),
        (
            "fetch",
            format!(
                "{} in {} ({} missing, {})",
                bytes(report.bytes_fetched),
                count(report.requests, "request"),
                count(report.chunks_missing, "chunk"),
                bytes(report.bytes_missing)
            ),
        ),
        ("reuse", bytes(report.bytes_reused)),
        ("write", bytes(report.bytes_written)),
        ("space", format!("{} more while it runs, at most", bytes(report.bytes_extra_peak))),
        ("time", time),
    ]
}
