//! What is printed: on stdout the result (text or JSON lines), on stderr how far it is and what was noticed.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use floe::{Error, Notice, Phase, Progress, Result};
use serde::Serialize;

use crate::args::Common;
use crate::meter::Meter;
use crate::terms::{count, safe};

/// Where a verb's results and progress go.
pub struct Output {
    json: bool,
    quiet: bool,
    started: Instant,
    stop: Arc<AtomicBool>,
    meter: Meter,
    notices: AtomicU64,
    out: Mutex<BufWriter<Stdout>>,
}

/// More notices than this are only counted, except with `--json`.
const NOTICES_SHOWN_MAX: u64 = 20;

impl Output {
    /// Looks at the terminal and takes over Ctrl-C.
    pub fn new(common: &Common) -> Output {
        let terminal = io::stderr().is_terminal();
        Output {
            json: common.json,
            quiet: common.quiet,
            started: Instant::now(),
            stop: crate::settings::stop_flag(),
            meter: match (common.quiet, terminal, common.json) {
                (true, ..) | (false, false, true) => Meter::none(),
                (false, true, _) => Meter::bar(),
                (false, false, false) => Meter::lines(),
            },
            notices: AtomicU64::new(0),
            out: Mutex::new(BufWriter::with_capacity(64 << 10, io::stdout())),
        }
    }

    /// The flag that Ctrl-C raises.
    pub fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// True with `--json`.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Time since the command began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// One line for people. Names in it went through [`safe`].
    pub fn line(&self, line: fmt::Arguments<'_>) -> Result<()> {
        if self.json || self.quiet {
            return Ok(());
        }
        self.meter.hidden(|| self.write(|out| writeln!(out, "{line}")))
    }

    /// A result that is printed even with --quiet, but not beside objects.
    pub fn print(&self, text: &str) -> Result<()> {
        if self.json {
            return Ok(());
        }
        self.meter.hidden(|| self.write(|out| writeln!(out, "{text}")))
    }

    /// Something to know beside the result.
    pub fn note(&self, note: fmt::Arguments<'_>) {
        if !self.json && !self.quiet {
            self.meter.hidden(|| say!("note: {note}"));
        }
    }

    /// One line for programs.
    pub fn object(&self, object: &impl Serialize) -> Result<()> {
        if !self.json {
            return Ok(());
        }
        self.write(|out| {
            serde_json::to_writer(&mut *out, object).map_err(io::Error::from)?;
            out.write_all(b"\n")
        })
    }

    /// The last object, or a table for people.
    pub fn report(&self, verb: &str, fields: &impl Serialize, table: &[(&str, String)]) -> Result<()> {
        self.meter.clear();
        let elapsed_ms = u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.object(&Report { kind: "report", verb, fields, elapsed_ms })?;
        for (label, value) in table {
            self.line(format_args!("{label:<10}{value}"))?;
        }
        let hidden = self.notices.load(Ordering::Relaxed).saturating_sub(NOTICES_SHOWN_MAX);
        if hidden > 0 && !self.json && !self.quiet {
            say!("note: and {} more; --json lists them all", count(hidden, "notice"));
        }
        self.flush()
    }

    /// Takes the bar off the terminal, before an error is told.
    pub fn clear(&self) {
        self.meter.clear();
    }

    /// Hands everything to the system. A full disk or a closed pipe behind stdout shows here at the latest.
    pub fn flush(&self) -> Result<()> {
        self.write(|out| out.flush())
    }

    fn write(&self, write: impl FnOnce(&mut BufWriter<Stdout>) -> io::Result<()>) -> Result<()> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        write(&mut out).map_err(|source| Error::Io {
            action: "write to",
            path: PathBuf::from(STDOUT),
            source,
        })
    }
}

// What errors call it; no path that a verb is given is called so from inside the engine.
const STDOUT: &str = "standard output";

/// True if what was done could not be told.
pub fn is_of_stdout(error: &Error) -> bool {
    matches!(error, Error::Io { action: "write to", path, .. } if path.as_os_str() == STDOUT)
}

impl Progress for Output {
    fn phase(&self, phase: Phase, total: Option<u64>) {
        self.meter.phase(phase, total);
    }

    fn advance(&self, amount: u64) {
        self.meter.advance(amount);
    }

    fn notice(&self, notice: Notice) {
        let told = Told::new(&notice);
        // A verb cannot fail because nobody reads its notices; the report's own write says so if it matters.
        let _ = self.object(&told).and_then(|()| if self.json { self.flush() } else { Ok(()) });
        if !self.json && !self.quiet && self.notices.fetch_add(1, Ordering::Relaxed) < NOTICES_SHOWN_MAX {
            self.meter.hidden(|| say!("note: {}", safe(&told.message)));
        }
    }

    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[derive(Serialize)]
struct Report<'a, T> {
    kind: &'static str,
    verb: &'a str,
    #[serde(flatten)]
    fields: &'a T,
    elapsed_ms: u64,
}

/// A notice as an object.
#[derive(Serialize)]
struct Told<'a> {
    kind: &'static str,
    notice: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<&'a str>,
    message: String,
}

impl Told<'_> {
    fn new(notice: &Notice) -> Told<'_> {
        let (notice, path, other, message) = match notice {
            Notice::CaseCollision { first, second } => (
                "case_collision",
                Some(first.as_str()),
                Some(second.as_str()),
                format!("`{first}` and `{second}` differ only by case: Windows and macOS hold one of them"),
            ),
            Notice::NotPortable { path, reason } => (
                "not_portable",
                Some(path.as_str()),
                None,
                format!("`{path}` does not work everywhere: {reason}"),
            ),
            Notice::NotKept { path, reason } => {
                ("not_kept", Some(path.as_str()), None, format!("`{path}`: {reason}"))
            }
            Notice::LocallyModified { path } => (
                "locally_modified",
                Some(path.as_str()),
                None,
                format!("`{path}` was changed since the last sync"),
            ),
            Notice::UpdateIgnored { what } => {
                ("update_ignored", None, None, format!("fetching piece by piece: {what}"))
            }
            Notice::StateIgnored { what } => ("state_ignored", None, None, format!("started afresh: {what}")),
            other => ("other", None, None, format!("{other:?}")),
        };
        Told { kind: "notice", notice, path, other, message }
    }
}
