//! How a command ends: the exit code, and for errors the message, its causes and the cure. The only place that
//! knows cures in the words of the command line.

use std::error::Error as _;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use floe::{Error, ErrorClass, Result};
use serde::Serialize;

use crate::args::Verb;
use crate::output::{self, Output};
use crate::terms::{count, safe};

/// How a verb ends when it does not fail.
pub enum End {
    /// Done.
    Done,
    /// There was nothing to do, and the caller asked to be told by the exit code.
    Unchanged,
    /// A verify found damage and told it.
    Damaged {
        /// How many things.
        things: u64,
        /// Store or directory.
        place: String,
        /// It tried to mend them.
        repairing: bool,
        /// Names may have been lost, and the source may not be a copy of the store.
        doubt: bool,
    },
}

/// What was asked for: the same error has another cure in another verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing<'a> {
    /// publish
    Publish {
        /// The directory.
        dir: &'a Path,
        /// The store, as typed.
        store: &'a Path,
    },
    /// sync
    Sync,
    /// verify
    Verify,
    /// verify with --repair
    Repair,
    /// prune
    Prune,
    /// mirror
    Mirror,
    /// Anything else changes nothing.
    Look,
}

impl<'a> From<&'a Verb> for Doing<'a> {
    fn from(verb: &'a Verb) -> Doing<'a> {
        match verb {
            Verb::Publish(args) => Doing::Publish { dir: &args.dir, store: Path::new(&args.store) },
            Verb::Sync(_) => Doing::Sync,
            Verb::Verify(args) if args.repair.is_some() => Doing::Repair,
            Verb::Verify(_) => Doing::Verify,
            Verb::Prune(_) => Doing::Prune,
            Verb::Mirror(_) => Doing::Mirror,
            _ => Doing::Look,
        }
    }
}

#[derive(Serialize)]
struct Told<'a> {
    kind: &'static str,
    class: &'a str,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    exit: u8,
}

/// Tells how it ended; returns the exit code.
pub fn exit(result: Result<End>, doing: Doing<'_>, output: &Output) -> u8 {
    output.clear();
    match result {
        Ok(End::Done) => 0,
        Ok(End::Unchanged) => 3,
        Ok(End::Damaged { things, place, repairing, doubt }) => {
            let what = if things == 1 { "is damaged" } else { "are damaged" };
            say!("error: {} of {} {what}", count(things, "part"), safe(&place));
            let cure = if doubt {
                "repair from a copy of this store; --accept-loss takes the names that SOURCE has for all there were"
            } else if repairing {
                "the source lacks sound content for these; repair from another store, or publish the tree again"
            } else {
                "mend it from a store that has the same versions: floe verify PLACE --repair SOURCE"
            };
            say!("hint: {cure}");
            exit_code(ErrorClass::Damaged)
        }
        // Whoever read our output has seen enough.
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => failed(&error, doing, output),
    }
}

/// Tells what the argument parser found wrong, or prints the help that was asked for.
pub fn usage(error: &clap::Error, json: bool) -> ExitCode {
    let code = u8::try_from(error.exit_code()).unwrap_or(2);
    // Nothing is left to do when even this cannot be written.
    let _ = error.print();
    if json && code != 0 {
        let text = error.to_string();
        let first: Vec<_> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        let message = first.join(" ").trim_start_matches("error: ").to_owned();
        let hint = Some("floe --help, floe VERB --help".to_owned());
        let told = Told { kind: "error", class: "usage", message, causes: Vec::new(), hint, exit: code };
        if let Ok(line) = serde_json::to_string(&told) {
            let _ = writeln!(io::stdout(), "{line}");
        }
    }
    ExitCode::from(code)
}

fn failed(error: &Error, doing: Doing<'_>, output: &Output) -> u8 {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    // The disk behind standard output is not that of the store or the directory.
    let class = if output::is_of_stdout(error) { ErrorClass::Failure } else { error.class() };
    let told = Told {
        kind: "error",
        class: class_name(class),
        message: error.to_string(),
        causes,
        hint: cure(error, doing),
        exit: exit_code(class),
    };
    if matches!(error, Error::Cancelled) {
        say!("cancelled; run the same command again to continue");
    } else {
        say!("error: {}", safe(&told.message));
        for cause in &told.causes {
            say!("caused by: {}", safe(cause));
        }
        if let Some(hint) = &told.hint {
            say!("hint: {}", safe(hint));
        }
    }
    // The error is told on stderr already; stdout may be what failed.
    let _ = output.object(&told).and_then(|()| output.flush());
    told.exit
}

fn exit_code(class: ErrorClass) -> u8 {
    match class {
        ErrorClass::Usage => 2,
        ErrorClass::Damaged => 4,
        ErrorClass::Network => 5,
        ErrorClass::Conflict => 6,
        ErrorClass::NoSpace => 10,
        ErrorClass::Cancelled => 130,
        _ => 1,
    }
}

fn class_name(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Usage => "usage",
        ErrorClass::Damaged => "damaged",
        ErrorClass::Conflict => "conflict",
        ErrorClass::NoSpace => "no_space",
        ErrorClass::Network => "network",
        ErrorClass::Denied => "denied",
        ErrorClass::Cancelled => "cancelled",
        _ => "failure",
    }
}

const LOST_FORMAT: &str = "`floe verify STORE --repair SOURCE` writes it anew after a look into the database; without a \
                           SOURCE: printf 'floe store 1\\n' > STORE/FORMAT";

fn cure(error: &Error, doing: Doing<'_>) -> Option<String> {
    if output::is_of_stdout(error) {
        return Some(unwritten(doing).to_owned());
    }
    if error.class() == ErrorClass::NoSpace {
        return Some(no_space(doing).to_owned());
    }
    let cure = match error {
        Error::Io { path, source, .. } => return io_cure(path, source.kind(), doing).map(str::to_owned),
        Error::NotFound { what, place } if what.starts_with("name of app ") => {
            format!("`floe log --store STORE`, without an app, lists the names in {place}")
        }
        Error::NotFound { what, place } if what.starts_with("name ") => {
            format!("`floe log --store STORE` lists the names in {place}")
        }
        Error::NotFound { what, .. } if what.starts_with("store") => {
            "check the path; `floe publish DIR --store STORE --name NAME` makes a store".to_owned()
        }
        Error::NotFound { what, .. } if what.starts_with("token") => {
            "`floe serve token list STORE` shows the tokens that there are".to_owned()
        }
        Error::NotFound { what, .. } if what.starts_with("floe server") => CHECK_URL.to_owned(),
        // A directory that does not know any more which version it is.
        Error::NotFound { what, .. } if what == "version" => SYNC_AGAIN.to_owned(),
        Error::NotFound { .. } => "`floe log --store STORE` lists what a store has".to_owned(),
        Error::Malformed { kind: "replica format", .. } => {
            "if no newer floe wrote this file, remove it and run `floe sync` on this directory".to_owned()
        }
        Error::Malformed { kind, .. } if kind.starts_with("replica ") => SYNC_AGAIN.to_owned(),
        Error::Untrusted { reason, .. } => untrusted(reason).to_owned(),
        Error::Malformed { kind: "answer", .. } => CHECK_URL.to_owned(),
        Error::Limit { what, .. } if what.contains("of an answer from ") => CHECK_URL.to_owned(),
        Error::Damaged { place, .. } if place.starts_with("what was sent to ") => ON_THE_WAY.to_owned(),
        Error::Damaged { place, .. } | Error::Malformed { place, .. } if is_of_replica(place) => {
            SYNC_AGAIN.to_owned()
        }
        Error::Limit { what, .. } if is_of_replica(what) => SYNC_AGAIN.to_owned(),
        Error::Malformed { kind: "store format", .. } => format!("if no newer floe wrote it: {LOST_FORMAT}"),
        Error::Damaged { what, .. } if what == "file FORMAT" => LOST_FORMAT.to_owned(),
        Error::Damaged { what, .. } => damaged(what, doing).to_owned(),
        Error::Malformed { .. } | Error::Limit { .. } => damaged("", doing).to_owned(),
        Error::TooNew { .. } => "install a newer floe; this one has changed nothing".to_owned(),
        Error::UnsafePath { .. } => {
            "no floe publishes such a path: find out who wrote this store before you use it".to_owned()
        }
        Error::Unpublishable { path, .. } if path.file_name().is_some_and(|name| name == ".floeignore") => {
            "put a plain UTF-8 file in its place, or remove it; to leave it out does not turn off its rules".to_owned()
        }
        Error::Unpublishable { .. } => {
            "leave it out with --exclude GLOB or a line in .floeignore, or remove it".to_owned()
        }
        Error::Changed { .. } => match doing {
            Doing::Publish { .. } => "publish again when nothing writes to the directory".to_owned(),
            _ => "run the same command again when nothing else writes to the directory".to_owned(),
        },
        Error::Conflict { what, reason, .. } => conflict(what, reason).to_owned(),
        Error::Locked { pid: Some(pid), place } => {
            let served = if place.starts_with("store") { "; if it is `floe serve`, give the URL that it serves" } else { "" };
            format!("wait until process {pid} is done (`ps -p {pid}` shows it), and run this again{served}")
        }
        Error::Locked { pid: None, .. } => {
            "wait until those who read or write it are done, and run this again".to_owned()
        }
        Error::Network { source, .. } => network(&**source, doing).to_owned(),
        Error::Denied { what, reason, .. } => denied(what, reason).to_owned(),
        Error::Store { .. } => match doing {
            Doing::Verify | Doing::Repair => "check the disk and the permissions of the store's files",
            _ => "check the disk and the permissions of the store's files; `floe verify STORE` checks its content",
        }
        .to_owned(),
        Error::Usage { what, .. } if what.starts_with("channel ") => {
            "name a version, as in game@1.4.2; `floe log --store STORE` lists them".to_owned()
        }
        Error::Usage { what, .. } if what.starts_with("store ") => {
            "give a directory, http(s)://HOST[:PORT][/PREFIX] or ssh://[USER@]HOST[:PORT]/PATH; a token goes into \
             --token-file FILE, FLOE_TOKEN or ~/.config/floe/credentials"
                .to_owned()
        }
        Error::Usage { what, reason } if is_secret(what) && reason.contains("its mode is") => {
            let path = what.trim_start_matches("credentials file ").trim_start_matches("token file ");
            format!("chmod 600 {}", path.replace('`', "'"))
        }
        Error::Usage { what, .. } if what.starts_with("credentials file") => {
            "a line is a URL, a space and a token; lines that begin with # are skipped".to_owned()
        }
        Error::Usage { what, reason } if what.starts_with("address ") && reason.contains("unencrypted") => {
            "use https:// or ssh://, or give --insecure where nobody else can read what is sent".to_owned()
        }
        Error::Usage { what, .. } if what.contains(" in line ") => {
            "mend this line; it is in the syntax of .gitignore".to_owned()
        }
        Error::Usage { .. } => "`floe VERB --help` shows what is expected".to_owned(),
        Error::Cancelled => "run the same command again to continue".to_owned(),
        _ => return None,
    };
    Some(cure)
}

fn network(cause: &(dyn std::error::Error + 'static), doing: Doing) -> &'static str {
    let words = cause.to_string();
    let has = |parts: &[&str]| parts.iter().any(|part| words.contains(part));
    if has(&["it speaks TLS"]) {
        "give the URL with https:// in place of http://"
    } else if has(&["program to connect"]) {
        "try `ssh HOST floe --version`: it must work without questions; --ssh-floe COMMAND says where floe is there, \
         FLOE_SSH which ssh to use here"
    } else if has(&["refused"]) {
        "nothing listens there: check the address and the port, and that `floe serve` runs"
    } else if has(&["corrupt message", "InvalidContentType"]) {
        "the other side does not speak TLS: use http://, or serve with --tls-cert and --tls-key"
    } else if doing == Doing::Look {
        "check the address and the network, and run this again"
    } else {
        "check the address and the network, and run this again: it continues where it stopped"
    }
}

fn untrusted(reason: &str) -> &'static str {
    if reason.contains("issuer") {
        "if the server has a certificate of your own authority, give that authority's with --ca FILE"
    } else if reason.contains("host name") {
        "the host in the URL must be one of the certificate's names"
    } else if reason.contains("expired") || reason.contains("not valid yet") {
        "the server needs a new certificate, or a clock is wrong, there or here"
    } else {
        "the server needs another certificate; --ca FILE names an authority of your own"
    }
}

const CHECK_URL: &str =
    "check the URL: something else than floe answers there, or something between changes the answers";
const ON_THE_WAY: &str =
    "nothing is wrong with the store: something between changes what is sent; use https:// or ssh://";

fn denied(what: &str, reason: &str) -> &'static str {
    if reason.contains("ermission denied") || reason.contains("Host key") {
        "try `ssh HOST true`: it must work without questions, by a key or an agent"
    } else if what == "a connection" {
        "the server wants a certificate: give --client-cert FILE and --client-key FILE"
    } else {
        "give a token that allows it by --token-file FILE, in FLOE_TOKEN or in ~/.config/floe/credentials; `floe serve \
         token create` makes one where the store is"
    }
}

const SYNC_AGAIN: &str =
    "run `floe sync` on this directory: it reads every file, keeps what is right and records it again";

// Damage in the state of a directory, which the next sync mends.
fn is_secret(what: &str) -> bool {
    what.starts_with("credentials file") || what.starts_with("token file")
}

fn is_of_replica(place: &str) -> bool {
    place.contains("/.floe/")
}

fn unwritten(doing: Doing<'_>) -> &'static str {
    match doing {
        Doing::Look | Doing::Verify => {
            "make room where standard output goes to, and run the same command again"
        }
        _ => "what was asked for is done; only its report could not be written",
    }
}

fn no_space(doing: Doing<'_>) -> &'static str {
    match doing {
        Doing::Publish { .. } => {
            "free some space and publish again; whole tables of it (64 MiB) that the store has are not stored again"
        }
        Doing::Sync => {
            "free some space and sync again; files that were built are kept. `floe plan` shows how much it takes"
        }
        Doing::Prune => "free a little space first: removing writes down what goes before anything is freed",
        _ => "free some space and run the same command again",
    }
}

fn io_cure(path: &Path, kind: io::ErrorKind, doing: Doing<'_>) -> Option<&'static str> {
    match (kind, doing) {
        (io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists, _)
            if path.is_symlink() && !path.exists() =>
        {
            Some("this is a symlink that leads nowhere: mend it or remove it, or give another path")
        }
        (io::ErrorKind::NotFound, _) => Some("check the spelling of the path"),
        (io::ErrorKind::NotADirectory, Doing::Publish { dir, .. }) if path == dir => {
            Some("give the directory that holds what is to be published; a single file is not")
        }
        (io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists, _) => {
            Some("a file is where a directory should be: move it away, or give another path")
        }
        (io::ErrorKind::PermissionDenied, Doing::Publish { dir, store })
            if path.starts_with(dir) && !path.starts_with(store) =>
        {
            Some("run as a user who may do that; --exclude GLOB leaves a path out")
        }
        (io::ErrorKind::PermissionDenied, _) => {
            Some("run as a user who may do that, or change the permissions of this path")
        }
        (io::ErrorKind::ReadOnlyFilesystem, _) => Some(
            "nothing can be written there: copy it, or mount it for writing; reading verbs work as it is",
        ),
        _ => None,
    }
}

fn damaged(what: &str, doing: Doing<'_>) -> &'static str {
    match (what, doing) {
        ("database" | "store" | "list of names", Doing::Repair) => {
            "if this is SOURCE, mend it first or name another; else publish the trees into a new store, or put back a copy"
        }
        ("list of names", _) => {
            "`floe verify STORE --repair SOURCE` keeps the names that can be read and takes others from SOURCE; until then sync by id"
        }
        ("database" | "store", _) => {
            "`floe verify STORE --repair SOURCE` makes the store anew from what is readable, and takes the rest from SOURCE"
        }
        (_, Doing::Verify | Doing::Repair) => {
            "this stopped the check, so nothing can mend it in place: publish the trees again into a new store"
        }
        (_, Doing::Sync) => {
            "DIR is as it was; `floe verify STORE --repair SOURCE` mends a store from another one"
        }
        (_, Doing::Prune) => {
            "`floe verify STORE --repair SOURCE` mends it from another store; then prune again"
        }
        _ => "`floe verify STORE` lists all damage; with --repair SOURCE it mends it from another store",
    }
}

fn conflict(what: &str, reason: &str) -> &'static str {
    if reason.contains("lie in a synced directory") {
        "give a directory outside: a sync with --delete would remove the store"
    } else if what == "new store" {
        "give an empty directory, one that does not exist, or a store"
    } else if reason.contains("is a floe store") {
        "the store is SOURCE; for DIR give a directory that is to become a copy of the version"
    } else if what.starts_with("name ") {
        "a name means the same bytes for good: publish under a new name"
    } else if reason.contains("interrupted") {
        "run `floe sync` on this directory: it finishes the switch to the version that was asked for"
    } else if reason.contains("no version is recorded") {
        "sync to the version that the directory had, and then to this one: what is equal is adopted; or have them replaced \
         with --overwrite"
    } else if reason.contains("switch that has begun") {
        "move it away and run this again, or have it replaced with --overwrite"
    } else if what.starts_with("file ") {
        "move it away, keep it with --protect GLOB, or have it replaced with --overwrite"
    } else {
        "move it away and run this again"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish() -> Doing<'static> {
        Doing::Publish { dir: Path::new("tree"), store: Path::new("tree/store") }
    }

    fn io_error(kind: io::ErrorKind) -> Error {
        Error::Io { action: "open", path: "x".into(), source: kind.into() }
    }

    #[test]
    fn each_class_has_its_exit_code_and_a_cure() {
        let text = || "x".to_owned();
        let cause = || Box::new(io::Error::other("No space left on device"));
        let rows = [
            (io_error(io::ErrorKind::NotFound), 1),
            (io_error(io::ErrorKind::PermissionDenied), 1),
            (io_error(io::ErrorKind::StorageFull), 10),
            (io_error(io::ErrorKind::QuotaExceeded), 10),
            (Error::NotFound { what: "name `a@1`".into(), place: text() }, 1),
            (Error::Damaged { what: text(), place: text(), reason: text() }, 4),
            (Error::Malformed { kind: "node", place: text(), reason: text() }, 4),
            (Error::TooNew { kind: "store", place: text(), found: 2, supported: 1 }, 1),
            (Error::Limit { what: text(), actual: 2, max: 1 }, 4),
            (Error::UnsafePath { path: text(), reason: "x" }, 4),
            (Error::Unpublishable { path: "x".into(), reason: "x" }, 1),
            (Error::Changed { path: "x".into() }, 1),
            (Error::Conflict { what: "name `a@1`".into(), place: text(), reason: text() }, 6),
            (Error::Locked { place: text(), pid: Some(7) }, 6),
            (Error::Locked { place: text(), pid: None }, 6),
            (Error::Store { action: "open", place: text(), source: "bad".into() }, 1),
            (Error::Store { action: "write", place: text(), source: cause() }, 10),
            (Error::Usage { what: text(), reason: text() }, 2),
            (Error::Network { action: "reach", place: text(), source: "connection refused".into() }, 5),
            (Error::Denied { what: text(), place: text(), reason: text() }, 1),
            (Error::Cancelled, 130),
        ];
        for (error, want) in rows {
            assert_eq!(exit_code(error.class()), want, "{error:?}");
            for doing in [publish(), Doing::Sync, Doing::Verify, Doing::Repair, Doing::Prune, Doing::Look] {
                assert!(cure(&error, doing).is_some(), "{error:?}");
            }
        }
    }

    #[test]
    fn cures_fit_the_verb() {
        let at = |path: &str, kind: io::ErrorKind| Error::Io {
            action: "open",
            path: path.into(),
            source: kind.into(),
        };
        let denied = || at("tree/x", io::ErrorKind::PermissionDenied);
        let damaged =
            || Error::Damaged { what: "node".into(), place: "store `x`".into(), reason: "bad".into() };
        let database =
            || Error::Damaged { what: "database".into(), place: "store `x`".into(), reason: "bad".into() };
        let changed = || Error::Changed { path: "x".into() };
        let conflict = |what: &str, reason: &str| Error::Conflict {
            what: what.into(),
            place: "replica `x`".into(),
            reason: reason.into(),
        };
        // What the cure says, and what it must not say.
        let rows = [
            (denied(), publish(), "--exclude", "--protect"),
            (denied(), Doing::Sync, "permissions", "--exclude"),
            (at("tree/store/db", io::ErrorKind::PermissionDenied), publish(), "permissions", "--exclude"),
            (at("other/store", io::ErrorKind::PermissionDenied), publish(), "permissions", "--exclude"),
            (at("tree", io::ErrorKind::NotADirectory), publish(), "single file", "move it away"),
            (at("tree/store", io::ErrorKind::NotADirectory), publish(), "move it away", "single file"),
            (at("x", io::ErrorKind::AlreadyExists), Doing::Sync, "move it away", "single file"),
            (changed(), publish(), "publish again", "same command"),
            (changed(), Doing::Sync, "same command", "publish"),
            (damaged(), Doing::Look, "floe verify STORE", "DIR"),
            (damaged(), Doing::Sync, "DIR is as it was", "lists"),
            (damaged(), Doing::Verify, "publish", "floe verify"),
            (damaged(), Doing::Repair, "publish", "floe verify"),
            (io_error(io::ErrorKind::StorageFull), publish(), "publish again", "sync"),
            (database(), publish(), "--repair SOURCE", "new store"),
            (database(), Doing::Repair, "new store", "floe verify"),
            (io_error(io::ErrorKind::StorageFull), Doing::Sync, "sync again", "publish"),
            (conflict("the replica", "a switch was interrupted; x"), Doing::Verify, "floe sync", "verify"),
            (conflict("the directory", "this directory is a floe store"), Doing::Sync, "SOURCE", "move"),
            (conflict("file `a`", "no version wrote it"), Doing::Sync, "--overwrite", "publish"),
            (conflict("`a`", "it is yours"), Doing::Sync, "move it away", "publish"),
            (conflict("file `a`", "x no version is recorded x"), Doing::Sync, "had", "move"),
            (conflict("`a`", "x a switch that has begun"), Doing::Sync, "--overwrite", "--protect"),
        ];
        for (error, doing, says, not) in rows {
            let cure = cure(&error, doing).unwrap_or_default();
            assert!(cure.contains(says) && !cure.contains(not), "{doing:?} {error:?}: {cure}");
        }
        let state = Error::Malformed { kind: "replica state", place: "x".into(), reason: "bad".into() };
        assert!(cure(&state, Doing::Verify).is_some_and(|cure| cure.contains("floe sync")));
        let place = || "`dir/.floe/nodes`".to_owned();
        let lost = || Error::Damaged { what: "node".into(), place: place(), reason: "missing".into() };
        let long = || Error::Limit { what: "length of `dir/.floe/state`".into(), actual: 2, max: 1 };
        let format = || Error::Malformed { kind: "replica format", place: place(), reason: "bad".into() };
        let rules = |path: &str| Error::Unpublishable { path: path.into(), reason: "bad" };
        let line =
            || Error::Usage { what: "glob `[` in line 2 of `.floeignore`".into(), reason: "bad".into() };
        for (error, says, not) in [
            (lost(), "floe sync", "publish"),
            (long(), "floe sync", "publish"),
            (format(), "remove it", "publish"),
            (rules("d/.floeignore"), "UTF-8", "--exclude"),
            (rules("d/x"), "--exclude", "UTF-8"),
            (line(), "this line", "--help"),
        ] {
            for doing in [Doing::Verify, Doing::Repair, Doing::Look] {
                let cure = cure(&error, doing).unwrap_or_default();
                assert!(cure.contains(says) && !cure.contains(not), "{doing:?} {error:?}: {cure}");
            }
        }
    }
}
