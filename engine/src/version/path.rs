//! Paths inside a version: what every machine can hold without leaving the tree.

use std::fmt;

use bincode::de::{BorrowDecoder, Decoder};
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};

use crate::error::{Error, Result};
use crate::limits::{COMPONENT_LEN_MAX, PATH_LEN_MAX};

/// Where a replica keeps its state; no path of a version begins with it, in any case.
pub(crate) const STATE_DIR: &str = ".floe";

/// A path relative to a tree's root: `/`-separated UTF-8, 1 to [`PATH_LEN_MAX`] bytes, components of 1 to
/// [`COMPONENT_LEN_MAX`] bytes, none of them `.` or `..`, no NUL, the first not `.floe` in any case.
/// Ordered by its bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Box<str>);

impl RelPath {
    /// Checks `text`.
    pub fn parse(text: &str) -> Result<RelPath> {
        match refusal(text) {
            None => Ok(RelPath(text.into())),
            Some(reason) => Err(Error::UnsafePath { path: text.to_owned(), reason }),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of the directory it lies in; `None` at the top.
    pub fn parent(&self) -> Option<RelPath> {
        self.0.rsplit_once('/').map(|(parent, _)| RelPath(parent.into()))
    }

    /// The last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// True if it lies somewhere below `dir`.
    pub fn is_below(&self, dir: &RelPath) -> bool {
        self.0.strip_prefix(&*dir.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn refusal(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("empty");
    }
    if text.len() > PATH_LEN_MAX {
        return Some("longer than 4095 bytes");
    }
    if text.starts_with('/') {
        return Some("absolute");
    }
    if text.contains('\0') {
        return Some("contains NUL");
    }
    let first = text.split('/').next().unwrap_or(text);
    if first.eq_ignore_ascii_case(STATE_DIR) {
        return Some("`.floe` is where a replica keeps its state");
    }
    text.split('/').find_map(|component| match component {
        "" => Some("has an empty component"),
        "." | ".." => Some("has a `.` or `..` component"),
        long if long.len() > COMPONENT_LEN_MAX => Some("has a component longer than 255 bytes"),
        _ => None,
    })
}

impl Encode for RelPath {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0.encode(encoder)
    }
}

impl<C> Decode<C> for RelPath {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let text = Box::<str>::decode(decoder)?;
        match refusal(&text) {
            None => Ok(RelPath(text)),
            Some(reason) => {
                Err(DecodeError::OtherString(format!("unsafe path `{}`: {reason}", text.escape_debug())))
            }
        }
    }
}

impl<'de, C> BorrowDecode<'de, C> for RelPath {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Self::decode(decoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_safe_and_says_why_not() {
        let long = "a/".repeat(2100);
        let wide = "b".repeat(256);
        let rows = [
            ("a", None),
            ("a/b c/ü.txt", None),
            ("..a/b../.hidden", None),
            ("back\\slash", None),
            ("x/.floe/y", None),
            ("", Some("empty")),
            ("/etc/passwd", Some("absolute")),
            ("a//b", Some("has an empty component")),
            ("a/", Some("has an empty component")),
            ("../a", Some("has a `.` or `..` component")),
            ("a/./b", Some("has a `.` or `..` component")),
            ("a/..", Some("has a `.` or `..` component")),
            ("a\0b", Some("contains NUL")),
            (".floe", Some("`.floe` is where a replica keeps its state")),
            (".FLOE/state", Some("`.floe` is where a replica keeps its state")),
            (&long, Some("longer than 4095 bytes")),
            (&wide, Some("has a component longer than 255 bytes")),
        ];
        for (text, want) in rows {
            assert_eq!(refusal(text), want, "{text}");
        }
    }

    #[test]
    fn relations() {
        let path = |text| RelPath::parse(text).expect("a safe path");
        assert_eq!(path("a/b/c").parent(), Some(path("a/b")));
        assert_eq!(path("a").parent(), None);
        assert_eq!(path("a/b/c").file_name(), "c");
        assert!(path("a/b").is_below(&path("a")));
        assert!(!path("ab").is_below(&path("a")));
        assert!(!path("a").is_below(&path("a")));
    }
}
