//! The tokens file: who may do what. Hides how tokens are made, kept and compared.
//!
//! A token is 256 random bits, shown once. The file holds only hashes, is replaced as a whole, and changed under a lock
//! beside it.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Result};
use crate::store::AppName;

/// What a token allows; each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Read names, nodes, chunks and updates.
    Read,
    /// Put chunks and nodes, bind names.
    Publish,
    /// Unbind names, sweep, repair, list everything.
    Admin,
}

impl Role {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Publish => "publish",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Role> {
        [Role::Read, Role::Publish, Role::Admin].into_iter().find(|role| role.as_str() == text).ok_or_else(
            || Error::Usage {
                what: format!("role `{}`", text.escape_debug()),
                reason: "must be read, publish or admin".to_owned(),
            },
        )
    }
}

/// A token, in the clear. Has no `Debug` and no `Display`: showing it is a decision.
pub struct TokenSecret(String);

impl TokenSecret {
    /// The text that a client sends.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// The first 12 hex digits of its hash.
    pub id: String,
    /// What it allows.
    pub role: Role,
    /// The only application whose names it may use.
    pub app: Option<AppName>,
    /// When it was made, in seconds since 1970.
    pub created_unix_s: u64,
    /// The first second, since 1970, in which it is no longer good.
    pub expires_unix_s: Option<u64>,
    hash: [u8; 32],
}

impl TokenRecord {
    /// Whether it is good no more.
    pub fn expired(&self, now_unix_s: u64) -> bool {
        self.expires_unix_s.is_some_and(|expires| now_unix_s >= expires)
    }

    /// Whether it is the record of the token with this [`hash`]; takes the same time whatever the answer.
    pub(super) fn is_of(&self, hash: &[u8; 32]) -> bool {
        blake3::Hash::from_bytes(self.hash) == blake3::Hash::from_bytes(*hash)
    }
}

/// What a token is to allow.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// The role.
    pub role: Role,
    /// The only application whose names it may use; `None` is all.
    pub app: Option<AppName>,
    /// The first second, since 1970, in which it is no longer good; `None` is never.
    pub expires_unix_s: Option<u64>,
}

const FORMAT: u32 = 1;
// Ten thousand tokens take less.
const FILE_LEN_MAX: u64 = 4 << 20;
const PREFIX: &str = "floe_";
const CONTEXT: &str = "floe 2026 bearer token v1";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileJson {
    format: u32,
    tokens: Vec<TokenJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenJson {
    hash: String,
    role: Role,
    app: Option<String>,
    created_unix_s: u64,
    expires_unix_s: Option<u64>,
}

/// Inode, length, mode and time of a file.
pub(super) type Stamp = (u64, u64, u32, i64, i64);

/// The tokens in a file.
#[derive(Debug, Clone)]
pub struct Tokens {
    path: PathBuf,
}

impl Tokens {
    /// The tokens in the file `path`, which need not exist yet.
    pub fn at(path: impl Into<PathBuf>) -> Tokens {
        Tokens { path: path.into() }
    }

    /// The file `tokens` in the directory of a store.
    pub fn of_store(dir: impl AsRef<Path>) -> Tokens {
        Tokens::at(dir.as_ref().join("tokens"))
    }

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a token. The secret is returned this once; the file does not have it.
    pub fn create(&self, new: &NewToken, now_unix_s: u64) -> Result<(TokenRecord, TokenSecret)> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| {
            let source = std::io::Error::other(error.to_string());
            Error::Io { action: "ask for random bytes at", path: "/dev/urandom".into(), source }
        })?;
        let secret = format!("{PREFIX}{}", blake3::Hash::from_bytes(bytes).to_hex());
        let record = record(hash(&secret), new, now_unix_s);
        self.change(|tokens| {
            tokens.push(record.clone());
            Ok(())
        })?;
        Ok((record, TokenSecret(secret)))
    }

    /// All tokens, oldest first; `None` if there is no file.
    pub fn list(&self) -> Result<Option<Vec<TokenRecord>>> {
        let mut bytes = Vec::new();
        match File::open(&self.path) {
            Ok(file) => file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes).at("read", &self.path)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", &self.path, error)),
        };
        self.decode(&bytes).map(Some)
    }

    /// Removes the token whose id is or begins with `id`. The file stays, even if that was the last one: who needed a
    /// token needs one still.
    pub fn revoke(&self, id: &str) -> Result<TokenRecord> {
        let mut revoked = None;
        self.change(|tokens| {
            let found: Vec<_> = tokens.iter().filter(|t| !id.is_empty() && t.id.starts_with(id)).collect();
            let id = id.escape_debug();
            match found.as_slice() {
                [] => Err(Error::NotFound { what: format!("token `{id}`"), place: self.place() }),
                [one] => {
                    let one = (*one).clone();
                    tokens.retain(|token| *token != one);
                    revoked = Some(one);
                    Ok(())
                }
                _ => Err(Error::Usage {
                    what: format!("token `{id}`"),
                    reason: format!("{} tokens begin so", found.len()),
                }),
            }
        })?;
        revoked.ok_or_else(|| Error::NotFound { what: "token".to_owned(), place: self.place() })
    }

    /// Another one for every change of the file; `None` if it is not there.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        let meta = fs::metadata(&self.path).ok()?;
        Some((meta.ino(), meta.len(), meta.mode(), meta.mtime(), meta.mtime_nsec()))
    }

    /// Its mode, if others than its owner have access to it.
    pub(super) fn open_to_others(&self) -> Option<u32> {
        let mode = fs::metadata(&self.path).ok()?.mode() & 0o7777;
        (mode & 0o077 != 0).then_some(mode)
    }

    fn place(&self) -> String {
        format!("`{}`", self.path.display())
    }

    fn change(&self, edit: impl FnOnce(&mut Vec<TokenRecord>) -> Result<()>) -> Result<()> {
        let beside = |suffix: &str| {
            let mut name = self.path.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        let (lock, new) = (beside(".lock"), beside(".new"));
        let mut private = OpenOptions::new();
        private.write(true).create(true).truncate(true).mode(0o600);
        let held = private.open(&lock).at("make", &lock)?;
        held.lock().at("lock", &lock)?;
        let mut tokens = self.list()?.unwrap_or_default();
        edit(&mut tokens)?;
        let bytes = encode(&tokens)?;
        let what = format!("length of {}", self.place());
        if bytes.len() as u64 > FILE_LEN_MAX {
            return Err(Error::Limit { what, actual: bytes.len() as u64, max: FILE_LEN_MAX });
        }
        let mut file = private.open(&new).at("make", &new)?;
        file.write_all(&bytes).at("write", &new)?;
        file.sync_all().at("write", &new)?;
        fs::rename(&new, &self.path).at("replace", &self.path)?;
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).at("write", dir)
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<TokenRecord>> {
        let malformed =
            |reason: String| Error::Malformed { kind: "tokens file", place: self.place(), reason };
        if bytes.len() as u64 > FILE_LEN_MAX {
            let what = format!("length of {}", self.place());
            return Err(Error::Limit { what, actual: bytes.len() as u64, max: FILE_LEN_MAX });
        }
        let file: FileJson = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        if file.format != FORMAT {
            let (found, place) = (file.format, self.place());
            return Err(Error::TooNew { kind: "tokens file", place, found, supported: FORMAT });
        }
        let open = |token: TokenJson| {
            let hash = blake3::Hash::from_hex(&token.hash).map_err(|error| malformed(error.to_string()))?;
            let app = token.app.as_deref().map(AppName::parse).transpose();
            let app = app.map_err(|error| malformed(error.to_string()))?;
            let new = NewToken { role: token.role, app, expires_unix_s: token.expires_unix_s };
            Ok(record(*hash.as_bytes(), &new, token.created_unix_s))
        };
        file.tokens.into_iter().map(open).collect()
    }
}

fn record(hash: [u8; 32], new: &NewToken, created_unix_s: u64) -> TokenRecord {
    let id = blake3::Hash::from_bytes(hash).to_hex().chars().take(12).collect();
    let NewToken { role, app, expires_unix_s } = new.clone();
    TokenRecord { id, role, app, created_unix_s, expires_unix_s, hash }
}

/// What the file keeps of a token.
pub(super) fn hash(token: &str) -> [u8; 32] {
    blake3::derive_key(CONTEXT, token.as_bytes())
}

fn encode(tokens: &[TokenRecord]) -> Result<Vec<u8>> {
    let tokens = tokens.iter().map(|token| TokenJson {
        hash: blake3::Hash::from_bytes(token.hash).to_hex().to_string(),
        role: token.role,
        app: token.app.as_ref().map(ToString::to_string),
        created_unix_s: token.created_unix_s,
        expires_unix_s: token.expires_unix_s,
    });
    let file = FileJson { format: FORMAT, tokens: tokens.collect() };
    let mut bytes = serde_json::to_vec_pretty(&file).map_err(|error| Error::Malformed {
        kind: "tokens file",
        place: "memory".to_owned(),
        reason: error.to_string(),
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_and_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let tokens = Tokens::of_store(dir.path());
        assert_eq!(tokens.list().expect("read"), None);
        let app = AppName::parse("game").expect("an app");
        let new = NewToken { role: Role::Publish, app: Some(app), expires_unix_s: Some(50) };
        let (first, secret) = tokens.create(&new, 10).expect("made");
        let (second, other) =
            tokens.create(&NewToken { role: Role::Read, app: None, expires_unix_s: None }, 20).expect("made");
        assert_eq!(tokens.list().expect("read"), Some(vec![first.clone(), second.clone()]));
        assert!(
            first.is_of(&hash(secret.expose()))
                && !first.is_of(&hash(other.expose()))
                && !first.is_of(&hash(""))
        );
        assert!(!first.expired(49) && first.expired(50) && !second.expired(u64::MAX));
        let text = fs::read_to_string(tokens.path()).expect("read");
        assert!(
            !text.contains(secret.expose()) && !text.contains(&secret.expose()[5..]),
            "only hashes are kept"
        );
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(tokens.path()).expect("there").permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);

        assert!(tokens.revoke("").is_err() && tokens.revoke("zz").is_err());
        assert_eq!(tokens.revoke(&first.id[..6]).expect("revoked"), first);
        tokens.revoke(&second.id).expect("revoked");
        assert_eq!(tokens.list().expect("read"), Some(Vec::new()), "the file stays");
    }

    #[test]
    fn files_that_are_none_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let tokens = Tokens::of_store(dir.path());
        for text in [
            "",
            "[]",
            "{\"format\":2,\"tokens\":[]}",
            "{\"format\":1}",
            "{\"format\":1,\"tokens\":[],\"more\":1}",
            "{\"format\":1,\"tokens\":[{\"hash\":\"ab\",\"role\":\"read\",\"app\":null,\"created_unix_s\":0,\"expires_unix_s\":null}]}",
        ] {
            fs::write(tokens.path(), text).expect("written");
            assert!(tokens.list().is_err(), "{text}");
        }
        assert!("root".parse::<Role>().is_err());
        assert_eq!("admin".parse::<Role>().expect("a role"), Role::Admin);
    }
}
