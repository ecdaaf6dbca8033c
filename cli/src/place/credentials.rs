//! Where a token comes from: a file that was named, the environment, or the credentials file. Never the command line,
//! which others can read.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use floe::store::{RemoteAddress, Token};
use floe::{Error, Result};

use super::typed::{Place, covers};

/// Most bytes of a file with one token.
const TOKEN_FILE_LEN_MAX: u64 = 4 << 10;
/// Most bytes of a credentials file.
const CREDENTIALS_LEN_MAX: u64 = 1 << 20;

/// The token in a file that holds nothing else.
pub fn from_token_file(path: &Path) -> Result<Token> {
    let file = open(path)?;
    private(&file, "token file", path)?;
    let text = read(&file, path, TOKEN_FILE_LEN_MAX)?;
    token(&text).map_err(|reason| refused("token file", path, &reason))
}

/// The token in a variable.
pub fn from_variable(name: &str, value: &OsStr) -> Result<Token> {
    token(&value.to_string_lossy())
        .map_err(|reason| Error::Usage { what: format!("variable {name}"), reason })
}

/// The token for `url` in a credentials file: that of the longest URL that covers it. No file, no token.
pub fn from_credentials(path: &Path, url: &RemoteAddress) -> Result<Option<Token>> {
    let file = match open(path) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    private(&file, "credentials file", path)?;
    find(&read(&file, path, CREDENTIALS_LEN_MAX)?, url, path)?.map(Token::parse).transpose()
}

// The token of the longest prefix; every line must be sound.
fn find<'t>(text: &'t str, url: &RemoteAddress, path: &Path) -> Result<Option<&'t str>> {
    let mut found: Option<(usize, &str)> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |reason: &str| refused("credentials file", path, &format!("line {}: {reason}", number + 1));
        let (prefix, text) = line.split_once(char::is_whitespace).ok_or_else(|| bad(LINE))?;
        let Ok(Place::Url(prefix)) = Place::parse(prefix) else { return Err(bad(LINE)) };
        token(text).map_err(|reason| bad(&reason))?;
        let depth = prefix.to_string().matches('/').count();
        if covers(&prefix, url) && found.is_none_or(|(other, _)| other < depth) {
            found = Some((depth, text.trim()));
        }
    }
    Ok(found.map(|(_, token)| token))
}

const LINE: &str = "must be a URL, a space and a token";

// What is wrong with it, without the words of it.
fn token(text: &str) -> Result<Token, String> {
    Token::parse(text).map_err(|error| match error {
        Error::Usage { reason, .. } => format!("its token {reason}"),
        other => other.to_string(),
    })
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|source| io("open", path, source))
}

// Of the file that is read, not of the path: the path may mean another one by now.
fn private(file: &File, kind: &str, path: &Path) -> Result<()> {
    let meta = file.metadata().map_err(|source| io("read", path, source))?;
    let mode = meta.permissions().mode() & 0o7777;
    // A pipe or a terminal is between two that have it open already.
    if meta.is_file() && mode & 0o077 != 0 {
        return Err(refused(kind, path, &format!("others may read it (its mode is {mode:04o})")));
    }
    Ok(())
}

fn read(file: &File, path: &Path, len_max: u64) -> Result<String> {
    let mut text = String::new();
    let read = file.take(len_max + 1).read_to_string(&mut text).map_err(|source| io("read", path, source))?;
    if read as u64 > len_max {
        let what = format!("length of `{}`", path.display());
        return Err(Error::Limit { what, actual: read as u64, max: len_max });
    }
    Ok(text)
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { action, path: path.to_owned(), source }
}

fn refused(kind: &str, path: &Path, reason: &str) -> Error {
    Error::Usage { what: format!("{kind} `{}`", path.display()), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};

    fn url(text: &str) -> RemoteAddress {
        Place::parse(text).expect(text).url().expect("a URL").clone()
    }

    #[test]
    fn the_longest_prefix_wins() {
        let text = "# mine\n\nhttps://host  all\nhttps://host/game\tgame \n https://host/game/art art\n";
        for (of, want) in [
            ("https://host", Some("all")),
            ("https://host/x", Some("all")),
            ("https://host/game", Some("game")),
            ("https://host/game/art/x", Some("art")),
            ("https://other", None),
            ("http://host", None),
        ] {
            assert_eq!(find(text, &url(of), Path::new("x")).expect("read"), want, "{of}");
        }
    }

    #[test]
    fn bad_lines_are_named_and_not_repeated() {
        for text in ["https://host", "host hunter2", "https://host hun ter2", "https://host hunter2\u{e9}"] {
            let text = format!("# x\n{text}");
            let error = find(&text, &url("https://host"), Path::new("x"));
            let error = error.expect_err("a bad line").to_string();
            assert!(error.contains("line 2") && !error.contains("ter2"), "{error}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("credentials");
        assert!(from_credentials(&path, &url("https://host")).expect("no file").is_none());
        let token = dir.path().join("token");
        fs::write(&path, "https://host secret\n").expect("written");
        fs::write(&token, "secret\n").expect("written");
        for (mode, fine) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o622, false)] {
            for path in [&path, &token] {
                fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
            }
            assert_eq!(from_credentials(&path, &url("https://host")).is_ok(), fine, "{mode:o}");
            assert_eq!(from_token_file(&token).is_ok(), fine, "{mode:o}");
        }
    }

    #[test]
    fn a_token_file_holds_one_token() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        for (text, fine) in [("abc\n", true), ("  abc", true), ("", false), ("a b", false), ("a\nb", false)] {
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a mode");
            assert_eq!(from_token_file(&path).is_ok(), fine, "{text:?}");
        }
        fs::write(&path, "x".repeat(5000)).expect("written");
        assert!(matches!(from_token_file(&path), Err(Error::Limit { .. })));
    }
}
