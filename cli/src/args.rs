//! What was typed. The doc comments are the help, so they speak to someone who sees floe for the first time.

mod reach;
mod serve;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use floe::delta::Profile;

pub use reach::{Mirrors, Reach};
pub use serve::{LogAs, Serve, ServeVerb, Token, TokenCreate, TokenVerb, TokensAt};

/// Publish trees of files, and bring directories to a published version by moving only what changed
///
/// floe cuts every file into chunks and keeps each distinct chunk once, in a store (a directory that floe makes).
/// A store on another machine is reached by its URL: https://HOST/, served by `floe serve`, or ssh://HOST/PATH.
/// A published tree has a name, like `game@1.4.2`, that means the same bytes for good.
/// `floe sync` brings any directory to a published version; chunks that the directory already has are reused.
#[derive(Debug, Parser)]
#[command(name = "floe", version, propagate_version = true, subcommand_required = true)]
#[command(arg_required_else_help = true, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "\
A first session:
  floe publish ./build-1 --store ./store --name game@1.0
  floe publish ./build-2 --store ./store --name game@1.1     stores only what is new
  floe sync ./store game@1.0 ./play                          ./play is now equal to ./build-1
  floe sync ./store game@1.1 ./play                          moves only the changed chunks
  floe verify ./play                                         re-reads every file

Between machines:
  floe serve ./store --listen 127.0.0.1:7400                 on one
  floe sync http://127.0.0.1:7400 game@1.1 ./play            on the same, or through a tunnel
  floe sync ssh://build@host/srv/store game@1.1 ./play       on another; needs no server there

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 nothing to do (only with --exit-unchanged),
4 damaged, 5 network, 6 conflict or locked, 10 no space left, 130 cancelled.")]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// Print one JSON object per line; the last one is the report
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but errors (with --json: the objects, too)
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Use N threads, up to 1024 [default: one per processor]
    #[arg(long, value_name = "N", global = true, value_parser = threads, allow_negative_numbers = true)]
    pub threads: Option<NonZeroUsize>,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    Publish(Publish),
    Sync(Sync),
    Plan(Plan),
    Diff(Diff),
    Ls(Ls),
    Log(Log),
    Verify(Verify),
    Prune(Prune),
    Mirror(Mirror),
    Serve(Serve),
    Completions(Completions),
    Man(Man),
}

/// Put a directory into a store under a name
///
/// Reads every file below DIR, stores the chunks that the store lacks, and binds the name to the result.
/// All or nothing: if anything fails, the name is not bound, and running it again continues.
/// A file that did not change since the last publish from the same DIR is not read again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  floe publish ./build --store ./store --name game@1.4.2
  floe publish ./build --store ./store --name game@1.4.2 --exclude '*.pdb' --exclude /logs
  floe publish ./build --store https://floe.example.com --name game@1.4.2

A file `.floeignore` in any directory leaves out what it lists, in the syntax of .gitignore.
Permissions, symbolic links and empty directories are kept; owners and times are not.")]
pub struct Publish {
    /// The directory to publish
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The store: a directory, which is created if it does not exist, or a URL (http, https, ssh)
    #[arg(long, value_name = "STORE")]
    pub store: String,
    /// The name to bind, as APP@LABEL; a name is never bound to anything else later
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// zstd compression, 1 (fast) to 19 (small); 0 or `none` stores chunks as they are
    #[arg(long, value_name = "N", default_value = "3", value_parser = level, allow_negative_numbers = true)]
    pub level: u8,
    /// Leave out paths that match, in the syntax of .gitignore; may be given many times
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Read every file, even those that look unchanged, and what the store has of them; put again what is damaged there
    ///
    /// Without it the records of the store are trusted: a chunk that they know is not put again.
    #[arg(long)]
    pub rehash: bool,
    /// Exit with 3 if the name was already bound to this very tree
    #[arg(long)]
    pub exit_unchanged: bool,
    #[command(flatten)]
    pub reach: Reach,
}

/// Bring a directory to a published version
///
/// Fetches only the chunks that DIR does not have in any of its files, builds the changed files beside the tree,
/// and then switches to them. Stopped at any moment, DIR is the old version or the new one after the next run.
/// Files in DIR that no version wrote stay where they are, unless --delete is given.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  floe sync ./store game@1.4.2 ./play
  floe sync ./store game@1.4.2 ./play --delete --protect 'saves/**'
  floe plan ./store game@1.4.2 ./play                        what it would do
  floe sync https://floe.example.com game@1.4.2 ./play
  floe sync ssh://build@host/srv/store game@1.4.2 ./play

DIR is created if it does not exist. floe keeps its own state in DIR/.floe.")]
pub struct Sync {
    #[command(flatten)]
    pub what: SyncWhat,
    /// How a server may send what is new: as chunks, or as deltas against the version in DIR, which are smaller and take it more time
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Deltas::None)]
    pub deltas: Deltas,
    /// Exit with 3 if DIR already was that version
    #[arg(long)]
    pub exit_unchanged: bool,
    #[command(flatten)]
    pub reach: Reach,
    #[command(flatten)]
    pub mirrors: Mirrors,
}

/// Show what sync would do, and touch nothing
///
/// Lists every step (build, copy, move, delete, make, mode) and what it costs: bytes to fetch, bytes reused,
/// bytes written, requests, and the most extra space on disk.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  floe plan ./store game@1.4.2 ./play --delete")]
pub struct Plan {
    #[command(flatten)]
    pub what: SyncWhat,
    /// Exit with 3 if there would be nothing to do
    #[arg(long)]
    pub exit_unchanged: bool,
    #[command(flatten)]
    pub reach: Reach,
    #[command(flatten)]
    pub mirrors: Mirrors,
}

#[derive(Debug, clap::Args)]
pub struct SyncWhat {
    /// The store to take the version from: a directory or a URL (http, https, ssh)
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The version: a name like game@1.4.2, or a version id of 64 hex digits
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The directory to bring to that version
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Remove files in DIR that no version wrote
    #[arg(long)]
    pub delete: bool,
    /// Replace files in DIR that no version wrote, where the version has something else; otherwise they are a conflict
    #[arg(long)]
    pub overwrite: bool,
    /// Never touch paths that match, in the syntax of .gitignore; may be given many times
    #[arg(long, value_name = "GLOB")]
    pub protect: Vec<String>,
    /// Read every file in DIR, even those that look unchanged
    #[arg(long)]
    pub rehash: bool,
}

/// How new chunks are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Deltas {
    /// As the server holds them
    None,
    /// With zstd against old content, in seconds for 100 MB
    Fast,
    /// Smaller, at some 5 MB/s
    Small,
    /// Smaller again, at some 3 MB/s
    Smallest,
}

impl Deltas {
    pub fn profile(self) -> Option<Profile> {
        match self {
            Deltas::None => None,
            Deltas::Fast => Some(Profile::Fast),
            Deltas::Small => Some(Profile::Small),
            Deltas::Smallest => Some(Profile::Smallest),
        }
    }
}

/// Show how two versions differ
///
/// Lists every path that differs: A added, M changed, D removed, R moved, C copied from another file. Then says how
/// many chunks the first version lacks, and how large the update is.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  floe diff game@1.4.1 game@1.4.2 --store ./store")]
pub struct Diff {
    /// The version to start from: a name or a version id
    #[arg(value_name = "A")]
    pub a: String,
    /// The version to end at: a name or a version id
    #[arg(value_name = "B")]
    pub b: String,
    /// The store that holds both: a directory or a URL (http, https, ssh)
    #[arg(long, value_name = "STORE")]
    pub store: String,
    /// Exit with 3 if they are equal
    #[arg(long)]
    pub exit_unchanged: bool,
    #[command(flatten)]
    pub reach: Reach,
}

/// List the files of a version
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  floe ls game@1.4.2 --store ./store")]
pub struct Ls {
    /// The version: a name or a version id
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The store that holds it: a directory or a URL (http, https, ssh)
    #[arg(long, value_name = "STORE")]
    pub store: String,
    #[command(flatten)]
    pub reach: Reach,
}

/// List the names in a store, newest last
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "floe log [OPTIONS] --store <STORE> [APP]",
    after_help = "\
Examples:
  floe log --store ./store
  floe log game --store ./store                              only names that start with game@"
)]
pub struct Log {
    /// Only names of this app: the part before the @
    #[arg(value_name = "APP")]
    pub app: Option<String>,
    /// The store: a directory or a URL (http, https, ssh)
    #[arg(long, value_name = "STORE")]
    pub store: String,
    #[command(flatten)]
    pub reach: Reach,
}

/// Re-read a store or a synced directory, and report what is damaged
///
/// Every chunk and file that is read is hashed again and compared with what it should be. Exits with 4 if anything
/// is damaged, names it, and says what needs it. With --repair, damaged parts are fetched again from SOURCE.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  floe verify ./play                                         a directory that floe sync made
  floe verify ./store --subset 5%                            a store; another 5% each time
  floe verify ./play --repair ./store                        fetch again what is damaged")]
pub struct Verify {
    /// A store (a directory or a URL), or a directory that floe sync made
    #[arg(value_name = "STORE|DIR")]
    pub place: String,
    /// Read only this share of a store's chunks, chosen at random
    #[arg(long, value_name = "PERCENT", allow_hyphen_values = true)]
    pub subset: Option<String>,
    /// Mend what is damaged, with content from this store: a directory or a URL
    #[arg(long, value_name = "SOURCE")]
    pub repair: Option<String>,
    /// After damage that names may have been lost with: take those that SOURCE does not have for gone
    #[arg(long, requires = "repair")]
    pub accept_loss: bool,
    #[command(flatten)]
    pub reach: Reach,
    #[command(flatten)]
    pub mirrors: Mirrors,
}

/// Remove old names from a store, and the chunks that no other version needs
///
/// A name stays if any --keep rule keeps it; at least one rule must be given. Rules that keep no name at all are refused,
/// but for --all. Versions in synced directories are not touched.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  floe prune ./store --keep-last 3 --dry-run                 what it would remove
  floe prune ./store --keep-last 3 --keep game@1.0
  floe prune ./store --keep-last 1 --app game                judges only names that start with game@
  floe prune ./store --all --app game                        removes all of them")]
pub struct Prune {
    /// The store: a directory or a URL (http, https, ssh)
    #[arg(value_name = "STORE")]
    pub store: String,
    /// Keep the newest N names of every app
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub keep_last: Option<u64>,
    /// Keep this name; may be given many times
    #[arg(long, value_name = "NAME")]
    pub keep: Vec<String>,
    /// Remove every name
    #[arg(long, conflicts_with_all = ["keep_last", "keep"])]
    pub all: bool,
    /// Judge only names of this app: the part before the @
    #[arg(long, value_name = "APP")]
    pub app: Option<String>,
    /// Keep chunks that nothing needs for so long before they are removed, as in `2h` or `7days`
    ///
    /// [default: 0s for a directory, 24h for a URL] One process at a time changes a directory, so 0s is safe there:
    /// what no name needs is removed at once. Behind a server others may be publishing meanwhile and rely on chunks
    /// that no name needs yet: give more time than a publish takes. A first prune then only marks chunks, and a later
    /// one removes those that were marked so long ago and are still not needed.
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true)]
    pub grace: Option<String>,
    /// Count what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Exit with 3 if there was nothing to remove
    #[arg(long)]
    pub exit_unchanged: bool,
    #[command(flatten)]
    pub reach: Reach,
}

/// Copy names and all they need from one store to another
///
/// Sends only the chunks and nodes that DEST lacks, and binds each name last. Stopped at any moment, running it again
/// continues. A name that DEST has with another version is a conflict.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  floe mirror ./store https://floe.example.com game@1.4.2    one name
  floe mirror https://floe.example.com ./copy                all names, into a store that is made if needed

With two URLs, --token-file and FLOE_TOKEN are for the server of DEST; the token for another server of SOURCE comes
from the credentials file.")]
pub struct Mirror {
    /// The store to read: a directory or a URL (http, https, ssh)
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The store to write: a directory, which is created if it does not exist, or a URL
    #[arg(value_name = "DEST")]
    pub dest: String,
    /// Only these names [default: all]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Exit with 3 if DEST had everything
    #[arg(long)]
    pub exit_unchanged: bool,
    #[command(flatten)]
    pub reach: Reach,
}

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  floe completions bash > ~/.local/share/bash-completion/completions/floe
  floe completions zsh > ~/.zfunc/_floe
  floe completions fish > ~/.config/fish/completions/floe.fish

With --json, the report holds the script.")]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Write the manual pages into a directory, one for each verb
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  floe man ~/.local/share/man/man1")]
pub struct Man {
    /// The directory; it is created if it does not exist
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

fn level(text: &str) -> Result<u8, String> {
    match text {
        "none" => Ok(0),
        _ => text.parse().ok().filter(|n| *n <= 19).ok_or_else(|| "must be 0 to 19, or `none`".to_owned()),
    }
}

fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let most = floe::limits::THREADS_MAX;
    let threads = text.parse().ok().filter(|threads: &NonZeroUsize| threads.get() <= most);
    threads.ok_or_else(|| format!("must be 1 to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn levels() {
        for (text, want) in [("none", Some(0)), ("0", Some(0)), ("19", Some(19)), ("20", None), ("-1", None)]
        {
            assert_eq!(level(text).ok(), want, "{text}");
        }
    }
}
