//! The network between a client and a server goes wrong once, anywhere: at the k-th read of a proxy between them.
//! Whatever happens there, a verb ends with the right result or with a named error, nothing is left unsound, and the
//! next run completes.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use floe::serve::Served;
use floe::store::{MemStore, Name, RemoteAddress, RemoteOptions, RemoteStore, Retries, Source, Store};
use floe::sync::{MirrorOptions, PublishOptions, SyncOptions, Target, VerifyOptions};
use floe::{Error, ErrorClass, Result, Silent};

use super::world::{Item, Tree, World, on_disk};
use super::{empty, quick, serve, shared};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// The connection ends, and what was read goes nowhere.
    Cut,
    /// Half of what was read arrives, then the connection ends.
    Truncate,
    /// One bit of a body is flipped. JSON is spared: only TLS protects what no hash covers.
    Corrupt,
    /// Nothing comes this way any more, and the connection stays.
    Stall,
}

/// Between a client and a server, in both directions; one fault, at the first read from the k-th on that allows it.
struct Proxy {
    addr: SocketAddr,
    road: Arc<Road>,
    accepts: Option<JoinHandle<()>>,
}

struct Road {
    to: SocketAddr,
    fault: Option<(u64, Fate)>,
    reads: AtomicU64,
    struck: AtomicBool,
    closed: AtomicBool,
}

impl Proxy {
    fn new(to: SocketAddr, fault: Option<(u64, Fate)>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("its number");
        let (reads, struck, closed) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        let road = Arc::new(Road { to, fault, reads, struck, closed });
        let of_thread = Arc::clone(&road);
        let accepts = std::thread::spawn(move || {
            for client in listener.incoming() {
                if of_thread.closed.load(Ordering::SeqCst) {
                    break;
                }
                let client = client.expect("a client");
                let server = TcpStream::connect(of_thread.to).expect("the server listens");
                for stream in [&client, &server] {
                    stream.set_nodelay(true).expect("set");
                }
                let twin = |stream: &TcpStream| stream.try_clone().expect("a second handle");
                for (from, to) in [(twin(&client), twin(&server)), (server, client)] {
                    let road = Arc::clone(&of_thread);
                    std::thread::spawn(move || road.carry(from, to));
                }
            }
        });
        Proxy { addr, road, accepts: Some(accepts) }
    }

    fn reads(&self) -> u64 {
        self.road.reads.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.road.closed.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
        if let Some(accepts) = self.accepts.take() {
            accepts.join().expect("no panic");
        }
    }
}

impl Road {
    // Ends with the connection: each side closes what the other closed.
    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 8192];
        let mut spared = false;
        let close = |from: &TcpStream, to: &TcpStream| {
            for stream in [from, to] {
                let _ = stream.shutdown(Shutdown::Both);
            }
        };
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            let piece = &mut buffer[..len];
            let body = body_of(piece, &mut spared);
            let sent = match self.fate(body < len && !spared) {
                None => to.write_all(piece),
                Some(Fate::Corrupt) => {
                    piece[body + (len - body) / 2] ^= 1;
                    to.write_all(piece)
                }
                Some(Fate::Cut) => return close(&from, &to),
                Some(Fate::Truncate) => {
                    let _ = to.write_all(&piece[..len / 2]);
                    return close(&from, &to);
                }
                Some(Fate::Stall) => {
                    while let Ok(1..) = from.read(&mut buffer) {}
                    return close(&from, &to);
                }
            };
            if sent.is_err() {
                return close(&from, &to);
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }

    fn fate(&self, has_body: bool) -> Option<Fate> {
        let read = self.reads.fetch_add(1, Ordering::SeqCst);
        let (at, fate) = self.fault?;
        let strikes = read >= at && (fate != Fate::Corrupt || has_body);
        (strikes && !self.struck.swap(true, Ordering::SeqCst)).then_some(fate)
    }
}

// Where the body begins in a piece of one direction; `spared` goes from piece to piece.
fn body_of(piece: &[u8], spared: &mut bool) -> usize {
    let begins = [&b"HTTP/1."[..], b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE "];
    if !begins.iter().any(|word| piece.starts_with(word)) {
        *spared |= piece.starts_with(b"{");
        return 0;
    }
    let body = piece.windows(4).position(|four| four == b"\r\n\r\n").map_or(piece.len(), |at| at + 4);
    let head = piece[..body].to_ascii_lowercase();
    *spared = head.windows(4).any(|four| four == b"json") && !head.starts_with(b"post")
        || piece[body..].starts_with(b"{");
    body
}

/// Two versions, in a store, as trees, and the first as a replica.
struct Bench {
    store: Served,
    outer: tempfile::TempDir,
    trees: [Tree; 2],
}

fn name(text: &str) -> Name {
    Name::parse(text).expect(text)
}

fn publish(store: &dyn Store, dir: &Path, text: &str) -> Result<()> {
    let options = PublishOptions { now_unix_s: 1_000, fingerprints: None, ..PublishOptions::default() };
    floe::sync::publish(dir, store, &name(text), &options, &Silent).map(drop)
}

fn sync(source: &dyn Source, text: &str, dir: &Path) -> Result<()> {
    floe::sync::sync(source, &Target::Name(name(text)), dir, &SyncOptions::default(), &Silent).map(drop)
}

fn mirror(source: &dyn Source, dest: &dyn Store) -> Result<()> {
    floe::sync::mirror(source, dest, &[], &MirrorOptions::default(), &Silent).map(drop)
}

impl Bench {
    fn new() -> Bench {
        let big = |seed| World::noise(seed, 60_000);
        let a = Tree::default()
            .with("big", Item::file(0o644, [big(1), big(2), big(3)].concat()))
            .with("docs/moved", Item::file(0o644, big(4)))
            .with("docs/same", Item::text("same"))
            .with("gone/deep/file", Item::text("gone"))
            .with("link", Item::Symlink("docs/same".into()));
        let b = Tree::default()
            .with("big", Item::file(0o644, [big(1), b"inserted".to_vec(), big(2), big(5)].concat()))
            .with("moved/here", Item::file(0o755, big(4)))
            .with("docs/same", Item::text("same"))
            .with("docs/new", Item::file(0o644, big(6)))
            .with("link", Item::Symlink("big".into()));
        let (store, trees) = (empty(), [a, b]);
        let outer = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
        for (n, tree) in trees.iter().enumerate() {
            let dir = outer.path().join(format!("tree-{n}"));
            fs::create_dir(&dir).expect("made");
            tree.write_over(&dir);
            publish(shared(&store), &dir, &format!("game@{n}")).expect("publishes");
        }
        Bench { store, outer, trees }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.outer.path().join(name)
    }

    // A store that is there and sound, with right names only; with all of them if `whole`.
    fn assert_store(&self, store: &dyn Store, whole: bool) {
        let found = floe::sync::verify_store(store, &VerifyOptions::default(), &Silent).expect("verifies");
        assert_eq!(found.damage, []);
        let names = |store: &dyn Store| -> Vec<_> {
            let records = store.names(None).expect("names").into_iter();
            records.map(|record| (record.name, record.version, record.bound_unix_s)).collect()
        };
        let (there, right) = (names(store), names(shared(&self.store)));
        assert!(there.iter().all(|record| right.contains(record)), "{there:?}");
        assert!(!whole || there.len() == right.len(), "{there:?}");
    }

    fn assert_replica(&self, dir: &Path, tree: &Tree) {
        assert_eq!(on_disk(dir), *tree);
        let found = floe::sync::verify_replica(dir, &VerifyOptions::default(), &Silent).expect("verifies");
        assert_eq!(found.damage, []);
    }
}

/// One verb: what it starts from, what it does over the network, and what may be left.
trait Verb {
    /// The store to be served.
    fn begin(&mut self, bench: &Bench) -> Served;
    fn run(&mut self, bench: &Bench, remote: &RemoteStore) -> Result<()>;
    fn check(&self, bench: &Bench, whole: bool);
}

/// From the first version to the second.
struct Update;
impl Verb for Update {
    fn begin(&mut self, bench: &Bench) -> Served {
        let dir = bench.path("replica");
        let _ = fs::remove_dir_all(&dir);
        sync(shared(&bench.store), "game@0", &dir).expect("syncs");
        Arc::clone(&bench.store)
    }
    fn run(&mut self, bench: &Bench, remote: &RemoteStore) -> Result<()> {
        sync(remote, "game@1", &bench.path("replica"))
    }
    fn check(&self, bench: &Bench, whole: bool) {
        bench.assert_replica(&bench.path("replica"), &bench.trees[usize::from(whole)]);
    }
}

/// From nothing.
struct Walk;
impl Verb for Walk {
    fn begin(&mut self, bench: &Bench) -> Served {
        let _ = fs::remove_dir_all(bench.path("replica"));
        Arc::clone(&bench.store)
    }
    fn run(&mut self, bench: &Bench, remote: &RemoteStore) -> Result<()> {
        sync(remote, "game@1", &bench.path("replica"))
    }
    fn check(&self, bench: &Bench, whole: bool) {
        let dir = bench.path("replica");
        match whole {
            true => bench.assert_replica(&dir, &bench.trees[1]),
            false => assert!(!dir.exists() || on_disk(&dir) == Tree::default()),
        }
    }
}

/// The second version to a server that has the first.
struct Publish(Served);
impl Verb for Publish {
    fn begin(&mut self, bench: &Bench) -> Served {
        self.0 = empty();
        publish(shared(&self.0), &bench.path("tree-0"), "game@0").expect("publishes");
        Arc::clone(&self.0)
    }
    fn run(&mut self, bench: &Bench, remote: &RemoteStore) -> Result<()> {
        publish(remote, &bench.path("tree-1"), "game@1")
    }
    fn check(&self, bench: &Bench, whole: bool) {
        bench.assert_store(shared(&self.0), whole);
    }
}

/// A mirror to a server.
struct Push(Served);
impl Verb for Push {
    fn begin(&mut self, _: &Bench) -> Served {
        self.0 = empty();
        Arc::clone(&self.0)
    }
    fn run(&mut self, bench: &Bench, remote: &RemoteStore) -> Result<()> {
        mirror(shared(&bench.store), remote)
    }
    fn check(&self, bench: &Bench, whole: bool) {
        bench.assert_store(shared(&self.0), whole);
    }
}

/// A mirror from a server.
struct Pull(MemStore);
impl Verb for Pull {
    fn begin(&mut self, bench: &Bench) -> Served {
        self.0 = MemStore::default();
        Arc::clone(&bench.store)
    }
    fn run(&mut self, _: &Bench, remote: &RemoteStore) -> Result<()> {
        mirror(remote, &self.0)
    }
    fn check(&self, bench: &Bench, whole: bool) {
        bench.assert_store(&self.0, whole);
    }
}

fn remote(addr: SocketAddr, silence: Duration, attempts: u32) -> RemoteStore {
    let address = RemoteAddress::parse(&format!("http://{addr}")).expect("an address");
    let retries = Retries { attempts, ..Retries::default() };
    let options = RemoteOptions { silence, retries, wait: Arc::new(|_| true), ..RemoteOptions::default() };
    RemoteStore::open(&address, options).expect("a store")
}

fn is_named(error: &Error, fate: Fate) -> bool {
    match fate {
        // A damaged id is one that nobody has.
        Fate::Corrupt => {
            let ids = matches!(error, Error::NotFound { .. } | Error::Conflict { .. });
            ids || matches!(error.class(), ErrorClass::Network | ErrorClass::Damaged)
        }
        _ => matches!(error, Error::Network { .. }),
    }
}

const WHOLE: Duration = Duration::from_secs(60);

/// One fault at each of `count` places that lie evenly over a run, with one attempt and with three.
fn at_any_read(verb: &mut dyn Verb) {
    let bench = Bench::new();
    let running = serve(verb.begin(&bench), quick());
    let proxy = Proxy::new(running.addr(), None);
    verb.run(&bench, &remote(proxy.addr, WHOLE, 1)).expect("nothing is wrong");
    verb.check(&bench, true);
    let reads = proxy.reads();
    assert!(reads > 8, "{reads}");
    let (mut rows, mut struck, mut failed) = (0, 0, 0);
    for (fate, count, silence_ms) in
        [(Fate::Cut, 15, 2000), (Fate::Truncate, 15, 2000), (Fate::Corrupt, 15, 500), (Fate::Stall, 4, 90)]
    {
        for (row, at) in (0..reads).step_by((reads as usize / count).max(1)).enumerate() {
            let attempts = if row % 2 == 0 { 1 } else { 3 };
            let what = format!("{fate:?} at read {at} of {reads}, {attempts} attempts");
            let running = serve(verb.begin(&bench), quick());
            let proxy = Proxy::new(running.addr(), Some((at, fate)));
            let begun = Instant::now();
            let ended = verb.run(&bench, &remote(proxy.addr, Duration::from_millis(silence_ms), attempts));
            assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
            if let Err(error) = &ended {
                assert!(is_named(error, fate), "{what}: {error:?}");
                assert!(attempts == 1 || fate == Fate::Corrupt, "{what}: {error:?}");
                failed += 1;
            }
            rows += 1;
            struck += usize::from(proxy.road.struck.load(Ordering::SeqCst));
            drop(proxy);
            verb.check(&bench, ended.is_ok());
            verb.run(&bench, &remote(running.addr(), WHOLE, 1))
                .unwrap_or_else(|error| panic!("{what}, then {error:?}"));
            verb.check(&bench, true);
            running.stop(Duration::ZERO);
        }
    }
    // How many reads there are differs a little from run to run.
    assert!(struck * 4 > rows * 3 && failed > 3, "of {rows} faults {struck} fell and {failed} were felt");
}

#[test]
fn an_update_survives_or_names_any_fault_of_the_network() {
    at_any_read(&mut Update);
}

#[test]
fn a_sync_from_nothing_survives_or_names_any_fault_of_the_network() {
    at_any_read(&mut Walk);
}

#[test]
fn a_publish_survives_or_names_any_fault_of_the_network() {
    at_any_read(&mut Publish(empty()));
}

#[test]
fn a_mirror_to_a_server_survives_or_names_any_fault_of_the_network() {
    at_any_read(&mut Push(empty()));
}

#[test]
fn a_mirror_from_a_server_survives_or_names_any_fault_of_the_network() {
    at_any_read(&mut Pull(MemStore::default()));
}
