//! `floe ls NAME --store STORE`

use floe::version::{Content, Entry, EntryKind};
use floe::{Error, Progress, Result};
use serde::Serialize;

use crate::args::Ls;
use crate::output::Output;
use crate::place::{Opener, Place};
use crate::report::End;
use crate::settings::{self, Settings};
use crate::terms::{bytes, safe};

#[derive(Serialize)]
struct Report {
    version: String,
    entries: u64,
    files: u64,
    bytes: u64,
    chunks: u64,
}

/// One entry as an object.
#[derive(Serialize)]
struct Line<'a> {
    kind: &'static str,
    r#type: &'static str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
}

pub fn run(args: &Ls, settings: &Settings, output: &Output) -> Result<End> {
    let target = settings::target(&args.name)?;
    let place = Place::parse(&args.store)?;
    let store = Opener::new(&place, &args.reach, settings, output).read(&place)?;
    let version = floe::sync::resolve(&*store, &target)?;
    let totals = floe::sync::list(&*store, version, &mut |entry| {
        if output.cancelled() {
            return Err(Error::Cancelled);
        }
        if output.json() { output.object(&line(&entry)) } else { show(&entry, output) }
    })?;
    let report = Report {
        version: version.to_string(),
        entries: totals.entries,
        files: totals.files,
        bytes: totals.bytes,
        chunks: totals.chunks,
    };
    let files = format!("{} ({})", totals.files, bytes(totals.bytes));
    output.report("ls", &report, &[("files", files)])?;
    Ok(End::Done)
}

fn line(entry: &Entry) -> Line<'_> {
    let empty = Line {
        kind: "entry",
        r#type: "file",
        path: entry.path.as_str(),
        mode: None,
        bytes: None,
        chunks: None,
        target: None,
    };
    match &entry.kind {
        EntryKind::File { mode, len, content } => {
            let chunks = match content {
                Content::Inline(chunks) => chunks.len() as u64,
                Content::Tree { chunks, .. } => *chunks,
            };
            Line { mode: Some(octal(*mode)), bytes: Some(*len), chunks: Some(chunks), ..empty }
        }
        EntryKind::Symlink { target } => Line { r#type: "symlink", target: Some(target), ..empty },
        EntryKind::Dir { mode } => Line { r#type: "dir", mode: Some(octal(*mode)), ..empty },
    }
}

fn show(entry: &Entry, output: &Output) -> Result<()> {
    let path = safe(entry.path.as_str());
    match &entry.kind {
        EntryKind::File { mode, len, .. } => {
            output.line(format_args!("-{} {len:>12} {path}", letters(*mode)))
        }
        EntryKind::Symlink { target } => {
            output.line(format_args!("lrwxrwxrwx {:>12} {path} -> {}", "-", safe(target)))
        }
        EntryKind::Dir { mode } => output.line(format_args!("d{} {:>12} {path}/", letters(*mode), "-")),
    }
}

fn octal(mode: u16) -> String {
    format!("{mode:04o}")
}

fn letters(mode: u16) -> String {
    "rwxrwxrwx".chars().enumerate().map(|(bit, c)| if mode & (0o400 >> bit) == 0 { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (mode, want) in
            [(0o755, "rwxr-xr-x"), (0o640, "rw-r-----"), (0, "---------"), (0o777, "rwxrwxrwx")]
        {
            assert_eq!(letters(mode), want);
        }
        assert_eq!(octal(0o644), "0644");
    }
}
