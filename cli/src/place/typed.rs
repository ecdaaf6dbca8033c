//! A STORE or SOURCE argument as typed: a directory, or the address of a store on another machine.
//!
//! An argument is seen by everyone who lists processes, and is shown in messages: one that may hold a secret is
//! refused, and the secret is not repeated.

use std::path::{Path, PathBuf};

use floe::store::{RemoteAddress, RemoteScheme};
use floe::{Error, Result};

/// A store or source as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Dir(PathBuf),
    /// Behind a server.
    Url(RemoteAddress),
}

impl Place {
    /// Reads what was typed.
    pub fn parse(text: &str) -> Result<Place> {
        match text.split_once("://") {
            Some((scheme, rest)) if is_scheme(scheme) => Ok(Place::Url(address(text, scheme, rest)?)),
            _ if is_remote_copy(text) => Err(refused(
                text,
                "another machine is ssh://USER@HOST/PATH, a directory of that name is ./NAME",
            )),
            _ => Ok(Place::Dir(PathBuf::from(text))),
        }
    }

    /// The directory, if it is one.
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Place::Dir(path) => Some(path),
            Place::Url(_) => None,
        }
    }

    /// The address, if it is one.
    pub fn url(&self) -> Option<&RemoteAddress> {
        match self {
            Place::Dir(_) => None,
            Place::Url(url) => Some(url),
        }
    }
}

fn address(text: &str, scheme: &str, rest: &str) -> Result<RemoteAddress> {
    let scheme = scheme.to_ascii_lowercase();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    match &*scheme {
        "http" | "https" if user.is_some() || rest.contains('?') => return Err(refused(text, SECRET)),
        "ssh" if user.is_some_and(|user| user.contains(':')) => return Err(refused(text, SECRET)),
        "http" | "https" | "ssh" => {}
        _ => {
            let reason = "a store is a directory, or a URL that begins with http://, https:// or ssh://";
            return Err(refused(text, reason));
        }
    }
    RemoteAddress::parse(&format!("{scheme}://{rest}")).map_err(|error| match error {
        Error::Usage { reason, .. } => refused(text, &reason),
        other => other,
    })
}

/// True if both lead to the same server: scheme, host and port.
pub fn same_server(a: &RemoteAddress, b: &RemoteAddress) -> bool {
    parts(a).0 == parts(b).0
}

/// True if `prefix` is `url` or, part by part of the path, above it.
pub fn covers(prefix: &RemoteAddress, url: &RemoteAddress) -> bool {
    let ((server, above), (other, path)) = (parts(prefix), parts(url));
    let rest = path.strip_prefix(&*above);
    server == other && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

// The server in one spelling, without the user; and the path.
fn parts(url: &RemoteAddress) -> (String, String) {
    let text = url.to_string();
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place).to_ascii_lowercase();
    let default = match url.scheme() {
        RemoteScheme::Http => ":80",
        RemoteScheme::Https => ":443",
        RemoteScheme::Ssh => ":22",
    };
    let place = place.strip_suffix(default).unwrap_or(&place);
    (format!("{scheme}://{place}"), path.trim_end_matches('/').to_owned())
}

const SECRET: &str = "a URL must not hold a password or a token: everyone who lists processes can read it";

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b))
}

// `user@host:path`, as rsync and scp have it.
fn is_remote_copy(text: &str) -> bool {
    text.split_once(':').is_some_and(|(host, _)| !host.contains('/') && host.contains('@'))
}

fn refused(text: &str, reason: &str) -> Error {
    Error::Usage { what: format!("store `{}`", without_secrets(text)), reason: reason.to_owned() }
}

// What may be a secret goes: all between the scheme and the last @, all behind a ?.
fn without_secrets(text: &str) -> String {
    let (shown, rest) = text.split_once('?').map_or((text, ""), |(before, _)| (before, "?…"));
    let shown = match shown.split_once("://").map(|(scheme, rest)| (scheme, rest.rsplit_once('@'))) {
        Some((scheme, Some((_, rest)))) => format!("{scheme}://…@{rest}"),
        _ => shown.to_owned(),
    };
    let shown: String = shown.chars().take(200).collect();
    format!("{}{rest}", shown.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> RemoteAddress {
        Place::parse(text).expect(text).url().expect("a URL").clone()
    }

    #[test]
    fn urls_are_urls() {
        for (text, want) in [
            ("http://host/", "http://host"),
            ("HTTPS://host/a/b/", "https://host/a/b"),
            ("http://[::1]:7400/p", "http://[::1]:7400/p"),
            ("http://host/game@1", "http://host/game@1"),
            ("ssh://me@host:2222/srv/store", "ssh://me@host:2222/srv/store"),
        ] {
            assert_eq!(url(text).to_string(), want, "{text}");
        }
    }

    #[test]
    fn paths_are_paths() {
        for text in
            ["store", "/a/b", "./a:b", "a:/b", "dir/x://y", "://x", "1a://x", "./me@host:x", "a@b", ""]
        {
            assert_eq!(Place::parse(text).expect(text).dir(), Some(Path::new(text)), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_a_store_is_refused() {
        for text in [
            "s3://bucket",
            "file:///x",
            "http://",
            "http:///path",
            "http://host:0",
            "http://host:65536",
            "http://ho st/",
            "http://host/#x",
            "ssh://host",
            "ssh://-oProxyCommand=x/y",
            "me@host:store",
        ] {
            let error = Place::parse(text).expect_err(text).to_string();
            assert!(error.starts_with("store `"), "{error}");
        }
    }

    #[test]
    fn secrets_are_refused_and_not_repeated() {
        for text in [
            "https://me:hunter2@host/x",
            "https://hunter2@host",
            "https://me:hunt/er2@host/hunter2@x",
            "http://host/?token=hunter2",
            "http://host:99999/?token=hunter2",
            "ssh://me:hunter2@host/x",
            "s3://key:hunter2@bucket",
        ] {
            let error = Place::parse(text).expect_err(text).to_string();
            assert!(error.contains('…') && !error.contains("er2"), "{text}: {error}");
        }
    }

    #[test]
    fn a_prefix_covers_whole_parts_of_one_server() {
        for (prefix, of, want) in [
            ("https://host", "https://host/game", true),
            ("https://host/", "https://HOST:443", true),
            ("https://host/game", "https://host/game/x", true),
            ("https://host/game", "https://host/game2", false),
            ("https://host/game", "https://host", false),
            ("https://host", "https://host.evil.org", false),
            ("https://host", "http://host", false),
            ("https://host", "https://host:8443", false),
            ("https://[::1]", "https://[::1]:443/x", true),
        ] {
            assert_eq!(covers(&url(prefix), &url(of)), want, "{prefix} {of}");
        }
        assert!(same_server(&url("ssh://me@host/x"), &url("ssh://you@host:22/y")));
    }
}
