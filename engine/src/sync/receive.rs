//! The receiving side of an update: its units go into the replica's arrivals as they come, its edits make the nodes.
//!
//! What comes is kept at once, to the byte; each unit is proven to be whole before it is used, and each chunk is named
//! by its own content. That they are the right ones is proven by the version that the edits arrive at. What the source
//! does wrong here costs time alone: the caller goes on with the walk, and uses what has arrived. Where it breaks off,
//! within a unit too, this run or the next continues.

use std::io::Read;

use crate::delta::Profile;
use crate::error::{Error, Result};
use crate::flow::{Flow, Push, pushed};
use crate::id::{ChunkRef, NodeId, VersionId};
use crate::limits::UPDATE_CHUNKS_MAX;
use crate::progress::{Notice, Phase, Progress, check};
use crate::store::{Source, UpdateAsk};
use crate::tree::{Arrivals, Replica, Stage};
use crate::version::{Manifest, NodeSink, NodeSource, Totals, apply_edits, edit_paths};

use super::decode::{Brought, Decoded, Decoder};
use super::stream::{UNIT_RECORD_LEN_MAX, Unit, UpdateHeader, UpdateReader};
use super::wire::Counted;

// So many streams may break off one after the other, or not fit what is here, without a single new unit.
const IDLE_MAX: u32 = 3;
// A delta weighs so much that at the usual bound two are under way at most: each holds up to 16 MiB of reference, 8 MiB of
// content, its record and the codec's tables.
const DELTA_WEIGHT: u64 = 48 << 20;
// Bytes of a unit that are worth a stream.
const WORTH: u64 = 64 << 10;

/// An update to be received.
pub(super) struct Update<'a> {
    pub source: &'a Counted<'a>,
    pub have: VersionId,
    pub want: VersionId,
    /// The sums of `want`: no update brings more.
    pub totals: Totals,
    /// How the new chunks may be told.
    pub profile: Option<Profile>,
    pub flow: Flow,
    pub progress: &'a dyn Progress,
}

struct Received {
    header: UpdateHeader,
    arrivals: Arrivals,
    // By their number, as the edits count them.
    chunks: Vec<Option<ChunkRef>>,
    decoded: Decoded,
    // Of all chunks here, how many there are and their bytes.
    count: u64,
    bytes: u64,
    // The first unit that is not wholly here, and where it belongs in the log. All behind is the beginning of it.
    next: u64,
    end: u64,
}

impl Received {
    fn new(header: UpdateHeader, arrivals: Arrivals, end: u64) -> Received {
        let (chunks, decoded) = (Vec::new(), Decoded::default());
        Received { header, arrivals, chunks, decoded, count: 0, bytes: 0, next: 0, end }
    }

    fn is_complete(&self) -> bool {
        self.next == self.header.units
    }

    // Bytes of the next unit.
    fn partial(&self) -> u64 {
        self.arrivals.len().saturating_sub(self.end)
    }

    fn drop_partial(&self, replica: &Replica) -> Result<()> {
        if self.arrivals.len() == self.end { Ok(()) } else { self.arrivals.cut(replica, self.end) }
    }
}

// The chunks of a unit.
struct Named {
    what: NamedChunks,
    end: u64,
}

enum NamedChunks {
    // With where their frames lie in the log and how long they are.
    Framed(Vec<(ChunkRef, u64, u32)>),
    Decoded(Vec<Brought>),
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

    fn ask(&self, from_unit: u64, from_byte: u64) -> UpdateAsk {
        UpdateAsk { have: Some(self.have), want: self.want, from_unit, from_byte, profile: self.profile }
    }

    // What an earlier run left of this very update. What is not intact, and all that follows, is cut off; the beginning
    // of a unit stays.
    fn resume(&self, replica: &Replica) -> Result<Option<Received>> {
        if !Arrivals::exist(replica)? {
            return Ok(None);
        }
        let arrivals = Arrivals::open(replica)?;
        let place = format!("`{}`", replica.dir().display());
        let opened = UpdateReader::open(arrivals.reader(), &self.ask(0, 0), &place);
        let Ok((header, head_len)) = opened.map(|log| (*log.header(), log.head().len() as u64)) else {
            Arrivals::discard(replica)?;
            return Ok(None);
        };
        let mut received = Received::new(header, arrivals, head_len);
        let feed = |arrivals: &Arrivals, push: &mut PushUnit<'_>| {
            let mut log = UpdateReader::open(arrivals.reader(), &self.ask(0, 0), &place)?;
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
        let is_prefix = match self.add_all(replica, &mut received, &place, feed) {
            Ok(()) => false,
            // Where the log ends.
            Err(Error::Network { .. }) => received.partial() < UNIT_RECORD_LEN_MAX as u64,
            // Where the intact part ends.
            Err(error) if is_of_source(&error) => false,
            Err(error) => return Err(error),
        };
        if !is_prefix {
            received.drop_partial(replica)?;
        }
        Ok(Some(received))
    }

    // Asks for what is lacking, over again as long as something comes.
    fn fetch(&self, replica: &Replica, received: &mut Option<Received>) -> Result<()> {
        let mut idle = 0;
        let mut restarted = false;
        loop {
            if received.as_ref().is_some_and(Received::is_complete) {
                return Ok(());
            }
            let from = received.as_ref().map_or(0, |received| received.next);
            let kept = match &received {
                Some(here) => match here.arrivals.tail(here.end) {
                    Ok(kept) => kept,
                    // What comes whole must not stand behind it.
                    Err(_) => here.drop_partial(replica).map(|()| Vec::new())?,
                },
                None => Vec::new(),
            };
            let from_byte = kept.len() as u64;
            let ask = self.ask(from, from_byte);
            let place = self.source.place();
            let opened = match self.source.update(&ask) {
                Ok(Some(stream)) => UpdateReader::open(stream, &ask, &place),
                Ok(None) => return Ok(()),
                Err(error) if from_byte > 0 && is_of_source(&error) => Err(error),
                Err(error) => return Err(error),
            };
            self.progress.phase(Phase::Fetch, None);
            let taken = opened.and_then(|stream| {
                let mut stream = stream.with(kept);
                let other = |here: &Received| !here.header.continues(stream.header());
                if received.as_ref().is_some_and(other) {
                    if std::mem::replace(&mut restarted, true) {
                        return Err(malformed(&place, "it is another one each time"));
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
            let (next, partial) = received.as_ref().map_or((0, 0), |here| (here.next, here.partial()));
            idle = match taken {
                Err(Error::Network { .. }) if next > from => 0,
                Err(Error::Network { .. }) if partial >= from_byte + WORTH => idle,
                // Not the unit that this is the beginning of, or it was damaged here. It is asked for whole.
                Err(error)
                    if from_byte > 0 && next == from && is_of_source(&error) && idle + 1 < IDLE_MAX =>
                {
                    received.as_ref().map_or(Ok(()), |here| here.drop_partial(replica))?;
                    idle + 1
                }
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

    // Takes units to the end of the stream, or to where it breaks off. What comes is in the log before it is looked at,
    // so that whatever stops this loses no more than what was on its way.
    fn take<R: Read + Send>(
        &self,
        replica: &Replica,
        received: &mut Received,
        stream: &mut UpdateReader<R>,
    ) -> Result<()> {
        let mut at = received.end;
        let feed = |arrivals: &Arrivals, push: &mut PushUnit<'_>| {
            loop {
                check(self.progress)?;
                let unit = stream.next_unit_kept(&mut |piece| {
                    self.progress.advance(piece.len() as u64);
                    arrivals.append(replica, piece).map(drop)
                })?;
                let Some(unit) = unit else { return Ok(()) };
                let (from, len) = (at, unit.bytes().len() as u64);
                at += len;
                self.source.count_chunks(unit.chunk_count() as u64);
                push((unit, from), len)?;
            }
        };
        self.add_all(replica, received, &self.source.place(), feed)
    }

    // Names the chunks of all units that `feed` pushes.
    fn add_all(
        &self,
        replica: &Replica,
        received: &mut Received,
        place: &str,
        feed: impl FnOnce(&Arrivals, &mut PushUnit<'_>) -> Result<()> + Send,
    ) -> Result<()> {
        let decoder = match received.header.plan {
            Some(_) => Some(self.decoder(replica, received)?),
            None => None,
        };
        let Received { arrivals, chunks, decoded, count, bytes, next, end, .. } = received;
        let (arrivals, decoded) = (&*arrivals, &*decoded);
        let feed = |push: &mut Push<'_, (Unit, u64)>| {
            feed(arrivals, &mut |(unit, at), len| {
                decoded.expect(&unit);
                let weight = if unit.delta().is_some() { DELTA_WEIGHT } else { len };
                push((unit, at), weight)
            })
        };
        let work = |(unit, at): (Unit, u64)| {
            let end = at + unit.bytes().len() as u64;
            let what = match (unit.delta(), &decoder) {
                (Some(delta), Some(decoder)) => {
                    NamedChunks::Decoded(decoder.decode(&unit, delta, decoded, arrivals, place)?)
                }
                _ => NamedChunks::Framed(name(&unit, at, place)?),
            };
            Ok(Named { what, end })
        };
        let mut at = chunks.len();
        let mut add = |number: usize, chunk: ChunkRef| {
            if chunks.len() <= number {
                chunks.resize(number + 1, None);
            }
            (*count, *bytes) = (*count + 1, *bytes + u64::from(chunk.len));
            self.bound(*count, *bytes, place)?;
            match chunks.get_mut(number).map(|slot| slot.replace(chunk)) {
                Some(None) => Ok(()),
                _ => Err(malformed(place, "a new chunk comes twice")),
            }
        };
        let drain = |named: Named| {
            match named.what {
                NamedChunks::Framed(framed) => {
                    for (chunk, from, len) in framed {
                        arrivals.note(chunk.id, from, len);
                        add(at, chunk)?;
                        at += 1;
                    }
                }
                NamedChunks::Decoded(brought) => {
                    for (number, chunk, from) in brought {
                        arrivals.note_kept(&chunk, from);
                        add(number as usize, chunk)?;
                    }
                }
            }
            (*next, *end) = (*next + 1, named.end);
            Ok(())
        };
        pushed(self.flow, feed, work, drain)
    }

    fn decoder<'r>(&self, replica: &'r Replica, received: &Received) -> Result<Decoder<'r>> {
        let place = self.source.place();
        let log = UpdateReader::open(received.arrivals.reader(), &self.ask(0, 0), &place)?;
        let paths = edit_paths(log.edits().unwrap_or_default(), &place)?;
        Ok(Decoder { replica, base: Manifest::open(replica.nodes(), self.have)?, paths })
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
        let log = UpdateReader::open(received.arrivals.reader(), &self.ask(0, 0), &place)?;
        let base = Manifest::open(nodes, self.have)?;
        let edits = log.edits().unwrap_or_default();
        let chunks: Option<Vec<ChunkRef>> = received.chunks.iter().copied().collect();
        let chunks = chunks.ok_or_else(|| malformed(&place, "a new chunk did not come"))?;
        let found = apply_edits(edits, Some(&base), &chunks, &mut Nodes(stage), &place)?;
        if found == self.want {
            return Ok(());
        }
        Err(malformed(&place, format!("it arrives at version {found}, not {}", self.want)))
    }
}

struct Nodes<'a>(&'a Stage<'a>);

impl NodeSink for Nodes<'_> {
    fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
        self.0.put_node(id, bytes)
    }
}

fn malformed(place: &str, reason: impl Into<String>) -> Error {
    Error::Malformed { kind: "update stream", place: place.to_owned(), reason: reason.into() }
}

fn name(unit: &Unit, at: u64, place: &str) -> Result<Vec<(ChunkRef, u64, u32)>> {
    let mut chunks = Vec::with_capacity(unit.frames().len());
    for (chunk, frame) in unit.chunks(place).zip(unit.frames()) {
        chunks.push((chunk?.to_ref(), at + frame.at.start as u64, frame.at.len() as u32));
    }
    Ok(chunks)
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
