//! Records: bytes that were written once, what the engine reads in them, what `wincode` reads in them, and that
//! this build would write them the same.

use floe::content::{Chunk, Codec, Frame};
use floe::store::UpdateAsk;
use floe::sync::stream::UpdateReader;
use floe::testing::doors::knock;
use floe::tree::StatTable;
use floe::version::{Manifest, Node, apply_edits};
use floe::{ChunkId, ChunkRef, NodeId, VersionId};

use crate::mirror::{self, Content, Journal, Kind, Words, written};
use crate::{make, record, testdata};

fn version(text: &str) -> VersionId {
    text.parse().expect("a version id")
}

fn open(bytes: &[u8]) -> Node {
    Node::open(NodeId::of(bytes), bytes, "testdata").expect("a node")
}

fn plain(chunk: ChunkRef) -> mirror::Chunk {
    (*chunk.id.as_bytes(), chunk.len)
}

#[test]
fn this_build_writes_the_same_bytes() {
    for (name, bytes) in make::records() {
        // A journal holds inodes and times.
        let same = match name {
            "journal.bin" => {
                Words::filed(&record(name), 0x31).journal() == Words::filed(&bytes, 0x31).journal()
            }
            _ => record(name) == bytes,
        };
        assert!(same, "{name} is written in another way");
    }
}

#[test]
fn every_record_passes_its_door() {
    for (door, names) in [
        ("node", &["root", "root-empty", "entries", "inner-entries", "chunks", "inner-chunks"][..]),
        ("frame", &["frame-stored", "frame-zstd"]),
        ("bound", &["name"]),
        ("location", &["location"]),
        ("stats", &["fingerprint-table"]),
        ("state", &["state"]),
        ("journal", &["journal"]),
        ("nodelog", &["node-log"]),
        ("edits", &["edits"]),
        ("unit", &["update-unit"]),
        ("update", &["update"]),
    ] {
        for name in names {
            let taken = knock(door, &record(&format!("{name}.bin")));
            assert!(taken.is_ok(), "{name}: {taken:?}");
        }
    }
    knock("format", &record("FORMAT-replica")).expect("a replica's");
    knock("format", &record("FORMAT-store")).expect("a store's");
}

#[test]
fn versions_keep_their_ids() {
    let empty = "5e5fdf5028597e43d554b7a8cc7b8112038f2cc2b79bbbda975f3e9aea331237";
    let small = "ddfdede49094c4cd06fad3550e69484dfd9db52b419daf055b75a25318eaec16";
    let many = "e5d2ac94a576bbaac4c3bf5c91881b389d332cea1927deb054b47c2e4731ba97";
    assert_eq!(make::version(Vec::new()).0, version(empty));
    assert_eq!(make::version(make::entries()).0, version(small));
    assert_eq!(make::version(make::many_entries()).0, version(many));
    assert_eq!(NodeId::of(&record("root-empty.bin")), version(empty).root());
    assert_eq!(NodeId::of(&record("root.bin")), version(small).root());
    let (content, _) = make::many_chunks();
    let floe::version::Content::Tree { root, chunks: 1500 } = content else { panic!("{content:?}") };
    assert_eq!(root.to_string(), "99b4533333186d39410407682f63f9c4f96dfb3196c83377042db682409880ac");
}

#[test]
fn roots() {
    let bytes = record("root.bin");
    let root: mirror::Root = Words::named(&bytes, 1).only();
    let top = *NodeId::of(&record("entries.bin")).as_bytes();
    let params = (1, 16 << 10, 64 << 10, 256 << 10);
    assert_eq!(root, (1, params, Some((top, 0)), (7, 4, 5_000_080_007, 70_004)));
    assert_eq!(written(&root), bytes[2..]);
    assert_eq!(open(&bytes).children(), [NodeId::from_bytes(top)]);
    let bytes = record("root-empty.bin");
    let root: mirror::Root = Words::named(&bytes, 1).only();
    assert_eq!(root, (1, params, None, (0, 0, 0, 0)));
    assert_eq!(written(&root), bytes[2..]);
}

#[test]
fn entries() {
    let bytes = record("entries.bin");
    let chunk = |n| plain(make::chunk(n));
    let root = *NodeId::of(b"chunks").as_bytes();
    let expected = [
        ("bin/tool", Kind::File(0o755, 20_001, Content::Inline(vec![chunk(1)]))),
        ("data/empty", Kind::File(0o644, 0, Content::Inline(Vec::new()))),
        ("data/large", Kind::File(0o600, 5_000_000_000, Content::Tree(root, 70_000))),
        ("data/some", Kind::File(0o444, 60_006, Content::Inline((1..4).map(chunk).collect()))),
        ("link", Kind::Symlink("data/some".into())),
        ("open", Kind::Dir(0o777)),
        ("ü", Kind::Dir(0o755)),
    ];
    assert_eq!(Words::named(&bytes, 2).entries(), expected.map(|(path, kind)| (path.to_owned(), kind)));
    let node = open(&bytes);
    assert_eq!(node.children(), [NodeId::from_bytes(root)]);
    assert_eq!(node.chunks(), [1, 1, 2, 3].map(make::chunk));
}

#[test]
fn pages_above_entries() {
    let bytes = record("inner-entries.bin");
    let page: mirror::InnerEntries = Words::named(&bytes, 3).only();
    assert_eq!(written(&page), bytes[2..]);
    let (_, nodes) = make::version(make::many_entries());
    let (level, links) = &page;
    assert_eq!((*level, links.len() >= 2), (1, true));
    for (last, child, entries) in links {
        let id = NodeId::from_bytes(*child);
        let (_, below) = nodes.0.iter().find(|(other, _)| *other == id).expect("a page of the same version");
        let below = Words::named(below, 2).entries();
        assert_eq!((below.len() as u64, &below[below.len() - 1].0), (*entries, last));
    }
    let children: Vec<_> = links.iter().map(|(_, child, _)| NodeId::from_bytes(*child)).collect();
    assert_eq!(open(&bytes).children(), children);
}

#[test]
fn chunks() {
    let bytes = record("chunks.bin");
    let list: mirror::Chunks = Words::named(&bytes, 4).only();
    assert_eq!(written(&list), bytes[2..]);
    let first = list[0].1 - 20_000;
    let expected: Vec<ChunkRef> = (first..first + list.len() as u32).map(make::chunk).collect();
    assert_eq!(list, expected.iter().copied().map(plain).collect::<Vec<_>>());
    assert_eq!(open(&bytes).chunks(), expected);

    let bytes = record("inner-chunks.bin");
    let page: mirror::InnerChunks = Words::named(&bytes, 5).only();
    assert_eq!(written(&page), bytes[2..]);
    let (_, nodes) = make::many_chunks();
    for (child, bytes, chunks) in &page.1 {
        let id = NodeId::from_bytes(*child);
        let (_, below) = nodes.0.iter().find(|(other, _)| *other == id).expect("a page of the same file");
        let list: mirror::Chunks = Words::named(below, 4).only();
        assert_eq!(list.len() as u64, *chunks);
        assert_eq!(list.iter().map(|(_, len)| u64::from(*len)).sum::<u64>(), *bytes);
    }
    let children: Vec<_> = page.1.iter().map(|(child, ..)| NodeId::from_bytes(*child)).collect();
    assert_eq!(open(&bytes).children(), children);
}

#[test]
fn names() {
    let bytes = record("name.bin");
    let value: mirror::Name = Words::filed(&bytes, 0x20).only();
    assert_eq!(value, (*VersionId::of(b"version").as_bytes(), 1_795_000_000, 300));
    assert_eq!(written(&value), bytes[48..]);
}

#[test]
fn fingerprints() {
    let bytes = record("fingerprint-table.bin");
    let read = StatTable::load(&testdata().join("formats/v1/fingerprint-table.bin")).expect("read");
    assert_eq!(read, Some(make::table()));
    let table: mirror::Table = Words::filed(&bytes, 0x21).only();
    assert_eq!(written(&table), bytes[48..]);
    let (version, context, started, rests, rows) = table;
    assert_eq!(version, *VersionId::of(b"version").as_bytes());
    assert_eq!((context, started), ([7; 32], 1_795_000_001_000_000_000));
    assert_eq!(rests, "a/bcü/db".as_bytes());
    let lens: Vec<_> = rows.iter().map(|row| (row.0, row.1)).collect();
    assert_eq!(lens, [(0, 1), (1, 2), (3, 1), (2, 4), (0, 1)]);
    let stat = |n: i64| (1 << (8 * n), 1_795_000_000_123_456_789 + n, -n, u64::MAX - n as u64, 0o100_644);
    assert_eq!(rows.iter().map(|row| row.2).collect::<Vec<_>>(), (0..5).map(stat).collect::<Vec<_>>());
}

#[test]
fn replica_records() {
    let ids = [
        "90324b3922b28b2ce8d733a8a6866f28517860a647f1f455af63067ac62d0c89",
        "b359ee1b01e791d1d6cffc469d8917900f2f9216bf288f5456905d91d6fc0d8a",
    ]
    .map(version);
    let bytes = record("state.bin");
    let state: mirror::State = Words::filed(&bytes, 0x30).only();
    let log = record("node-log.bin");
    let protect = |globs: &[&str]| globs.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!((&state.0, state.1.as_deref()), (ids[0].as_bytes(), Some("game@1")));
    assert_eq!((&state.2, state.3), (&protect(&["mods/**"]), log.len() as u64));
    assert_eq!(written(&state), bytes[48..]);

    let (header, mut records) = log.split_at(16);
    assert_eq!(header, b"floe nodes 1\n\0\0\0");
    let mut found = Vec::new();
    while let Some((id, rest)) = records.split_first_chunk::<32>() {
        let (len, rest) = rest.split_first_chunk().expect("a length");
        let (node, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
        assert_eq!(NodeId::of(node), NodeId::from_bytes(*id));
        found.push(node[0]);
        records = rest;
    }
    found.sort_unstable();
    assert_eq!(found, [1, 2]);

    let journal = Words::filed(&record("journal.bin"), 0x31).journal();
    let list = |steps: &[&str]| steps.iter().map(ToString::to_string).collect::<Vec<_>>();
    let expected = Journal {
        version: *ids[1].as_bytes(),
        name: Some("game@2".into()),
        protect: protect(&["mods/**", "*.log"]),
        loosen: list(&["loosen sealed 755"]),
        stash: list(&["stash moved/old 89a37b48 (6)"]),
        place: list(&[
            "unlink dir/gone (24)",
            "rmdir dir",
            "mkdir fresh",
            "place a599ee93 fresh/file over nothing",
            "place 89a37b48 moved/new over nothing",
            "place e56c5b39 sealed/inner over (2)",
            "mode mode 755",
            "mode moved/new 644",
            "dir-mode sealed 555",
            "dir-mode opened 711",
            "dir-mode fresh 755",
        ]),
    };
    assert_eq!(journal, expected);
}

#[test]
fn updates() {
    let ids = [
        "508c7bc294ae02b10026479e000a06e5d8db39cb228a370bf83a8d01e955ff34",
        "f7de5baaf25fcd9c41c8f0c4ffd45e0be9e163a7fa5820b188184b06d316874f",
    ]
    .map(version);
    let edits = record("edits.bin");
    let (params, lines) = Words::edits(&edits);
    assert_eq!(params, (1, 16 << 10, 64 << 10, 256 << 10));
    let expected = [
        "file 0+base/again 600: new 1, from 0+base/long, copy 3 3",
        "whole 5+copy 755 9+",
        "dir 5+empty 755",
        "link 5+link long",
        "file 6+ong 644: copy 5 15, new 2, copy 0 5, again 1 1",
        "remove 5+short",
        "mode 5+tiny 444",
    ];
    assert_eq!(lines, expected);

    let bytes = record("update.bin");
    let (header, rest) = bytes.split_at(48 + usize::from(bytes[8]));
    let (have, want, len, zlen, hash, units, from_unit, from_byte, plan): mirror::UpdateHeader =
        Words::filed(header, 0x14).only();
    assert_eq!(plan, None);
    assert_eq!((have, want), (Some(*ids[0].as_bytes()), *ids[1].as_bytes()));
    assert_eq!((len, hash), (edits.len() as u64, *blake3::hash(&edits).as_bytes()));
    assert_eq!((units, from_unit, from_byte), (1, 0, 0));
    let (packed, rest) = rest.split_at(zlen as usize);
    assert_eq!(zstd::bulk::decompress(packed, edits.len()).expect("a frame of zstd"), edits);
    let unit = record("update-unit.bin");
    let end = rest.strip_prefix(&unit[..]).expect("one unit");
    let end: mirror::UpdateEnd = Words::filed(end, 0x16).only();
    assert_eq!(end, (*ids[1].as_bytes(), 1));
    let (index, lens, frames): mirror::UpdateUnit = Words::filed(&unit, 0x15).only();
    assert_eq!((index, lens), (0, vec![(100, 101); 3]));
    let frame = |n: u8| [&[0][..], &[n; 100]].concat();
    assert_eq!(frames, [102, 100, 101].map(frame).concat());

    let (index, runs, lens, reference, hash, delta): mirror::UpdateDelta =
        Words::filed(&record("update-delta.bin"), 0x17).only();
    assert_eq!((index, runs, lens), (0, vec![(0, 3)], vec![100; 3]));
    assert_eq!(reference, [], "the base's chunks are not there");
    let content = [102, 100, 101].map(|n: u8| [n; 100]).concat();
    assert_eq!(hash, *blake3::hash(&content).as_bytes());
    assert_eq!(floe::delta::decode(&delta, &[], 300, "testdata").expect("decodes"), content);

    let (store, base, target) = make::edited();
    assert_eq!([base, target], ids);
    let ask = UpdateAsk { have: Some(base), want: target, from_unit: 0, from_byte: 0, profile: None };
    let mut reader = UpdateReader::open(&bytes[..], &ask, "testdata").expect("a stream");
    let unit = reader.next_unit().expect("a stream").expect("a unit");
    let new: Vec<_> = unit.chunks("testdata").map(|chunk| chunk.expect("a chunk").to_ref()).collect();
    assert!(reader.next_unit().expect("an end").is_none());
    let have = Manifest::open(&store, base).expect("in memory");
    let mut nodes = make::Nodes::default();
    let arrived =
        apply_edits(reader.edits().expect("from the start"), Some(&have), &new, &mut nodes, "testdata");
    assert_eq!(arrived.expect("sound edits"), target);
}

#[test]
fn frames() {
    let plain = make::text(40);
    let want = ChunkRef { id: ChunkId::of(&plain), len: plain.len() as u32 };
    for (name, codec) in [("frame-stored.bin", Codec::Stored), ("frame-zstd.bin", Codec::Zstd)] {
        let frame = Frame::from_bytes(record(name), "testdata").expect("a frame");
        assert_eq!(frame.codec(), codec);
        assert_eq!(Chunk::open(frame, &want, "testdata").expect("opens").bytes(), plain);
    }
}
