//! What a failed request means: which error it is, and whether another try is of use.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};
use ureq::http::{StatusCode, header, response::Parts};

use super::meter::{Foreign, Stopped};
use super::origin::Ask;
use crate::error::{Error, ErrorClass};
use crate::store::wire::{Refusal, class_word};

// Of what the other side says, this much is shown.
const WORDS_LEN_MAX: usize = 1000;
/// What is not there if an answer of "not found" is not one of ours.
pub(super) const NO_SERVER: &str = "floe server that speaks protocol 1";

const SPEAKS_TLS: &str = "it speaks TLS";

/// Why a try failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may be chance. The other side may have asked for some time.
    Again(Error, Option<Duration>),
    /// It will not be otherwise the next time.
    Final(Error),
}

/// What an error of the connection means.
pub(super) fn failed(place: &str, action: &'static str, error: ureq::Error) -> Failure {
    let place = place.to_owned();
    if let Some(error) = find::<rustls::Error>(&error) {
        match error {
            rustls::Error::InvalidCertificate(wrong) => {
                return Failure::Final(Error::Untrusted {
                    what: "the certificate".into(),
                    place,
                    reason: distrust(wrong),
                });
            }
            rustls::Error::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::DecryptError
                | AlertDescription::AccessDenied,
            ) => {
                let reason = error.to_string();
                return Failure::Final(Error::Denied { what: "a connection".into(), place, reason });
            }
            _ => {}
        }
    }
    if find::<Stopped>(&error).is_some() {
        return Failure::Final(Error::Cancelled);
    }
    match find::<Foreign>(&error) {
        Some(Foreign { tls: true }) => {
            return Failure::Final(Error::Network {
                action: "speak HTTP with",
                place,
                source: SPEAKS_TLS.into(),
            });
        }
        Some(foreign) => {
            return Failure::Final(Error::Malformed { kind: "answer", place, reason: foreign.to_string() });
        }
        None => {}
    }
    match error {
        ureq::Error::LargeResponseHeader(actual, max) => {
            let what = format!("header of an answer from {place}");
            Failure::Final(Error::Limit { what, actual: actual as u64, max: max as u64 })
        }
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Failure::Final(Error::Denied { what: "a connection".into(), place, reason: error.to_string() })
        }
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::NotFound => {
            Failure::Final(Error::Network { action, place, source: Box::new(error) })
        }
        // The command there ended because another process holds the store.
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            Failure::Again(Error::Locked { place, pid: holder(&error.to_string()) }, None)
        }
        ureq::Error::Timeout(_) => {
            let source = "it was silent for too long".into();
            Failure::Again(Error::Network { action, place, source }, None)
        }
        ureq::Error::BadUri(_) | ureq::Error::TlsRequired | ureq::Error::Http(_) => {
            Failure::Final(Error::Network { action, place, source: Box::new(error) })
        }
        ureq::Error::Io(error) if find::<ureq::Error>(&error).is_some_and(is_timeout) => {
            let source = "it was silent for too long".into();
            Failure::Again(Error::Network { action, place, source }, None)
        }
        ureq::Error::Io(error) => {
            Failure::Again(Error::Network { action, place, source: Box::new(error) }, None)
        }
        error => Failure::Again(Error::Network { action, place, source: Box::new(error) }, None),
    }
}

/// Where that is damaged which the other side did not get as it was here.
pub(super) fn sent_to(place: &str) -> String {
    format!("what was sent to {place}")
}

fn distrust(wrong: &CertificateError) -> String {
    match wrong {
        CertificateError::UnknownIssuer => "its issuer is unknown here".into(),
        CertificateError::BadSignature => "its issuer is not the one that is trusted here".into(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another host name".into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet".into()
        }
        other => other.to_string(),
    }
}

// Of the words of a command that could not have the store.
fn holder(words: &str) -> Option<u32> {
    let (_, number) = words.split_once("in use by process ")?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn is_timeout(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Timeout(_))
}

// The first error of a kind among an error and its causes; an `io::Error` hides its own.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    for _ in 0..8 {
        let error = next?;
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        let within: Option<&(dyn StdError + 'static)> = match error.downcast_ref::<ureq::Error>() {
            Some(ureq::Error::Io(inner)) => Some(inner),
            Some(ureq::Error::Rustls(inner)) => Some(inner),
            Some(ureq::Error::Other(inner)) => Some(&**inner),
            _ => None,
        };
        let wrapped = || error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = within.or_else(|| wrapped().map(|inner| inner as &(dyn StdError + 'static)));
        next = next.or_else(|| error.source());
    }
    None
}

/// What an answer with a bad status means; `words` is its body.
pub(super) fn refused(place: &str, ask: &Ask<'_>, head: &Parts, words: &[u8]) -> Failure {
    let status = head.status;
    let refusal: Option<Refusal> = serde_json::from_slice(words).ok();
    let reason = match &refusal {
        Some(refusal) => shortened(&refusal.reason),
        None => format!("status {status}"),
    };
    let what =
        refusal.as_ref().map_or_else(|| format!("{} {}", ask.method, ask.path), |r| shortened(&r.what));
    if status.is_redirection() {
        let to = head.headers.get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("elsewhere");
        let reason =
            format!("it redirects to `{}`, and no redirect is followed", shortened(to).escape_debug());
        return Failure::Final(Error::Malformed { kind: "answer", place: place.to_owned(), reason });
    }
    let place = place.to_owned();
    let class = refusal.as_ref().and_then(|refusal| class_of(&refusal.class));
    let network = |reason: String| Error::Network {
        action: "get an answer from",
        place: place.clone(),
        source: reason.into(),
    };
    let told = String::from_utf8_lossy(words.get(..WORDS_LEN_MAX).unwrap_or(words));
    if status == StatusCode::BAD_REQUEST && class.is_none() && told.contains("HTTPS") {
        let action = "speak HTTP with";
        return Failure::Final(Error::Network { action, place, source: SPEAKS_TLS.into() });
    }
    let passing = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    if passing.contains(&status) || (class.is_none() && status.is_server_error()) {
        return Failure::Again(network(reason), retry_after(head));
    }
    Failure::Final(match (status, class) {
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) | (_, Some(ErrorClass::Denied)) => {
            Error::Denied { what, place, reason }
        }
        (StatusCode::NOT_FOUND, Some(_)) => Error::NotFound { what, place },
        (StatusCode::NOT_FOUND, None) => Error::NotFound { what: NO_SERVER.into(), place },
        (StatusCode::CONFLICT, _) | (_, Some(ErrorClass::Conflict)) => {
            Error::Conflict { what, place, reason }
        }
        (_, Some(ErrorClass::Usage)) => Error::Usage { what, reason: format!("{place}: {reason}") },
        (StatusCode::UNPROCESSABLE_ENTITY, Some(ErrorClass::Damaged)) => {
            Error::Damaged { what, place: sent_to(&place), reason }
        }
        (_, Some(ErrorClass::Damaged)) => Error::Damaged { what, place, reason },
        (_, Some(ErrorClass::NoSpace)) => {
            let source = io::Error::new(io::ErrorKind::StorageFull, format!("{what}: {reason}"));
            Error::Io { action: "write to", path: PathBuf::from(place), source }
        }
        (_, Some(ErrorClass::Network | ErrorClass::Cancelled)) => {
            return Failure::Again(network(reason), None);
        }
        _ => Error::Store { action: "do as asked", place, source: format!("{what}: {reason}").into() },
    })
}

fn class_of(word: &str) -> Option<ErrorClass> {
    let classes = [
        ErrorClass::Failure,
        ErrorClass::Usage,
        ErrorClass::Damaged,
        ErrorClass::Conflict,
        ErrorClass::NoSpace,
        ErrorClass::Cancelled,
        ErrorClass::Network,
        ErrorClass::Denied,
    ];
    classes.into_iter().find(|class| class_word(*class) == word)
}

fn shortened(text: &str) -> String {
    text.chars().take(WORDS_LEN_MAX).collect()
}

fn retry_after(head: &Parts) -> Option<Duration> {
    let value = head.headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}
