//! `floe mirror SOURCE DEST [NAME...]`

use floe::store::Name;
use floe::sync::MirrorOptions;
use floe::{Error, Result, limits};
use serde::Serialize;

use crate::args::Mirror;
use crate::output::Output;
use crate::place::{Moved, Opener, Place};
use crate::report::End;
use crate::settings::Settings;
use crate::terms::{bytes, count, elapsed};

#[derive(Serialize)]
struct Report {
    unchanged: bool,
    names: u64,
    names_unchanged: u64,
    chunks: u64,
    nodes: u64,
    bytes_copied: u64,
    #[serde(flatten)]
    moved: Moved,
}

pub fn run(args: &Mirror, settings: &Settings, output: &Output) -> Result<End> {
    let (source, dest) = (Place::parse(&args.source)?, Place::parse(&args.dest)?);
    let names = args.names.iter().map(|name| Name::parse(name)).collect::<Result<Vec<_>>>()?;
    let main = if dest.url().is_some() { &dest } else { &source };
    let opener = Opener::new(main, &args.reach, settings, output);
    if source.dir().zip(dest.dir()).is_some_and(|(a, b)| super::same_directory(a, b)) {
        return Err(Error::Conflict {
            what: format!("store `{}`", args.dest),
            place: "DEST".to_owned(),
            reason: "it is the source itself".to_owned(),
        });
    }
    let from = opener.read(&source)?;
    let to = opener.create(&dest)?;
    let options =
        MirrorOptions { threads: settings.threads, in_flight_bytes_max: limits::IN_FLIGHT_BYTES_MAX };
    let done = floe::sync::mirror(&*from, &*to, &names, &options, output)?;
    let report = Report {
        unchanged: done.names == 0,
        names: done.names,
        names_unchanged: done.names_unchanged,
        chunks: done.chunks,
        nodes: done.nodes,
        bytes_copied: done.bytes,
        moved: from.moved().and(to.moved()),
    };
    let copied = format!(
        "{} in {} and {}",
        bytes(report.bytes_copied),
        count(report.chunks, "chunk"),
        count(report.nodes, "node")
    );
    let mut table = vec![
        ("mirrored", format!("{}, {} there already", count(report.names, "name"), report.names_unchanged)),
        ("copied", copied),
    ];
    table.extend(report.moved.line());
    table.push(("time", elapsed(output.elapsed())));
    output.report("mirror", &report, &table)?;
    Ok(super::end(report.unchanged, args.exit_unchanged))
}
