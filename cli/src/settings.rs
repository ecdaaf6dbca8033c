//! What the words mean: opened stores, targets, options. Together with `output.rs` the only reader of the
//! environment and the clock.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use floe::sync::{SyncOptions, Target, VerifyOptions};
use floe::{Error, Faults, Result, limits};

use crate::args::{Common, LogAs, Serve, SyncWhat, Verb};

/// What holds for every verb.
pub struct Settings {
    /// How many threads a verb may use.
    pub threads: NonZeroUsize,
    /// Seconds since 1970, read once.
    pub now_unix_s: u64,
    /// FLOE_TOKEN: the token for the store that a command is about.
    pub token: Option<OsString>,
    /// FLOE_SSH: the program that reaches another machine, with words before those that floe adds.
    pub ssh: Vec<String>,
    /// XDG_CONFIG_HOME, or .config in HOME.
    pub config_home: Option<PathBuf>,
    /// XDG_CACHE_HOME, or .cache in HOME.
    pub cache_home: Option<PathBuf>,
}

impl Settings {
    /// Reads environment, clock and processors. `verb` says how events are written, if it is a server.
    pub fn new(common: &Common, verb: &Verb) -> Result<Settings> {
        match verb {
            Verb::Serve(Serve { verb: None, stdio, log, .. }) => {
                trace(Some(if *stdio { "warn" } else { "info" }), *log)?;
            }
            _ => trace(None, LogAs::Text)?,
        }
        let processors = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Settings {
            threads: common.threads.unwrap_or(processors),
            now_unix_s: now.as_secs(),
            token: variable("FLOE_TOKEN"),
            ssh: ssh_words(variable("FLOE_SSH"))?,
            config_home: home("XDG_CONFIG_HOME", ".config"),
            cache_home: home("XDG_CACHE_HOME", ".cache"),
        })
    }

    /// The options of sync and plan.
    pub fn sync_options(&self, what: &SyncWhat) -> SyncOptions {
        SyncOptions {
            delete: what.delete,
            overwrite: what.overwrite,
            protect: what.protect.clone(),
            rehash: what.rehash,
            deltas: None,
            threads: self.threads,
            in_flight_bytes_max: limits::IN_FLIGHT_BYTES_MAX,
            faults: Faults::default(),
        }
    }

    /// The options of verify; another share of the chunks at each run.
    pub fn verify_options(&self, subset: Option<&str>, accept_loss: bool) -> Result<VerifyOptions> {
        Ok(VerifyOptions {
            accept_loss,
            subset: subset.map_or(Ok(1.0), share)?,
            seed: self.now_unix_s,
            threads: self.threads,
            in_flight_bytes_max: limits::IN_FLIGHT_BYTES_MAX,
        })
    }
}

/// Turns Ctrl-C and a polite kill into a flag; the second one ends the process at once.
pub fn stop_flag() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // In this order: the first signal finds the flag down. Without handlers a signal just ends the process.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop));
        let _ = signal_hook::flag::register(signal, Arc::clone(&stop));
    }
    stop
}

/// A version as typed: a name or an id.
pub fn target(text: &str) -> Result<Target> {
    if !text.contains('@') && text.contains(':') {
        return Err(Error::Usage {
            what: format!("channel `{}`", text.escape_debug()),
            reason: "this build has no channels yet".to_owned(),
        });
    }
    text.parse()
}

// `5%` or `0.05`.
fn share(text: &str) -> Result<f64> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse::<f64>(),
    };
    share.ok().filter(|share| *share > 0.0 && *share <= 1.0).ok_or_else(|| Error::Usage {
        what: format!("share `{}`", text.escape_debug()),
        reason: "must be over 0% and at most 100%, as in `5%`".to_owned(),
    })
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

// Relative ones are to be ignored, as the specification of these directories has it.
fn home(name: &str, below_home: &str) -> Option<PathBuf> {
    let named = variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    named
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(below_home)).filter(|path| path.is_absolute()))
}

fn ssh_words(value: Option<OsString>) -> Result<Vec<String>> {
    let Some(value) = value else { return Ok(vec!["ssh".to_owned()]) };
    let words: Vec<_> = value.to_str().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    if words.is_empty() {
        return Err(Error::Usage {
            what: format!("FLOE_SSH `{}`", value.to_string_lossy().escape_debug()),
            reason: "must be a program, and words for it, separated by spaces".to_owned(),
        });
    }
    Ok(words)
}

// FLOE_LOG=debug, or any filter of tracing-subscriber, writes the engine's events to stderr.
fn trace(default: Option<&str>, log: LogAs) -> Result<()> {
    let Some(filter) = variable("FLOE_LOG").or_else(|| default.map(OsString::from)) else {
        return Ok(());
    };
    let filter = filter.to_string_lossy();
    let filter = tracing_subscriber::EnvFilter::try_new(&*filter).map_err(|error| Error::Usage {
        what: format!("FLOE_LOG `{}`", filter.escape_debug()),
        reason: error.to_string(),
    })?;
    let colour =
        std::env::var_os("NO_COLOR").is_none() && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let events = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log {
        LogAs::Text => events.with_ansi(colour).init(),
        LogAs::Json => events.json().init(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        for (text, want) in [("5%", Some(0.05)), ("100%", Some(1.0)), ("0.25", Some(0.25)), ("1", Some(1.0))]
        {
            assert_eq!(share(text).ok(), want, "{text}");
        }
        for text in ["0", "0%", "101%", "-5%", "nan", "inf", "", "%", "five"] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}
