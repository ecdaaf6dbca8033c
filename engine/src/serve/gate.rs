//! Who may come in: the token of a request, against the tokens file as it is now.
//!
//! It fails closed: a file that cannot be read lets nobody in, and once tokens were needed they are needed until the
//! server ends, whatever becomes of the file.

use std::sync::Mutex;

use axum::http::{HeaderMap, header};

use crate::error::Result;
use crate::store::AppName;

use super::answer::Refused;
use super::limits::lock;
use super::tokens::{Role, Stamp, TokenRecord, Tokens, hash};

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub role: Role,
    /// The only application that it may use.
    pub app: Option<AppName>,
    /// The token's id, for logs.
    pub id: Option<String>,
}

/// Lets requests in.
pub(super) struct Gate {
    tokens: Option<Tokens>,
    public_read: bool,
    known: Mutex<Known>,
}

struct Known {
    stamp: Option<Stamp>,
    // `None`: the file cannot be read.
    records: Option<Vec<TokenRecord>>,
    needed: bool,
}

impl Gate {
    /// Reads the file for the first time. One that is there but cannot be read is an error.
    pub fn open(tokens: Option<Tokens>, public_read: bool) -> Result<Gate> {
        let stamp = tokens.as_ref().and_then(Tokens::stamp);
        let records = tokens.as_ref().map(Tokens::list).transpose()?.flatten();
        if let Some(tokens) = &tokens
            && let Some(mode) = tokens.open_to_others()
        {
            warn_of(tokens, mode);
        }
        let known = Known { stamp, needed: records.is_some(), records };
        Ok(Gate { tokens, public_read, known: Mutex::new(known) })
    }

    /// For a pipe: whoever holds it may do everything.
    pub fn none() -> Gate {
        let known = Known { stamp: None, records: None, needed: false };
        Gate { tokens: None, public_read: false, known: Mutex::new(known) }
    }

    /// Whether requests are told apart at all.
    pub fn asks(&self) -> bool {
        self.public_read || self.refreshed(|known| known.needed)
    }

    /// Whether everybody may read.
    pub fn is_public(&self) -> bool {
        self.public_read || !self.asks()
    }

    /// Who sent a request with these headers.
    pub fn admit(&self, headers: &HeaderMap, now_unix_s: u64) -> Result<Caller, Refused> {
        if !self.asks() {
            return Ok(Caller { role: Role::Admin, app: None, id: None });
        }
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            let reader = Caller { role: Role::Read, app: None, id: None };
            return if self.public_read { Ok(reader) } else { Err(Refused::no_token("it has no token")) };
        };
        let text = value.to_str().unwrap_or_default();
        let token = match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => return Err(Refused::no_token("its authorization is not `Bearer TOKEN`")),
        };
        let hash = hash(token);
        let found = self.refreshed(|known| {
            // Without an early end, so that time tells nothing.
            let all = known.records.iter().flatten();
            all.fold(None, |found, record| if record.is_of(&hash) { Some(record.clone()) } else { found })
        });
        match found {
            None => Err(Refused::no_token("its token is not known")),
            Some(record) if record.expired(now_unix_s) => {
                Err(Refused::no_token("its token has expired").with_caller(Some(record.id)))
            }
            Some(TokenRecord { role, app, id, .. }) => Ok(Caller { role, app, id: Some(id) }),
        }
    }

    fn refreshed<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        let mut known = lock(&self.known);
        if let Some(tokens) = &self.tokens {
            let stamp = tokens.stamp();
            if stamp != known.stamp {
                let listed = tokens.list();
                if let Err(error) = &listed {
                    tracing::error!(target: "floe::serve", %error, "the tokens file cannot be read: nobody gets in");
                }
                if let (Ok(Some(_)), Some(mode)) = (&listed, tokens.open_to_others()) {
                    warn_of(tokens, mode);
                }
                let gone = matches!(listed, Ok(None));
                known.needed |= !gone;
                known.records = listed.ok().flatten();
                known.stamp = stamp;
            }
        }
        look(&known)
    }
}

// It holds no token, only hashes; but who may write to it may let anybody in.
fn warn_of(tokens: &Tokens, mode: u32) {
    let path = tokens.path().display();
    tracing::warn!(target: "floe::serve", %path, "the tokens file has mode {mode:04o}, but only its owner should have access: chmod 600");
}
