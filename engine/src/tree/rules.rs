//! What a scan leaves out: `.floeignore` files and the caller's globs, decided by `ignore`'s matcher for the
//! syntax of `.gitignore`.
//!
//! The caller's globs decide first, then the rules of the nearest directory that has any that match, then those
//! above it. Within one file the last match wins. What lies below a directory left out is never looked at, so
//! nothing in there can be brought back.

use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::{FileType, Mode, OFlags, openat};

use crate::error::{At, Error, Result};

/// The name of the files that rules are read from.
pub(super) const RULES_NAME: &str = ".floeignore";
const RULES_LEN_MAX: u64 = 1 << 20;

/// The rules of one directory, and of those above it.
#[derive(Debug)]
pub(super) struct Rules {
    matcher: Gitignore,
    // Length of the directory's path with its slash: rules see paths relative to their own directory.
    base_len: usize,
    above: Option<Arc<Rules>>,
}

impl Rules {
    /// Reads the rules file of the directory open at `dir`, which is `prefix` (with its slash) in the tree at
    /// `root`. A file without rules adds nothing to `above`.
    pub(super) fn read(
        dir: BorrowedFd<'_>,
        root: &Path,
        prefix: &str,
        above: Option<Arc<Rules>>,
    ) -> Result<Option<Arc<Rules>>> {
        let path = root.join(prefix).join(RULES_NAME);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match openat(dir, RULES_NAME, flags, Mode::empty()) {
            Ok(fd) => fd,
            // To publish what its author meant to leave out would be worse than to stop.
            Err(rustix::io::Errno::LOOP) => {
                return Err(Error::Unpublishable { path, reason: "rules are not read through a symlink" });
            }
            Err(rustix::io::Errno::NOENT) => return Err(Error::Changed { path }),
            Err(error) => return Err(Error::io("open", path, error.into())),
        };
        let stat = rustix::fs::fstat(&fd).map_err(Into::into).at("stat", &path)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(above);
        }
        let mut text = Vec::new();
        std::fs::File::from(fd).take(RULES_LEN_MAX + 1).read_to_end(&mut text).at("read", &path)?;
        if text.len() as u64 > RULES_LEN_MAX {
            return Err(Error::Unpublishable { path, reason: "rules are not read beyond 1 MiB" });
        }
        let Ok(text) = String::from_utf8(text) else {
            return Err(Error::Unpublishable { path, reason: "its rules are not UTF-8" });
        };
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let lines = (1..).zip(text.lines());
        let matcher = compile(
            lines.map(|(number, line)| (line, move || format!(" in line {number} of `{}`", show(prefix)))),
        )?;
        if matcher.is_empty() {
            return Ok(above);
        }
        Ok(Some(Arc::new(Rules { matcher, base_len: prefix.len(), above })))
    }

    /// True if these rules leave `path`, relative to the root, out.
    pub(super) fn leave_out(&self, path: &str, is_dir: bool) -> bool {
        let mut rules = self;
        loop {
            let below = path.get(rules.base_len..).unwrap_or(path);
            match rules.matcher.matched(below, is_dir) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => {}
            }
            match &rules.above {
                Some(above) => rules = above,
                None => return false,
            }
        }
    }
}

fn show(prefix: &str) -> String {
    format!("{}{RULES_NAME}", prefix.escape_debug())
}

/// Compiles a caller's globs, in the syntax of `.gitignore` and relative to the root. A bad one is
/// [`Error::Usage`] and names it.
pub(crate) fn compile_globs(globs: &[String]) -> Result<Gitignore> {
    compile(globs.iter().map(|glob| (glob.as_str(), String::new)))
}

/// The caller's globs, above every file. `None` if there are none.
pub(super) fn excludes(globs: &[String]) -> Result<Option<Gitignore>> {
    Ok(Some(compile_globs(globs)?).filter(|matcher| !matcher.is_empty()))
}

/// What the caller's globs say of `path`; `None` if nothing.
pub(super) fn excluded(excludes: &Gitignore, path: &str, is_dir: bool) -> Option<bool> {
    match excludes.matched(path, is_dir) {
        Match::Ignore(_) => Some(true),
        Match::Whitelist(_) => Some(false),
        Match::None => None,
    }
}

fn compile<'a, W: Fn() -> String>(lines: impl Iterator<Item = (&'a str, W)>) -> Result<Gitignore> {
    let mut builder = GitignoreBuilder::new("");
    // An unclosed `[` taken literally would leave nothing out, silently.
    builder.allow_unclosed_class(false);
    for (line, place) in lines {
        builder.add_line(None, line).map_err(|error| Error::Usage {
            what: format!("glob `{}`{}", line.escape_debug(), place()),
            reason: reason(error),
        })?;
    }
    builder.build().map_err(|error| Error::Usage { what: "globs".into(), reason: reason(error) })
}

// The glob itself is in the error already.
fn reason(error: ignore::Error) -> String {
    match error {
        ignore::Error::Glob { err, .. } => err,
        other => other.to_string(),
    }
}
