//! Where a remote store is: what a person types, checked. An address holds no secret, so it may be shown anywhere.

use std::fmt;

use crate::error::{Error, Result};

/// How a remote store is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteScheme {
    /// Unencrypted.
    Http,
    /// TLS.
    Https,
    /// A server started on the other side by the user's `ssh`, through its pipe.
    Ssh,
}

/// `http://HOST[:PORT][/PREFIX]`, `https://…`, or `ssh://[USER@]HOST[:PORT]/PATH`.
///
/// An `ssh` path is absolute on the other side; `/~/PATH` is below the home directory there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteAddress {
    scheme: RemoteScheme,
    user: Option<String>,
    // As in a URL: an IPv6 address keeps its brackets.
    host: String,
    port: Option<u16>,
    // Empty, or begins with a slash.
    path: String,
}

const SCHEMES: [(&str, RemoteScheme); 3] =
    [("http://", RemoteScheme::Http), ("https://", RemoteScheme::Https), ("ssh://", RemoteScheme::Ssh)];
const ADDRESS_LEN_MAX: usize = 4096;

impl RemoteAddress {
    /// True if `text` begins like a remote address: it is one, or a wrong one, but no path.
    pub fn is_remote(text: &str) -> bool {
        SCHEMES.iter().any(|(prefix, _)| text.starts_with(prefix))
    }

    /// Checks `text`.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`]; the text is quoted without anything that may be a password.
    pub fn parse(text: &str) -> Result<RemoteAddress> {
        let found = SCHEMES.iter().find_map(|(prefix, scheme)| Some((*scheme, text.strip_prefix(prefix)?)));
        let Some((scheme, rest)) = found else {
            return Err(usage(text, "must begin with `http://`, `https://` or `ssh://`"));
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let (host, port) = split_port(place);
        let port = port.map(str::parse::<u16>).transpose().ok().filter(|port| *port != Some(0));
        let wrong = match () {
            () if text.len() > ADDRESS_LEN_MAX => "is too long",
            () if user.is_some() && scheme != RemoteScheme::Ssh => {
                "must not hold a user or password; a token is given by another way"
            }
            () if user.is_some_and(|user| user.contains(':')) => "must not hold a password",
            () if user.is_some_and(|user| !is_word(user)) => "has no user that can be one",
            () if !is_host(host) => "has no host that can be one",
            () if port.is_none() => "has no port that can be one",
            () => path_fault(scheme, path),
        };
        if !wrong.is_empty() {
            return Err(usage(text, wrong));
        }
        let path = if scheme == RemoteScheme::Ssh { path } else { path.trim_end_matches('/') };
        Ok(RemoteAddress {
            scheme,
            user: user.map(str::to_owned),
            host: host.to_owned(),
            port: port.flatten(),
            path: path.to_owned(),
        })
    }

    /// How it is spoken to.
    pub fn scheme(&self) -> RemoteScheme {
        self.scheme
    }

    /// The host, as written; an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// True if what is sent there can be read by nobody between: TLS, ssh, or this machine itself.
    pub fn is_private(&self) -> bool {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        self.scheme != RemoteScheme::Http || loopback || host.eq_ignore_ascii_case("localhost")
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub(super) fn port(&self) -> Option<u16> {
        self.port
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for RemoteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = SCHEMES.iter().find(|(_, scheme)| *scheme == self.scheme);
        f.write_str(scheme.map_or("", |(prefix, _)| prefix))?;
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

// A port is what follows the last colon outside brackets.
fn split_port(place: &str) -> (&str, Option<&str>) {
    match place.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (place, None),
    }
}

// What is wrong with a path, or nothing. A URL's path goes into requests as it is; an ssh path is any text.
fn path_fault(scheme: RemoteScheme, path: &str) -> &'static str {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&byte);
    match scheme {
        RemoteScheme::Ssh if path.len() < 2 => "must have a path, as in `ssh://host/srv/store`",
        RemoteScheme::Ssh if path.contains(char::is_control) => "has a control character in its path",
        RemoteScheme::Ssh => "",
        _ if path.contains(['?', '#']) => "must have no `?` or `#`",
        _ if path.bytes().all(plain) => "",
        _ => "has a character that a URL writes as `%XX`",
    }
}

// Nothing that a program could take for an option.
fn is_word(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !text.is_empty() && text.len() <= 255 && !text.starts_with('-') && text.bytes().all(allowed)
}

fn is_host(text: &str) -> bool {
    match text.strip_prefix('[') {
        None => is_word(text),
        Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
    }
}

fn usage(text: &str, reason: &str) -> Error {
    // What stands before an `@` may be a password.
    let shown = match text.split_once("://").map(|(scheme, rest)| (scheme, rest.rsplit_once('@'))) {
        Some((scheme, Some((_, rest)))) => format!("{scheme}://…@{rest}"),
        _ => text.to_owned(),
    };
    let shown: String = shown.chars().take(200).collect();
    Error::Usage { what: format!("address `{}`", shown.escape_debug()), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_as_they_were_written() {
        for (text, shown, private) in [
            ("http://a", "http://a", false),
            ("http://a:80/", "http://a:80", false),
            ("http://127.0.0.1:8700", "http://127.0.0.1:8700", true),
            ("http://localhost:8700", "http://localhost:8700", true),
            ("http://[::1]:8700/x/y/", "http://[::1]:8700/x/y", true),
            ("https://store.example.org/team%20a", "https://store.example.org/team%20a", true),
            ("ssh://host/srv/store", "ssh://host/srv/store", true),
            ("ssh://me@host:2222/~/my store", "ssh://me@host:2222/~/my store", true),
            ("ssh://me@[::1]:22/a", "ssh://me@[::1]:22/a", true),
        ] {
            let address = RemoteAddress::parse(text).expect(text);
            assert_eq!((address.to_string().as_str(), address.is_private()), (shown, private), "{text}");
            assert_eq!(RemoteAddress::parse(shown).expect(shown), address);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_and_no_password_is_shown() {
        for text in [
            "",
            "store",
            "ftp://a",
            "http://",
            "http:///x",
            "http://a:",
            "http://a:0",
            "http://a:70000",
            "http://a:1:2",
            "http://a b",
            "http://a/b c",
            "http://a/?q",
            "http://a/#f",
            "http://a/\r\nX: y",
            "http://[::1",
            "http://[fe80::1%25eth0]/",
            "http://me@a",
            "https://me:hush@a",
            "ssh://me:hush@a/x",
            "ssh://a",
            "ssh://a/",
            "ssh://-oProxyCommand=x/y",
            "ssh://-oX@a/y",
            "ssh://a b/y",
            "ssh://a/x\ny",
            "ssh:///y",
            "ssh://@a/y",
        ] {
            let error = RemoteAddress::parse(text).expect_err(text);
            assert!(matches!(error, Error::Usage { .. }) && !error.to_string().contains("hush"), "{error}");
        }
    }
}
