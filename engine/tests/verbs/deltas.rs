//! Updates whose new chunks are told as deltas: the same tree for fewer bytes, and whatever goes wrong, the same tree.

use floe::delta::Profile;

use super::stream::{Bench, Fate, Streaming};
use super::*;

const PROFILES: [Profile; 3] = [Profile::Fast, Profile::Small, Profile::Smallest];

// `data` with a few bytes changed here and there, as new values for old ones.
fn shifted(mut data: Vec<u8>, step: usize) -> Vec<u8> {
    data.iter_mut().step_by(step).for_each(|byte| *byte = byte.wrapping_add(3));
    data
}

// What changed a little: moved, in a file of its own, in two files alike, and new. With `len` of 4 MiB there is more
// than one unit.
fn trees(len: usize) -> [Tree; 2] {
    let (a, b) = pair();
    let file = |data| Item::file(0o644, data);
    let (one, two) = (World::noise(77, len), World::noise(78, len / 2));
    let before = a.with("one.bin", file(one.clone())).with("sub/two.dat", file(two.clone()));
    let after = b
        .with("one.bin", file(shifted(one.clone(), 40_000)))
        .with("other/two.new", file(shifted(two.clone(), 9_000)))
        .with("other/fresh.bin", file(World::noise(79, len / 8)))
        .with("other/fresh.copy", file(shifted(World::noise(79, len / 8), 5_000)))
        .with("z/one.bin", file(shifted(one, 30_000)));
    [before, after]
}

#[test]
fn the_same_tree_for_fewer_bytes() {
    let frames = Bench::told(trees(4 << 20), None);
    for profile in PROFILES {
        let bench = Bench::told(trees(4 << 20), Some(profile));
        let dir = bench.fresh();
        let source = Streaming::new(&bench.store, Fate::Whole);
        let synced =
            floe::sync::sync(&source, &named("game@1"), &dir, &bench.options(), &Silent).expect("syncs");
        bench.assert_there(&dir);
        assert_eq!(source.chunks_read.load(Ordering::SeqCst), 0, "all came in the stream");
        assert_eq!(synced.requests, 2);
        // Only the noise that nobody has, once; and little for each change.
        assert!(bench.stream.len() * 8 < frames.stream.len(), "{profile:?}: {}", bench.stream.len());
        assert!(synced.bytes_fetched < bench.stream.len() as u64 + 512, "{synced:?}");
        // And back, for no bytes at all: it is still here.
        assert_eq!(sync(&bench.store, "game@0", &dir).version, bench.versions[0]);
        assert_replica(&dir, &bench.trees[0]);
    }
}

#[test]
fn a_stream_that_breaks_off_is_continued() {
    let bench = Bench::told(trees(1 << 20), Some(Profile::Fast));
    let len = bench.stream.len() as u64;
    for cut in (0..len).step_by(len as usize / 7) {
        let dir = bench.fresh();
        let (broken, _) = bench.run(Fate::Dry(cut), &dir);
        // Nothing but the end was missing.
        if broken.is_ok() && len - cut < 120 {
            continue;
        }
        assert!(matches!(broken, Err(Error::Network { .. })), "{cut}: {broken:?}");
        assert_eq!(on_disk(&dir), bench.trees[0], "{cut}");
        let (synced, told) = bench.run(Fate::Whole, &dir);
        let synced = synced.expect("syncs");
        assert_eq!((on_disk(&dir), told), (bench.trees[1].clone(), 0), "{cut}");
        assert!(cut + synced.bytes_fetched <= len + bench.head() + 1024, "{cut}: {synced:?}");
    }
}

#[test]
fn a_stream_that_lies_is_left_for_the_walk() {
    for profile in [Profile::Fast, Profile::Small] {
        let bench = Bench::told(trees(256 << 10), Some(profile));
        for at in (0..bench.stream.len()).step_by(bench.stream.len() / 11) {
            let dir = bench.fresh();
            let (synced, told) = bench.run(Fate::Flip(at), &dir);
            assert_eq!(synced.expect("syncs").version, bench.versions[1], "{at}");
            assert!(told <= 1);
            assert_eq!(on_disk(&dir), bench.trees[1], "{at}");
        }
    }
}

// What a delta starts from was changed by hand: the unit cannot be decoded, and its chunks are fetched instead.
#[test]
fn a_base_that_is_not_as_it_was_costs_bytes_alone() {
    let bench = Bench::told(trees(1 << 20), Some(Profile::Fast));
    for path in ["one.bin", "sub/two.dat"] {
        let dir = bench.fresh();
        let mut data = fs::read(dir.join(path)).expect("read");
        data[400_000] ^= 1;
        fs::write(dir.join(path), data).expect("written");
        let options = SyncOptions { overwrite: true, delete: true, ..bench.options() };
        let source = Streaming::new(&bench.store, Fate::Whole);
        let synced = floe::sync::sync(&source, &named("game@1"), &dir, &options, &Silent).expect("syncs");
        assert_eq!(synced.version, bench.versions[1]);
        assert_eq!(on_disk(&dir), bench.trees[1], "{path}");
        assert!(source.chunks_read.load(Ordering::SeqCst) > 0, "some came as frames");
    }
}

// Stopped at any operation it is the old tree or the new one, and the next run completes.
#[test]
fn a_sync_stopped_at_any_operation_goes_on() {
    let bench = Bench::told(trees(64 << 10), Some(Profile::Fast));
    let mut at = 0;
    loop {
        let dir = bench.fresh();
        let (faults, count) = failing_at(at);
        let source = Streaming::new(&bench.store, Fate::Whole);
        let options = SyncOptions { faults, ..bench.options() };
        let first = floe::sync::sync(&source, &named("game@1"), &dir, &options, &Silent);
        if count.load(Ordering::SeqCst) <= at {
            first.expect("nothing stopped it");
            break;
        }
        // The next run asks for deltas again, or not.
        let options = if at % 2 == 0 { bench.options() } else { syncing() };
        let synced = floe::sync::sync(&source, &named("game@1"), &dir, &options, &Silent);
        assert_eq!(synced.unwrap_or_else(|error| panic!("{at}: {error:?}")).version, bench.versions[1]);
        assert_eq!(on_disk(&dir), bench.trees[1], "{at}");
        assert!(!dir.join(".floe/arrivals.plain").exists(), "{at}");
        at += 1;
    }
    assert!(at > 20, "{at}");
}
