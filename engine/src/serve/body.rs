//! Bodies of requests, read whole: bounded in length, in time, and all together in memory.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::error::Error;

use super::answer::Refused;
use super::limits;
use super::site::Site;

/// A body, and its share of the budget.
pub(super) struct Received {
    pub bytes: Vec<u8>,
    // A sweep, of which there is one at a time, has none.
    _share: Option<limits::Bytes>,
}

/// Reads a body of at most `len_max` bytes that counts against the budget of bodies.
pub(super) async fn receive(
    site: &Site,
    headers: &HeaderMap,
    body: Body,
    len_max: u64,
) -> Result<Received, Refused> {
    collect(site, headers, body, len_max, true).await
}

/// The same outside the budget.
pub(super) async fn receive_alone(
    site: &Site,
    headers: &HeaderMap,
    body: Body,
    len_max: u64,
) -> Result<Received, Refused> {
    collect(site, headers, body, len_max, false).await
}

async fn collect(
    site: &Site,
    headers: &HeaderMap,
    mut body: Body,
    len_max: u64,
    counted: bool,
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
    let (start, mut bytes, mut share) = (Instant::now(), Vec::new(), None::<limits::Bytes>);
    loop {
        // What came so far has earned this much time.
        let earned = Duration::from_secs(bytes.len() as u64 / limits.rate_min.max(1));
        let until = (start + limits.stall_timeout + earned).min(Instant::now() + limits.stall_timeout);
        let frame =
            timeout_at(until, body.frame()).await.map_err(|_| Refused::slow("its body comes too slowly"))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| Refused::slow("its body broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        let len = bytes.len() as u64 + data.len() as u64;
        if len > len_max {
            return over(len);
        }
        if counted {
            let until = Instant::now() + limits.stall_timeout;
            let more = timeout_at(until, site.bodies.take(data.len())).await;
            let more =
                more.ok().flatten().ok_or_else(|| Refused::busy("bodies", "too many bodies at once"))?;
            match &mut share {
                Some(share) => share.merge(more),
                none => *none = Some(more),
            }
        }
        bytes.extend_from_slice(&data);
    }
    site.metrics.bytes_in.inc_by(bytes.len() as u64);
    Ok(Received { bytes, _share: share })
}
