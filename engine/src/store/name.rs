//! Names of versions: `app@label`.

use std::fmt;

use crate::error::{Error, Result};
use crate::id::VersionId;
use crate::limits::{NAME_APP_LEN_MAX, NAME_LABEL_LEN_MAX};

/// The part of a name before `@`: a letter or digit, then letters, digits, `.`, `_`, `-`; up to
/// [`NAME_APP_LEN_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppName(Box<str>);

impl AppName {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<AppName> {
        if is_word(text, NAME_APP_LEN_MAX, b"._-") {
            return Ok(AppName(text.into()));
        }
        Err(Error::Usage {
            what: format!("application name `{}`", text.escape_debug()),
            reason: format!(
                "must be a letter or digit, then letters, digits, `.`, `_` or `-`, up to {NAME_APP_LEN_MAX} in all"
            ),
        })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `app@label`; the label is made like the app, may also hold `+`, and has up to [`NAME_LABEL_LEN_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    app: AppName,
    label: Box<str>,
}

impl Name {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<Name> {
        let usage = |reason: String| Error::Usage { what: format!("name `{}`", text.escape_debug()), reason };
        let Some((app, label)) = text.split_once('@') else {
            return Err(usage("must be APP@LABEL, as in `game@1.4.2`".into()));
        };
        let app = AppName::parse(app)?;
        if !is_word(label, NAME_LABEL_LEN_MAX, b"._+-") {
            return Err(usage(format!(
                "the part after `@` must be a letter or digit, then letters, digits, `.`, `_`, `+` or `-`, up to {NAME_LABEL_LEN_MAX} in all"
            )));
        }
        Ok(Name { app, label: label.into() })
    }

    /// The part before `@`.
    pub fn app(&self) -> &AppName {
        &self.app
    }

    /// The part after `@`.
    pub fn label(&self) -> &str {
        &self.label
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.app, self.label)
    }
}

fn is_word(text: &str, len_max: usize, also: &[u8]) -> bool {
    text.len() <= len_max
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || also.contains(&byte))
}

/// A bound name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRecord {
    /// The name.
    pub name: Name,
    /// What it is bound to, for good.
    pub version: VersionId,
    /// When it was bound, in seconds since 1970.
    pub bound_unix_s: u64,
    /// Position in the store's order of binding; grows.
    pub sequence: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_everything_else() {
        for good in ["game@1.4.2", "a@b", "My-App_2.x@2026.11+build.7", "9@9"] {
            assert_eq!(Name::parse(good).expect(good).to_string(), good);
        }
        let long = format!("{}@1", "a".repeat(NAME_APP_LEN_MAX + 1));
        for bad in [
            "",
            "game",
            "game@",
            "@1",
            "game@a/b",
            "ga me@1",
            "game@1@2",
            "../x@1",
            "game:stable",
            "-a@1",
            "a@\u{7}",
            &long,
        ] {
            assert!(Name::parse(bad).is_err(), "{bad}");
        }
    }
}
