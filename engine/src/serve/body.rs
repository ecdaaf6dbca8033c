//! Bodies of requests, read whole: bounded in length, in time, and all together in memory.

use std::io::ErrorKind;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::Error;

use super::answer::Refused;
use super::limits::Client;
use super::shares::Share;
use super::site::Site;

/// A body, and its share of the budget.
pub(super) struct Received {
    pub bytes: Vec<u8>,
    // A sweep, of which there is one at a time, has none.
    share: Option<Share>,
}

impl Received {
    /// Its share, for what was made of it.
    pub fn into_share(self) -> Option<Share> {
        self.share
    }
}

/// Reads a body of at most `len_max` bytes that counts against the budget of bodies.
pub(super) async fn receive(
    site: &Site,
    client: Client,
    headers: &HeaderMap,
    body: Body,
    len_max: u64,
) -> Result<Received, Refused> {
    collect(site, headers, body, len_max, Some(client)).await
}

/// The same outside the budget.
pub(super) async fn receive_alone(
    site: &Site,
    headers: &HeaderMap,
    body: Body,
    len_max: u64,
) -> Result<Received, Refused> {
    collect(site, headers, body, len_max, None).await
}

async fn collect(
    site: &Site,
    headers: &HeaderMap,
    mut body: Body,
    len_max: u64,
    counted: Option<Client>,
) -> Result<Received, Refused> {
    let over = |actual| {
        let what = "length of the body".to_owned();
        Err(Refused::from(Error::Limit { what, actual, max: len_max }))
    };
    let told = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(told) = told.filter(|told| *told > len_max) {
        return over(told);
    }
    let limits = &site.options.limits;
    let mut share = None::<Share>;
    if let (Some(client), Some(told)) = (counted, told) {
        // All at once: of two that hold a half and wait for the other, none would end.
        share = Some(room(site, client, told as usize).await?);
    }
    let (start, mut bytes) = (Instant::now(), Vec::new());
    loop {
        // What came so far has earned this much time.
        let earned = Duration::from_secs(bytes.len() as u64 / limits.rate_min.max(1));
        let until = (start + limits.stall_timeout + earned).min(Instant::now() + limits.stall_timeout);
        let frame =
            timeout_at(until, body.frame()).await.map_err(|_| Refused::slow("its body comes too slowly"))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| broken(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        let len = bytes.len() as u64 + data.len() as u64;
        if len > len_max {
            return over(len);
        }
        if let (Some(client), None) = (counted, told) {
            let more = room(site, client, data.len()).await?;
            match &mut share {
                Some(share) => share.merge(more),
                none => *none = Some(more),
            }
        }
        bytes.extend_from_slice(&data);
    }
    site.metrics.bytes_in.inc_by(bytes.len() as u64);
    Ok(Received { bytes, share })
}

async fn room(site: &Site, client: Client, len: usize) -> Result<Share, Refused> {
    let patience = site.options.limits.stall_timeout;
    let room = timeout(patience, site.bodies.take(client, len)).await;
    room.map_err(|_| Refused::busy("bodies", "too many bodies at once"))
}

// What does not even look like a body is not worth another try.
fn broken(error: &axum::Error) -> Refused {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref().map(std::io::Error::kind);
        if matches!(kind, Some(ErrorKind::InvalidInput | ErrorKind::InvalidData)) {
            return Refused::malformed("the body", "its chunks are not as HTTP has them");
        }
        cause = error.source();
    }
    Refused::slow("its body broke off")
}
