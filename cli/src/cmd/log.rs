//! `floe log [APP] --store STORE`

use floe::Result;
use floe::store::AppName;
use serde::Serialize;

use crate::args::Log;
use crate::output::Output;
use crate::report::End;
use crate::settings;
use crate::terms::{bytes, date};

#[derive(Serialize)]
struct Report {
    names: u64,
}

/// One name as an object.
#[derive(Serialize)]
struct Line {
    kind: &'static str,
    name: String,
    version: String,
    bound_unix_s: u64,
    files: u64,
    bytes: u64,
    chunks: u64,
}

pub fn run(args: &Log, output: &Output) -> Result<End> {
    let app = args.app.as_deref().map(AppName::parse).transpose()?;
    let store = settings::open(settings::place(&args.store)?)?;
    let names = floe::sync::log(&*store, app.as_ref())?;
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
            totals.files,
            bytes(totals.bytes),
            date(record.bound_unix_s)
        ))?;
        output.object(&Line {
            kind: "name",
            name,
            version: record.version.to_string(),
            bound_unix_s: record.bound_unix_s,
            files: totals.files,
            bytes: totals.bytes,
            chunks: totals.chunks,
        })?;
    }
    output.report("log", &Report { names: names.len() as u64 }, &[])?;
    Ok(End::Done)
}
