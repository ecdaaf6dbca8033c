//! What a client and a server say to each other: paths, records and item streams. A format; FORMAT.md has every byte.
//! Pure: `remote` speaks it from one end, `serve` from the other.
//!
//! Answers that a person may want to read (`GET /v1`, names, refusals) are JSON. Bulk is binary: **ids** are packed
//! without a header, **items** are a stream of numbered byte strings with an end mark, so that a stream that was cut
//! is told from one that is complete.

use std::io::Read;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorClass, Result};
use crate::id::{ChunkId, ChunkRef, NodeId, VersionId};

use super::{Name, NameRecord, Proof};

/// The protocol's number, in the path of every request.
pub(crate) const PROTOCOL: u32 = 1;
/// Media type of binary bodies.
pub(crate) const BINARY: &str = "application/vnd.floe.v1";

/// Most ids in one request.
pub(crate) const IDS_MAX: usize = 64 << 10;
/// Most ids in one request to prove: so much is read before the answer.
pub(crate) const PROVE_IDS_MAX: usize = 1024;
/// Most bytes of a JSON answer, but for lists of names.
pub(crate) const JSON_LEN_MAX: usize = 64 << 10;
/// Most bytes of a list of names.
pub(crate) const NAMES_LEN_MAX: usize = 64 << 20;
/// Most bytes of a pack of chunks or nodes that is sent to a server, unless it says less.
pub(crate) const PACK_LEN_MAX: usize = 8 << 20;
/// Name of the limit in [`Hello::limits`] on the bytes of a pack.
pub(crate) const LIMIT_PACK: &str = "pack_bytes";
/// Name of the limit in [`Hello::limits`] on the bytes of a request to sweep.
pub(crate) const LIMIT_SWEEP: &str = "sweep_bytes";
/// Most ids in one sweep: nodes and chunks together.
pub(crate) const SWEEP_IDS_MAX: usize = 4 << 20;
/// Most ids in one item of a listing.
pub(crate) const LISTED_IDS_MAX: usize = 4096;

/// Paths, all below [`PREFIX`](path::PREFIX).
pub(crate) mod path {
    /// GET: [`super::Hello`].
    pub const PREFIX: &str = "/v1";
    /// GET, with `?app=`: a list of [`super::NameJson`]. Below it `/{app}/{label}`: GET, PUT ([`super::BindJson`]), DELETE.
    pub const NAMES: &str = "/v1/names";
    /// GET `/{id}`: a frame. POST: keeps a pack of chunks.
    pub const CHUNKS: &str = "/v1/chunks";
    /// POST chunk refs: items, frames in any order.
    pub const CHUNKS_READ: &str = "/v1/chunks/read";
    /// POST ids: one `u32` little-endian each, `u32::MAX` where there is none.
    pub const CHUNKS_LENS: &str = "/v1/chunks/lens";
    /// POST ids: one byte each, 1 if it must be put.
    pub const CHUNKS_LACK: &str = "/v1/chunks/lack";
    /// POST ids: one byte each, as [`super::proof_byte`] says.
    pub const CHUNKS_PROVE: &str = "/v1/chunks/prove";
    /// GET `/{id}`: a node. POST: keeps a pack of nodes, children first.
    pub const NODES: &str = "/v1/nodes";
    /// POST ids: items, nodes in any order.
    pub const NODES_READ: &str = "/v1/nodes/read";
    /// POST ids: one byte each, 1 if it must be put.
    pub const NODES_LACK: &str = "/v1/nodes/lack";
    /// POST ids: one byte each, as [`super::proof_byte`] says.
    pub const NODES_PROVE: &str = "/v1/nodes/prove";
    /// POST: makes everything put so far durable.
    pub const FLUSH: &str = "/v1/flush";
    /// POST [`super::UpdateJson`]: an update stream.
    pub const UPDATE: &str = "/v1/update";
    /// POST a pack of chunks: overwrites damaged ones.
    pub const REPAIR_CHUNKS: &str = "/v1/repair/chunks";
    /// POST a pack of nodes: overwrites damaged ones.
    pub const REPAIR_NODES: &str = "/v1/repair/nodes";
    /// GET: items of up to 4096 packed chunk refs.
    pub const UPKEEP_CHUNKS: &str = "/v1/upkeep/chunks";
    /// GET: items of up to 4096 packed node ids.
    pub const UPKEEP_NODES: &str = "/v1/upkeep/nodes";
    /// GET: [`super::StateJson`].
    pub const UPKEEP_STATE: &str = "/v1/upkeep/state";
    /// POST [`super::SweepJson`], a line feed, then the packed ids of dead nodes and of dead chunks: [`super::SweptJson`].
    pub const UPKEEP_SWEEP: &str = "/v1/upkeep/sweep";
}

/// What a server is and allows: `GET /v1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Newest protocol it speaks.
    pub protocol: u32,
    /// The program and its version.
    pub server: String,
    /// Formats by name: the newest number it reads and writes.
    pub formats: std::collections::BTreeMap<String, u32>,
    /// Limits by name, in bytes, seconds or counts as the name says.
    pub limits: std::collections::BTreeMap<String, u64>,
}

/// A bound name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameJson {
    pub name: String,
    pub version: String,
    pub bound_unix_s: u64,
    pub sequence: u64,
}

impl NameJson {
    pub fn of(record: &NameRecord) -> Self {
        Self {
            name: record.name.to_string(),
            version: record.version.to_string(),
            bound_unix_s: record.bound_unix_s,
            sequence: record.sequence,
        }
    }

    pub fn open(&self, place: &str) -> Result<NameRecord> {
        let bad = |_| malformed("name", place, "a name or version that cannot be one");
        Ok(NameRecord {
            name: Name::parse(&self.name).map_err(bad)?,
            version: self.version.parse().map_err(bad)?,
            bound_unix_s: self.bound_unix_s,
            sequence: self.sequence,
        })
    }
}

/// Body of the PUT that binds a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BindJson {
    pub version: String,
    pub now_unix_s: u64,
}

/// Body of the POST that asks for an update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UpdateJson {
    /// The base, or nothing at all.
    pub have: Option<String>,
    pub want: String,
    /// Units before this one are not sent, and neither are the edits unless this and `from_byte` are 0.
    pub from_unit: u64,
    /// Bytes of the first unit that are not sent.
    #[serde(default)]
    pub from_byte: u64,
    /// Highest update format that the client reads.
    pub format: u32,
    /// `fast`, `small` or `smallest`: new chunks may come as such deltas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

/// What a sweep is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SweepJson {
    pub now_unix_s: u64,
    pub grace_s: u64,
    pub dry_run: bool,
    /// How many ids follow.
    pub nodes_dead: u64,
    pub chunks_dead: u64,
}

/// What a sweep did: [`super::Swept`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SweptJson {
    pub chunks_live: u64,
    pub chunks_condemned: u64,
    pub chunks_removed: u64,
    pub nodes_removed: u64,
    pub bytes_removed: u64,
    pub bytes_condemned: u64,
}

/// How a store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateJson {
    pub stored_bytes: u64,
    pub damaged_records: Option<String>,
}

/// Why a request was refused: the body of every answer with a status of 400 or more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// The class, as [`class_word`] spells it.
    pub class: String,
    /// The thing, as in "name `game@1.0`".
    pub what: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The word for a class in a [`Refusal`].
pub(crate) fn class_word(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Failure => "failure",
        ErrorClass::Usage => "usage",
        ErrorClass::Damaged => "damaged",
        ErrorClass::Conflict => "conflict",
        ErrorClass::NoSpace => "no-space",
        ErrorClass::Cancelled => "cancelled",
        ErrorClass::Network => "network",
        ErrorClass::Denied => "denied",
    }
}

/// Ids as they are packed: 32 bytes each.
pub(crate) fn pack_ids<'a>(ids: impl IntoIterator<Item = &'a [u8; 32]>) -> Vec<u8> {
    ids.into_iter().flatten().copied().collect()
}

/// What [`pack_ids`] packed. More than [`IDS_MAX`], or a rest, is an error.
pub(crate) fn unpack_ids(bytes: &[u8], place: &str) -> Result<Vec<[u8; 32]>> {
    let (ids, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(malformed("list of ids", place, "its length is not a multiple of 32"));
    }
    within("ids in one request", place, ids.len(), IDS_MAX)?;
    Ok(ids.to_vec())
}

/// At most [`PROVE_IDS_MAX`] of them.
pub(crate) fn unpack_ids_to_prove(bytes: &[u8], place: &str) -> Result<Vec<[u8; 32]>> {
    within("ids to prove in one request", place, bytes.len() / 32, PROVE_IDS_MAX)?;
    unpack_ids(bytes, place)
}

/// How a proof is told.
pub(crate) fn proof_byte(proof: Proof) -> u8 {
    match proof {
        Proof::Sound => 0,
        Proof::Absent => 1,
        Proof::Damaged => 2,
    }
}

/// What [`proof_byte`] told.
pub(crate) fn proof_of(byte: u8) -> Option<Proof> {
    [Proof::Sound, Proof::Absent, Proof::Damaged].get(usize::from(byte)).copied()
}

/// Chunk refs as they are packed: id and `u32` length, 36 bytes each.
pub(crate) fn pack_refs(chunks: &[ChunkRef]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(chunks.len() * 36);
    for chunk in chunks {
        bytes.extend_from_slice(chunk.id.as_bytes());
        bytes.extend_from_slice(&chunk.len.to_le_bytes());
    }
    bytes
}

/// What [`pack_refs`] packed; the same bounds as [`unpack_ids`].
pub(crate) fn unpack_refs(bytes: &[u8], place: &str) -> Result<Vec<ChunkRef>> {
    let (refs, rest) = bytes.as_chunks::<36>();
    if !rest.is_empty() {
        return Err(malformed("list of chunks", place, "its length is not a multiple of 36"));
    }
    within("chunks in one request", place, refs.len(), IDS_MAX)?;
    Ok(refs.iter().map(unpack_ref).collect())
}

fn unpack_ref(bytes: &[u8; 36]) -> ChunkRef {
    let (id, len) = bytes.split_at(32);
    let id = id.try_into().map_or(ChunkId::from_bytes([0; 32]), ChunkId::from_bytes);
    ChunkRef { id, len: len.try_into().map_or(0, u32::from_le_bytes) }
}

/// An item's head: its number and its length, both `u32` little-endian.
pub(crate) const ITEM_HEAD_LEN: usize = 8;
// Length of an item that is not there.
const ABSENT: u32 = u32::MAX;
// Number of the end mark; its length field is how many items there were, modulo 2^32.
const END: u32 = u32::MAX;

/// The head of item `index`; `None` says that it is not there.
pub(crate) fn item_head(index: u32, len: Option<u32>) -> [u8; ITEM_HEAD_LEN] {
    head(index, len.unwrap_or(ABSENT))
}

/// The end mark of a stream of `count` items.
pub(crate) fn items_end(count: u32) -> [u8; ITEM_HEAD_LEN] {
    head(END, count)
}

fn head(index: u32, len: u32) -> [u8; ITEM_HEAD_LEN] {
    (u64::from(index) | u64::from(len) << 32).to_le_bytes()
}

/// Chunks or nodes on their way to a server: a stream of items, each numbered by the plain length of the chunk, or 0 for
/// a node, and made of the id and the frame or node.
#[derive(Debug, Default)]
pub(crate) struct Pack {
    bytes: Vec<u8>,
    count: u32,
}

impl Pack {
    /// Bytes that [`Pack::push`] adds for a frame or node of `len` bytes.
    pub const fn cost(len: usize) -> usize {
        ITEM_HEAD_LEN + 32 + len
    }

    pub fn push(&mut self, number: u32, id: &[u8; 32], body: &[u8]) {
        self.bytes.extend_from_slice(&item_head(number, Some(32 + body.len() as u32)));
        self.bytes.extend_from_slice(id);
        self.bytes.extend_from_slice(body);
        self.count += 1;
    }

    /// Length with its end mark.
    pub fn len(&self) -> usize {
        self.bytes.len() + ITEM_HEAD_LEN
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The body of a request.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&items_end(self.count));
        self.bytes
    }
}

/// The number, id and body of each item of a pack, whose bodies are of at most `len_max` bytes.
pub(crate) fn open_pack(bytes: &[u8], len_max: usize, place: &str) -> Result<Vec<(u32, [u8; 32], Vec<u8>)>> {
    let cut = |_| malformed("pack", place, "it ends before its end mark");
    let mut rest = bytes;
    let mut items = Items::new(&mut rest, len_max.saturating_add(32), place);
    let mut opened = Vec::new();
    loop {
        match items.next() {
            Ok(Some((number, Some(mut item)))) if item.len() >= 32 => {
                let body = item.split_off(32);
                let id = item.try_into().unwrap_or([0; 32]);
                opened.push((number, id, body));
            }
            Ok(Some(_)) => return Err(malformed("pack", place, "an item of it has no id")),
            Ok(None) => break,
            Err(ItemsError::Read(error)) => return Err(cut(error)),
            Err(ItemsError::Refused(error)) => return Err(error),
        }
    }
    if !rest.is_empty() {
        return Err(malformed("pack", place, "something follows its end mark"));
    }
    Ok(opened)
}

/// Reads a stream of items.
pub(crate) struct Items<R> {
    from: R,
    len_max: usize,
    count: u32,
    place: String,
}

impl<R: Read> Items<R> {
    /// Items of at most `len_max` bytes each.
    pub fn new(from: R, len_max: usize, place: &str) -> Self {
        Self { from, len_max, count: 0, place: place.to_owned() }
    }

    /// The next item, or `None` after the end mark. A stream that ends before it is an error of the reader's kind,
    /// or [`std::io::ErrorKind::UnexpectedEof`].
    #[allow(clippy::type_complexity)]
    pub fn next(&mut self) -> Result<Option<(u32, Option<Vec<u8>>)>, ItemsError> {
        let mut bytes = [0; ITEM_HEAD_LEN];
        self.from.read_exact(&mut bytes).map_err(ItemsError::Read)?;
        let head = u64::from_le_bytes(bytes);
        let (index, len) = ((head & u64::from(u32::MAX)) as u32, (head >> 32) as u32);
        if index == END {
            return match len == self.count {
                true => Ok(None),
                false => Err(self.lie("its end mark counts other than there were")),
            };
        }
        self.count = self.count.wrapping_add(1);
        if len == ABSENT {
            return Ok(Some((index, None)));
        }
        within("length of an item", &self.place, len as usize, self.len_max).map_err(ItemsError::Refused)?;
        let mut body = vec![0; len as usize];
        self.from.read_exact(&mut body).map_err(ItemsError::Read)?;
        Ok(Some((index, Some(body))))
    }

    fn lie(&self, reason: &str) -> ItemsError {
        ItemsError::Refused(malformed("stream of items", &self.place, reason))
    }
}

/// Why a stream of items could not be read on.
#[derive(Debug)]
pub(crate) enum ItemsError {
    /// The connection: worth another try.
    Read(std::io::Error),
    /// What was said: not worth one.
    Refused(Error),
}

/// The id of a node or version in a path.
pub(crate) fn version_of(text: &str) -> Result<VersionId> {
    text.parse()
}

/// The nodes of packed ids.
pub(crate) fn node_ids(ids: Vec<[u8; 32]>) -> Vec<NodeId> {
    ids.into_iter().map(NodeId::from_bytes).collect()
}

/// The chunks of packed ids.
pub(crate) fn chunk_ids(ids: Vec<[u8; 32]>) -> Vec<ChunkId> {
    ids.into_iter().map(ChunkId::from_bytes).collect()
}

fn within(what: &str, place: &str, actual: usize, max: usize) -> Result<()> {
    if actual <= max {
        return Ok(());
    }
    Err(Error::Limit { what: format!("{what} from {place}"), actual: actual as u64, max: max as u64 })
}

fn malformed(kind: &'static str, place: &str, reason: &str) -> Error {
    Error::Malformed { kind, place: place.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_back_and_a_cut_is_told_from_the_end() {
        let mut bytes = Vec::new();
        for (index, body) in [(3u32, Some(&b"abc"[..])), (0, None), (1, Some(b""))] {
            bytes.extend_from_slice(&item_head(index, body.map(|body| body.len() as u32)));
            bytes.extend_from_slice(body.unwrap_or_default());
        }
        let whole = [&bytes[..], &items_end(3)].concat();
        let mut items = Items::new(&whole[..], 3, "here");
        assert_eq!(items.next().expect("an item"), Some((3, Some(b"abc".to_vec()))));
        assert_eq!(items.next().expect("an item"), Some((0, None)));
        assert_eq!(items.next().expect("an item"), Some((1, Some(Vec::new()))));
        assert_eq!(items.next().expect("the end"), None);

        let read_all = |bytes: &[u8], len_max| {
            let mut items = Items::new(bytes, len_max, "here");
            loop {
                match items.next() {
                    Ok(Some(_)) => {}
                    other => return other.map(drop),
                }
            }
        };
        for len in 0..whole.len() {
            assert!(matches!(read_all(&whole[..len], 3), Err(ItemsError::Read(_))), "{len}");
        }
        assert!(matches!(read_all(&whole, 2), Err(ItemsError::Refused(_))), "over the limit");
        let wrong = [&bytes[..], &items_end(2)].concat();
        assert!(matches!(read_all(&wrong, 3), Err(ItemsError::Refused(_))), "a wrong count");
    }

    #[test]
    fn packs_come_back_and_nothing_else_does() {
        let mut pack = Pack::default();
        pack.push(7, &[1; 32], b"frame");
        pack.push(0, &[2; 32], b"");
        let len = pack.len();
        let bytes = pack.finish();
        assert_eq!(bytes.len(), len);
        assert_eq!(len, Pack::cost(5) + Pack::cost(0) + ITEM_HEAD_LEN);
        let opened = open_pack(&bytes, 5, "here").expect("a pack");
        assert_eq!(opened, [(7, [1; 32], b"frame".to_vec()), (0, [2; 32], Vec::new())]);
        for len in 0..bytes.len() {
            assert!(open_pack(&bytes[..len], 5, "here").is_err(), "{len}");
        }
        assert!(open_pack(&bytes, 4, "here").is_err(), "over the limit");
        assert!(open_pack(&[&bytes[..], b"x"].concat(), 5, "here").is_err(), "with a rest");
        let short = [&item_head(0, Some(31))[..], &[0; 31], &items_end(1)].concat();
        assert!(open_pack(&short, 5, "here").is_err(), "without an id");
    }

    #[test]
    fn ids_and_refs_come_back() {
        let ids = [[1; 32], [2; 32]];
        assert_eq!(unpack_ids(&pack_ids(&ids), "here").expect("packed"), ids);
        let chunk = ChunkRef { id: ChunkId::of(b"x"), len: 77 };
        assert_eq!(unpack_refs(&pack_refs(&[chunk]), "here").expect("packed"), [chunk]);
        assert!(unpack_ids(&[0; 33], "here").is_err());
        assert!(unpack_refs(&[0; 37], "here").is_err());
        assert!(unpack_ids(&vec![0; 32 * (IDS_MAX + 1)], "here").is_err());
    }
}
