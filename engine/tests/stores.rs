//! Stores from the outside: the conformance suite over both, and what only a store on disk can get wrong:
//! opening, locking, reopening, crashes at every step, damaged files.
#![cfg(all(feature = "testing", feature = "rocks"))]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use floe::store::{
    MemStore, Name, NameRecord, NewChunk, RocksOptions, RocksStore, Source, Store, SweepOptions,
};
use floe::testing::conformance::{self, chunk, node, read, read_nodes, version};
use floe::{ChunkRef, Error, ErrorClass, Faults, Result};
use tempfile::TempDir;

fn dir() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn name(text: &str) -> Name {
    Name::parse(text).expect("a valid name")
}

fn make() -> RocksOptions {
    RocksOptions { create: true, ..RocksOptions::default() }
}

fn refs(chunks: &[NewChunk]) -> Vec<ChunkRef> {
    chunks.iter().map(|new| new.chunk).collect()
}

fn all_here(store: &dyn Store, chunks: &[NewChunk]) -> bool {
    read(store, &refs(chunks)).expect("reading works").iter().all(Option::is_some)
}

#[test]
fn mem_conforms() {
    conformance::run(&|check| check(&MemStore::default()));
}

#[test]
fn rocks_conforms() {
    conformance::run(&|check| {
        let dir = dir();
        check(&RocksStore::open(dir.path(), &make()).expect("an empty directory becomes a store"));
    });
}

#[test]
fn opening_tells_what_is_there() {
    let dir = dir();
    let open = |path: &Path, options: &RocksOptions| RocksStore::open(path, options).map(drop);
    let class = |result: Result<()>| result.expect_err("must be refused").class();
    let missing = dir.path().join("a/b");
    assert!(matches!(open(&missing, &RocksOptions::default()), Err(Error::NotFound { .. })));
    assert!(!missing.exists(), "looking makes nothing");
    open(&missing, &make()).expect("made, with its parents");
    open(&missing, &RocksOptions::default()).expect("there now");
    open(&missing, &make()).expect("making it again opens it");

    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).expect("made");
    fs::write(foreign.join("notes.txt"), "mine").expect("written");
    assert!(matches!(open(&foreign, &RocksOptions::default()), Err(Error::NotFound { .. })));
    assert!(matches!(open(&foreign, &make()), Err(Error::Conflict { .. })));
    assert_eq!(fs::read_dir(&foreign).expect("read").count(), 1, "nothing was added");
    let file = foreign.join("notes.txt");
    assert!(open(&file, &RocksOptions::default()).is_err() && open(&file, &make()).is_err());

    for (text, expected) in [
        ("floe store 2\n", ErrorClass::Failure),
        ("", ErrorClass::Damaged),
        ("floe store one\n", ErrorClass::Damaged),
        ("floe replica 1\n", ErrorClass::Damaged),
    ] {
        fs::write(missing.join("FORMAT"), text).expect("written");
        assert_eq!(class(open(&missing, &RocksOptions::default())), expected, "{text:?}");
        assert_eq!(class(open(&missing, &make())), expected, "{text:?}");
    }
    fs::write(missing.join("FORMAT"), "floe store 7\n").expect("written");
    match open(&missing, &make()) {
        Err(Error::TooNew { found: 7, supported: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_store_is_held_by_one() {
    let dir = dir();
    let store = RocksStore::open(dir.path(), &make()).expect("made");
    match RocksStore::open(dir.path(), &make()) {
        Err(Error::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    drop(store);
    RocksStore::open(dir.path(), &RocksOptions::default()).expect("free again");
}

#[test]
fn readers_share_a_store_and_exclude_a_writer() {
    let dir = dir();
    assert!(matches!(RocksStore::open_read_only(dir.path()), Err(Error::NotFound { .. })));
    let published = Version::new("a@1", 1, 5, 1000);
    let store = RocksStore::open(dir.path(), &make()).expect("made");
    published.publish(&store).expect("published");
    assert!(matches!(RocksStore::open_read_only(dir.path()), Err(Error::Locked { pid: Some(_), .. })));
    drop(store);
    let before = files(dir.path());
    let readers = [(); 2].map(|()| RocksStore::open_read_only(dir.path()).expect("shared"));
    for reader in &readers {
        assert!(all_here(reader, &published.chunks));
        assert_eq!(reader.resolve(&published.name).expect("read").expect("bound").version, version(1));
        assert!(published.publish(reader).is_ok(), "what is there needs no writing");
        let refused = Version::new("b@1", 2, 1, 10).publish(reader).expect_err("read only");
        assert_eq!(refused.class(), ErrorClass::Conflict);
    }
    // The lock file still has the number of the last writer, which is alive: this process.
    assert!(matches!(RocksStore::open(dir.path(), &make()), Err(Error::Locked { pid: None, .. })));
    drop(readers);
    assert_eq!(files(dir.path()), before, "reading leaves no trace");
    RocksStore::open(dir.path(), &make()).expect("free again");
}

#[test]
fn what_was_bound_outlasts_the_process() {
    let dir = dir();
    let chunks: Vec<_> = (0..50).map(|n| chunk(n, 40_000)).collect();
    let late: Vec<_> = (100..103).map(|n| chunk(n, 500)).collect();
    {
        let store = RocksStore::open(dir.path(), &make()).expect("made");
        store.put_chunks(&chunks).expect("put");
        store.put_nodes(vec![node(1, true)]).expect("put");
        store.bind(&name("a@1"), version(1), 7).expect("bound");
        store.put_chunks(&late).expect("put");
        store.put_nodes(vec![node(2, true)]).expect("put");
    }
    let store = RocksStore::open(dir.path(), &RocksOptions::default()).expect("opened");
    let names = store.names(None).expect("listed");
    assert_eq!(names.iter().map(|record| record.version).collect::<Vec<_>>(), [version(1)]);
    assert!(all_here(&store, &chunks));
    assert!(all_here(&store, &late), "an orderly end keeps what came");
    store.put_chunks(&late).expect("put");
    store.put_nodes(vec![node(2, true)]).expect("put");
    assert!(store.bind(&name("a@2"), version(2), 8).expect("bound").sequence > names[0].sequence);
    assert!(all_here(&store, &chunks) && all_here(&store, &late));
}

#[test]
fn sequence_numbers_are_not_given_again_after_a_sweep() {
    let dir = dir();
    let chunks: Vec<_> = (0..20).map(|n| chunk(n, 90_000)).collect();
    let store = RocksStore::open(dir.path(), &make()).expect("made");
    store.put_chunks(&chunks[..10]).expect("put");
    sweep(&store, &[], 0).expect("swept");
    drop(store);
    let store = RocksStore::open(dir.path(), &RocksOptions::default()).expect("opened");
    store.put_chunks(&chunks[10..]).expect("put");
    store.flush().expect("flushed");
    drop(store);
    let store = RocksStore::open(dir.path(), &RocksOptions::default()).expect("opened");
    assert!(all_here(&store, &chunks[10..]));
    assert!(read(&store, &refs(&chunks[..10])).expect("read").iter().all(Option::is_none));
}

// Keeps the versions given; grace in seconds.
fn sweep(store: &dyn Store, keep: &[&Version], grace_s: u64) -> Result<()> {
    let chunk_live = |id: &_| keep.iter().any(|version| version.chunks.iter().any(|new| new.chunk.id == *id));
    let node_live = |id: &_| keep.iter().any(|version| version.nodes.iter().any(|(node, _)| node == id));
    let options = SweepOptions {
        chunk_live: &chunk_live,
        node_live: &node_live,
        now_unix_s: 1000,
        grace: Duration::from_secs(grace_s),
        dry_run: false,
    };
    store.sweep(&options).map(drop)
}

/// Some chunks, and the nodes that stand for a tree over them: a child, then the root.
struct Version {
    name: Name,
    seed: u64,
    chunks: Vec<NewChunk>,
    nodes: Vec<(floe::NodeId, Vec<u8>)>,
}

impl Version {
    fn new(text: &str, seed: u64, count: u64, len: usize) -> Version {
        let chunks = (0..count).map(|n| chunk(1000 * seed + n, len)).collect();
        Version { name: name(text), seed, chunks, nodes: vec![node(1000 + seed, false), node(seed, true)] }
    }

    fn publish(&self, store: &dyn Store) -> Result<NameRecord> {
        let ids: Vec<_> = self.chunks.iter().map(|new| new.chunk.id).collect();
        let lacks = store.lacks_chunks(&ids)?;
        let new = self.chunks.iter().zip(lacks).filter(|(_, lacks)| *lacks).map(|(new, _)| new.clone());
        store.put_chunks(&new.collect::<Vec<_>>())?;
        store.put_nodes(self.nodes.clone())?;
        store.bind(&self.name, version(self.seed), 1)
    }

    // A durable node refers only to durable chunks, a root only to durable nodes.
    fn is_whole_from_its_root(&self, store: &dyn Store) {
        let ids: Vec<_> = self.nodes.iter().map(|(id, _)| *id).collect();
        let nodes = read_nodes(store, &ids).expect("reading works");
        let [child, root] = nodes.as_slice() else { panic!("two nodes") };
        assert!(root.is_none() || child.is_some(), "{}: a root without its nodes", self.name);
        assert!(child.is_none() || all_here(store, &self.chunks), "{}: a node without its chunks", self.name);
    }
}

// Every step; returns the names that must be there, and whether all of it was done.
fn script(path: &Path, faults: Faults, versions: &[Version; 3]) -> (BTreeMap<Name, u64>, Result<()>) {
    let [small, large, shared] = versions;
    let mut bound = BTreeMap::new();
    let run = || -> Result<()> {
        let store = RocksStore::open(path, &RocksOptions { create: true, faults, ..Default::default() })?;
        for version in [small, large, shared] {
            version.publish(&store)?;
            bound.insert(version.name.clone(), version.seed);
        }
        bound.remove(&small.name);
        store.unbind(std::slice::from_ref(&small.name))?;
        sweep(&store, &[large, shared], 500)?;
        sweep(&store, &[large, shared], 0)?;
        bound.remove(&large.name);
        store.unbind(std::slice::from_ref(&large.name))?;
        sweep(&store, &[shared], 0)
    };
    let result = run();
    (bound, result)
}

#[test]
fn a_crash_at_any_step_loses_nothing_acknowledged() {
    let mut shared = Version::new("c@1", 3, 10, 3000);
    let (small, large) = (Version::new("a@1", 1, 10, 2000), Version::new("b@1", 2, 30, 60_000));
    shared.chunks.extend(large.chunks.iter().step_by(4).cloned());
    let versions = [small, large, shared];
    let mut steps = 0;
    loop {
        let dir = dir();
        let path = dir.path().join("store");
        let count = Arc::new(AtomicU64::new(0));
        let faults = Faults::new(move |_, _| match count.fetch_add(1, Ordering::Relaxed) {
            at if at < steps => Ok(()),
            _ => Err(io::Error::other("power lost")),
        });
        let (bound, result) = script(&path, faults, &versions);
        {
            let store =
                RocksStore::open(&path, &make()).unwrap_or_else(|error| panic!("step {steps}: {error}"));
            for version in &versions {
                version.is_whole_from_its_root(&store);
            }
            for (name, seed) in bound {
                let record = store.resolve(&name).expect("read");
                assert_eq!(record.map(|record| record.version), Some(version(seed)), "step {steps}, {name}");
            }
            for record in store.names(None).expect("listed") {
                let version =
                    versions.iter().find(|version| version.name == record.name).expect("one of ours");
                assert!(all_here(&store, &version.chunks), "step {steps}, {}", record.name);
                let root = read_nodes(&store, &[record.version.root()]).expect("read");
                assert!(root[0].is_some(), "step {steps}, {}", record.name);
            }
            let mut kept = Vec::new();
            store
                .each_chunk(&mut |chunk| {
                    kept.push(chunk);
                    Ok(())
                })
                .expect("walked");
            assert!(
                read(&store, &kept).expect("read").iter().all(Option::is_some),
                "step {steps}: index without data"
            );
        }
        let (bound, again) = script(&path, Faults::default(), &versions);
        again.unwrap_or_else(|error| panic!("step {steps}: the next run fails: {error}"));
        assert_eq!(bound.len(), 1);
        if result.is_ok() {
            break;
        }
        steps += 1;
    }
    assert!(steps > 40, "only {steps} steps can fail");
}

#[test]
fn after_a_failed_write_nothing_more_is_written() {
    let dir = dir();
    let armed = Arc::new(AtomicU64::new(0));
    let switch = Arc::clone(&armed);
    let faults = Faults::new(move |_, _| match switch.load(Ordering::Relaxed) {
        0 => Ok(()),
        _ => Err(io::Error::from(io::ErrorKind::StorageFull)),
    });
    let store = RocksStore::open(dir.path(), &RocksOptions { create: true, faults, ..Default::default() })
        .expect("made");
    let version = Version::new("a@1", 1, 3, 100);
    store.put_chunks(&version.chunks).expect("put");
    armed.store(1, Ordering::Relaxed);
    assert_eq!(store.flush().expect_err("the disk is full").class(), ErrorClass::NoSpace);
    armed.store(0, Ordering::Relaxed);
    assert!(store.put_nodes(version.nodes.clone()).is_err(), "its chunks may be lost");
    assert!(version.publish(&store).is_err());
    drop(store);
    let store = RocksStore::open(dir.path(), &RocksOptions::default()).expect("opened");
    version.publish(&store).expect("the next run works");
    assert!(all_here(&store, &version.chunks));
}

#[test]
fn every_directory_made_is_synced_into_its_parent() {
    let dir = dir();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&seen);
    let faults = Faults::new(move |action, path| {
        note.lock().expect("whole").push((action.to_owned(), path.to_owned()));
        Ok(())
    });
    let path = dir.path().join("a/b/c");
    RocksStore::open(&path, &RocksOptions { create: true, faults, ..Default::default() }).expect("made");
    let seen = seen.lock().expect("whole");
    for parent in [dir.path(), &dir.path().join("a"), &dir.path().join("a/b")] {
        assert!(seen.contains(&("sync".to_owned(), parent.to_owned())), "{} of {seen:?}", parent.display());
    }
}

#[test]
fn a_store_without_its_lock_file_is_read_and_gets_it_back() {
    let dir = dir();
    let published = Version::new("a@1", 1, 5, 1000);
    published.publish(&RocksStore::open(dir.path(), &make()).expect("made")).expect("published");
    let lock = dir.path().join("LOCK");
    fs::remove_file(&lock).expect("removed");
    let reader = RocksStore::open_read_only(dir.path()).expect("opened");
    assert!(all_here(&reader, &published.chunks));
    assert!(matches!(RocksStore::open(dir.path(), &make()), Err(Error::Locked { .. })));
}

#[test]
fn chunks_of_a_publish_that_stopped_are_found_again() {
    let dir = dir();
    let chunks: Vec<_> = (0..50).map(|n| chunk(n, 40_000)).collect();
    {
        let store = RocksStore::open(dir.path(), &make()).expect("made");
        store.put_chunks(&chunks).expect("put");
        store.each_chunk(&mut |_| Ok(())).expect("walked, which seals the table");
    }
    let store = RocksStore::open(dir.path(), &RocksOptions::default()).expect("opened");
    assert!(all_here(&store, &chunks));
}

#[test]
fn a_damaged_version_does_not_hide_the_others() {
    let store = MemStore::default();
    let noise = |seed| (node(seed, true).0, b"noise".to_vec());
    store.put_nodes(vec![noise(1), noise(2)]).expect("put");
    store.bind(&name("a@1"), version(1), 1).expect("bound");
    store.bind(&name("a@2"), version(2), 2).expect("bound");
    let log = floe::sync::log(&store, None).expect("listed");
    let told: Vec<_> = log.iter().map(|(record, totals)| (record.name.to_string(), *totals)).collect();
    assert_eq!(told, [("a@1".to_owned(), None), ("a@2".to_owned(), None)], "these roots are noise");
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("read") {
        let path = entry.expect("read").path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("below"));
        fs::create_dir_all(target.parent().expect("below")).expect("made");
        fs::copy(file, target).expect("copied");
    }
    fs::create_dir_all(to.join("db-ingest")).expect("made");
}

// Opens and reads everything; true if anything was wrong.
fn is_found_wrong(path: &Path, versions: &[Version]) -> bool {
    let look = || -> Result<bool> {
        let store = RocksStore::open(path, &RocksOptions::default())?;
        let mut wrong = store.names(None)?.len() != versions.len();
        for version in versions {
            let ids: Vec<_> = version.nodes.iter().map(|(id, _)| *id).collect();
            wrong |= read_nodes(&store, &ids)?
                .iter()
                .zip(&version.nodes)
                .any(|(got, (_, bytes))| got.as_ref() != Some(bytes));
            wrong |= read(&store, &refs(&version.chunks))?.iter().any(Option::is_none);
        }
        store.each_chunk(&mut |_| Ok(()))?;
        Ok(wrong)
    };
    look().unwrap_or(true)
}

#[test]
fn a_damaged_file_is_noticed_and_never_a_panic() {
    let dir = dir();
    let whole = dir.path().join("whole");
    let versions = [Version::new("a@1", 1, 10, 2000), Version::new("b@1", 2, 40, 60_000)];
    {
        let store = RocksStore::open(&whole, &make()).expect("made");
        for version in &versions {
            version.publish(&store).expect("published");
        }
    }
    assert!(!is_found_wrong(&whole, &versions));
    let mut tables = 0;
    for file in files(&whole.join("db")) {
        let kind = file.file_name().expect("a file").to_string_lossy().into_owned();
        let bytes = fs::read(&file).expect("read");
        let mut flipped = bytes.clone();
        if let Some(byte) = flipped.get_mut(bytes.len() / 3) {
            *byte ^= 0x40;
        }
        let cut = bytes[..bytes.len() / 2].to_vec();
        for (how, damaged) in
            [("gone", None), ("cut", Some(cut)), ("flipped", Some(flipped)), ("empty", Some(Vec::new()))]
        {
            let path = dir.path().join("damaged");
            copy(&whole, &path);
            let target = path.join("db").join(&kind);
            match damaged {
                None => fs::remove_file(&target).expect("removed"),
                Some(bytes) => fs::write(&target, bytes).expect("written"),
            }
            let wrong = is_found_wrong(&path, &versions);
            // A flipped bit may lie in a filter or a statistic, where nothing is lost by it.
            if how != "flipped" && [".sst", "CURRENT", "MANIFEST"].iter().any(|part| kind.contains(part)) {
                assert!(wrong, "{kind} {how}: not noticed");
            }
            fs::remove_dir_all(&path).expect("removed");
        }
        tables += u32::from(kind.ends_with(".sst"));
    }
    assert!(tables >= 3, "data, index and node have tables");
}

#[test]
fn damaged_data_is_told_chunk_by_chunk_and_can_be_replaced() {
    let dir = dir();
    let version = Version::new("a@1", 1, 60, 50_000);
    {
        let store = RocksStore::open(dir.path(), &make()).expect("made");
        version.publish(&store).expect("published");
    }
    let largest =
        files(&dir.path().join("db")).into_iter().max_by_key(|file| fs::metadata(file).expect("there").len());
    let file = largest.expect("there are files");
    let mut bytes = fs::read(&file).expect("read");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&file, bytes).expect("written");
    let store = RocksStore::open(dir.path(), &RocksOptions::default()).expect("opened");
    for want in [
        refs(&version.chunks),
        refs(&version.chunks).into_iter().step_by(20).chain(refs(&version.chunks)).collect(),
    ] {
        let missing =
            read(&store, &want).expect("read to the end").iter().filter(|chunk| chunk.is_none()).count();
        assert!((1..=2).contains(&missing), "{missing} chunks lost by one bit");
    }
    let got = read(&store, &refs(&version.chunks)).expect("read");
    let lost: Vec<_> =
        version.chunks.iter().zip(got).filter(|(_, got)| got.is_none()).map(|(new, _)| new.clone()).collect();
    store.replace_chunks(&lost).expect("replaced");
    assert!(all_here(&store, &version.chunks));
    drop(store);
    let store = RocksStore::open(dir.path(), &RocksOptions::default()).expect("opened");
    assert!(all_here(&store, &version.chunks), "replaced for good");
}

// Flips a bit of the first table that holds `bytes`, in the middle of them.
fn harm(store: &Path, bytes: &[u8]) {
    for file in files(&store.join("db")) {
        let mut content = fs::read(&file).expect("read");
        let found = content.windows(bytes.len()).position(|window| window == bytes);
        if let (Some(at), true) = (found, file.extension().is_some_and(|ext| ext == "sst")) {
            content[at + bytes.len() / 2] ^= 1;
            fs::write(&file, content).expect("written");
            return;
        }
    }
    panic!("no table holds this");
}

#[test]
fn a_bad_last_block_of_data_keeps_nobody_out() {
    let dir = dir();
    let version = Version::new("a@1", 1, 60, 50_000);
    version.publish(&RocksStore::open(dir.path(), &make()).expect("made")).expect("published");
    let last = version.chunks.last().expect("sixty");
    harm(dir.path(), &last.frame.as_bytes()[..1000]);
    {
        let reader = RocksStore::open_read_only(dir.path()).expect("opened to read");
        assert!(all_here(&reader, &version.chunks[..59]) && !all_here(&reader, &version.chunks));
    }
    let more: Vec<_> = (0..9).map(|n| chunk(n, 30_000)).collect();
    {
        let store = RocksStore::open(dir.path(), &RocksOptions::default()).expect("opened to write");
        store.put_chunks(&more).expect("put");
        store.replace_chunks(std::slice::from_ref(last)).expect("mended");
    }
    let store = RocksStore::open_read_only(dir.path()).expect("opened");
    assert!(all_here(&store, &version.chunks) && all_here(&store, &more), "no number was given twice");
}

#[test]
fn a_damaged_block_of_the_index_hides_only_its_own_chunks() {
    let dir = dir();
    let version = Version::new("a@1", 1, 5000, 20);
    version.publish(&RocksStore::open(dir.path(), &make()).expect("made")).expect("published");
    let mut ids: Vec<_> = version.chunks.iter().map(|new| new.chunk.id).collect();
    ids.sort_unstable();
    let bytes = fs::read_dir(dir.path().join("db")).expect("read").flatten().find_map(|entry| {
        let content = fs::read(entry.path()).expect("read");
        // Blocks store most keys without what they share with the one before, so not every id is found whole. Behind
        // the blocks are other parts of the table.
        let blocks = &content[..content.len() / 2];
        let mut found = ids[2000..].iter().map(|id| id.as_bytes().to_vec());
        found.find(|id| blocks.windows(32).any(|window| window == *id))
    });
    harm(dir.path(), &bytes.expect("a table of the index"));
    let store = RocksStore::open(dir.path(), &RocksOptions::default()).expect("opened");
    let mut walked = Vec::new();
    let mut note = |chunk: ChunkRef| {
        walked.push(chunk.id);
        Ok(())
    };
    store.each_chunk(&mut note).expect("walked to the end");
    assert!((4500..5000).contains(&walked.len()), "{} chunks listed", walked.len());
    let lost: Vec<_> = version.chunks.iter().filter(|new| !walked.contains(&new.chunk.id)).cloned().collect();
    assert!(
        read(&store, &refs(&lost)).expect("read").iter().all(Option::is_none),
        "what is left out is lost"
    );
    // Putting chunks again mends them, not the block: a verify must not call this store sound.
    store.replace_chunks(&lost).expect("put again");
    assert!(all_here(&store, &version.chunks));
    let told = store.damaged_records().expect("looked").expect("told");
    assert!(told.contains("database"), "{told}");
    // What a sweep cannot read it may not judge.
    let refused = sweep(&store, &[&version], 0).expect_err("it cannot know what is needed");
    assert_eq!(refused.class(), ErrorClass::Damaged);
}

#[test]
fn what_a_stopped_writer_left_is_gone_with_the_next_write() {
    let dir = dir();
    let version = Version::new("a@1", 1, 3, 100);
    drop(RocksStore::open(dir.path(), &make()).expect("made"));
    let left = dir.path().join("db-ingest/7.sst");
    fs::create_dir_all(left.parent().expect("below")).expect("made");
    fs::write(&left, vec![1; 5000]).expect("written");
    let store = RocksStore::open(dir.path(), &RocksOptions::default()).expect("opened");
    assert!(left.exists());
    // As long as it lies there it takes space.
    assert!((5000..50_000).contains(&store.stored_bytes().expect("measured")));
    version.publish(&store).expect("published");
    assert!(!left.exists() && store.damaged_records().expect("looked").is_none());
}

#[test]
fn damaged_names_are_an_error_that_says_so() {
    let dir = dir();
    Version::new("game@1.0", 1, 5, 100)
        .publish(&RocksStore::open(dir.path(), &make()).expect("made"))
        .expect("published");
    harm(dir.path(), b"name/game@1.0");
    let store = RocksStore::open_read_only(dir.path()).expect("opened");
    for told in [store.names(None).map(drop), store.resolve(&name("game@1.0")).map(drop)] {
        match told {
            Err(Error::Damaged { what, place, .. }) => {
                assert_eq!(
                    (what.as_str(), place),
                    ("list of names", format!("store `{}`", dir.path().display()))
                );
            }
            other => panic!("{other:?}"),
        }
    }
}
