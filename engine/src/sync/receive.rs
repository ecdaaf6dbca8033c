//! The receiving side of an update: its units go into the replica's arrivals as they come, its edits make the nodes.
//!
//! Each unit is proven to be whole before it is kept, and each chunk is named by its own content. That they are the
//! right ones is proven by the version that the edits arrive at. What the source does wrong here costs time alone: the
//! caller goes on with the walk, and uses what has arrived. What breaks off is kept, and continued by the next run.

use std::io::Read;

use crate::error::{Error, Result};
use crate::flow::{Flow, Push, pushed};
use crate::id::{ChunkRef, NodeId, VersionId};
use crate::limits::UPDATE_CHUNKS_MAX;
use crate::progress::{Notice, Phase, Progress, check};
use crate::store::{Source, UpdateAsk};
use crate::tree::{Arrivals, Replica, Stage};
use crate::version::{Manifest, NodeSink, NodeSource, Totals, apply_edits};

use super::stream::{Unit, UpdateHeader, UpdateReader};
use super::wire::Counted;

// So many streams may break off one after the other without a single new unit.
const IDLE_MAX: u32 = 3;

/// An update to be received.
pub(super) struct Update<'a> {
    pub source: &'a Counted<'a>,
    pub have: VersionId,
    pub want: VersionId,
    /// The sums of `want`: no update brings more.
    pub totals: Totals,
    pub flow: Flow,
    pub progress: &'a dyn Progress,
}

struct Received {
    header: UpdateHeader,
    arrivals: Arrivals,
    // In order, as the edits count them.
    chunks: Vec<ChunkRef>,
    bytes: u64,
    // The first unit that is not here, and where it belongs in the log.
    next: u64,
    end: u64,
}

impl Received {
    fn new(header: UpdateHeader, arrivals: Arrivals, end: u64) -> Received {
        Received { header, arrivals, chunks: Vec::new(), bytes: 0, next: 0, end }
    }

    fn is_complete(&self) -> bool {
        self.next == self.header.units
    }
}

// The chunks of a unit, with where their frames lie in the log and how long they are.
struct Named {
    chunks: Vec<(ChunkRef, u64, u32)>,
    end: u64,
}

type PushUnit<'a> = Push<'a, (Unit, u64)>;

impl Update<'_> {
    /// Receives the update, as far as it is not here already, and puts the nodes of the target into the stage. Returns
    /// the chunks that arrived. If the source makes no update, or a wrong one, nodes are still lacking then.
    pub fn receive(&self, stage: &Stage<'_>) -> Result<Option<Arrivals>> {
        let replica = stage.replica();
        let there = replica.nodes().contains(&self.want.root());
        let mut received = self.resume(replica)?;
        if there && received.is_none() {
            // With its nodes here, what lacks is asked for chunk by chunk, and is no more than that.
            return Ok(None);
        }
        let arrived = self.fetch(replica, &mut received).and_then(|()| match &received {
            Some(received) if received.is_complete() && !there => self.apply(stage, received),
            _ => Ok(()),
        });
        match arrived {
            Err(error) if is_of_source(&error) && !replica.nodes().is_blamed(&error) => {
                self.progress.notice(Notice::UpdateIgnored { what: error.to_string() });
                // Nobody shall continue it, but what has arrived is good for this run.
                Arrivals::discard(replica)?;
            }
            arrived => arrived?,
        }
        Ok(received.map(|received| received.arrivals))
    }

    fn ask(&self, from_unit: u64) -> UpdateAsk {
        UpdateAsk { have: Some(self.have), want: self.want, from_unit }
    }

    // What an earlier run left of this very update. What is not intact, and all that follows, is cut off.
    fn resume(&self, replica: &Replica) -> Result<Option<Received>> {
        if !Arrivals::exist(replica)? {
            return Ok(None);
        }
        let arrivals = Arrivals::open(replica)?;
        let place = format!("`{}`", replica.dir().display());
        let opened = UpdateReader::open(arrivals.reader(), &self.ask(0), &place);
        let Ok((header, head_len)) = opened.map(|log| (*log.header(), log.head().len() as u64)) else {
            Arrivals::discard(replica)?;
            return Ok(None);
        };
        let mut received = Received::new(header, arrivals, head_len);
        let feed = |arrivals: &Arrivals, push: &mut PushUnit<'_>| {
            let mut log = UpdateReader::open(arrivals.reader(), &self.ask(0), &place)?;
            let mut at = head_len;
            while log.next_index() < header.units {
                check(self.progress)?;
                let unit = log.next_unit()?;
                let Some(unit) = unit else { break };
                let (from, len) = (at, unit.bytes().len() as u64);
                at += len;
                push((unit, from), len)?;
            }
            Ok(())
        };
        match self.add_all(replica, &mut received, &place, feed) {
            Ok(()) => {}
            // Where the intact part ends.
            Err(error) if is_of_source(&error) || matches!(error, Error::Network { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(Some(received))
    }

    // Asks for what is lacking, over again as long as something comes.
    fn fetch(&self, replica: &Replica, received: &mut Option<Received>) -> Result<()> {
        let mut idle = 0;
        let mut restarted = false;
        loop {
            let from = received.as_ref().map_or(0, |received| received.next);
            if received.as_ref().is_some_and(Received::is_complete) {
                return Ok(());
            }
            let ask = self.ask(from);
            let Some(stream) = self.source.update(&ask)? else { return Ok(()) };
            self.progress.phase(Phase::Fetch, None);
            let place = self.source.place();
            let opened = UpdateReader::open(stream, &ask, &place);
            let taken = opened.and_then(|mut stream| {
                let other = |here: &Received| !here.header.continues(stream.header());
                if received.as_ref().is_some_and(other) {
                    if std::mem::replace(&mut restarted, true) {
                        let reason = "it is another one each time".to_owned();
                        return Err(Error::Malformed { kind: "update stream", place: place.clone(), reason });
                    }
                    *received = None;
                    return Arrivals::discard(replica);
                }
                let here = match received {
                    Some(here) => here,
                    None => received.insert(self.begin(replica, &stream)?),
                };
                self.take(replica, here, &mut stream)
            });
            let next = received.as_ref().map_or(0, |received| received.next);
            idle = match taken {
                Err(Error::Network { .. }) if next > from => 0,
                // If the source is gone the walk will say so; what has arrived stays for the next run.
                Err(error @ Error::Network { .. }) if idle + 1 == IDLE_MAX => {
                    self.progress.notice(Notice::UpdateIgnored { what: error.to_string() });
                    return Ok(());
                }
                Err(Error::Network { .. }) => idle + 1,
                Ok(()) if received.is_none() => idle,
                taken => return taken,
            };
        }
    }

    fn begin<R: Read>(&self, replica: &Replica, stream: &UpdateReader<R>) -> Result<Received> {
        let arrivals = Arrivals::open(replica)?;
        if !arrivals.is_empty() {
            arrivals.cut(replica, 0)?;
        }
        arrivals.append(replica, stream.head())?;
        let end = arrivals.len();
        Ok(Received::new(*stream.header(), arrivals, end))
    }

    // Takes units to the end of the stream, or to where it breaks off. A unit is in the log before it is opened, so
    // that whatever stops this loses at most the one that is being read.
    fn take<R: Read + Send>(
        &self,
        replica: &Replica,
        received: &mut Received,
        stream: &mut UpdateReader<R>,
    ) -> Result<()> {
        let feed = |arrivals: &Arrivals, push: &mut PushUnit<'_>| {
            loop {
                check(self.progress)?;
                let Some(unit) = stream.next_unit()? else { return Ok(()) };
                let at = arrivals.append(replica, unit.bytes())?;
                let len = unit.bytes().len() as u64;
                self.source.count_chunks(unit.frames().len() as u64);
                self.progress.advance(len);
                push((unit, at), len)?;
            }
        };
        self.add_all(replica, received, &self.source.place(), feed)
    }

    // Names the chunks of all units that `feed` pushes. The log ends with the last one that is good.
    fn add_all(
        &self,
        replica: &Replica,
        received: &mut Received,
        place: &str,
        feed: impl FnOnce(&Arrivals, &mut PushUnit<'_>) -> Result<()> + Send,
    ) -> Result<()> {
        let Received { arrivals, chunks, bytes, next, end, .. } = received;
        let arrivals = &*arrivals;
        let work = |(unit, at): (Unit, u64)| name(&unit, at, place);
        let drain = |named: Named| {
            for &(chunk, at, len) in &named.chunks {
                arrivals.note(chunk.id, at, len);
                *bytes += u64::from(chunk.len);
                chunks.push(chunk);
            }
            self.bound(chunks.len() as u64, *bytes, place)?;
            (*next, *end) = (*next + 1, named.end);
            Ok(())
        };
        let added = pushed(self.flow, |push| feed(arrivals, push), work, drain);
        if arrivals.len() != *end {
            arrivals.cut(replica, *end)?;
        }
        added
    }

    fn bound(&self, chunks: u64, bytes: u64, place: &str) -> Result<()> {
        let bounds = [
            ("chunks", chunks, self.totals.chunks.min(UPDATE_CHUNKS_MAX)),
            ("bytes", bytes, self.totals.bytes),
        ];
        match bounds.into_iter().find(|(_, actual, max)| actual > max) {
            None => Ok(()),
            Some((what, actual, max)) => Err(Error::Limit {
                what: format!("count of new {what} in the update from {place}"),
                actual,
                max,
            }),
        }
    }

    fn apply(&self, stage: &Stage<'_>, received: &Received) -> Result<()> {
        let nodes = stage.replica().nodes();
        let place = self.source.place();
        let log = UpdateReader::open(received.arrivals.reader(), &self.ask(0), &place)?;
        let base = Manifest::open(nodes, self.have)?;
        let edits = log.edits().unwrap_or_default();
        let found = apply_edits(edits, Some(&base), &received.chunks, &mut Nodes(stage), &place)?;
        if found == self.want {
            return Ok(());
        }
        let reason = format!("it arrives at version {found}, not {}", self.want);
        Err(Error::Malformed { kind: "update stream", place, reason })
    }
}

struct Nodes<'a>(&'a Stage<'a>);

impl NodeSink for Nodes<'_> {
    fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
        self.0.put_node(id, bytes)
    }
}

fn name(unit: &Unit, at: u64, place: &str) -> Result<Named> {
    let mut chunks = Vec::with_capacity(unit.frames().len());
    for (chunk, frame) in unit.chunks(place).zip(unit.frames()) {
        chunks.push((chunk?.to_ref(), at + frame.at.start as u64, frame.at.len() as u32));
    }
    Ok(Named { chunks, end: at + unit.bytes().len() as u64 })
}

// True if another way to ask may do better.
fn is_of_source(error: &Error) -> bool {
    matches!(
        error,
        Error::NotFound { .. }
            | Error::Damaged { .. }
            | Error::Malformed { .. }
            | Error::TooNew { .. }
            | Error::Limit { .. }
            | Error::UnsafePath { .. }
            | Error::Usage { .. }
    )
}
