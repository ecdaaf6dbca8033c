//! Every golden record cut short at every length and with every bit turned: an error or another good record, never a
//! panic; and no claim of a size reaches the allocator before something has paid for it.
#![cfg(feature = "testing")]

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use floe::content::{Chunk, Frame};
use floe::testing::doors::{DOORS, Door};
use floe::version::Node;
use floe::{ChunkId, ChunkRef, ErrorClass, NodeId};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes before the body of a record in a file.
const FILED_HEADER_LEN: usize = 48;
const NAMED_HEADER_LEN: usize = 2;

/// The doors, and the records that lead through them.
const RECORDS: &[(&str, &[&str])] = &[
    ("node", &["root", "root-empty", "entries", "inner-entries", "chunks", "inner-chunks"]),
    ("state", &["state"]),
    ("journal", &["journal"]),
    ("stats", &["fingerprint-table"]),
    ("bound", &["name"]),
    ("nodelog", &["node-log"]),
    ("frame", &["frame-stored", "frame-zstd"]),
    ("location", &["location"]),
    ("edits", &["edits"]),
    ("unit", &["update-unit"]),
    ("update", &["update"]),
];

// What is allocated is counted for the whole process: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn record(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/formats/v1").join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Those that this build has a door for.
fn records() -> Vec<(&'static Door, &'static str, Vec<u8>)> {
    let mut found = Vec::new();
    for (door, names) in RECORDS {
        let Some(door) = DOORS.iter().find(|other| other.name == *door) else { continue };
        found.extend(names.iter().map(|name| (door, *name, record(&format!("{name}.bin")))));
    }
    found
}

/// All that is one bit away.
fn flips(bytes: &[u8]) -> impl Iterator<Item = (String, Vec<u8>)> + use<'_> {
    (0..bytes.len() * 8).map(|bit| {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        (format!("bit {bit}"), flipped)
    })
}

fn cuts(bytes: &[u8]) -> impl Iterator<Item = (String, Vec<u8>)> + use<'_> {
    (0..bytes.len()).map(|len| (format!("{len} bytes"), bytes[..len].to_vec()))
}

/// Opens and returns whether it was taken; what it allocated on the way is bounded.
fn bounded(what: &str, bytes: &[u8], open: impl Fn(&[u8]) -> floe::Result<()>) -> bool {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let result = open(bytes);
    let used = MEMORY.peak_usage().saturating_sub(before);
    assert!(used < 64 * bytes.len() + (1 << 20), "{what}: {used} bytes for {}", bytes.len());
    if let Err(error) = &result {
        let class = error.class();
        let fits = matches!(class, ErrorClass::Damaged) || matches!(error, floe::Error::TooNew { .. });
        assert!(fits && !error.to_string().is_empty(), "{what}: {class:?}: {error}");
    }
    result.is_ok()
}

#[test]
fn any_damage_gets_an_answer() {
    let _one = alone();
    for (door, name, good) in records() {
        assert!(bounded(name, &good, door.open), "{name} is not damaged");
        // Where a hash lies over the whole, nothing passes; a node's is made anew, and may name another good node.
        let hashed = ["state", "journal", "stats", "bound", "unit"].contains(&door.name);
        for (how, bytes) in cuts(&good).chain(flips(&good)) {
            let taken = bounded(&format!("{name}, {how}"), &bytes, door.open);
            assert!(!taken || !hashed, "{name}, {how}: taken");
        }
        // Behind a header that is right: the door puts it there.
        if hashed {
            let body = &good[FILED_HEADER_LEN..];
            for (how, bytes) in cuts(body).chain(flips(body)) {
                bounded(&format!("{name}, body, {how}"), &bytes, door.open);
            }
        }
    }
}

#[test]
fn a_node_that_is_not_what_was_asked_for_is_refused() {
    let _one = alone();
    for (door, name, good) in records() {
        if door.name != "node" {
            continue;
        }
        let id = NodeId::of(&good);
        for (how, bytes) in cuts(&good).chain(flips(&good)) {
            let open = |bytes: &[u8]| Node::open(id, bytes, "here").map(drop);
            assert!(!bounded(name, &bytes, open), "{name}, {how}: taken");
        }
    }
}

#[test]
fn a_frame_opens_to_its_chunk_or_not_at_all() {
    let _one = alone();
    let plain = record("frame-stored.bin")[1..].to_vec();
    let want = ChunkRef { id: ChunkId::of(&plain), len: plain.len() as u32 };
    for name in ["frame-stored.bin", "frame-zstd.bin"] {
        let good = record(name);
        for (how, bytes) in cuts(&good).chain(flips(&good)) {
            let open = |bytes: &[u8]| {
                let frame = Frame::from_bytes(bytes.to_vec(), "here")?;
                let chunk = Chunk::open(frame, &want, "here")?;
                assert_eq!(chunk.bytes(), plain, "{name}, {how}");
                Ok(())
            };
            bounded(&format!("{name}, {how}"), &bytes, open);
        }
    }
}

#[test]
fn claims_do_not_allocate() {
    let _one = alone();
    // Integers of every width at their largest, and some that fit a limit.
    let claims: &[&[u8]] = &[
        &[250],
        &[251, 255, 255],
        &[252, 255, 255, 255, 255],
        &[252, 0, 0, 0, 1],
        &[253, 255, 255, 255, 255, 255, 255, 255, 255],
        &[253, 0, 0, 0, 0, 0, 0, 0, 1],
        &[254, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255],
        &[255, 255, 255, 255],
    ];
    for (door, name, good) in records() {
        let start = match door.name {
            "node" => NAMED_HEADER_LEN,
            "state" | "journal" | "stats" | "bound" | "unit" => FILED_HEADER_LEN,
            _ => 0,
        };
        let (header, body) = good.split_at(if start == NAMED_HEADER_LEN { start } else { 0 });
        let body = if start == FILED_HEADER_LEN { &good[start..] } else { body };
        for at in 0..body.len() {
            for claim in claims {
                // In place of as many bytes, and in place of one.
                for gone in [claim.len(), 1] {
                    let after = body.get(at + gone..).unwrap_or_default();
                    let bytes = [header, &body[..at], claim, after].concat();
                    bounded(&format!("{name}, {claim:?} at {at}"), &bytes, door.open);
                }
            }
        }
    }
}
