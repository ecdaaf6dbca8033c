//! How answers are made: JSON, things that never change, and refusals.

use axum::body::Body;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Response, StatusCode};
use serde::Serialize;

use crate::error::{Error, ErrorClass};
use crate::store::wire::{BINARY, Refusal, class_word};

use super::routes::PLACE;

pub(super) type Answer = Result<Response<Body>, Refused>;

/// Why a request is not carried out, as its client is told.
#[derive(Debug)]
pub(super) struct Refused {
    pub status: StatusCode,
    refusal: Refusal,
    /// For the metrics.
    pub label: &'static str,
    pub unseen: Box<Unseen>,
}

/// What only the log says.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    pub cause: Option<String>,
    /// The id of the token that the request came with, if that is known.
    pub caller: Option<String>,
}

/// The type of JSON.
pub(super) const JSON: &str = "application/json";

impl Refused {
    fn new(status: StatusCode, label: &'static str, class: &str, what: String, reason: String) -> Self {
        Self {
            status,
            refusal: Refusal { class: class.to_owned(), what, reason },
            label,
            unseen: Box::default(),
        }
    }

    /// Known to come from the token with this id.
    pub fn with_caller(mut self, id: Option<String>) -> Self {
        self.unseen.caller = id;
        self
    }

    /// Who asks did not say who they are.
    pub fn no_token(reason: &str) -> Self {
        let class = class_word(ErrorClass::Denied);
        Self::new(StatusCode::UNAUTHORIZED, "token", class, "the request".to_owned(), reason.to_owned())
    }

    /// Who asks may not.
    pub fn denied(what: impl Into<String>, reason: impl Into<String>) -> Self {
        let class = class_word(ErrorClass::Denied);
        Self::new(StatusCode::FORBIDDEN, "role", class, what.into(), reason.into())
    }

    /// Not now; worth another try.
    pub fn busy(label: &'static str, reason: &str) -> Self {
        let class = class_word(ErrorClass::Network);
        Self::new(StatusCode::SERVICE_UNAVAILABLE, label, class, "the server".to_owned(), reason.to_owned())
    }

    /// One client asks too much at once.
    pub fn too_many() -> Self {
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            ..Self::busy("client", "too many requests from this address")
        }
    }

    /// The client sends too slowly, or the whole took too long.
    pub fn slow(reason: &str) -> Self {
        Self { status: StatusCode::REQUEST_TIMEOUT, ..Self::busy("slow", reason) }
    }

    /// There is no such thing.
    pub fn not_found(what: impl Into<String>) -> Self {
        let (class, reason) = (class_word(ErrorClass::Failure), "it is not here".to_owned());
        Self::new(StatusCode::NOT_FOUND, "not-found", class, what.into(), reason)
    }

    /// There is such a path, but nothing to do with it in this way.
    pub fn no_method() -> Self {
        let (class, what) = (class_word(ErrorClass::Usage), "method".to_owned());
        let reason = "this path does not take it".to_owned();
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "usage", class, what, reason)
    }

    /// It is not HTTP as it should be; nothing after it on its connection can be trusted to be.
    pub fn malformed(what: &str, reason: &str) -> Self {
        let class = class_word(ErrorClass::Usage);
        Self::new(StatusCode::BAD_REQUEST, "malformed", class, what.to_owned(), reason.to_owned())
    }

    /// Its body is of another type than the path takes.
    pub fn wrong_type(told: &str, wanted: &str) -> Self {
        let class = class_word(ErrorClass::Usage);
        let what = match told {
            "" => "a body without a type".to_owned(),
            told => format!("a body of type `{}`", told.chars().take(100).collect::<String>().escape_debug()),
        };
        let reason = format!("this path takes `{wanted}`");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "type", class, what, reason)
    }

    pub fn into_response(self) -> Response<Body> {
        let body = serde_json::to_vec(&self.refusal).unwrap_or_default();
        let mut response = with(self.status, JSON, Body::from(body));
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        let unread = matches!(
            self.status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNSUPPORTED_MEDIA_TYPE
        );
        if unread || self.label == "malformed" {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Paths and the words of the database stay here: only the log has them.
impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let class = class_word(error.class());
        let cause = chain(&error);
        let failed = |action: &str| ("the server".to_owned(), format!("it cannot {action}"));
        let (status, (what, reason)) = match error {
            Error::NotFound { what, .. } => return Self::not_found(what),
            Error::Usage { what, reason } => (StatusCode::BAD_REQUEST, (what, reason)),
            Error::Denied { what, reason, .. } => (StatusCode::FORBIDDEN, (what, reason)),
            Error::Conflict { what, reason, .. } => (StatusCode::CONFLICT, (what, reason)),
            Error::Damaged { what, place, reason } if place == PLACE => {
                (StatusCode::UNPROCESSABLE_ENTITY, (what, reason))
            }
            // What is here is damaged, not what came.
            Error::Damaged { what, reason, .. } => {
                let words = matches!(what.as_str(), "database" | "list of names");
                let reason = if words { "it cannot be read".to_owned() } else { reason };
                (StatusCode::INTERNAL_SERVER_ERROR, (what, reason))
            }
            Error::Malformed { kind, reason, .. } => {
                (StatusCode::UNPROCESSABLE_ENTITY, (kind.to_owned(), reason))
            }
            Error::UnsafePath { path, reason } => {
                let what = format!("path `{}`", path.escape_debug());
                (StatusCode::UNPROCESSABLE_ENTITY, (what, reason.to_owned()))
            }
            Error::TooNew { kind, found, supported, .. } => {
                let reason = format!("it has format {found}, but the server reads up to {supported}");
                (StatusCode::UNPROCESSABLE_ENTITY, (kind.to_owned(), reason))
            }
            Error::Limit { what, actual, max } => {
                (StatusCode::PAYLOAD_TOO_LARGE, (what, format!("{actual}, over the limit of {max}")))
            }
            Error::Locked { .. } => {
                let reason = "another process holds it".to_owned();
                (StatusCode::CONFLICT, ("the store".to_owned(), reason))
            }
            Error::Cancelled => (StatusCode::SERVICE_UNAVAILABLE, failed("go on: it is stopping")),
            Error::Network { action, .. } => (StatusCode::BAD_GATEWAY, failed(action)),
            Error::Io { action, .. } | Error::Store { action, .. } => match class {
                "no-space" => (
                    StatusCode::INSUFFICIENT_STORAGE,
                    ("the server".to_owned(), "its disk is full".to_owned()),
                ),
                _ => (StatusCode::INTERNAL_SERVER_ERROR, failed(action)),
            },
            Error::Unpublishable { .. } | Error::Changed { .. } | Error::Untrusted { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, failed("do that"))
            }
        };
        let mut refused = Self::new(status, class_label(class), class, what, reason);
        refused.unseen.cause = status.is_server_error().then_some(cause);
        refused
    }
}

fn class_label(class: &str) -> &'static str {
    match class {
        "usage" => "usage",
        "damaged" => "damaged",
        "conflict" => "conflict",
        "no-space" => "no-space",
        _ => "failure",
    }
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn with(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // No browser is to guess that bytes of a store are a page.
    let name = HeaderName::from_static("x-content-type-options");
    response.headers_mut().insert(name, HeaderValue::from_static("nosniff"));
    response
}

fn mark(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Done, with nothing to say.
pub(super) fn done() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Text for a person or Prometheus.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    with(status, "text/plain; charset=utf-8", Body::from(text.into()))
}

/// Bytes that answer only this request.
pub(super) fn binary(body: impl Into<Body>) -> Response<Body> {
    let mut response = with(StatusCode::OK, BINARY, body.into());
    mark(&mut response, header::CACHE_CONTROL, "no-store");
    response
}

pub(super) fn json(value: &impl Serialize) -> Answer {
    let mut response = with(StatusCode::OK, JSON, Body::from(json_bytes(value)?));
    mark(&mut response, header::CACHE_CONTROL, "no-store");
    Ok(response)
}

/// The bytes of it.
pub(super) fn json_bytes(value: &impl Serialize) -> Result<Vec<u8>, Refused> {
    serde_json::to_vec(value).map_err(|error| {
        let source = std::io::Error::other(error);
        Error::Io { action: "write JSON for", path: "a client".into(), source }.into()
    })
}

/// JSON that may change: kept only to be asked about again.
pub(super) fn changing(value: &impl Serialize, etag: &str, asked: &HeaderMap) -> Answer {
    let response = if known(asked, etag) { not_modified() } else { json(value)? };
    Ok(to_be_asked_again(response, etag))
}

/// The same of what is JSON already.
pub(super) fn changing_body(body: Body, etag: &str, asked: &HeaderMap) -> Response<Body> {
    let response = if known(asked, etag) { not_modified() } else { with(StatusCode::OK, JSON, body) };
    to_be_asked_again(response, etag)
}

fn to_be_asked_again(mut response: Response<Body>, etag: &str) -> Response<Body> {
    mark(&mut response, header::CACHE_CONTROL, "no-cache");
    mark(&mut response, header::ETAG, etag);
    response
}

/// Bytes whose name is their hash.
pub(super) fn immutable(
    body: impl Into<Body>,
    etag: &str,
    public: bool,
    asked: &HeaderMap,
) -> Response<Body> {
    let mut response =
        if known(asked, etag) { not_modified() } else { with(StatusCode::OK, BINARY, body.into()) };
    let to_whom = if public { "public" } else { "private" };
    let lasting = format!("{to_whom}, max-age=31536000, immutable");
    mark(&mut response, header::CACHE_CONTROL, &lasting);
    mark(&mut response, header::ETAG, etag);
    response
}

fn not_modified() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

// Weakly, as `If-None-Match` is to be compared.
fn known(asked: &HeaderMap, etag: &str) -> bool {
    let plain = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let values = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|tag| tag.trim() == "*" || plain(tag) == plain(etag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_are_compared_weakly() {
        for (value, hit) in [
            ("\"a\"", true),
            ("W/\"a\"", true),
            ("\"b\", \"a\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a", false),
        ] {
            let mut asked = HeaderMap::new();
            asked.insert(header::IF_NONE_MATCH, HeaderValue::from_static(value));
            let response = immutable(Body::empty(), "\"a\"", true, &asked);
            assert_eq!(response.status() == StatusCode::NOT_MODIFIED, hit, "{value}");
        }
    }

    #[test]
    fn what_only_the_owner_is_to_know_stays_here() {
        let source = std::io::Error::other("/srv/secret/1.sst");
        let error = Error::Store { action: "read", place: "`/srv/secret`".into(), source: source.into() };
        let refused = Refused::from(error);
        assert!(!format!("{:?}", refused.refusal).contains("secret"));
        assert!(refused.unseen.cause.is_some_and(|cause| cause.contains("1.sst")));
        let damaged = |what: &str, place: &str, reason: &str| {
            let (what, place, reason) = (what.to_owned(), place.to_owned(), reason.to_owned());
            Refused::from(Error::Damaged { what, place, reason })
        };
        for (what, place, reason, status, told) in [
            ("database", "store `/srv/secret`", "block in /srv/secret/1.sst", 500, "it cannot be read"),
            ("chunk 12", "store `/srv/secret`", "it is missing", 500, "it is missing"),
            ("chunk 12", PLACE, "other bytes", 422, "other bytes"),
        ] {
            let refused = damaged(what, place, reason);
            assert_eq!((refused.status.as_u16(), &*refused.refusal.what), (status, what), "{reason}");
            assert_eq!((&*refused.refusal.class, &*refused.refusal.reason), ("damaged", told));
        }
    }
}
