//! Reading: item by item from the first source that has it whole.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::RemoteStore;
use super::origin::{Ask, JSON, Origin};
use crate::content::{Chunk, Frame};
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkRef, NodeId};
use crate::limits::{FRAME_LEN_MAX, NODE_LEN_MAX};
use crate::store::wire::{
    self, IDS_MAX, JSON_LEN_MAX, NAMES_LEN_MAX, NameJson, UpdateJson, pack_ids, pack_refs, path,
};
use crate::store::{AppName, Name, NameRecord, Source, UpdateAsk};
use crate::version::NodeSource;

// Chunks in one request. A server keeps the list while it sends them, half a gigabyte on the average.
const REFS_ASKED: usize = 8 << 10;

/// Newest update stream that this build reads.
const UPDATE_FORMAT: u32 = 1;

type EachItem<'a> = &'a mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>;

/// Items that are asked for together.
struct Want<'a> {
    path: &'a str,
    count: usize,
    len_max: usize,
    /// The request for those items.
    body: &'a dyn Fn(&[usize]) -> Vec<u8>,
    /// Whether an item is what was asked for, which decides if another source is asked.
    whole: &'a dyn Fn(usize, &[u8]) -> bool,
    /// What of that is found out at little cost, which decides if it is asked for again where it came from.
    sound: &'a dyn Fn(usize, &[u8]) -> bool,
}

/// How often each source is asked for what comes damaged: it may have been damaged on the way.
const ROUNDS: usize = 3;

impl RemoteStore {
    // What one source lacks, has damaged or cannot send is asked of the next, and what came damaged from all of them is
    // asked for again. In the end items are handed over as they are: the caller proves them anyhow, and says what is
    // wrong.
    fn read_items(&self, want: &Want<'_>, each: EachItem<'_>) -> Result<()> {
        let mut to_come: Vec<usize> = (0..want.count).collect();
        let mut failed = None;
        let count = 1 + self.mirrors.len();
        for turn in 1..=count * ROUNDS {
            let Some(origin) = self.origins().nth((turn - 1) % count) else { continue };
            let (last, all_asked) = (turn == count * ROUNDS, turn >= count);
            let mut stop = None;
            let mut told = vec![false; to_come.len()];
            let body = |asked: &[usize]| {
                let asked: Vec<_> = asked.iter().filter_map(|at| to_come.get(*at).copied()).collect();
                (want.body)(&asked)
            };
            let result = origin.ask_items(want.path, to_come.len(), want.len_max, &body, &mut |at, item| {
                let Some((told, index)) = told.get_mut(at).zip(to_come.get(at)) else { return Ok(()) };
                // With a source that failed, nobody knows that there is no such item.
                let good = match &item {
                    Some(bytes) if all_asked => last || (want.sound)(*index, bytes),
                    Some(bytes) => (want.whole)(*index, bytes),
                    None => all_asked && failed.is_none(),
                };
                if !good {
                    return Ok(());
                }
                *told = true;
                each(*index, item).inspect_err(|_| stop = Some(()))
            });
            to_come =
                to_come.iter().zip(&told).filter(|(_, told)| !**told).map(|(index, _)| *index).collect();
            match result {
                Err(error) if stop.is_some() || matches!(error, Error::Cancelled) => return Err(error),
                result if to_come.is_empty() => return result,
                Err(error) => failed = failed.or(Some(error)),
                Ok(()) => {}
            }
            if all_asked && failed.is_some() {
                break;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    // The first answer that is one. If there is none, `None` holds only if no source failed.
    fn first_of<T>(&self, ask: impl Fn(&Origin) -> Result<Option<T>>) -> Result<Option<T>> {
        let mut failed = None;
        for origin in self.origins() {
            match ask(origin) {
                Ok(Some(told)) => return Ok(Some(told)),
                Ok(None) => {}
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }
}

impl NodeSource for RemoteStore {
    fn read_nodes(
        &self,
        ids: &[NodeId],
        each: &mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        for (group, ids) in ids.chunks(IDS_MAX).enumerate() {
            let want = Want {
                path: path::NODES_READ,
                count: ids.len(),
                len_max: NODE_LEN_MAX,
                body: &|asked| pack_ids(asked.iter().filter_map(|at| ids.get(*at)).map(NodeId::as_bytes)),
                whole: &|at, bytes| ids.get(at).is_some_and(|id| NodeId::of(bytes) == *id),
                sound: &|at, bytes| ids.get(at).is_some_and(|id| NodeId::of(bytes) == *id),
            };
            self.read_items(&want, &mut |at, bytes| each(group * IDS_MAX + at, bytes))?;
        }
        Ok(())
    }

    fn place(&self) -> String {
        self.first.place().to_owned()
    }
}

impl Source for RemoteStore {
    fn read_chunks(
        &self,
        want: &[ChunkRef],
        each: &mut dyn FnMut(usize, Option<Frame>) -> Result<()>,
    ) -> Result<()> {
        self.send_all()?;
        let place = self.first.place();
        for (group, chunks) in want.chunks(REFS_ASKED).enumerate() {
            let opens = |chunk: &ChunkRef, bytes: &[u8]| {
                let frame = Frame::from_bytes(bytes.to_vec(), place);
                frame.and_then(|frame| Chunk::open(frame, chunk, place)).is_ok()
            };
            let want = Want {
                path: path::CHUNKS_READ,
                count: chunks.len(),
                len_max: FRAME_LEN_MAX,
                body: &|asked| {
                    let asked: Vec<_> = asked.iter().filter_map(|at| chunks.get(*at).copied()).collect();
                    pack_refs(&asked)
                },
                whole: &|at, bytes| chunks.get(at).is_some_and(|chunk| opens(chunk, bytes)),
                sound: &|_, bytes| Frame::may_be(bytes),
            };
            self.read_items(&want, &mut |at, bytes| {
                let frame = bytes.map(|bytes| Frame::from_bytes(bytes, place)).transpose()?;
                each(group * REFS_ASKED + at, frame)
            })?;
        }
        Ok(())
    }

    fn frame_lens(&self, ids: &[ChunkId]) -> Result<Vec<Option<u32>>> {
        self.send_all()?;
        let mut lens = Vec::with_capacity(ids.len());
        for ids in ids.chunks(IDS_MAX) {
            let request = pack_ids(ids.iter().map(ChunkId::as_bytes));
            let told = self.first_of(|origin| {
                let bytes = origin.ask_bytes(&Ask::post(path::CHUNKS_LENS, &request), ids.len() * 4)?;
                let (told, rest) = bytes.as_chunks::<4>();
                match told.len() == ids.len() && rest.is_empty() {
                    true => Ok(Some(told.iter().map(|len| u32::from_le_bytes(*len)).collect::<Vec<_>>())),
                    false => {
                        Err(origin.malformed(format!("{} bytes for {} lengths", bytes.len(), ids.len())))
                    }
                }
            })?;
            let told = told.unwrap_or_default();
            lens.extend(told.into_iter().map(|len| (len != u32::MAX).then_some(len)));
        }
        Ok(lens)
    }

    fn resolve(&self, name: &Name) -> Result<Option<NameRecord>> {
        self.first_of(|origin| {
            let ask = Ask::get(name_path(name), JSON);
            let told: Option<NameJson> = optional(origin.ask_json(&ask, JSON_LEN_MAX))?;
            let record = told.map(|told| told.open(origin.place())).transpose()?;
            match record {
                Some(record) if record.name != *name => {
                    Err(origin.malformed(format!("name `{}` for `{name}`", record.name)))
                }
                record => Ok(record),
            }
        })
    }

    fn names(&self, app: Option<&AppName>) -> Result<Vec<NameRecord>> {
        let query = app.map(|app| format!("?app={app}")).unwrap_or_default();
        let told = self.first_of(|origin| {
            let ask = Ask::get(format!("{}{query}", path::NAMES), JSON);
            let told: Vec<NameJson> = origin.ask_json(&ask, NAMES_LEN_MAX)?;
            let records: Result<Vec<_>> = told.iter().map(|told| told.open(origin.place())).collect();
            records.map(Some)
        })?;
        Ok(told.unwrap_or_default())
    }

    fn update(&self, ask: &UpdateAsk) -> Result<Option<Box<dyn Read + Send + '_>>> {
        let request = UpdateJson {
            have: ask.have.map(|have| have.to_string()),
            want: ask.want.to_string(),
            from_unit: ask.from_unit,
            from_byte: ask.from_byte,
            format: UPDATE_FORMAT,
            profile: ask.profile.map(|profile| profile.name().to_owned()),
        };
        let request =
            serde_json::to_vec(&request).map_err(|error| self.first.malformed(error.to_string()))?;
        let count = 1 + self.mirrors.len();
        let begin = self.updates_from.load(Ordering::Relaxed);
        let mut failed = None;
        for turn in 0..count {
            let at = begin.wrapping_add(turn) % count;
            let Some(origin) = self.origins().nth(at) else { continue };
            let ask = Ask { body: Some((JSON, &request)), ..Ask::post(path::UPDATE, &[]) };
            let stream = origin.ask_open(&ask).map(|answer| answer.into_reader());
            match optional(stream) {
                Ok(Some(stream)) => {
                    let behind = Behind { from: Arc::clone(&self.updates_from), next: at + 1 };
                    let place = origin.place().to_owned();
                    return Ok(Some(Box::new(UpdateStream { stream, behind, place })));
                }
                Ok(None) => {}
                Err(Error::Cancelled) => return Err(Error::Cancelled),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(None), Err)
    }
}

// A source that broke, to be put behind the others.
struct Behind {
    from: Arc<AtomicUsize>,
    next: usize,
}

struct UpdateStream<R> {
    stream: R,
    behind: Behind,
    place: String,
}

impl<R: Read> Read for UpdateStream<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.read(into).map_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            self.behind.from.store(self.behind.next, Ordering::Relaxed);
            io::Error::new(error.kind(), format!("{} broke off: {error}", self.place))
        })
    }
}

/// Path of a name; its characters need no escape.
pub(super) fn name_path(name: &Name) -> String {
    format!("{}/{}/{}", wire::path::NAMES, name.app(), name.label())
}

/// What is not there is `None`.
pub(super) fn optional<T>(told: Result<T>) -> Result<Option<T>> {
    match told {
        Ok(told) => Ok(Some(told)),
        Err(Error::NotFound { what, .. }) if what != super::fault::NO_SERVER => Ok(None),
        Err(error) => Err(error),
    }
}
