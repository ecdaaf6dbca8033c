//! Every door through which bytes from outside come in, as a function over plain bytes. Whatever the bytes, a door
//! answers; what it takes, it would write in the same way. The fuzz targets and `tests/malformed.rs` knock.

use fastcdc::v2020::{FastCDC, Normalization};

use crate::codec::{self, Kind};
use crate::content::{Chunk, Chunker, Codec, CutParams, Frame, cut};
use crate::delta::Profile;
use crate::error::{At, Error, Result};
use crate::id::{ChunkId, ChunkRef, NodeId, VersionId};
use crate::limits::{CHUNK_LEN_MAX, UNIT_BYTES_MAX};
use crate::store::{MemStore, Name, Store};
use crate::sync::Target;
use crate::sync::stream::{Unit, UpdateReader, asked};
use crate::tree::{self, StatTable};
use crate::version::{
    ChunkListBuilder, Entry, EntryKind, Manifest, ManifestBuilder, Node, NodeSink, RelPath, apply_edits,
};

/// A way in.
pub struct Door {
    /// What comes in, in one word.
    pub name: &'static str,
    /// Takes the bytes or says why not.
    ///
    /// # Panics
    ///
    /// If what it took encodes to other bytes, or if two readings of the same bytes differ.
    pub open: fn(&[u8]) -> Result<()>,
}

/// All of them.
pub const DOORS: &[Door] = &[
    Door { name: "frame", open: frame },
    Door { name: "node", open: node },
    Door { name: "cut", open: cuts },
    Door { name: "relpath", open: relpath },
    Door { name: "name", open: name },
    Door { name: "state", open: state },
    Door { name: "journal", open: journal },
    Door { name: "stats", open: stats },
    Door { name: "nodelog", open: nodelog },
    Door { name: "format", open: format },
    Door { name: "edits", open: edits },
    Door { name: "unit", open: unit },
    Door { name: "update", open: update },
    Door { name: "delta", open: delta },
    #[cfg(feature = "rocks")]
    Door { name: "bound", open: bound },
    #[cfg(feature = "rocks")]
    Door { name: "location", open: location },
];

const PLACE: &str = "bytes";

/// Opens `bytes` at the door called `name`.
///
/// # Panics
///
/// If there is no such door, and as [`Door::open`] says.
pub fn knock(name: &str, bytes: &[u8]) -> Result<()> {
    let door = DOORS.iter().find(|door| door.name == name).expect("a door of this name");
    (door.open)(bytes)
}

// Under the name that its content earns, and under one that it cannot have.
fn frame(bytes: &[u8]) -> Result<()> {
    let frame = Frame::from_bytes(bytes.to_vec(), PLACE)?;
    assert_eq!(frame.as_bytes(), bytes);
    let body = &bytes[1..];
    let plain = match frame.codec() {
        Codec::Stored => Some(body.to_vec()),
        Codec::Zstd => zstd::bulk::decompress(body, CHUNK_LEN_MAX as usize).ok(),
    };
    let other = ChunkRef { id: ChunkId::of(b"other"), len: body.len() as u32 };
    let refused = Chunk::open(frame.clone(), &other, PLACE);
    let Some(plain) = plain.filter(|plain| !plain.is_empty()) else { return refused.map(drop) };
    if plain != b"other" {
        assert!(refused.is_err(), "content passes under another name");
    }
    let want = ChunkRef { id: ChunkId::of(&plain), len: plain.len() as u32 };
    let chunk = Chunk::open(frame, &want, PLACE)?;
    assert_eq!((chunk.bytes(), chunk.to_ref()), (plain.as_slice(), want));
    Ok(())
}

fn node(bytes: &[u8]) -> Result<()> {
    let node = Node::open(NodeId::of(bytes), bytes, PLACE)?;
    assert_eq!(node.encode(), bytes);
    let (children, chunks) = (node.children(), node.chunks());
    assert!((children.len() + chunks.len()) * 32 <= bytes.len(), "more below than was named");
    assert!(Node::open(NodeId::of(b"other"), bytes, PLACE).is_err() || bytes == b"other");
    Ok(())
}

// Cutting is total: the rest of the crate's list must be ours, whole or read piece by piece.
fn cuts(data: &[u8]) -> Result<()> {
    let CutParams { min, avg, max, .. } = CutParams::V1;
    let mut chunker = Chunker::new(data);
    let mut next = || chunker.next_chunk().at("read", PLACE).map(|chunk| chunk.map(<[u8]>::to_vec));
    let mut rest = data;
    for expected in FastCDC::with_level(data, min as usize, avg as usize, max as usize, Normalization::Level1)
    {
        assert_eq!(cut(rest), expected.length);
        let (first, later) = rest.split_at(expected.length);
        assert_eq!(next()?.as_deref(), Some(first));
        rest = later;
    }
    assert!(rest.is_empty() && next()?.is_none());
    Ok(())
}

fn text<'a>(bytes: &'a [u8], what: &str) -> Result<&'a str> {
    let usage = |_| Error::Usage { what: what.to_owned(), reason: "not UTF-8".into() };
    std::str::from_utf8(bytes).map_err(usage)
}

// Typed, and as a field of a record: both ways in must agree.
fn relpath(bytes: &[u8]) -> Result<()> {
    let field = Kind { number: 0x7f, name: "path", format: 1 };
    let text = text(bytes, "path")?;
    let record = codec::encode_named(field, &text);
    let decoded: Result<RelPath> = codec::decode_named(field, &record, usize::MAX, PLACE);
    let path = RelPath::parse(text).inspect_err(|_| assert!(decoded.is_err()))?;
    assert_eq!(decoded?, path);
    assert_eq!(path.as_str(), text);
    assert!(text.ends_with(path.file_name()));
    if let Some(parent) = path.parent() {
        assert!(path.is_below(&parent));
        RelPath::parse(parent.as_str())?;
    }
    Ok(())
}

fn name(bytes: &[u8]) -> Result<()> {
    let text = text(bytes, "name")?;
    let told = match text.parse::<Target>()? {
        Target::Name(name) => {
            assert_eq!(Name::parse(text)?, name);
            name.to_string()
        }
        Target::Version(version) => {
            assert_eq!(text.parse::<VersionId>()?, version);
            version.to_string()
        }
    };
    assert_eq!(told, text);
    Ok(())
}

fn state(bytes: &[u8]) -> Result<()> {
    filed(0x30, bytes, tree::state_again)
}

fn journal(bytes: &[u8]) -> Result<()> {
    filed(0x31, bytes, tree::journal_again)
}

fn stats(bytes: &[u8]) -> Result<()> {
    filed(0x21, bytes, |bytes| StatTable::decode(bytes, PLACE).map(|table| table.encode()))
}

#[cfg(feature = "rocks")]
fn bound(bytes: &[u8]) -> Result<()> {
    filed(0x20, bytes, crate::store::name_again)
}

// As they are, and as the body under a header that is right: otherwise the hash would keep everything out.
fn filed(number: u8, bytes: &[u8], again: fn(&[u8]) -> Result<Vec<u8>>) -> Result<()> {
    let sealed = codec::seal_any(Kind { number, name: "record", format: 1 }, bytes);
    if let Ok(encoded) = again(&sealed) {
        assert_eq!(encoded, sealed);
    }
    let encoded = again(bytes)?;
    assert_eq!(encoded, bytes);
    Ok(())
}

// A log never fails: it ends where it is not good. `Err` is one whose last byte is not.
fn nodelog(bytes: &[u8]) -> Result<()> {
    let read = |bytes: &[u8], proven| tree::index_of(bytes, proven).at("read", PLACE);
    let (index, end) = read(bytes, 0)?;
    let good = usize::try_from(end).ok().and_then(|end| bytes.get(..end)).expect("a log ends where it ends");
    for (id, (at, len)) in &index {
        let node = good[*at as usize..].get(..*len as usize).expect("nodes lie in the good part");
        assert_eq!(NodeId::of(node), *id, "a node that nobody proved");
    }
    assert_eq!(read(good, end)?, (index, end), "read again, believing what was proven");
    let (_, believed) = read(bytes, u64::MAX)?;
    assert!(believed >= end);
    if good.len() < bytes.len() {
        let reason = format!("good up to {end}");
        return Err(Error::Malformed { kind: "node log", place: PLACE.into(), reason });
    }
    Ok(())
}

// The `FORMAT` files of replicas and stores.
fn format(bytes: &[u8]) -> Result<()> {
    let replica = tree::format_number(bytes).map(|number| format!("floe replica {number}\n"));
    #[cfg(feature = "rocks")]
    let store = crate::store::format_number(bytes).map(|number| format!("floe store {number}\n"));
    #[cfg(not(feature = "rocks"))]
    let store = None;
    let again = replica.or(store);
    let Some(again) = again else {
        let reason = "neither a store's nor a replica's".into();
        return Err(Error::Malformed { kind: "format", place: PLACE.into(), reason });
    };
    assert_eq!(again.as_bytes(), bytes);
    Ok(())
}

#[cfg(feature = "rocks")]
fn location(bytes: &[u8]) -> Result<()> {
    let reason = "not a location".to_owned();
    let again = crate::store::location_again(bytes);
    let again = again.ok_or(Error::Malformed { kind: "location", place: PLACE.into(), reason })?;
    assert_eq!(again, bytes);
    Ok(())
}

/// A small version, which the doors of edits and updates lead away from, and chunks that it lacks.
pub fn base() -> (MemStore, VersionId, Vec<ChunkRef>) {
    struct Nodes<'a>(&'a MemStore);
    impl NodeSink for Nodes<'_> {
        fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
            self.0.put_nodes(vec![(id, bytes)])
        }
    }
    let store = MemStore::default();
    let chunk = |n: u8| ChunkRef { id: ChunkId::of(&[n; 100]), len: if n < 100 { 17_000 } else { 100 } };
    let build = || {
        let mut builder = ManifestBuilder::new(CutParams::V1, Nodes(&store));
        let long: Vec<u8> = (0..20).collect();
        for (path, chunks) in
            [("base/long", long.as_slice()), ("base/short", &[20, 21]), ("base/tiny", &[22])]
        {
            let mut list = ChunkListBuilder::new(Nodes(&store));
            chunks.iter().try_for_each(|n| list.push(chunk(*n)))?;
            let (content, len) = list.finish()?;
            let kind = EntryKind::File { mode: 0o644, len, content };
            builder.push(Entry { path: RelPath::parse(path)?, kind })?;
        }
        builder.finish()
    };
    let (version, _) = build().expect("a sound version in memory");
    (store, version, (100..103).map(chunk).collect())
}

// Edits of the base, with all the new chunks or none. Where they lead to a version, it is a whole one.
fn edits(bytes: &[u8]) -> Result<()> {
    struct Into(MemStore);
    impl NodeSink for Into {
        fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
            Node::open(id, &bytes, PLACE)?;
            self.0.put_nodes(vec![(id, bytes)])
        }
    }
    let (store, version, new) = base();
    let have = Manifest::open(&store, version)?;
    let apply = |have, new: &[ChunkRef]| {
        let mut sink = Into(MemStore::default());
        apply_edits(bytes, have, new, &mut sink, PLACE).map(|id| (sink.0, id))
    };
    let _ = apply(None, &new);
    let (made, id) = apply(Some(&have), &new).or_else(|_| apply(Some(&have), &[]))?;
    Manifest::open(&made, id)?.entries().try_for_each(|entry| entry.map(drop))
}

fn unit(bytes: &[u8]) -> Result<()> {
    filed(0x15, bytes, |bytes| {
        let unit = Unit::open(bytes.to_vec(), PLACE)?;
        let opened: u64 = unit.chunks(PLACE).flatten().map(|chunk| chunk.bytes().len() as u64).sum();
        assert!(opened <= UNIT_BYTES_MAX, "more than a unit holds");
        Ok(unit.bytes().to_vec())
    })
}

// Of a target whose length the first two bytes say, by a reference that the next ones are cut into; then the delta.
fn delta(bytes: &[u8]) -> Result<()> {
    let (len, rest) = bytes.split_first_chunk::<2>().unwrap_or((&[0; 2], bytes));
    let (cut, rest) = rest.split_first().unwrap_or((&0, rest));
    let (reference, delta) = rest.split_at(usize::from(*cut).min(rest.len()));
    let reference = reference.repeat(16);
    let len = usize::from(u16::from_le_bytes(*len));
    let target = crate::delta::decode(delta, &reference, len, PLACE)?;
    assert_eq!(target.len(), len);
    for profile in [Profile::Small, Profile::Smallest] {
        let again = crate::delta::encode(profile, &reference, &target)?;
        assert_eq!(crate::delta::decode(&again, &reference, len, PLACE)?, target);
    }
    Ok(())
}

// As it is, and cut in three that are put behind headers that are right.
fn update(bytes: &[u8]) -> Result<()> {
    let cut = |bytes: &[u8]| {
        let (at, rest) = bytes.split_first().map_or((0, bytes), |(at, rest)| (usize::from(*at), rest));
        let (first, rest) = rest.split_at(at.min(rest.len()));
        (first.to_vec(), rest.to_vec())
    };
    let seal = |number, body: &[u8]| codec::seal_any(Kind { number, name: "record", format: 1 }, body);
    let (header, rest) = cut(bytes);
    let (edits, rest) = cut(&rest);
    let _ = stream(&[seal(0x14, &header), edits, seal(0x15, &rest)].concat());
    stream(bytes).map_err(|error| match error {
        Error::Network { place, .. } => {
            Error::Malformed { kind: "update stream", place, reason: "it breaks off".into() }
        }
        other => other,
    })
}

fn stream(bytes: &[u8]) -> Result<()> {
    let mut reader = UpdateReader::open(bytes, &asked(bytes)?, PLACE)?;
    let (mut units, mut read) = (0, reader.head().len());
    while let Some(unit) = reader.next_unit()? {
        read += unit.bytes().len();
        units += 1;
    }
    assert_eq!(units, reader.header().units - reader.header().from_unit);
    assert!(read < bytes.len() && reader.bytes_read() <= bytes.len() as u64);
    Ok(())
}

/// The value that a store keeps for a name.
#[cfg(feature = "rocks")]
pub fn bound_value(record: &crate::store::NameRecord) -> Vec<u8> {
    crate::store::name_value(record)
}
