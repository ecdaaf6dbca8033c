//! Stores that lie, and stores that lost something.

use std::collections::BTreeSet;

use floe::content::Frame;
use floe::store::{NewChunk, SweepOptions};
use floe::sync::{list, repair_store, verify_store};
use floe::testing::conformance::nodes_in;
use floe::version::{EntryKind, Manifest};
use floe::{ChunkId, ChunkRef, NodeId};

use super::*;

fn tree() -> Tree {
    let mut tree = Tree::default()
        .with("big", Item::file(0o644, World::noise(1, 1_500_000)))
        .with("text", Item::file(0o644, "compresses well ".repeat(900).into_bytes()))
        .with("other", Item::text("another file"));
    for n in 0..300 {
        tree = tree.with(&format!("many/with-a-longish-name-{n}"), Item::text(&format!("content {n}")));
    }
    tree
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Harm {
    Other,
    Longer,
    Truncated,
    NotZstd,
    Missing,
}

const HARMS: [Harm; 5] = [Harm::Other, Harm::Longer, Harm::Truncated, Harm::NotZstd, Harm::Missing];

fn frame_of(store: &dyn Store, chunk: ChunkRef) -> Frame {
    let mut found = None;
    store
        .read_chunks(&[chunk], &mut |_, frame| {
            found = frame;
            Ok(())
        })
        .expect("read");
    found.expect("there")
}

fn harm_chunk(store: &dyn Store, chunk: ChunkRef, harm: Harm) {
    let len = chunk.len as usize;
    let frame = match harm {
        Harm::Other => Frame::encode(&World::noise(99, len), Compression::None),
        Harm::Longer => Frame::encode(&World::noise(99, len + 1), Compression::Zstd(1)),
        Harm::Truncated => {
            let bytes = frame_of(store, chunk).into_bytes();
            Frame::from_bytes(bytes[..bytes.len() / 2 + 1].to_vec(), "a test").expect("a frame still")
        }
        Harm::NotZstd => {
            Frame::from_bytes([vec![1], World::noise(98, len)].concat(), "a test").expect("a frame")
        }
        Harm::Missing => return lose(store, &|id| *id != chunk.id, &|_| true),
    };
    store.replace_chunks(&[NewChunk { chunk, frame }]).expect("replaced");
}

fn harm_node(store: &dyn Store, id: NodeId, harm: Harm) {
    let mut bytes = Vec::new();
    store
        .read_nodes(&[id], &mut |_, found| {
            bytes = found.expect("there");
            Ok(())
        })
        .expect("read");
    let bytes = match harm {
        Harm::Other => World::noise(97, bytes.len()),
        Harm::Longer => [bytes, vec![0]].concat(),
        Harm::Truncated => bytes[..bytes.len() / 2].to_vec(),
        Harm::NotZstd => {
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
            bytes
        }
        Harm::Missing => return lose(store, &|_| true, &|other| *other != id),
    };
    store.replace_nodes(vec![(id, bytes)]).expect("replaced");
}

fn lose(store: &dyn Store, chunk_live: &dyn Fn(&ChunkId) -> bool, node_live: &dyn Fn(&NodeId) -> bool) {
    let options =
        SweepOptions { chunk_live, node_live, now_unix_s: 1_000, grace: Duration::ZERO, dry_run: false };
    store.sweep(&options).expect("swept");
}

fn chunks_of(store: &dyn Store, text: &str, path: &str) -> Vec<ChunkRef> {
    let version = floe::sync::resolve(store, &named(text)).expect("bound");
    let mut chunks = Vec::new();
    list(store, version, &mut |entry| {
        if let EntryKind::File { content, .. } = &entry.kind
            && entry.path.as_str() == path
        {
            let found: Result<Vec<ChunkRef>> = Manifest::open(store, version)?.chunks(content).collect();
            chunks = found?;
        }
        Ok(())
    })
    .expect("listed");
    chunks
}

fn nodes_of(store: &dyn Store) -> Vec<NodeId> {
    nodes_in(store).expect("listed")
}

// A good store, a store of the same content to harm, and a replica at an older version.
fn scene(store: &dyn Store) -> (MemStore, TempDir, Tree) {
    let old = Tree::default().with("old", Item::text("old")).with("other", Item::text("another file"));
    let good = MemStore::default();
    for store in [store, &good] {
        published(store, &tree(), "game@1");
        published(store, &old, "game@0");
    }
    let dir = quick_tempdir();
    sync(&good, "game@0", dir.path());
    (good, dir, old)
}

fn assert_told(error: &Error, id: &dyn std::fmt::Display, store: &dyn Store) {
    assert!(
        matches!(error, Error::Damaged { .. } | Error::Malformed { .. } | Error::Limit { .. }),
        "{error:?}"
    );
    assert_eq!(error.class(), floe::ErrorClass::Damaged);
    let text = error.to_string();
    assert!(text.contains(&id.to_string()) && text.contains(&store.place()), "{text}");
}

#[test]
fn a_damaged_chunk_stops_the_sync_and_touches_nothing() {
    for harm in HARMS {
        for (path, nth) in [("big", 3), ("text", 0)] {
            in_each_store(|store| {
                let (good, dir, old) = scene(store);
                let chunk = chunks_of(store, "game@1", path)[nth];
                harm_chunk(store, chunk, harm);
                let error = try_sync(store, "game@1", dir.path()).expect_err("damaged");
                assert_told(&error, &chunk.id, store);
                assert_replica(dir.path(), &old);
                let found = verify(store).damage;
                assert_eq!(found.len(), 1, "{harm:?} {found:?}");
                assert_eq!(found[0].what, format!("chunk {}", chunk.id));
                assert_eq!(found[0].needed_by, [format!("game@1:{path}")]);
                sync(&good, "game@1", dir.path());
                assert_replica(dir.path(), &tree());
                // What is here already is not asked for.
                sync(&good, "game@0", dir.path());
                let repaired = repair_store(store, &good, &verifying(), &Silent).expect("repairs");
                assert_eq!((repaired.repaired, repaired.damage), (1, vec![]));
                assert_sound(store);
                sync(store, "game@1", dir.path());
                assert_replica(dir.path(), &tree());
            });
        }
    }
}

#[test]
fn a_damaged_node_stops_the_sync_and_touches_nothing() {
    for harm in HARMS {
        in_each_store(|store| {
            let (good, dir, old) = scene(store);
            let old_root = floe::sync::resolve(store, &named("game@0")).expect("bound").root();
            let root = floe::sync::resolve(store, &named("game@1")).expect("bound").root();
            let nodes = nodes_of(store);
            assert!(nodes.len() > 8);
            for id in nodes {
                harm_node(store, id, harm);
                let found = verify(store).damage;
                assert_eq!(found.len(), 1, "{harm:?} {found:?}");
                assert_eq!(found[0].what, format!("node {id}"));
                match try_sync(store, "game@1", dir.path()) {
                    Ok(done) => {
                        // Only the old version needs it.
                        assert_eq!(found[0].needed_by, ["game@0"]);
                        assert_eq!(done.version.root(), root);
                        sync(&good, "game@0", dir.path());
                    }
                    Err(error) => {
                        assert_eq!(found[0].needed_by, ["game@1"]);
                        assert_told(&error, &id, store);
                    }
                }
                assert_replica(dir.path(), &old);
                let repaired = repair_store(store, &good, &verifying(), &Silent).expect("repairs");
                assert_eq!((repaired.repaired, repaired.damage), (1, vec![]));
            }
            assert!(old_root != root);
            assert_sound(store);
            sync(store, "game@1", dir.path());
            assert_replica(dir.path(), &tree());
        });
    }
}

#[test]
fn a_repair_goes_as_far_as_its_source() {
    in_each_store(|store| {
        let (good, _, _) = scene(store);
        let chunks = chunks_of(store, "game@1", "big");
        let nodes = nodes_of(store);
        chunks.iter().for_each(|chunk| harm_chunk(store, *chunk, Harm::Other));
        nodes.iter().for_each(|id| harm_node(store, *id, Harm::Truncated));
        // What lies below a damaged node shows only after that is mended.
        let found = verify(store).damage;
        assert_eq!(found.len(), 2 + chunks.len());

        let poor = MemStore::default();
        published(&poor, &tree(), "game@1");
        harm_chunk(&poor, chunks[2], Harm::Missing);
        harm_chunk(&poor, chunks[4], Harm::Other);
        let left = repair_store(store, &poor, &verifying(), &Silent).expect("repairs");
        let expected: BTreeSet<String> = [chunks[2], chunks[4]]
            .iter()
            .map(|chunk| format!("chunk {}", chunk.id))
            .chain(nodes_lacking(&poor, &nodes).iter().map(|id| format!("node {id}")))
            .collect();
        let told = |found: &Verified| found.damage.iter().map(|damage| damage.what.clone()).collect();
        let left_told: BTreeSet<String> = told(&left);
        assert!(expected.is_superset(&left_told) && left_told.len() == 3, "{left:?}");
        assert_eq!(left.repaired as usize, chunks.len() - 2 + nodes.len() - 2);
        let verified: BTreeSet<String> = told(&verify(store));
        assert_eq!(verified, left_told);

        let rest = repair_store(store, &good, &verifying(), &Silent).expect("repairs");
        assert_eq!((rest.damage, rest.repaired), (vec![], 4));
        assert_sound(store);
    });
}

fn nodes_lacking(store: &dyn Store, ids: &[NodeId]) -> Vec<NodeId> {
    let lacks = store.lacks_nodes(ids).expect("told");
    ids.iter().zip(lacks).filter_map(|(id, lacks)| lacks.then_some(*id)).collect()
}

#[test]
fn a_share_is_picked_by_its_seed() {
    in_each_store(|store| {
        let (_, _, _) = scene(store);
        let all = verify(store);
        chunks_of(store, "game@1", "big").iter().for_each(|chunk| harm_chunk(store, *chunk, Harm::Other));
        let share = |subset, seed| {
            let options = VerifyOptions { subset, seed, ..verifying() };
            verify_store(store, &options, &Silent).expect("verifies")
        };
        let shares: Vec<Verified> = (0..4).map(|seed| share(0.25, seed)).collect();
        for (seed, found) in (0..).zip(&shares) {
            assert_eq!(*found, share(0.25, seed));
            assert_eq!((found.nodes, found.versions), (all.nodes, all.versions));
            assert!((all.chunks / 8..all.chunks / 2).contains(&found.chunks), "{found:?}");
        }
        assert!(shares.iter().any(|found| found.damage != shares[0].damage));
        assert_eq!(share(1.0, 3).chunks, all.chunks);
        assert_eq!(share(0.0, 3).chunks, 0);
    });
}

fn rehashing() -> PublishOptions {
    PublishOptions { rehash: true, ..publishing() }
}

fn publish_again(store: &dyn Store, dir: &Path, text: &str, options: &PublishOptions) -> Published {
    floe::sync::publish(dir, store, &name(text), options, &Silent).expect("publishes")
}

#[test]
fn a_rehash_puts_again_what_the_store_has_damaged() {
    let dir = quick_tempdir();
    tree().write_over(dir.path());
    for harm in HARMS {
        for (chunks, nodes) in [(true, false), (false, true), (true, true)] {
            in_each_store(|store| {
                let first = publish(store, dir.path(), "game@1");
                let root = first.version.root();
                let (all, context) = (nodes_of(store), format!("{harm:?} {chunks} {nodes}"));
                let (harmed_chunks, harmed_nodes) = (
                    [("big", 3), ("text", 0)].map(|(path, nth)| chunks_of(store, "game@1", path)[nth]),
                    [root, all.iter().copied().find(|id| *id != root).expect("a page")],
                );
                harmed_chunks.iter().filter(|_| chunks).for_each(|chunk| harm_chunk(store, *chunk, harm));
                harmed_nodes.iter().filter(|_| nodes).for_each(|node| harm_node(store, *node, harm));
                if harm != Harm::Missing {
                    let trusting = publish_again(store, dir.path(), "game@2", &publishing());
                    assert_eq!(
                        (trusting.chunks_new, trusting.chunks_mended, trusting.nodes_mended),
                        (0, 0, 0)
                    );
                    assert!(!verify(store).damage.is_empty(), "{context}: the records are trusted");
                }
                let again = publish_again(store, dir.path(), "game@3", &rehashing());
                assert_eq!(again.version, first.version);
                let counts = |chunks, nodes| [u64::from(chunks) * 2, u64::from(nodes) * 2];
                let (new, mended) = match harm {
                    Harm::Missing => (counts(chunks, nodes), [0, 0]),
                    _ => ([0, 0], counts(chunks, nodes)),
                };
                assert_eq!([again.chunks_new, again.nodes_new], new, "{context}");
                assert_eq!([again.chunks_mended, again.nodes_mended], mended, "{context}");
                assert_sound(store);
                let to = quick_tempdir();
                sync(store, "game@3", to.path());
                assert_replica(to.path(), &tree());
                let once_more = publish_again(store, dir.path(), "game@4", &rehashing());
                assert_eq!([once_more.chunks_mended, once_more.nodes_mended], [0, 0], "{context}");
            });
        }
    }
}
