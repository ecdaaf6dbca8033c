//! Update streams: what a store sends to somebody who has one version and wants another, and what a reader makes of
//! bytes that are not that.
#![cfg(feature = "testing")]

use std::collections::HashMap;
use std::io::Read;

use floe::content::{Chunk, Compression, CutParams};
use floe::limits::{UNIT_BYTES_MAX, UNIT_CHUNKS_MAX};
use floe::store::{MemStore, NewChunk, Store, UpdateAsk};
use floe::sync::stream::{Unit, UpdateReader, make};
use floe::version::{
    ChunkListBuilder, Entry, EntryKind, Manifest, ManifestBuilder, NodeSink, NodeSource, RelPath, apply_edits,
};
use floe::{ChunkId, ChunkRef, Error, ErrorClass, NodeId, Result, VersionId};

struct Nodes<'a>(&'a MemStore);

impl NodeSink for Nodes<'_> {
    fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
        self.0.put_nodes(vec![(id, bytes)])
    }
}

/// Content that zstd cannot shrink, of a few lengths.
fn plain(n: u64) -> Vec<u8> {
    let mut bytes = vec![0; 20_000 + (n as usize * 7919) % 90_000];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn keep(store: &MemStore, plain: Vec<u8>) -> ChunkRef {
    let chunk = Chunk::new(plain);
    let new = NewChunk { chunk: chunk.to_ref(), frame: chunk.frame(Compression::Zstd(1)) };
    store.put_chunks(&[new]).expect("memory takes it");
    chunk.to_ref()
}

fn publish(store: &MemStore, files: &[(&str, Vec<ChunkRef>)]) -> VersionId {
    let mut builder = ManifestBuilder::new(CutParams::V1, Nodes(store));
    for (path, chunks) in files {
        let mut list = ChunkListBuilder::new(Nodes(store));
        chunks.iter().for_each(|chunk| list.push(*chunk).expect("a chunk"));
        let (content, len) = list.finish().expect("memory takes it");
        let path = RelPath::parse(path).expect("a path");
        builder.push(Entry { path, kind: EntryKind::File { mode: 0o644, len, content } }).expect("in order");
    }
    builder.finish().expect("memory takes it").0
}

fn stream(store: &MemStore, ask: &UpdateAsk) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let made = make(store, ask, &mut |piece| {
        bytes.extend(piece);
        Ok(())
    });
    made.expect("a whole store").then_some(bytes)
}

/// What a receiver takes out of a stream: the edits, if they are in it, and the units.
fn received(bytes: &[u8], ask: &UpdateAsk) -> Result<(Option<Vec<u8>>, Vec<Unit>)> {
    let mut reader = UpdateReader::open(bytes, ask, "the test")?;
    let mut units = Vec::new();
    while let Some(unit) = reader.next_unit()? {
        units.push(unit);
    }
    assert!(reader.next_unit()?.is_none(), "an end stays one");
    assert_eq!(reader.bytes_read(), bytes.len() as u64);
    assert_eq!(reader.next_index(), reader.header().units);
    Ok((reader.edits().map(<[u8]>::to_vec), units))
}

fn chunks(units: &[Unit]) -> Result<Vec<ChunkRef>> {
    units.iter().flat_map(|unit| unit.chunks("the test")).map(|chunk| Ok(chunk?.to_ref())).collect()
}

/// Carries it out with nothing but the base's nodes.
fn arrive(store: &MemStore, ask: &UpdateAsk, edits: &[u8], units: &[Unit]) -> Result<VersionId> {
    let base = ask.have.map(|have| Manifest::open(store, have)).transpose()?;
    apply_edits(edits, base.as_ref(), &chunks(units)?, &mut Nodes(&MemStore::default()), "the test")
}

struct World {
    store: MemStore,
    have: VersionId,
    want: VersionId,
    small: VersionId,
}

fn world() -> World {
    let store = MemStore::default();
    let all: Vec<_> = (0..120).map(|n| keep(&store, plain(n))).collect();
    let tiny: Vec<_> = (0..1500u32).map(|n| keep(&store, n.to_le_bytes().to_vec())).collect();
    let names: Vec<_> = (0..1500).map(|n| format!("tiny/{n:04}")).collect();
    let have = publish(&store, &[("a", all[..40].to_vec()), ("b", all[40..45].to_vec())]);
    let mut files =
        vec![("a", all[10..90].to_vec()), ("c", all[40..45].to_vec()), ("d", all[85..120].to_vec())];
    files.extend(names.iter().zip(&tiny).map(|(name, chunk)| (name.as_str(), vec![*chunk])));
    let want = publish(&store, &files);
    let small = publish(&store, &[("a", [&all[..40], &tiny[..2]].concat()), ("b", all[40..45].to_vec())]);
    World { store, have, want, small }
}

#[test]
fn a_stream_brings_what_is_lacking_in_order_and_arrives() {
    let World { store, have, want, .. } = world();
    for have in [Some(have), None, Some(want)] {
        let ask = UpdateAsk { have, want, from_unit: 0, from_byte: 0 };
        let bytes = stream(&store, &ask).expect("a store that has both");
        let (edits, units) = received(&bytes, &ask).expect("own bytes");
        assert_eq!(arrive(&store, &ask, &edits.expect("from the start"), &units).expect("sound"), want);
        for (index, unit) in (0..).zip(&units) {
            let plain: u64 = unit.frames().iter().map(|frame| u64::from(frame.plain_len)).sum();
            assert_eq!((unit.index(), unit.frames().len() <= UNIT_CHUNKS_MAX), (index, true));
            assert!(plain <= UNIT_BYTES_MAX);
            assert_eq!(&Unit::open(unit.bytes().to_vec(), "the test").expect("a log of it"), unit);
        }
        let sent = chunks(&units).expect("sound");
        let mut once = HashMap::new();
        assert!(sent.iter().all(|chunk| once.insert(*chunk, ()).is_none()), "each once");
        assert_eq!(sent.len(), if have == Some(want) { 0 } else { once.len() });
        assert_eq!(units.len() > 2, have != Some(want));
    }
}

#[test]
fn a_stream_goes_on_where_another_broke_off() {
    let World { store, have, want, .. } = world();
    let ask = UpdateAsk { have: Some(have), want, from_unit: 0, from_byte: 0 };
    let whole = stream(&store, &ask).expect("a store that has both");
    let (edits, units) = received(&whole, &ask).expect("own bytes");
    let edits = edits.expect("from the start");
    let header = *UpdateReader::open(&whole[..], &ask, "the test").expect("own bytes").header();
    for from in 0..=units.len() {
        let ask = UpdateAsk { from_unit: from as u64, ..ask };
        let rest = stream(&store, &ask).expect("a store that has both");
        assert!(
            header.continues(UpdateReader::open(&rest[..], &ask, "the test").expect("own bytes").header())
        );
        let (again, later) = received(&rest, &ask).expect("own bytes");
        assert_eq!(again.is_some(), from == 0);
        let joined = [&units[..from], &later].concat();
        assert_eq!(arrive(&store, &ask, &edits, &joined).expect("sound"), want);
    }
    // Within a unit: what is here of it is put before the rest, and proven with it.
    for (from, unit) in units.iter().enumerate() {
        let len = unit.bytes().len();
        for at in [1, 7, 47, 48, 49, len / 2, len - 1] {
            let ask = UpdateAsk { from_unit: from as u64, from_byte: at as u64, ..ask };
            let rest = stream(&store, &ask).expect("a store that has both");
            let open = || UpdateReader::open(&rest[..], &ask, "the test").expect("own bytes");
            assert!(header.continues(open().header()) && open().edits().is_none());
            let (mut reader, mut came) = (open().with(unit.bytes()[..at].to_vec()), Vec::new());
            let whole = reader.next_unit_kept(&mut |piece| {
                came.extend_from_slice(piece);
                Ok(())
            });
            assert_eq!(whole.expect("it fits").as_ref(), Some(unit));
            assert_eq!(came, &unit.bytes()[at..]);
            for kept in [vec![], unit.bytes()[..at - 1].to_vec(), vec![0; at], [unit.bytes(), &[0]].concat()]
            {
                let error = open().with(kept).next_unit().expect_err("another beginning");
                assert!(matches!(error.class(), ErrorClass::Damaged | ErrorClass::Network), "{error}");
            }
        }
    }
    let last = units.len() as u64 - 1;
    for (from_unit, from_byte) in [
        (last + 2, 0),
        (last + 1, 1),
        (last, units[last as usize].bytes().len() as u64),
        (0, u64::MAX),
        (u64::MAX, u64::MAX),
    ] {
        let beyond = UpdateAsk { from_unit, from_byte, ..ask };
        let error = make(&store, &beyond, &mut |_| panic!("nothing is given out")).expect_err("no such unit");
        assert_eq!(error.class(), ErrorClass::Usage);
    }
}

#[test]
fn a_store_that_lacks_a_version_makes_no_stream() {
    let World { store, have, want, .. } = world();
    let nowhere = VersionId::of(b"nowhere");
    for (have, want) in [(Some(nowhere), want), (Some(have), nowhere), (None, nowhere)] {
        let mut given = 0;
        let made = make(&store, &UpdateAsk { have, want, from_unit: 0, from_byte: 0 }, &mut |_| {
            given += 1;
            Ok(())
        });
        assert!(!made.expect("an answer") && given == 0);
    }
}

#[test]
fn what_the_store_lost_or_the_receiver_refuses_ends_the_stream() {
    let World { store, have, want, .. } = world();
    let ask = UpdateAsk { have: Some(have), want, from_unit: 0, from_byte: 0 };
    let lame = MemStore::default();
    store
        .each_node(&mut |id| {
            let mut node = Vec::new();
            store.read_nodes(&[id], &mut |_, bytes| {
                node = bytes.expect("listed");
                Ok(())
            })?;
            lame.put_nodes(vec![(id, node)])
        })
        .expect("copied");
    let error = make(&lame, &ask, &mut |_| Ok(())).expect_err("no chunks");
    assert!(matches!(error, Error::Damaged { what, .. } if what.starts_with("chunk ")));
    let mut left = 2;
    let error = make(&store, &ask, &mut |_| {
        left -= 1;
        if left == 0 { Err(Error::Cancelled) } else { Ok(()) }
    });
    assert!(matches!(error, Err(Error::Cancelled)) && left == 0);
}

#[test]
fn every_cut_and_every_flipped_bit_is_found() {
    let World { store, have, small, .. } = world();
    let ask = UpdateAsk { have: Some(have), want: small, from_unit: 0, from_byte: 0 };
    let bytes = stream(&store, &ask).expect("a store that has both");
    assert!(bytes.len() < 600, "{} bytes", bytes.len());
    let outcome = |bytes: &[u8]| {
        let (edits, units) = received(bytes, &ask)?;
        arrive(&store, &ask, &edits.expect("from the start"), &units)
    };
    assert_eq!(outcome(&bytes).expect("own bytes"), small);
    for len in 0..bytes.len() {
        let error = outcome(&bytes[..len]).expect_err("cut");
        assert_eq!(error.class(), ErrorClass::Network, "{len}: {error}");
        assert!(error.to_string().contains("the test"), "{error}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut hurt = bytes.clone();
        hurt[bit / 8] ^= 1 << (bit % 8);
        let error = match outcome(&hurt) {
            // zstd has bits that mean nothing; what it decodes to has a hash.
            Ok(id) if id == small => continue,
            Ok(id) => panic!("bit {bit} arrives at {id}"),
            Err(error) => error,
        };
        let fits = matches!(error.class(), ErrorClass::Damaged | ErrorClass::Network);
        assert!(fits || matches!(error, Error::TooNew { .. }), "bit {bit}: {error}");
        assert!(error.to_string().contains("the test"), "bit {bit}: {error}");
    }
}

#[test]
fn an_answer_to_another_question_is_refused() {
    let World { store, have, want, small } = world();
    let ask = UpdateAsk { have: Some(have), want, from_unit: 0, from_byte: 0 };
    let bytes = stream(&store, &ask).expect("a store that has both");
    for other in [
        UpdateAsk { have: None, ..ask },
        UpdateAsk { have: Some(small), ..ask },
        UpdateAsk { want: small, ..ask },
        UpdateAsk { from_unit: 1, ..ask },
        UpdateAsk { from_byte: 1, ..ask },
    ] {
        let refused = UpdateReader::open(&bytes[..], &other, "the test").map(drop);
        assert!(refused.is_err_and(|error| error.to_string().ends_with("it answers another question")));
    }
}

/// Gives a byte at a time, then fails.
struct Dripping<'a>(&'a [u8]);

impl Read for Dripping<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match (self.0.split_first(), into.first_mut()) {
            (Some((byte, rest)), Some(into)) => {
                *into = *byte;
                self.0 = rest;
                Ok(1)
            }
            (Some(_), None) => Ok(0),
            (None, _) => Err(std::io::Error::other("the line is dead")),
        }
    }
}

#[test]
fn a_reader_takes_what_comes_and_says_why_it_ends() {
    let World { store, have, small, .. } = world();
    let ask = UpdateAsk { have: Some(have), want: small, from_unit: 0, from_byte: 0 };
    let bytes = stream(&store, &ask).expect("a store that has both");
    let mut reader = UpdateReader::open(Dripping(&bytes), &ask, "the test").expect("own bytes");
    assert!(
        reader.next_unit().expect("own bytes").is_some() && reader.next_unit().expect("the end").is_none()
    );
    let mut reader =
        UpdateReader::open(Dripping(&bytes[..bytes.len() - 90]), &ask, "the test").expect("own bytes");
    let head = reader.head().to_vec();
    assert!(bytes.starts_with(&head) && head.len() < bytes.len() - 90);
    let error = loop {
        match reader.next_unit() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("an end"),
            Err(error) => break error,
        }
    };
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert_eq!((error.class(), cause.as_str()), (ErrorClass::Network, "the line is dead"));
}

/// A store of a version whose chunks are not there but for some.
#[test]
fn a_small_edit_of_a_huge_tree_costs_its_own_bytes() {
    let store = MemStore::default();
    let unseen = |n: u64| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        id[8..16].copy_from_slice(&n.to_le_bytes());
        ChunkRef { id: ChunkId::from_bytes(id), len: 60_000 }
    };
    let huge: Vec<_> = (0..900_000).map(unseen).collect();
    let names: Vec<_> =
        (0..50_000).map(|n| format!("textures/set{:03}/texture_{n:06}.png", n / 250)).collect();
    let files = |huge: Vec<ChunkRef>, edited: Option<ChunkRef>| {
        let mut files = vec![("huge.pak", huge)];
        files.extend((0u64..).zip(&names).map(|(n, name)| {
            let own = unseen(1_000_000 + 2 * n);
            let first = edited.filter(|_| n == 31_415).unwrap_or(own);
            (name.as_str(), vec![first, unseen(1_000_001 + 2 * n)])
        }));
        publish(&store, &files)
    };
    let have = files(huge.clone(), None);
    // Ten kilobytes in the middle of the large file fall into one chunk, or two.
    let mut edited = huge.clone();
    edited[500_000] = keep(&store, plain(1));
    edited[500_001] = keep(&store, plain(2));
    let in_huge = files(edited, None);
    let in_small = files(huge, Some(keep(&store, plain(3))));
    for (want, chunks) in [(in_huge, 2), (in_small, 1)] {
        let ask = UpdateAsk { have: Some(have), want, from_unit: 0, from_byte: 0 };
        let bytes = stream(&store, &ask).expect("a store that has both");
        let (edits, units) = received(&bytes, &ask).expect("own bytes");
        let content: usize = units.iter().flat_map(|unit| unit.frames()).map(|frame| frame.at.len()).sum();
        assert_eq!(units.iter().map(|unit| unit.frames().len()).sum::<usize>(), chunks);
        assert!(bytes.len() <= content + 1024, "{} bytes beside the content", bytes.len() - content);
        assert_eq!(arrive(&store, &ask, &edits.expect("from the start"), &units).expect("sound"), want);
    }
}
