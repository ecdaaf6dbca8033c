//! What a server promises to those who behave: caching, many at once, an orderly end, numbers.

use std::io::{Read, Write};
use std::time::Duration;

use floe::serve::ServeOptions;
use floe::store::{Name, RemoteOptions, Store};
use floe::testing::conformance::{self, chunk, node, version};

use super::wire::{ask, connect, request};
use super::{empty, quick, remote, serve, shared, with_limits};

fn refs(chunks: &[floe::store::NewChunk]) -> Vec<u8> {
    let packed =
        |new: &floe::store::NewChunk| [&new.chunk.id.as_bytes()[..], &new.chunk.len.to_le_bytes()].concat();
    chunks.iter().flat_map(packed).collect()
}

#[test]
fn what_never_changes_is_cached_and_what_changes_is_asked_for() {
    let store = empty();
    let new = chunk(1, 100);
    let root = node(1, true);
    shared(&store).put_chunks(std::slice::from_ref(&new)).expect("put");
    shared(&store).put_nodes(vec![root.clone()]).expect("put");
    shared(&store).bind(&Name::parse("a@1").expect("a name"), version(1), 5).expect("bound");
    let running = serve(store.clone(), quick());
    for (path, cached, body) in [
        (format!("/v1/chunks/{}", new.chunk.id), "public, max-age=31536000, immutable", new.frame.as_bytes()),
        (format!("/v1/nodes/{}", root.0), "public, max-age=31536000, immutable", &root.1[..]),
        ("/v1/names/a/1".to_owned(), "no-cache", b""),
        ("/v1/names".to_owned(), "no-cache", b""),
    ] {
        let first = ask(running.addr(), "GET", &path, &[], b"");
        assert_eq!((first.status, first.header("cache-control")), (200, Some(cached)), "{path}");
        assert!(body.is_empty() || first.body == body);
        let etag = first.header("etag").expect("an etag");
        let again = ask(running.addr(), "GET", &path, &[&format!("If-None-Match: {etag}")], b"");
        assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, Some(etag)), "{path}");
        let head = ask(running.addr(), "HEAD", &path, &[], b"");
        assert_eq!((head.status, head.body.len()), (200, 0));
    }
    let dir = tempfile::tempdir().expect("a directory");
    let tokens = floe::serve::Tokens::of_store(dir.path());
    let reader = floe::serve::NewToken { role: floe::serve::Role::Read, app: None, expires_unix_s: None };
    let (_, secret) = tokens.create(&reader, 0).expect("made");
    let running = serve(store, ServeOptions { tokens: Some(tokens.path().to_owned()), ..quick() });
    let token = format!("Authorization: Bearer {}", secret.expose());
    let told = ask(running.addr(), "GET", &format!("/v1/nodes/{}", root.0), &[&token], b"");
    assert_eq!(told.header("cache-control"), Some("private, max-age=31536000, immutable"));
}

#[test]
fn two_hundred_clients_are_served_at_once() {
    let store = empty();
    let chunks: Vec<_> = (0..32).map(|n| chunk(n, 64 << 10)).collect();
    shared(&store).put_chunks(&chunks).expect("put");
    let limits = |limits: &mut floe::serve::ServeLimits| {
        limits.streams_per_client = 200;
        limits.in_flight_bytes_max = 2 << 20;
    };
    let running = serve(store, with_limits(limits));
    let (addr, body) = (running.addr(), refs(&chunks));
    let lens: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..200).map(|_| scope.spawn(|| ask(addr, "POST", "/v1/chunks/read", &[], &body))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for told in lens {
        assert_eq!(told.status, 200);
        assert!(told.body.len() > 32 * (64 << 10));
    }
}

#[test]
fn too_many_requests_of_one_address_are_put_off() {
    let store = empty();
    let chunks: Vec<_> = (0..64).map(|n| chunk(n, 256 << 10)).collect();
    shared(&store).put_chunks(&chunks).expect("put");
    let running = serve(store, with_limits(|limits| limits.streams_per_client = 1));
    let mut stream = connect(running.addr());
    stream.write_all(&request("POST", "/v1/chunks/read", &[], &refs(&chunks))).expect("sent");
    stream.read_exact(&mut [0; 12]).expect("it begins");
    let told = ask(running.addr(), "GET", "/v1", &[], b"");
    assert_eq!((told.status, told.header("retry-after")), (429, Some("1")));
    assert_eq!(ask(running.addr(), "GET", "/healthz", &[], b"").status, 200);
}

#[test]
fn a_stop_lets_streams_end_or_cuts_them() {
    let store = empty();
    let chunks: Vec<_> = (0..64).map(|n| chunk(n, 256 << 10)).collect();
    shared(&store).put_chunks(&chunks).expect("put");
    for (grace, reads, whole) in
        [(Duration::from_secs(20), true, true), (Duration::from_millis(50), false, false)]
    {
        let running = serve(store.clone(), quick());
        let addr = running.addr();
        let mut stream = connect(addr);
        stream.write_all(&request("POST", "/v1/chunks/read", &[], &refs(&chunks))).expect("sent");
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).expect("it begins");
        let cut = std::thread::scope(|scope| {
            let stopping = scope.spawn(|| running.stop(grace));
            if reads {
                stream.read_to_end(&mut answer).expect("to its end");
            }
            stopping.join().expect("no panic")
        });
        let _ = stream.read_to_end(&mut answer);
        assert_eq!((cut == 0, answer.ends_with(b"0\r\n\r\n")), (whole, whole), "{cut} cut");
        assert!(std::net::TcpStream::connect(addr).is_err(), "nobody listens");
        running.wait();
        assert_eq!(running.stop(grace), 0, "once is enough");
    }
}

#[test]
fn who_asks_while_it_stops_is_told_so() {
    let store = empty();
    let chunks: Vec<_> = (0..64).map(|n| chunk(n, 256 << 10)).collect();
    shared(&store).put_chunks(&chunks).expect("put");
    let running = serve(store, quick());
    let addr = running.addr();
    let mut stream = connect(addr);
    let last = ["Connection: close"];
    stream.write_all(&request("POST", "/v1/chunks/read", &last, &refs(&chunks))).expect("sent");
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).expect("it begins");
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| running.stop(Duration::from_secs(20)));
        let mut ready = std::iter::repeat_with(|| ask(addr, "GET", "/readyz", &[], b""));
        let ready = ready.find(|told| told.status != 200).expect("no end of them");
        assert_eq!((ready.status, &*ready.text()), (503, "stopping\n"));
        assert_eq!(ask(addr, "GET", "/healthz", &[], b"").status, 200);
        let told = ask(addr, "GET", "/v1", &[], b"");
        assert!(told.status == 503 && told.text().contains("it is stopping"), "{told:?}");
        // Who connects and asks nothing does not hold it up.
        let silent = connect(addr);
        stream.read_to_end(&mut answer).expect("to its end");
        assert_eq!(stopping.join().expect("no panic"), 0, "nothing was cut");
        drop(silent);
    });
    assert!(answer.ends_with(b"0\r\n\r\n"), "what was under way went on");
    assert!(std::net::TcpStream::connect(addr).is_err(), "nobody listens");
}

#[test]
fn readiness_and_numbers_are_told() {
    let running = serve(empty(), quick());
    assert_eq!(ask(running.addr(), "GET", "/readyz", &[], b"").status, 200);
    ask(running.addr(), "GET", "/v1/names/a/1", &[], b"");
    ask(running.addr(), "POST", "/v1/chunks/lens", &[], &[0; 32]);
    running.unready();
    assert_eq!(ask(running.addr(), "GET", "/readyz", &[], b"").status, 503);
    let told = ask(running.addr(), "GET", "/metrics", &[], b"");
    for line in [
        "floe_requests_total{route=\"name\",status=\"404\"} 1",
        "floe_requests_total{route=\"chunks/lens\",status=\"200\"} 1",
        "floe_refused_total{reason=\"not-found\"} 1",
        "floe_received_bytes_total 32",
        "floe_sent_bytes_total ",
        "floe_in_flight_bytes 0",
        "floe_stored_bytes 0",
        "floe_requests_open 1",
        "floe_ready 0",
        "# EOF",
    ] {
        assert!(told.text().contains(line), "{line}\n{}", told.text());
    }
}

#[test]
fn of_two_binders_of_one_name_one_wins() {
    let store = empty();
    let running = serve(store.clone(), quick());
    for round in 0..20 {
        let nodes = [node(2 * round, true), node(2 * round + 1, true)];
        shared(&store).put_nodes(nodes.to_vec()).expect("put");
        let path = format!("/v1/names/game/{round}");
        let statuses: Vec<_> = std::thread::scope(|scope| {
            let bind = |at: usize| {
                let body = format!("{{\"version\":\"{}\",\"now_unix_s\":1}}", nodes[at].0);
                ask(running.addr(), "PUT", &path, &[], body.as_bytes()).status
            };
            let other = scope.spawn(move || bind(1));
            vec![bind(0), other.join().expect("no panic")]
        });
        assert!(statuses == [200, 409] || statuses == [409, 200], "{statuses:?}");
    }
}

#[test]
fn an_update_comes_as_one_stream_and_no_update_is_a_refusal() {
    let store = empty();
    let nodes = conformance::tree(3);
    let root = nodes.last().expect("a root").0;
    shared(&store).put_chunks(&[chunk(3, 100)]).expect("put");
    shared(&store).put_nodes(nodes).expect("put");
    let running = serve(store, with_limits(|limits| limits.updates = 1));
    let asked = |want: &str| format!("{{\"have\":null,\"want\":\"{want}\",\"from_unit\":0,\"format\":1}}");
    for _ in 0..3 {
        let told = ask(running.addr(), "POST", "/v1/update", &[], asked(&root.to_string()).as_bytes());
        assert_eq!(told.status, 200);
        assert!(told.text().contains("FLOE"));
    }
    let told = ask(running.addr(), "POST", "/v1/update", &[], asked(&node(9, true).0.to_string()).as_bytes());
    assert_eq!(told.status, 404, "{}", told.text());
}

#[test]
fn a_rehash_has_the_server_read_what_it_has() {
    use floe::content::{Compression, Frame};
    use floe::store::NewChunk;
    use floe::sync::{PublishOptions, VerifyOptions, publish, verify_store};
    let store = empty();
    let running = serve(store.clone(), quick());
    let dir = tempfile::tempdir().expect("a directory");
    for n in 0..40 {
        std::fs::write(dir.path().join(format!("{n}")), format!("content {n}")).expect("written");
    }
    let remote = remote(&running, "http", RemoteOptions::default());
    let publish = |name: &str, rehash| {
        let options = PublishOptions { rehash, ..PublishOptions::default() };
        let name = Name::parse(name).expect("a name");
        publish(dir.path(), &remote, &name, &options, &floe::Silent).expect("publishes")
    };
    let first = publish("game@1", false);
    let mut chunks = Vec::new();
    let here: &dyn Store = &*store;
    here.each_chunk(&mut |chunk| {
        chunks.push(chunk);
        Ok(())
    })
    .expect("listed");
    let frame = Frame::encode(b"something else", Compression::None);
    here.replace_chunks(&[NewChunk { chunk: chunks[7], frame }]).expect("harmed");
    here.replace_nodes(vec![(first.version.root(), b"something else".to_vec())]).expect("harmed");
    let again = publish("game@2", true);
    assert_eq!((again.chunks_mended, again.nodes_mended, again.chunks_new), (1, 1, 0));
    assert_eq!(again.version, first.version);
    let found = verify_store(here, &VerifyOptions::default(), &floe::Silent).expect("verifies");
    assert_eq!(found.damage, []);
}

// A client gets what it asks for, as far as the server goes; and the same tree in any case.
#[test]
fn deltas_are_made_as_far_as_the_server_allows() {
    use floe::delta::Profile;
    use floe::sync::{PublishOptions, SyncOptions, Target, publish, sync};
    let (source, store) = (tempfile::tempdir().expect("a directory"), empty());
    // Text, so that the profiles differ.
    let line =
        |n: usize, more: usize| format!("{{\"id\": {}, \"at\": {}}}\n", n * 7 + more, n * n % 9973 + more);
    let name = |label: usize| Name::parse(&format!("game@{label}")).expect("a name");
    for label in [0, 1] {
        let text: String = (0..30_000).map(|n| line(n, label)).collect();
        std::fs::write(source.path().join("text"), text).expect("written");
        publish(source.path(), shared(&store), &name(label), &PublishOptions::default(), &floe::Silent)
            .expect("publishes");
    }
    let mut came = Vec::new();
    for (allowed, asked) in [
        (Some(Profile::Smallest), None),
        (None, Some(Profile::Smallest)),
        (Some(Profile::Fast), Some(Profile::Smallest)),
        (Some(Profile::Smallest), Some(Profile::Fast)),
        (Some(Profile::Smallest), Some(Profile::Smallest)),
    ] {
        let running = serve(store.clone(), with_limits(|limits| limits.deltas = allowed));
        let remote = remote(&running, "http", RemoteOptions::default());
        let dir = tempfile::tempdir().expect("a directory");
        let options = SyncOptions { deltas: asked, ..SyncOptions::default() };
        let bring = |label| {
            sync(&remote, &Target::Name(name(label)), dir.path(), &options, &floe::Silent).expect("syncs")
        };
        bring(0);
        came.push(bring(1).bytes_fetched);
        let (got, want) = (dir.path().join("text"), source.path().join("text"));
        assert_eq!(std::fs::read(got).expect("read"), std::fs::read(want).expect("read"));
    }
    assert_eq!((came[0], came[2]), (came[1], came[3]));
    assert!(came[4] < came[3] && came[3] < came[0], "{came:?}");
}

// A publish that was stopped goes on, even if the server was stopped too.
#[cfg(feature = "rocks")]
#[test]
fn what_came_before_an_orderly_end_is_kept() {
    use floe::store::{RocksOptions, RocksStore, Source};
    let dir = tempfile::tempdir().expect("a directory");
    let options = RocksOptions { create: true, ..RocksOptions::default() };
    for (count, len) in [(3, 50), (40, 200_000)] {
        let chunks: Vec<_> = (0..count).map(|n| chunk(n, len)).collect();
        let ids: Vec<_> = chunks.iter().map(|new| new.chunk.id).collect();
        let lacks = |lacking: bool| {
            let store = RocksStore::open(dir.path(), &options).expect("opens");
            let running = serve(std::sync::Arc::new(store), quick());
            let remote = remote(&running, "http", RemoteOptions::default());
            assert_eq!(remote.lacks_chunks(&ids).expect("told"), vec![lacking; ids.len()]);
            if lacking {
                remote.put_chunks(&chunks).expect("put");
                // Asking for the lengths sends what waits; nothing is flushed.
                remote.frame_lens(&ids).expect("told");
            }
            running.stop(Duration::ZERO);
        };
        lacks(true);
        lacks(false);
    }
}
