//! Where a token comes from: a file that was named, the environment, or the credentials file. Never the command line,
//! which others can read.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use floe::{Error, Result};

use super::{Place, Url};

/// Most bytes of a file with one token.
const TOKEN_FILE_LEN_MAX: u64 = 4 << 10;
/// Most bytes of a credentials file.
const CREDENTIALS_LEN_MAX: u64 = 1 << 20;

/// The token in a file that holds nothing else.
pub fn from_token_file(path: &Path) -> Result<String> {
    let text = read(&open(path)?, path, TOKEN_FILE_LEN_MAX)?;
    let token = text.trim();
    check(token).map_err(|reason| refused("token file", path, reason))?;
    Ok(token.to_owned())
}

/// The token in a variable.
pub fn from_variable(name: &str, value: &OsStr) -> Result<String> {
    let token = value.to_str().unwrap_or("\u{fffd}").trim();
    check(token).map_err(|reason| Error::Usage { what: format!("variable {name}"), reason: reason.to_owned() })?;
    Ok(token.to_owned())
}

/// The token for `url` in a credentials file: that of the longest URL that covers it. No file, no token.
pub fn from_credentials(path: &Path, url: &Url) -> Result<Option<String>> {
    let file = match open(path) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    // Of the file that is read, not of the path: the path may mean another one by now.
    let meta = file.metadata().map_err(|source| io("read", path, source))?;
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(refused("credentials file", path, &format!("others may read it (its mode is {mode:04o})")));
    }
    find(&read(&file, path, CREDENTIALS_LEN_MAX)?, url, path)
}

fn find(text: &str, url: &Url, path: &Path) -> Result<Option<String>> {
    let mut found: Option<(usize, &str)> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |reason: &str| refused("credentials file", path, &format!("line {}: {reason}", number + 1));
        let (prefix, token) = line.split_once(char::is_whitespace).ok_or_else(|| bad(LINE))?;
        let Ok(Place::Url(prefix)) = Place::parse(prefix) else { return Err(bad(LINE)) };
        let token = token.trim();
        check(token).map_err(bad)?;
        if prefix.covers(url) && found.is_none_or(|(depth, _)| depth < prefix.depth()) {
            found = Some((prefix.depth(), token));
        }
    }
    Ok(found.map(|(_, token)| token.to_owned()))
}

const LINE: &str = "must be a URL, a space and a token";

/// What a token can be; the words never repeat it.
pub fn check(token: &str) -> Result<(), &'static str> {
    match token {
        "" => Err("there is no token in it"),
        _ if token.len() > 1024 => Err("that is too long for a token"),
        _ if token.bytes().all(|b| b.is_ascii_graphic()) => Ok(()),
        _ => Err("a token is one word of plain letters and digits"),
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|source| io("open", path, source))
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

    fn url(text: &str) -> Url {
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
            let found = find(text, &url(of), Path::new("x")).expect("read");
            assert_eq!(found.as_deref(), want, "{of}");
        }
    }

    #[test]
    fn bad_lines_are_named_and_not_repeated() {
        for text in ["https://host", "host hunter2", "https://host hun ter2", "https://host hunter2\u{e9}"] {
            let error = find(&format!("# x\n{text}"), &url("https://host"), Path::new("x"));
            let error = error.expect_err(text).to_string();
            assert!(error.contains("line 2") && !error.contains("ter2"), "{error}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("credentials");
        assert_eq!(from_credentials(&path, &url("https://host")).expect("no file"), None);
        fs::write(&path, "https://host secret\n").expect("written");
        for (mode, fine) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o622, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("a mode");
            let found = from_credentials(&path, &url("https://host"));
            assert_eq!(found.is_ok_and(|found| found.as_deref() == Some("secret")), fine, "{mode:o}");
        }
    }

    #[test]
    fn a_token_file_holds_one_token() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        for (text, fine) in [("abc\n", true), ("  abc", true), ("", false), ("a b", false), ("a\nb", false)] {
            fs::write(&path, text).expect("written");
            assert_eq!(from_token_file(&path).is_ok_and(|token| token == "abc"), fine, "{text:?}");
        }
        fs::write(&path, "x".repeat(5000)).expect("written");
        assert!(matches!(from_token_file(&path), Err(Error::Limit { .. })));
    }
}
