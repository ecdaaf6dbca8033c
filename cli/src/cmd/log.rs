//! `floe log [APP] --store STORE`

use floe::store::AppName;
use floe::{Error, Result};
use serde::Serialize;

use crate::args::Log;
use crate::output::Output;
use crate::place::{Opener, Place};
use crate::report::End;
use crate::settings::Settings;
use crate::terms::{bytes, count, date};

#[derive(Serialize)]
struct Report {
    names: u64,
    bytes_stored: Option<u64>,
}

/// One name as an object. How much a damaged version holds is not known.
#[derive(Serialize)]
struct Line {
    kind: &'static str,
    name: String,
    version: String,
    bound_unix_s: u64,
    damaged: bool,
    files: Option<u64>,
    bytes: Option<u64>,
    chunks: Option<u64>,
}

pub fn run(args: &Log, settings: &Settings, output: &Output) -> Result<End> {
    let app = args.app.as_deref().map(AppName::parse).transpose()?;
    let place = Place::parse(&args.store)?;
    let store = Opener::new(&place, &args.reach, settings, output).read(&place)?;
    let names = floe::sync::log(&*store, app.as_ref())?;
    if let (Some(app), true) = (&args.app, names.is_empty()) {
        return Err(Error::NotFound { what: format!("name of app `{app}`"), place: store.place() });
    }
    let width = names.iter().map(|(record, _)| record.name.to_string().len()).max().unwrap_or(0).max(4);
    if !names.is_empty() {
        output.line(format_args!(
            "{:<width$}  {:<12}  {:>8}  {:>10}  BOUND (UTC)",
            "NAME", "VERSION", "FILES", "SIZE"
        ))?;
    }
    for (record, totals) in &names {
        let name = record.name.to_string();
        output.line(format_args!(
            "{name:<width$}  {:<12}  {:>8}  {:>10}  {}",
            record.version.short(),
            totals.map_or("damaged".to_owned(), |totals| totals.files.to_string()),
            totals.map_or("-".to_owned(), |totals| bytes(totals.bytes)),
            date(record.bound_unix_s)
        ))?;
        output.object(&Line {
            kind: "name",
            name,
            version: record.version.to_string(),
            bound_unix_s: record.bound_unix_s,
            damaged: totals.is_none(),
            files: totals.map(|totals| totals.files),
            bytes: totals.map(|totals| totals.bytes),
            chunks: totals.map(|totals| totals.chunks),
        })?;
    }
    // A server tells its size to those who care for it, and to others their names.
    let bytes_stored = match store.stored_bytes() {
        Err(Error::Denied { .. }) => None,
        told => Some(told?),
    };
    let report = Report { names: names.len() as u64, bytes_stored };
    let on_disk = bytes_stored.map(|stored| format!(", {} on disk", bytes(stored))).unwrap_or_default();
    let footer = format!("{}{on_disk}", count(report.names, "name"));
    output.report("log", &report, &[("store", footer)])?;
    Ok(End::Done)
}
