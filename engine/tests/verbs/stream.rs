//! Updates: a source that makes them over a store in memory, and every way for one to go wrong. Whatever happens to the
//! stream, the tree comes out the same.

use std::io::{self, Read};
use std::sync::atomic::AtomicUsize;

use floe::content::{Chunk, Compression, Frame};
use floe::delta::Profile;
use floe::store::{AppName, NameRecord, UpdateAsk};
use floe::sync::plan;
use floe::sync::stream::{UpdateReader, make};
use floe::version::NodeSource;
use floe::{ChunkId, ChunkRef, NodeId};

use super::*;

/// What happens to a stream's bytes. Offsets count from the first byte of the first stream.
#[derive(Clone, Copy)]
pub(super) enum Fate {
    Whole,
    /// Every stream breaks off after so many bytes.
    Cut(u64),
    /// So many bytes come in streams; then nothing comes any more.
    Dry(u64),
    /// One bit of this byte is flipped.
    Flip(usize),
    /// The streams of other versions.
    Other(VersionId, VersionId),
    /// These bytes, over and over.
    Says(&'static [u8]),
    /// No update at all.
    None,
}

pub(super) struct Streaming<'s> {
    store: &'s MemStore,
    fate: Fate,
    served: AtomicU64,
    asked: Mutex<Vec<u64>>,
    nodes_read: AtomicUsize,
    pub chunks_read: AtomicUsize,
}

impl<'s> Streaming<'s> {
    pub fn new(store: &'s MemStore, fate: Fate) -> Streaming<'s> {
        let (served, asked) = (AtomicU64::new(0), Mutex::default());
        let (nodes_read, chunks_read) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Streaming { store, fate, served, asked, nodes_read, chunks_read }
    }

    // True once nothing comes any more.
    fn check(&self) -> Result<()> {
        match self.fate {
            Fate::Dry(len) if !self.asked().is_empty() && self.served.load(Ordering::SeqCst) >= len => {
                let source = io::Error::from(io::ErrorKind::ConnectionRefused).into();
                Err(Error::Network { action: "reach", place: self.place(), source })
            }
            _ => Ok(()),
        }
    }

    fn asked(&self) -> Vec<u64> {
        self.asked.lock().expect("not poisoned").clone()
    }
}

impl NodeSource for Streaming<'_> {
    fn read_nodes(
        &self,
        ids: &[NodeId],
        each: &mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        self.check()?;
        self.nodes_read.fetch_add(ids.len(), Ordering::SeqCst);
        self.store.read_nodes(ids, each)
    }

    fn place(&self) -> String {
        "the other side".into()
    }
}

impl Source for Streaming<'_> {
    fn read_chunks(
        &self,
        want: &[ChunkRef],
        each: &mut dyn FnMut(usize, Option<Frame>) -> Result<()>,
    ) -> Result<()> {
        self.check()?;
        self.chunks_read.fetch_add(want.len(), Ordering::SeqCst);
        self.store.read_chunks(want, each)
    }

    fn frame_lens(&self, ids: &[ChunkId]) -> Result<Vec<Option<u32>>> {
        self.store.frame_lens(ids)
    }

    fn resolve(&self, name: &Name) -> Result<Option<NameRecord>> {
        self.store.resolve(name)
    }

    fn names(&self, app: Option<&AppName>) -> Result<Vec<NameRecord>> {
        self.store.names(app)
    }

    fn update(&self, ask: &UpdateAsk) -> Result<Option<Box<dyn Read + Send + '_>>> {
        self.asked.lock().expect("not poisoned").push(ask.from_unit);
        let other = match self.fate {
            Fate::Other(have, want) => {
                UpdateAsk { have: Some(have), want, from_unit: 0, from_byte: 0, profile: None }
            }
            Fate::None => return Ok(None),
            _ => *ask,
        };
        if let Fate::Says(bytes) = self.fate {
            let (bytes, broken) = (io::Cursor::new(bytes.to_vec()), false);
            return Ok(Some(Box::new(Pipe { bytes, broken, served: &self.served })));
        }
        let mut bytes = Vec::new();
        let made = make(self.store, &other, &mut |piece| {
            bytes.extend_from_slice(&piece);
            Ok(())
        })?;
        if !made {
            return Ok(None);
        }
        if let Fate::Flip(at) = self.fate
            && let Some(byte) = bytes.get_mut(at)
        {
            *byte ^= 1;
        }
        let left = match self.fate {
            Fate::Cut(len) => len,
            Fate::Dry(len) => len.saturating_sub(self.served.load(Ordering::SeqCst)),
            _ => u64::MAX,
        };
        let broken = bytes.len() as u64 > left;
        bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len()));
        Ok(Some(Box::new(Pipe { bytes: io::Cursor::new(bytes), broken, served: &self.served })))
    }
}

struct Pipe<'a> {
    bytes: io::Cursor<Vec<u8>>,
    broken: bool,
    served: &'a AtomicU64,
}

impl Read for Pipe<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let got = self.bytes.read(into)?;
        self.served.fetch_add(got as u64, Ordering::SeqCst);
        match got {
            0 if self.broken && !into.is_empty() => Err(io::ErrorKind::ConnectionReset.into()),
            got => Ok(got),
        }
    }
}

/// A store with two versions, a replica at the first, and the length of the update.
pub(super) struct Bench {
    pub store: MemStore,
    outer: TempDir,
    pub trees: [Tree; 2],
    pub versions: [VersionId; 2],
    pub stream: Vec<u8>,
    pub profile: Option<Profile>,
}

impl Bench {
    fn new(trees: [Tree; 2]) -> Bench {
        Bench::told(trees, None)
    }

    /// The same with new chunks told as deltas.
    pub fn told(trees: [Tree; 2], profile: Option<Profile>) -> Bench {
        let store = MemStore::default();
        let versions = [published(&store, &trees[0], "game@0"), published(&store, &trees[1], "game@1")];
        let outer = quick_tempdir();
        sync(&store, "game@0", &outer.path().join("start"));
        let ask =
            UpdateAsk { have: Some(versions[0]), want: versions[1], from_unit: 0, from_byte: 0, profile };
        let mut stream = Vec::new();
        let made = make(&store, &ask, &mut |piece| {
            stream.extend_from_slice(&piece);
            Ok(())
        });
        assert!(made.expect("made"));
        Bench { store, outer, trees, versions, stream, profile }
    }

    // A few units, and everything else that an update may have.
    fn large() -> Bench {
        let (a, b) = pair();
        Bench::new([a, b.with("large", Item::file(0o644, World::noise(77, 7 << 20)))])
    }

    fn small() -> Bench {
        let (a, b) = pair();
        let b = b.with("big", a.get("big").expect("there").clone());
        Bench::new([a, b.with("new", Item::text("new")).with("moved/here", Item::text("short"))])
    }

    // Bytes before the first unit.
    pub fn head(&self) -> u64 {
        let [have, want] = self.versions;
        let ask = UpdateAsk { have: Some(have), want, from_unit: 0, from_byte: 0, profile: self.profile };
        UpdateReader::open(&self.stream[..], &ask, "the test").expect("own bytes").head().len() as u64
    }

    pub fn fresh(&self) -> PathBuf {
        let dir = self.outer.path().join("replica");
        wipe(&dir);
        copy_tree(&self.outer.path().join("start"), &dir);
        dir
    }

    pub fn options(&self) -> SyncOptions {
        SyncOptions { deltas: self.profile, ..syncing() }
    }

    pub fn run(&self, fate: Fate, dir: &Path) -> (Result<Synced>, usize) {
        let source = Streaming::new(&self.store, fate);
        let notices = Notices::default();
        let synced = floe::sync::sync(&source, &named("game@1"), dir, &self.options(), &notices);
        let told = notices.0.lock().expect("not poisoned");
        (synced, told.iter().filter(|notice| matches!(notice, Notice::UpdateIgnored { .. })).count())
    }

    pub fn assert_there(&self, dir: &Path) {
        assert_replica(dir, &self.trees[1]);
        assert!(!dir.join(".floe/arrivals").exists());
    }
}

#[test]
fn an_update_costs_its_own_bytes_and_two_requests() {
    for bench in [Bench::large(), Bench::small()] {
        let dir = bench.fresh();
        let source = Streaming::new(&bench.store, Fate::Whole);
        let foretold = plan(&source, &named("game@1"), &dir, &syncing(), &Silent).expect("plans");
        source.nodes_read.store(0, Ordering::SeqCst);
        // Of content a plan asks for none: behind the last unit there is only the end.
        assert_eq!(source.asked.lock().expect("not poisoned").drain(..).count(), 1);
        assert!(source.served.swap(0, Ordering::SeqCst) < 400);
        let synced = floe::sync::sync(&source, &named("game@1"), &dir, &syncing(), &Silent).expect("syncs");
        bench.assert_there(&dir);
        assert_eq!(synced.from, Some(bench.versions[0]));
        assert_eq!((synced.requests, source.asked()), (2, vec![0]));
        // The root is read to know that it is there; by name it is read before, uncounted.
        assert!(source.nodes_read.load(Ordering::SeqCst) <= 2);
        assert_eq!(source.chunks_read.load(Ordering::SeqCst), 0);
        assert_eq!(synced.chunks_fetched, foretold.chunks_missing);
        assert!(synced.bytes_fetched - bench.stream.len() as u64 <= 256, "the root alone on top");
        assert_eq!((synced.bytes_fetched, synced.requests), (foretold.bytes_fetched, foretold.requests));
    }
}

#[test]
fn what_is_here_or_unknown_there_is_not_streamed() {
    let bench = Bench::large();
    // From nothing, and to what it is.
    let dir = bench.outer.path().join("replica");
    for _ in 0..2 {
        let source = Streaming::new(&bench.store, Fate::Whole);
        floe::sync::sync(&source, &named("game@1"), &dir, &syncing(), &Silent).expect("syncs");
        assert!(source.asked().is_empty());
        bench.assert_there(&dir);
    }
    // No update from there.
    let dir = bench.fresh();
    let (synced, told) = bench.run(Fate::None, &dir);
    assert_eq!((synced.expect("syncs").version, told), (bench.versions[1], 0));
    bench.assert_there(&dir);
    // A version whose nodes are still here is asked for chunk by chunk.
    let source = Streaming::new(&bench.store, Fate::Whole);
    let back = floe::sync::sync(&source, &named("game@0"), &dir, &syncing(), &Silent).expect("syncs");
    assert!(source.asked().is_empty(), "{back:?}");
    assert_replica(&dir, &bench.trees[0]);
}

#[test]
fn a_stream_cut_anywhere_is_continued() {
    // Every stream ends early: it is asked for again while units come.
    let bench = Bench::large();
    let unit = 2 << 20;
    let mut resumed = 0;
    for cut in [400_000, unit - 1, unit + 70_000, unit + 900_000, 2 * unit + 1_000_000] {
        let dir = bench.fresh();
        let source = Streaming::new(&bench.store, Fate::Cut(cut));
        let synced = floe::sync::sync(&source, &named("game@1"), &dir, &syncing(), &Silent).expect("syncs");
        bench.assert_there(&dir);
        let asked = source.asked();
        assert!(asked.is_sorted() && asked.len() > 1, "{asked:?}");
        resumed += asked.len();
        let whole = bench.stream.len() as u64 + 256 * (1 + asked.len() as u64);
        assert!(synced.bytes_fetched <= whole, "{asked:?}: {synced:?}");
    }
    assert!(resumed > 6);
}

#[test]
fn a_connection_that_dies_at_any_byte_leaves_what_the_next_run_continues() {
    let (large, small) = (Bench::large(), Bench::small());
    let rows = [(&small, 1), (&large, large.stream.len() as u64 / 17)];
    for (bench, stride) in rows {
        let len = bench.stream.len() as u64;
        for cut in (0..len).step_by(stride as usize) {
            let dir = bench.fresh();
            let (broken, told) = bench.run(Fate::Dry(cut), &dir);
            match broken {
                Err(Error::Network { .. }) => assert_eq!((told, on_disk(&dir)), (1, bench.trees[0].clone())),
                // Nothing but the end was missing.
                Ok(_) if len - cut < 120 => continue,
                other => panic!("{cut}: {other:?}"),
            }
            let source = Streaming::new(&bench.store, Fate::Whole);
            let synced =
                floe::sync::sync(&source, &named("game@1"), &dir, &syncing(), &Silent).expect("syncs");
            assert_eq!(on_disk(&dir), bench.trees[1], "{cut}");
            // What came before the cut came once, but for the header and the edits.
            let whole = len + bench.head() + 1024;
            assert!(cut.min(len) + synced.bytes_fetched <= whole, "{cut}: {synced:?}");
            assert_eq!(source.chunks_read.load(Ordering::SeqCst), 0);
        }
        bench.assert_there(&bench.outer.path().join("replica"));
    }
}

#[test]
fn a_stream_that_lies_anywhere_is_left_for_the_walk() {
    let (large, small) = (Bench::large(), Bench::small());
    for (bench, stride) in [(&small, 1), (&large, large.stream.len() / 23)] {
        for at in (0..bench.stream.len()).step_by(stride) {
            let dir = bench.fresh();
            let (synced, told) = bench.run(Fate::Flip(at), &dir);
            // Of the end nothing is needed.
            let told_max = usize::from(bench.stream.len() - at > 120);
            let synced = synced.unwrap_or_else(|error| panic!("{at}: {error:?}"));
            assert!(told == 1 || told == told_max, "{at}");
            assert_eq!((synced.version, on_disk(&dir)), (bench.versions[1], bench.trees[1].clone()), "{at}");
        }
        bench.assert_there(&bench.outer.path().join("replica"));
    }
}

#[test]
fn an_update_of_something_else_is_left_for_the_walk() {
    let bench = Bench::large();
    let third = published(&bench.store, &bench.trees[1].clone().with("third", Item::text("3")), "game@2");
    let [a, b] = bench.versions;
    for (have, want) in [(a, third), (b, third), (b, a)] {
        let dir = bench.fresh();
        let (synced, told) = bench.run(Fate::Other(have, want), &dir);
        assert_eq!((synced.expect("syncs").version, told), (bench.versions[1], 1));
        bench.assert_there(&dir);
    }
}

#[test]
fn a_changed_replica_is_updated_and_the_rest_asked_for() {
    let bench = Bench::large();
    let dir = bench.fresh();
    // The new version uses content of it that is now nowhere here.
    fs::write(dir.join("docs/moved"), "mine").expect("written");
    fs::write(dir.join("big"), "mine too").expect("written");
    let source = Streaming::new(&bench.store, Fate::Whole);
    floe::sync::sync(
        &source,
        &named("game@1"),
        &dir,
        &SyncOptions { overwrite: true, delete: true, ..syncing() },
        &Silent,
    )
    .expect("syncs");
    assert_eq!(source.asked(), [0]);
    assert!(source.chunks_read.load(Ordering::SeqCst) > 0);
    bench.assert_there(&dir);
}

#[test]
fn what_arrived_for_another_version_or_is_damaged_is_not_used() {
    let bench = Bench::large();
    let len = bench.stream.len() as u64;
    // Asked for another version meanwhile.
    let dir = bench.fresh();
    bench.run(Fate::Dry(len - 100), &dir).0.expect_err("cut");
    assert!(dir.join(".floe/arrivals").exists());
    sync(&bench.store, "game@0", &dir);
    assert!(!dir.join(".floe/arrivals").exists());
    // Damaged where it lies, at places all over: whatever is intact before is used, and no more.
    for at in (0..len - (3 << 20)).step_by(len as usize / 23) {
        let dir = bench.fresh();
        bench.run(Fate::Dry(len - 100), &dir).0.expect_err("cut");
        let path = dir.join(".floe/arrivals");
        let mut bytes = fs::read(&path).expect("read");
        bytes[at as usize] ^= 1;
        fs::write(&path, bytes).expect("written");
        let (synced, told) = bench.run(Fate::Whole, &dir);
        assert_eq!((synced.expect("syncs").version, told), (bench.versions[1], 0), "{at}");
        bench.assert_there(&dir);
    }
}

fn varint(n: u64) -> Vec<u8> {
    match n {
        0..=250 => vec![n as u8],
        251..=0xffff => [&[251][..], &(n as u16).to_le_bytes()].concat(),
        0x1_0000..=0xffff_ffff => [&[252][..], &(n as u32).to_le_bytes()].concat(),
        _ => [&[253][..], &n.to_le_bytes()].concat(),
    }
}

// With a header whose hash is right.
fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u64).to_le_bytes();
    [&b"FLOE"[..], &[kind, 1, 0, 0], &len, blake3::hash(body).as_bytes(), body].concat()
}

fn unit(index: u64, chunks: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let lens = chunks.iter().flat_map(|(plain, frame)| [varint(*plain), varint(frame.len() as u64)].concat());
    let frames: Vec<u8> = chunks.iter().flat_map(|(_, frame)| frame.clone()).collect();
    let head = [varint(index), varint(chunks.len() as u64), lens.collect()].concat();
    record(0x15, &[head, varint(frames.len() as u64), frames].concat())
}

#[test]
fn a_source_that_makes_bad_updates_well_is_found_out() {
    let bench = Bench::large();
    let [have, want] = bench.versions;
    let ask = UpdateAsk { have: Some(have), want, from_unit: 0, from_byte: 0, profile: None };
    let good = UpdateReader::open(&bench.stream[..], &ask, "the test").expect("own bytes");
    let (header, edits) = (*good.header(), good.edits().expect("from the start").to_vec());
    let head = |edits: &[u8], claimed: u64, hash: [u8; 32], units: u64| {
        let packed = zstd::bulk::compress(edits, 19).expect("compressed");
        let ids = [&[1][..], have.as_bytes(), want.as_bytes()].concat();
        let lens = [varint(claimed), varint(packed.len() as u64), hash.to_vec()].concat();
        [record(0x14, &[ids, lens, varint(units), varint(0), varint(0), vec![0]].concat()), packed].concat()
    };
    let usual = head(&edits, edits.len() as u64, header.edits_hash, header.units);
    assert_eq!(usual[..48 + 20], bench.stream[..48 + 20], "made as the real one is");
    let frame = |plain: &[u8]| Chunk::new(plain.to_vec()).frame(Compression::Zstd(19)).into_bytes();
    let bomb = frame(&vec![0; 256 << 10]);
    let zeros = vec![0; 64 << 20];
    let one = |plain: u64, frame: Vec<u8>| [usual.clone(), unit(0, &[(plain, frame)])].concat();
    let many = |units: u64, of: &dyn Fn(u64) -> Vec<u8>| {
        [head(&edits, edits.len() as u64, header.edits_hash, units), (0..units).flat_map(of).collect()]
            .concat()
    };
    let rows: [(&str, Vec<u8>); 9] = [
        ("a frame that grows beyond what it says", one(10, bomb.clone())),
        ("a frame that is shorter than it says", one(200_000, frame(b"short"))),
        (
            "edits that grow beyond what they say",
            head(&zeros, 100, *blake3::hash(&zeros[..100]).as_bytes(), 1),
        ),
        ("edits that are nothing", head(&zeros, zeros.len() as u64, *blake3::hash(&zeros).as_bytes(), 0)),
        (
            "good frames of other chunks",
            many(3, &|at| unit(at, &[(5, frame(format!("no {at:02}").as_bytes()))])),
        ),
        (
            "more content than the version has",
            many(60, &|at| {
                let chunk = vec![at as u8; 256 << 10];
                unit(at, &vec![(256 << 10, frame(&chunk)); 8])
            }),
        ),
        ("more chunks than the version has", many(900, &|at| unit(at, &[(1, frame(&[at as u8]))]))),
        ("another unit", [usual.clone(), unit(7, &[(5, frame(b"seven"))])].concat()),
        (
            "a unit in a hurry",
            [usual.clone(), record(0x16, &[want.as_bytes(), &varint(header.units)[..]].concat())].concat(),
        ),
    ];
    for (what, bytes) in rows {
        let dir = bench.fresh();
        let (synced, told) = bench.run(Fate::Says(bytes.leak()), &dir);
        assert_eq!((synced.expect(what).version, told), (want, 1), "{what}");
        bench.assert_there(&dir);
    }
}

#[test]
fn the_beginning_of_a_unit_that_does_not_fit_is_asked_for_again() {
    let bench = Bench::large();
    let (len, head) = (bench.stream.len() as u64, bench.head());
    // A bit wrong in the header of the first unit, in its body; nothing but zeros; far too much; all good.
    let hurt: [(&str, &dyn Fn(&mut Vec<u8>)); 6] = [
        ("kind", &|bytes| bytes[head as usize + 4] ^= 1),
        ("length", &|bytes| bytes[head as usize + 13] ^= 1),
        ("body", &|bytes| bytes[head as usize + 5000] ^= 1),
        ("zeros", &|bytes| bytes[head as usize..].fill(0)),
        ("much", &|bytes| bytes.resize(bytes.len() + (9 << 20), 7)),
        ("good", &|_| {}),
    ];
    for (what, hurt) in hurt {
        let dir = bench.fresh();
        bench.run(Fate::Dry(head + 1_000_000), &dir).0.expect_err("cut");
        let path = dir.join(".floe/arrivals");
        let mut bytes = fs::read(&path).expect("read");
        assert_eq!(bytes.len() as u64, head + 1_000_000);
        hurt(&mut bytes);
        fs::write(&path, bytes).expect("written");
        let (synced, told) = bench.run(Fate::Whole, &dir);
        let synced = synced.expect("syncs");
        let twice = synced.bytes_fetched.saturating_sub(len - head - 1_000_000);
        let twice_max = if what == "good" { 1024 } else { (2 << 20) + 4096 };
        assert!(told == 0 && twice <= twice_max, "{what}: {twice} of {synced:?}");
        bench.assert_there(&dir);
    }
}

#[test]
fn an_update_stopped_at_any_operation_fetches_next_to_nothing_twice() {
    let bench = Bench::large();
    let len = bench.stream.len() as u64;
    let (mut at, mut stopped_in_arrivals) = (0, 0);
    loop {
        let dir = bench.fresh();
        let (faults, count) = failing_at(at);
        let source = Streaming::new(&bench.store, Fate::Whole);
        let options = SyncOptions { faults, ..syncing() };
        let first = floe::sync::sync(&source, &named("game@1"), &dir, &options, &Silent);
        if count.load(Ordering::SeqCst) <= at {
            first.expect("nothing stopped it");
            break;
        }
        let kept = fs::metadata(dir.join(".floe/arrivals")).map_or(0, |meta| meta.len());
        stopped_in_arrivals += u32::from(kept > 0 && kept + 200 < len);
        let synced =
            bench.run(Fate::Whole, &dir).0.unwrap_or_else(|error| panic!("stopped at {at}: {error:?}"));
        assert_eq!(on_disk(&dir), bench.trees[1], "stopped at {at}");
        let came = source.served.load(Ordering::SeqCst);
        // The piece that could not be kept is lost, and a header or edits that were not whole.
        assert!(
            came + synced.bytes_fetched <= len + bench.head() + (64 << 10) + 1024,
            "stopped at {at}: {came} and {synced:?}"
        );
        at += if at < 60 { 1 } else { 7 };
    }
    bench.assert_there(&bench.outer.path().join("replica"));
    assert!(stopped_in_arrivals > 2, "{stopped_in_arrivals}");
}

#[test]
fn cancelled_between_units_it_goes_on_later() {
    struct Stop(AtomicU64);
    impl Progress for Stop {
        fn cancelled(&self) -> bool {
            self.0.fetch_add(1, Ordering::SeqCst) > 40
        }
    }
    let bench = Bench::large();
    let dir = bench.fresh();
    let source = Streaming::new(&bench.store, Fate::Whole);
    let mut tries = 0;
    loop {
        tries += 1;
        let stop = Stop(AtomicU64::new(0));
        match floe::sync::sync(&source, &named("game@1"), &dir, &syncing(), &stop) {
            Err(Error::Cancelled) if tries < 3 => assert_eq!(on_disk(&dir), bench.trees[0]),
            Err(Error::Cancelled) => break,
            other => panic!("{other:?}"),
        }
    }
    sync(&source, "game@1", &dir);
    bench.assert_there(&dir);
}
