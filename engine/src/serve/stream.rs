//! Bodies that are read from the store while they are sent. What is read and not yet sent is counted against one
//! budget, so a client that takes its time holds a batch or two and nobody's thread.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::id::{ChunkRef, NodeId};
use crate::limits::{CHUNK_LEN_MAX, NODE_LEN_MAX};
use crate::store::Store;
use crate::store::wire::{ITEM_HEAD_LEN, item_head, items_end};

use super::answer::{Answer, Refused, binary};
use super::limits::Client;
use super::plans::Plan;
use super::shares::Share;
use super::site::Site;

// Bytes of a batch: the more is free, the more, up to what one sequential read is worth.
const BATCH_MIN: usize = 128 << 10;
const BATCH_MAX: usize = 1 << 20;
const CHUNKS_MAX: usize = 512;
const NODES_MAX: usize = 32;
// Below this an item is copied behind its head; above, it is handed on as it is.
const COPIED_MAX: usize = 4 << 10;
// Most bytes of what ends a stream.
const END_LEN: usize = 128;

/// Things to be sent, in order.
pub(super) enum Wanted {
    /// As items.
    Chunks(Vec<ChunkRef>),
    /// As items.
    Nodes(Vec<NodeId>),
    /// An update, from this byte of the unit of this number on.
    Units(Arc<Plan>, (u64, u64)),
}

impl Wanted {
    fn len(&self) -> usize {
        match self {
            Wanted::Chunks(chunks) => chunks.len(),
            Wanted::Nodes(nodes) => nodes.len(),
            Wanted::Units(plan, (from, _)) => plan.units().saturating_sub(*from) as usize,
        }
    }

    // Where a batch of about `target` bytes from `at` on ends, and the most bytes that it can have.
    fn batch(&self, at: usize, target: usize) -> (usize, usize) {
        match self {
            Wanted::Nodes(nodes) => {
                let end = nodes.len().min(at + NODES_MAX);
                (end, (end - at) * (NODE_LEN_MAX + ITEM_HEAD_LEN))
            }
            Wanted::Chunks(chunks) => {
                let (mut end, mut bytes) = (at, 0);
                for chunk in chunks.iter().skip(at).take(CHUNKS_MAX) {
                    if bytes >= target {
                        break;
                    }
                    bytes += frame_len_max(chunk) + ITEM_HEAD_LEN;
                    end += 1;
                }
                (end, bytes)
            }
            Wanted::Units(plan, (from, _)) if at < self.len() => {
                (at + 1, plan.unit_len_max(*from + at as u64))
            }
            Wanted::Units(..) => (at, 0),
        }
    }

    fn read(&self, store: &dyn Store, from: usize, to: usize, pieces: &mut Pieces) -> Result<()> {
        match self {
            Wanted::Nodes(nodes) => {
                let nodes = nodes.get(from..to).unwrap_or_default();
                store.read_nodes(nodes, &mut |at, bytes| {
                    pieces.push((from + at) as u32, bytes);
                    Ok(())
                })
            }
            Wanted::Chunks(chunks) => {
                let chunks = chunks.get(from..to).unwrap_or_default();
                store.read_chunks(chunks, &mut |at, frame| {
                    // A frame longer than the chunk is said to be is not of that chunk.
                    let fits = |bytes: &Vec<u8>| {
                        chunks.get(at).is_some_and(|chunk| bytes.len() <= frame_len_max(chunk))
                    };
                    pieces.push((from + at) as u32, frame.map(|frame| frame.into_bytes()).filter(fits));
                    Ok(())
                })
            }
            Wanted::Units(plan, (first, from_byte)) => {
                for index in from..to {
                    let skip = if index == 0 { *from_byte } else { 0 };
                    let unit = plan.unit(store, first + index as u64, skip)?;
                    unit.into_iter().for_each(|piece| pieces.add(piece));
                }
                Ok(())
            }
        }
    }

    // What comes behind everything.
    fn end(&self) -> Vec<u8> {
        match self {
            Wanted::Chunks(_) | Wanted::Nodes(_) => items_end(self.len() as u32).to_vec(),
            Wanted::Units(plan, _) => plan.end(),
        }
    }
}

fn frame_len_max(chunk: &ChunkRef) -> usize {
    chunk.len.min(CHUNK_LEN_MAX) as usize + 1
}

// Bytes in order, with as few copies as pieces are worth.
struct Pieces {
    done: VecDeque<Vec<u8>>,
    small: Vec<u8>,
}

impl Pieces {
    fn push(&mut self, index: u32, body: Option<Vec<u8>>) {
        self.small.extend_from_slice(&item_head(index, body.as_ref().map(|body| body.len() as u32)));
        if let Some(body) = body {
            self.add(body);
        }
    }

    fn add(&mut self, bytes: Vec<u8>) {
        if bytes.len() <= COPIED_MAX {
            self.small.extend_from_slice(&bytes);
        } else {
            self.close();
            self.done.push_back(bytes);
        }
    }

    fn close(&mut self) {
        if !self.small.is_empty() {
            self.done.push_back(std::mem::take(&mut self.small));
        }
    }
}

// Bytes that give back their share of the budget once they are sent.
struct Held {
    bytes: Vec<u8>,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn held(bytes: Vec<u8>, share: Share) -> Bytes {
    Bytes::from_owner(Held { bytes, _share: share })
}

/// A body of `bytes`, which count until they are sent.
pub(super) async fn counted(site: &Site, client: Client, bytes: Vec<u8>) -> Body {
    let share = site.in_flight.take(client, bytes.len()).await;
    Body::from(held(bytes, share))
}

// The edits of an update, which has its own share.
struct Edits(Arc<Plan>);

impl AsRef<[u8]> for Edits {
    fn as_ref(&self) -> &[u8] {
        self.0.edits()
    }
}

/// Answers with an update from a byte of a unit on.
pub(super) async fn update(site: &Arc<Site>, client: Client, plan: Arc<Plan>, from: (u64, u64)) -> Answer {
    let mut before = VecDeque::from([Bytes::from(plan.head(from.0, from.1)?)]);
    if from == (0, 0) {
        before.push_back(Bytes::from_owner(Edits(Arc::clone(&plan))));
    }
    send(site, client, Wanted::Units(plan, from), None, before).await
}

/// Answers with `wanted`. What is wrong with the first batch is refused; what is wrong later cuts the stream, and
/// meets the client as the first batch of its next request. `list` is the share of the list itself.
pub(super) async fn items(site: &Arc<Site>, client: Client, wanted: Wanted, list: Option<Share>) -> Answer {
    send(site, client, wanted, list, VecDeque::new()).await
}

async fn send(
    site: &Arc<Site>,
    client: Client,
    wanted: Wanted,
    list: Option<Share>,
    before: VecDeque<Bytes>,
) -> Answer {
    let wanted = Arc::new(wanted);
    let (first, mut at) = batch(site, client, &wanted, 0).await?;
    let mut ready = before;
    ready.extend(first);
    if at == wanted.len() {
        return Ok(binary(Body::new(Streamed { ready, rest: None })));
    }
    let (tx, rx) = mpsc::channel(1);
    let site = Arc::clone(site);
    tokio::spawn(async move {
        let _list = list;
        while at < wanted.len() {
            // Nothing is read before what was read is on its way.
            let Ok(place) = tx.reserve().await else { return };
            // Whoever waits for a batch must notice that its client is gone.
            let next = tokio::select! {
                next = batch(&site, client, &wanted, at) => next,
                () = tx.closed() => return,
            };
            match next {
                Ok((pieces, end)) => {
                    at = end;
                    place.send(Piece::More(pieces));
                }
                Err(error) => return place.send(Piece::Failed(error)),
            }
        }
        let _ = tx.send(Piece::End).await;
    });
    Ok(binary(Body::new(Streamed { ready, rest: Some(rx) })))
}

async fn batch(
    site: &Site,
    client: Client,
    wanted: &Arc<Wanted>,
    at: usize,
) -> Result<(VecDeque<Bytes>, usize)> {
    let target = (site.in_flight.free() / 16).clamp(BATCH_MIN, BATCH_MAX);
    let (end, bytes) = wanted.batch(at, target);
    let mut share = site.in_flight.take(client, bytes + END_LEN).await;
    let wanted = Arc::clone(wanted);
    let job = move |store: &dyn Store| {
        let mut pieces = Pieces { done: VecDeque::new(), small: Vec::new() };
        wanted.read(store, at, end, &mut pieces)?;
        if end == wanted.len() {
            pieces.add(wanted.end());
        }
        pieces.close();
        // Each gives its own back when it is gone.
        let held = pieces.done.into_iter().map(|piece| {
            let own = share.split(piece.len());
            held(piece, own)
        });
        Ok((held.collect(), end))
    };
    site.bridge.read(job).await
}

/// Answers with what `job` hands over; `None` if it returns false, having handed over nothing. The job has a thread of
/// its own and waits there for the client. While it makes a piece it holds `making` bytes of the budget.
pub(super) async fn pushed(
    site: &Arc<Site>,
    client: Client,
    making: usize,
    job: impl FnOnce(&dyn Store, &mut dyn FnMut(Vec<u8>) -> Result<()>) -> Result<bool> + Send + 'static,
) -> Result<Option<Body>, Refused> {
    let pusher = site.bridge.pusher(client, site.options.limits.stall_timeout).await?;
    let (tx, mut rx) = mpsc::channel(1);
    let (budget, runtime) = (site.in_flight.clone(), Handle::current());
    pusher.start(move |store| {
        // A thread never waits here for ever: either the budget comes back or the client is gone.
        let reserve = |bytes: usize| {
            let share = runtime.block_on(async {
                tokio::select! {
                    share = budget.take(client, bytes) => Some(share),
                    () = tx.closed() => None,
                }
            });
            share.ok_or(Error::Cancelled)
        };
        let run = || {
            let mut ahead = reserve(making)?;
            job(store, &mut |bytes: Vec<u8>| {
                ahead.shrink(bytes.len());
                let share = ahead.split(bytes.len());
                let piece = Piece::More(VecDeque::from([held(bytes, share)]));
                tx.blocking_send(piece).map_err(|_| Error::Cancelled)?;
                ahead = reserve(making)?;
                Ok(())
            })
        };
        let last = match run() {
            Ok(true) => Piece::End,
            Ok(false) => Piece::Nothing,
            Err(error) => Piece::Failed(error),
        };
        let _ = tx.blocking_send(last);
    });
    match rx.recv().await {
        Some(Piece::More(ready)) => Ok(Some(Body::new(Streamed { ready, rest: Some(rx) }))),
        Some(Piece::End) => Ok(Some(Body::empty())),
        Some(Piece::Nothing) => Ok(None),
        Some(Piece::Failed(error)) => Err(error.into()),
        None => Err(Error::Cancelled.into()),
    }
}

enum Piece {
    More(VecDeque<Bytes>),
    End,
    Nothing,
    Failed(Error),
}

// A sender that goes without an end has failed, and so has the stream.
struct Streamed {
    ready: VecDeque<Bytes>,
    rest: Option<mpsc::Receiver<Piece>>,
}

impl hyper::body::Body for Streamed {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
            match ready!(rest.poll_recv(cx)) {
                Some(Piece::More(ready)) => self.ready = ready,
                Some(Piece::End) => self.rest = None,
                Some(Piece::Failed(error)) => return Poll::Ready(Some(Err(std::io::Error::other(error)))),
                Some(Piece::Nothing) | None => {
                    return Poll::Ready(Some(Err(std::io::Error::other("the stream was cut"))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty() && self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let ready = self.ready.iter().map(|bytes| bytes.len() as u64).sum();
        let mut hint = SizeHint::new();
        hint.set_lower(ready);
        if self.rest.is_none() {
            hint.set_upper(ready);
        }
        hint
    }
}
