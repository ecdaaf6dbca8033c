//! `floe serve token create|list|revoke`

use floe::serve::{NewToken, TokenRecord, Tokens};
use floe::store::AppName;
use floe::{Error, Result};
use serde::Serialize;

use crate::args::{Token, TokenCreate, TokenVerb, TokensAt};
use crate::output::Output;
use crate::report::End;
use crate::settings::Settings;
use crate::terms::{count, date};

/// One token as an object. The token itself is there only when it is made.
#[derive(Serialize)]
struct Line<'a> {
    kind: &'static str,
    id: &'a str,
    role: &'static str,
    app: Option<&'a str>,
    created_unix_s: u64,
    expires_unix_s: Option<u64>,
    expired: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

#[derive(Serialize)]
struct Report {
    tokens: u64,
    tokens_needed: bool,
}

pub fn run(args: &Token, settings: &Settings, output: &Output) -> Result<End> {
    let now = settings.now_unix_s;
    match &args.verb {
        TokenVerb::Create(args) => create(args, now, output)?,
        TokenVerb::List(args) => {
            let found = tokens(args)?.list()?;
            if found.as_ref().is_some_and(|found| !found.is_empty()) {
                output.line(format_args!("{:<12}  {:<7}  {:<20}  EXPIRES (UTC)", "ID", "ROLE", "APP"))?;
            }
            for record in found.iter().flatten() {
                tell(record, now, output)?;
            }
            finish(found.as_deref(), output)?;
        }
        TokenVerb::Revoke(args) => {
            let tokens = tokens(&args.at)?;
            let record = tokens.revoke(&args.id)?;
            output.line(format_args!("revoked   {} ({})", record.id, record.role))?;
            output.object(&line(&record, now, None))?;
            finish(tokens.list()?.as_deref(), output)?;
        }
    }
    Ok(End::Done)
}

fn create(args: &TokenCreate, now: u64, output: &Output) -> Result<()> {
    let tokens = tokens(&args.at)?;
    let new = NewToken {
        role: args.role()?,
        app: args.app.as_deref().map(AppName::parse).transpose()?,
        expires_unix_s: args.expires.map(|time| now.saturating_add(time.as_secs())),
    };
    let (record, secret) = tokens.create(&new, now)?;
    // Alone on stdout, so that it can go into a file; whom it is for is told beside.
    output.print(secret.expose())?;
    output.object(&line(&record, now, Some(secret.expose())))?;
    output.note(format_args!("token {} is shown this once: {}", record.id, allows(&record)));
    if output.json() { finish(tokens.list()?.as_deref(), output) } else { output.flush() }
}

fn tokens(at: &TokensAt) -> Result<Tokens> {
    if !at.store.join("FORMAT").is_file() {
        let place = format!("`{}`", at.store.display());
        return Err(Error::NotFound { what: "store".to_owned(), place });
    }
    Ok(at.tokens.as_ref().map_or_else(|| Tokens::of_store(&at.store), Tokens::at))
}

fn tell(record: &TokenRecord, now: u64, output: &Output) -> Result<()> {
    let app = record.app.as_ref().map_or("-".to_owned(), ToString::to_string);
    let until = record.expires_unix_s.map_or("never".to_owned(), date);
    let expired = if record.expired(now) { " (expired)" } else { "" };
    output.line(format_args!(
        "{:<12}  {:<7}  {app:<20}  {until}{expired}",
        record.id,
        record.role.as_str()
    ))?;
    output.object(&line(record, now, None))
}

fn line<'a>(record: &'a TokenRecord, now: u64, token: Option<&'a str>) -> Line<'a> {
    Line {
        kind: "token",
        id: &record.id,
        role: record.role.as_str(),
        app: record.app.as_ref().map(AppName::as_str),
        created_unix_s: record.created_unix_s,
        expires_unix_s: record.expires_unix_s,
        expired: record.expired(now),
        token,
    }
}

fn allows(record: &TokenRecord) -> String {
    let app = record.app.as_ref().map(|app| format!(", names of {app} only")).unwrap_or_default();
    let until = record.expires_unix_s.map(|time| format!(", until {} UTC", date(time))).unwrap_or_default();
    format!("role {}{app}{until}", record.role)
}

fn finish(found: Option<&[TokenRecord]>, output: &Output) -> Result<()> {
    let report = Report { tokens: found.map_or(0, <[_]>::len) as u64, tokens_needed: found.is_some() };
    let words = match found {
        None => "none: requests need no token".to_owned(),
        Some([]) => "none: every request is refused until one is made".to_owned(),
        Some(some) => count(some.len() as u64, "token"),
    };
    output.report("serve token", &report, &[("tokens", words)])
}
