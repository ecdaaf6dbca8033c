//! `floe prune STORE --keep-last N`

use std::time::Duration;

use floe::store::{AppName, Name};
use floe::sync::{Keep, PruneOptions};
use floe::{Error, Result};
use serde::Serialize;

use crate::args::Prune;
use crate::output::Output;
use crate::place::{Opener, Place};
use crate::report::End;
use crate::settings::Settings;
use crate::terms::{bytes, count, elapsed, safe};

/// Grace where others may be publishing meanwhile.
const GRACE_SHARED: Duration = Duration::from_secs(24 * 3600);

#[derive(Serialize)]
struct Report {
    dry_run: bool,
    unchanged: bool,
    names_kept: u64,
    names_removed: Vec<String>,
    chunks_live: u64,
    chunks_removed: u64,
    chunks_condemned: u64,
    nodes_removed: u64,
    bytes_removed: u64,
    bytes_condemned: u64,
    bytes_stored_before: u64,
    bytes_stored: u64,
}

pub fn run(args: &Prune, settings: &Settings, output: &Output) -> Result<End> {
    let place = Place::parse(&args.store)?;
    let grace = match args.grace.as_deref() {
        None if place.url().is_some() => GRACE_SHARED,
        None => Duration::ZERO,
        Some(text) => humantime::parse_duration(text).map_err(|error| Error::Usage {
            what: format!("duration `{}`", text.escape_debug()),
            reason: error.to_string(),
        })?,
    };
    let keep = Keep {
        none: args.all,
        last: args.keep_last,
        names: args.keep.iter().map(|name| Name::parse(name)).collect::<Result<_>>()?,
        app: args.app.as_deref().map(AppName::parse).transpose()?,
    };
    if keep.last.unwrap_or(0) == 0 && keep.names.is_empty() && !args.all {
        let reason = match keep.last {
            None => "needs --keep-last N or --keep NAME, else it would remove everything",
            Some(_) => "--keep-last 0 would remove everything: say --all if that is meant",
        };
        return Err(Error::Usage { what: "prune".to_owned(), reason: reason.to_owned() });
    }
    let opener = Opener::new(&place, &args.reach, settings, output);
    let store = if args.dry_run { opener.read(&place)? } else { opener.write(&place)? };
    if let (Some(app), Some(text)) = (&keep.app, &args.app)
        && store.names(Some(app))?.is_empty()
    {
        output.note(format_args!("no name of app `{}` is in {}", safe(text), safe(&store.place())));
    }
    let bytes_before = store.stored_bytes()?;
    let options = PruneOptions { keep, grace, dry_run: args.dry_run, now_unix_s: settings.now_unix_s };
    let done = floe::sync::prune(&*store, &options, output)?;
    let swept = done.swept;
    let unchanged = done.names_removed.is_empty() && swept.chunks_removed == 0 && swept.nodes_removed == 0;
    let report = Report {
        dry_run: args.dry_run,
        unchanged,
        names_kept: done.names_kept,
        names_removed: done.names_removed.iter().map(Name::to_string).collect(),
        chunks_live: swept.chunks_live,
        chunks_removed: swept.chunks_removed,
        chunks_condemned: swept.chunks_condemned,
        nodes_removed: swept.nodes_removed,
        bytes_removed: swept.bytes_removed,
        bytes_condemned: swept.bytes_condemned,
        bytes_stored_before: bytes_before,
        bytes_stored: store.stored_bytes()?,
    };
    let word = if args.dry_run { "would go" } else { "removed" };
    for name in &report.names_removed {
        output.line(format_args!("{word:<10}{name}"))?;
    }
    let mut table = vec![
        ("kept", format!("{}, {}", count(report.names_kept, "name"), count(report.chunks_live, "chunk"))),
        (
            word,
            format!(
                "{}, {} ({})",
                count(report.names_removed.len() as u64, "name"),
                count(report.chunks_removed, "chunk"),
                bytes(report.bytes_removed)
            ),
        ),
    ];
    if report.chunks_condemned > 0 {
        let later =
            format!("{} ({})", count(report.chunks_condemned, "chunk"), bytes(report.bytes_condemned));
        table.push(("later", format!("{later}, after the grace period")));
    }
    let (before, after) = (bytes(report.bytes_stored_before), bytes(report.bytes_stored));
    table.push(("on disk", if args.dry_run { after } else { format!("{after}, before {before}") }));
    table.push(("time", elapsed(output.elapsed())));
    output.report("prune", &report, &table)?;
    Ok(super::end(unchanged, args.exit_unchanged))
}
