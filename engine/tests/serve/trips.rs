//! How often the network is crossed: few times, however large the tree, and never with what is there already.

use std::path::Path;

use floe::Silent;
use floe::content::Compression;
use floe::store::{Counters, MemStore, Name, RemoteOptions, Store};
use floe::sync::{MirrorOptions, PublishOptions, mirror, publish};

use crate::world::{Item, Tree, World};
use crate::{empty, quick, remote, serve};

const FILES: u64 = 96;
const FILE_LEN: usize = 256 << 10;

fn tree(changed: u64) -> Tree {
    (0..FILES).fold(Tree::default(), |tree, n| {
        let seed = if n < changed { n + 1000 } else { n };
        // Every content twice, in files far from each other.
        let (first, second) = (format!("a/{n}"), format!("b/{n}"));
        let item = || Item::file(0o644, World::noise(seed, FILE_LEN));
        tree.with(&first, item()).with(&second, item())
    })
}

fn publishing() -> PublishOptions {
    let threads = std::num::NonZeroUsize::new(2).expect("not zero");
    PublishOptions { threads, compression: Compression::None, ..PublishOptions::default() }
}

fn published(dir: &Path, store: &dyn Store, name: &str) -> floe::sync::Published {
    publish(dir, store, &Name::parse(name).expect("a name"), &publishing(), &Silent).expect("published")
}

// Requests and megabytes sent since the last time.
fn since(counters: &Counters, before: &mut (u64, u64)) -> (u64, u64) {
    let now = (counters.requests(), counters.sent());
    let moved = (now.0 - before.0, (now.1 - before.1) >> 20);
    *before = now;
    moved
}

#[test]
fn a_publish_and_a_mirror_make_few_requests_and_send_nothing_twice() {
    let bytes = FILES * FILE_LEN as u64;
    let dir = tempfile::tempdir().expect("a directory");
    tree(0).write_over(dir.path());
    let local = MemStore::default();
    let here = published(dir.path(), &local, "app@1");
    assert_eq!((here.bytes_new, here.bytes), (bytes, 2 * bytes));

    let running = serve(empty(), quick());
    let store = remote(&running, "http", RemoteOptions::default());
    let mut before = (0, 0);
    let there = published(dir.path(), &store, "app@1");
    assert_eq!(there.version, here.version);
    assert_eq!(
        (there.chunks_new, there.bytes_new, there.nodes_new),
        (here.chunks_new, bytes, here.nodes_new)
    );
    let (requests, sent) = since(store.counters(), &mut before);
    // Questions: hello, 5 times what it lacks of chunks, once of nodes; 4 packs and one of nodes; the name.
    assert!(requests <= 16, "{requests} requests");
    assert!((24..26).contains(&sent), "{sent} MB");

    // All of it again: not a chunk is sent.
    assert_eq!(published(dir.path(), &store, "app@2").chunks_new, 0);
    let (requests, sent) = since(store.counters(), &mut before);
    assert!(requests <= 10 && sent == 0, "{requests} requests, {sent} MB");

    // A third is other.
    tree(FILES / 3).write_over(dir.path());
    let third = published(dir.path(), &store, "app@3");
    assert_eq!(third.bytes_new, bytes / 3);
    let (requests, sent) = since(store.counters(), &mut before);
    assert!(requests <= 14 && sent == 8, "{requests} requests, {sent} MB");

    published(dir.path(), &local, "app@3");
    let running = serve(empty(), quick());
    let store = remote(&running, "http", RemoteOptions::default());
    let mut before = (0, 0);
    let options = MirrorOptions { threads: publishing().threads, in_flight_bytes_max: 64 << 20 };
    let copied = mirror(&local, &store, &[], &options, &Silent).expect("mirrored");
    assert_eq!((copied.names, copied.chunks), (2, here.chunks_new + third.chunks_new));
    let (requests, sent) = since(store.counters(), &mut before);
    assert!(requests <= 40, "{requests} requests");
    assert!((32..34).contains(&sent), "{sent} MB");
}

#[test]
fn plain_words_to_a_port_that_speaks_tls_end_at_once() {
    use floe::store::Source;
    let pki = crate::pki();
    let options = floe::serve::ServeOptions { tls: Some(pki.server), ..quick() };
    let running = serve(empty(), options);
    let store = remote(&running, "http", RemoteOptions::default());
    let told = store.resolve(&Name::parse("app@1").expect("a name")).expect_err("it speaks TLS");
    assert!(told.to_string().starts_with("cannot speak HTTP with store `http://localhost:"), "{told}");
    assert_eq!(store.counters().requests(), 1);
}
