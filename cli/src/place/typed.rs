//! A STORE or SOURCE argument as typed: a directory, or a URL of a store on another machine.
//!
//! An argument is seen by everyone who lists processes, and is shown in messages: a URL that holds a secret is refused,
//! and the secret is not repeated.

use std::fmt;
use std::path::{Path, PathBuf};

use floe::{Error, Result};

/// A store or source as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Dir(PathBuf),
    /// Behind a server.
    Url(Url),
}

impl Place {
    /// Reads what was typed.
    pub fn parse(text: &str) -> Result<Place> {
        match text.split_once("://") {
            Some((scheme, rest)) if is_scheme(scheme) => Ok(Place::Url(Url::parse(text, scheme, rest)?)),
            _ if is_remote_copy(text) => Err(refused(text, "another machine is ssh://USER@HOST/PATH, a directory of that name is ./NAME")),
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

    /// The URL, if it is one.
    pub fn url(&self) -> Option<&Url> {
        match self {
            Place::Dir(_) => None,
            Place::Url(url) => Some(url),
        }
    }
}

/// How the other machine is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain.
    Http,
    /// Over TLS.
    Https,
    /// Through the user's ssh.
    Ssh,
}

/// A URL without secrets, in one spelling: host in small letters, no port that goes without saying, no `/` at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// How it is spoken to.
    pub scheme: Scheme,
    user: Option<String>,
    host: String,
    port: Option<u16>,
    path: String,
}

impl Url {
    fn parse(text: &str, scheme: &str, rest: &str) -> Result<Url> {
        let refuse = |reason| Err(refused(text, reason));
        let scheme = match &*scheme.to_ascii_lowercase() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "ssh" => Scheme::Ssh,
            _ => return refuse("a store is a directory, or a URL that begins with http://, https:// or ssh://"),
        };
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) && scheme != Scheme::Ssh {
            return refuse("a URL holds no spaces");
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user, at) = match authority.rsplit_once('@') {
            Some((user, at)) => (Some(user), at),
            None => (None, authority),
        };
        match user {
            Some(user) if user.contains(':') => return refuse(SECRET),
            Some(_) if scheme != Scheme::Ssh => return refuse(SECRET),
            Some("") => return refuse("there is no user before the @"),
            _ => {}
        }
        if scheme != Scheme::Ssh && path.contains('?') {
            return refuse(SECRET);
        }
        if scheme != Scheme::Ssh && path.contains('#') {
            return refuse("a store's URL has no part after a #");
        }
        let (host, port) = split_port(at);
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return refuse("the port must be 1 to 65535"),
        };
        // A host that begins with a dash would be an option of ssh.
        let bad = |part: &str| part.starts_with('-') || part.chars().any(|c| c.is_control() || c.is_whitespace());
        if host.is_empty() || bad(host) || user.is_some_and(bad) {
            return refuse("there is no host that can be one");
        }
        let path = path.trim_end_matches('/');
        if scheme == Scheme::Ssh && path.is_empty() {
            return refuse("after the host comes the path of the store, as in ssh://host/srv/store");
        }
        Ok(Url {
            scheme,
            user: user.map(str::to_owned),
            host: host.to_ascii_lowercase(),
            port: port.filter(|port| Some(*port) != scheme.port()),
            path: path.to_owned(),
        })
    }

    /// True if both lead to the same server: scheme, host and port.
    pub fn same_server(&self, other: &Url) -> bool {
        (self.scheme, &self.host, self.port) == (other.scheme, &other.host, other.port)
    }

    /// True if `self` is `other` or, part by part of the path, above it.
    pub fn covers(&self, other: &Url) -> bool {
        let rest = other.path.strip_prefix(&*self.path);
        self.same_server(other) && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// How specific it is: the longer of two that cover the same.
    pub fn depth(&self) -> usize {
        self.path.len()
    }

    /// True if what is sent cannot be read on the way: encrypted, or it does not leave this machine.
    pub fn is_private(&self) -> bool {
        let address = self.host.trim_start_matches('[').trim_end_matches(']');
        let local = address.parse::<std::net::IpAddr>().map_or(self.host == "localhost", |ip| ip.is_loopback());
        self.scheme != Scheme::Http || local
    }
}

impl Scheme {
    fn port(self) -> Option<u16> {
        match self {
            Scheme::Http => Some(80),
            Scheme::Https => Some(443),
            // The user's ssh knows better.
            Scheme::Ssh => None,
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.scheme {
            Scheme::Http => "http://",
            Scheme::Https => "https://",
            Scheme::Ssh => "ssh://",
        })?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)
    }
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

// The port is behind the last colon, but for those within the brackets of an address.
fn split_port(at: &str) -> (&str, Option<&str>) {
    let brackets = at.rfind(']').map_or(0, |end| end + 1);
    match at.get(brackets..).and_then(|rest| rest.rfind(':')) {
        Some(colon) => (&at[..brackets + colon], Some(&at[brackets + colon + 1..])),
        None => (at, None),
    }
}

fn refused(text: &str, reason: &str) -> Error {
    Error::Usage { what: format!("store `{}`", without_secrets(text)), reason: reason.to_owned() }
}

// What may be a secret goes: all before the last @, all behind a ?.
fn without_secrets(text: &str) -> String {
    let shown = text.split_once('?').map_or(text, |(before, _)| before);
    let begin = shown.find("://").map_or(0, |at| at + 3);
    let user = shown.rfind('@').filter(|at| *at > begin && begin > 0);
    let mut safe = match user {
        Some(at) => format!("{}…{}", &shown[..begin], &shown[at..]),
        None => shown.to_owned(),
    };
    if shown.len() < text.len() {
        safe.push_str("?…");
    }
    safe.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_one_spelling() {
        for (text, want) in [
            ("http://Host", "http://host"),
            ("http://host/", "http://host"),
            ("HTTP://host:80/", "http://host"),
            ("https://host:443/a/b/", "https://host/a/b"),
            ("https://host:80", "https://host:80"),
            ("http://127.0.0.1:7400", "http://127.0.0.1:7400"),
            ("http://[::1]:7400/p", "http://[::1]:7400/p"),
            ("http://[::1]", "http://[::1]"),
            ("http://host/game@1", "http://host/game@1"),
            ("ssh://host/srv/store", "ssh://host/srv/store"),
            ("ssh://me@host:22/~/my store", "ssh://me@host:22/~/my store"),
        ] {
            let place = Place::parse(text).expect(text);
            assert_eq!(place.url().expect("a URL").to_string(), want, "{text}");
        }
    }

    #[test]
    fn paths_are_paths() {
        for text in ["store", "/a/b", "./a:b", "a:/b", "dir/x://y", "://x", "1a://x", "./me@host:x", "a@b", ""] {
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
            "http://:80",
            "http://host:0",
            "http://host:65536",
            "http://host:",
            "http://host:x",
            "http://ho st/",
            "http://host/#x",
            "ssh://host",
            "ssh://host/",
            "ssh://@host/x",
            "ssh://-oProxyCommand=x/y",
            "ssh://-l@host/y",
            "me@host:store",
        ] {
            assert!(matches!(Place::parse(text), Err(Error::Usage { .. })), "{text}");
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
            assert!(!error.contains("hunter2") && !error.contains("er2") && error.contains('…'), "{text}: {error}");
        }
    }

    #[test]
    fn a_prefix_covers_whole_parts_of_one_server() {
        let url = |text: &str| Place::parse(text).expect(text).url().expect("a URL").clone();
        for (prefix, of, want) in [
            ("https://host", "https://host/game", true),
            ("https://host/", "https://HOST:443", true),
            ("https://host/game", "https://host/game/x", true),
            ("https://host/game", "https://host/game2", false),
            ("https://host/game", "https://host", false),
            ("https://host", "https://host.evil.org", false),
            ("https://host", "http://host", false),
            ("https://host", "https://host:8443", false),
        ] {
            assert_eq!(url(prefix).covers(&url(of)), want, "{prefix} {of}");
        }
    }

    #[test]
    fn private_is_encrypted_or_here() {
        for (text, want) in [
            ("https://host", true),
            ("ssh://host/x", true),
            ("http://localhost:7400", true),
            ("http://127.0.0.9", true),
            ("http://[::1]:7400", true),
            ("http://host", false),
            ("http://10.0.0.1", false),
            ("http://localhost.evil.org", false),
        ] {
            assert_eq!(Place::parse(text).expect(text).url().expect("a URL").is_private(), want, "{text}");
        }
    }
}
