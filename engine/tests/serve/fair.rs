//! Clients that take much and give nothing back: others do not wait for them, whatever it is that they hold.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use floe::serve::{ServeLimits, ServeOptions, Served};
use floe::store::Name;
use floe::testing::conformance::chunk;

use super::wire::{Told, ask, connect, request};
use super::{empty, serve, shared, with_limits};

// Behind a proxy, so that a test can have many addresses. Nobody is cut for being slow.
fn proxied(edit: impl FnOnce(&mut ServeLimits)) -> ServeOptions {
    let options = with_limits(|limits| {
        limits.stall_timeout = Duration::from_secs(3600);
        edit(limits);
    });
    ServeOptions { proxied: true, ..options }
}

fn from(address: &str) -> String {
    format!("X-Forwarded-For: 192.0.2.1, {address}")
}

// Each asks for the whole, takes nothing, and stays.
fn stuck(addr: SocketAddr, address: &str, path: &str, body: &[u8], count: usize) -> Vec<TcpStream> {
    let sent = (0..count).map(|_| {
        let mut stream = connect(addr);
        stream.write_all(&request("POST", path, &[&from(address)], body)).expect("sent");
        stream
    });
    sent.collect()
}

fn number(addr: SocketAddr, name: &str) -> u64 {
    let text = ask(addr, "GET", "/metrics", &[], b"").text();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).map(str::to_owned);
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("{name}\n{text}"))
}

// Until nothing moves any more: all are at work, and what they may hold they hold.
fn settled(addr: SocketAddr, requests: u64) {
    let (mut last, mut same) = (0, 0);
    while same < 20 {
        let held = number(addr, "floe_in_flight_bytes");
        // The request for the numbers is one, too.
        let all = held > 0 && number(addr, "floe_requests_open") > requests;
        same = if all && held == last { same + 1 } else { 0 };
        last = held;
    }
}

fn large() -> (Served, Vec<u8>) {
    let store = empty();
    let chunks: Vec<_> = (0..128).map(|n| chunk(n, 256 << 10)).collect();
    shared(&store).put_chunks(&chunks).expect("put");
    let packed =
        |new: &floe::store::NewChunk| [&new.chunk.id.as_bytes()[..], &new.chunk.len.to_le_bytes()].concat();
    let refs = chunks.iter().flat_map(packed).collect();
    (store, refs)
}

#[test]
fn slow_readers_of_one_address_do_not_hold_up_another() {
    let (store, refs) = large();
    for (held_up, addresses) in
        [("chunks", &["10.0.0.2"][..]), ("chunks", &["10.0.0.2", "10.0.0.3", "2001:db8::1"])]
    {
        let running = serve(store.clone(), proxied(|limits| limits.in_flight_bytes_max = 8 << 20));
        let addr = running.addr();
        let held: Vec<_> =
            addresses.iter().flat_map(|from| stuck(addr, from, "/v1/chunks/read", &refs, 8)).collect();
        settled(addr, held.len() as u64);
        let most = (8u64 << 20) * addresses.len() as u64 / (addresses.len() as u64 + 1);
        let taken = number(addr, "floe_in_flight_bytes");
        assert!(taken <= most + (1 << 20), "{held_up}: {taken} over {most}");
        let lists = (held.len() * refs.len()) as u64;
        assert_eq!(number(addr, "floe_bodies_bytes"), lists, "what is still to be sent is kept, too");
        for address in ["10.0.0.1", "2001:db8:0:1::1"] {
            let told = ask(addr, "POST", "/v1/chunks/read", &[&from(address)], &refs);
            assert!(told.status == 200 && told.body.len() > 32 << 20, "{address}: {}", told.status);
        }
        drop(held);
    }
}

#[test]
fn a_network_of_one_machine_is_one_client() {
    let (store, refs) = large();
    let running = serve(store, proxied(|limits| limits.streams_per_client = 2));
    let held = [
        stuck(running.addr(), "2001:db8::1", "/v1/chunks/read", &refs, 1),
        stuck(running.addr(), "2001:db8::2", "/v1/chunks/read", &refs, 1),
    ];
    settled(running.addr(), 2);
    for (address, status) in [("2001:db8::3", 429), ("2001:db8:0:1::3", 200)] {
        assert_eq!(ask(running.addr(), "GET", "/v1", &[&from(address)], b"").status, status, "{address}");
    }
    drop(held);
}

// Two versions of a tree whose content takes many units.
fn versions(store: &Served) -> [String; 2] {
    let dir = tempfile::tempdir().expect("a directory");
    ["app@1", "app@2"].map(|name| {
        let mut bytes = vec![0; 24 << 20];
        blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
        std::fs::write(dir.path().join("file"), bytes).expect("written");
        let options = floe::sync::PublishOptions::default();
        let name = Name::parse(name).expect("a name");
        let report = floe::sync::publish(dir.path(), shared(store), &name, &options, &floe::Silent);
        report.expect("published").version.to_string()
    })
}

fn update(have: Option<&str>, want: &str, from_unit: u64) -> Vec<u8> {
    let have = have.map_or("null".to_owned(), |have| format!("\"{have}\""));
    format!("{{\"have\":{have},\"want\":\"{want}\",\"from_unit\":{from_unit},\"format\":1}}").into_bytes()
}

fn updated(addr: SocketAddr, address: &str, body: &[u8]) -> Told {
    ask(addr, "POST", "/v1/update", &[&from(address)], body)
}

#[test]
fn an_update_is_worked_out_once_and_holds_no_place() {
    let store = empty();
    let [one, two] = versions(&store);
    let running = serve(
        store.clone(),
        proxied(|limits| {
            (limits.updates, limits.listings) = (1, 1);
            limits.in_flight_bytes_max = 16 << 20;
            limits.updates_bytes_max = 64 << 10;
        }),
    );
    let addr = running.addr();
    let body = update(Some(&one), &two, 0);
    let held = stuck(addr, "10.0.0.2", "/v1/update", &body, 12);
    settled(addr, 12);
    let plan = number(addr, "floe_updates_bytes");
    assert!(plan > 0 && plan < 64 << 10, "{plan}");
    let told = updated(addr, "10.0.0.1", &body);
    assert!(told.status == 200 && told.body.len() > 24 << 20, "{}", told.status);
    let rest = updated(addr, "10.0.0.1", &update(Some(&one), &two, 6));
    assert!(rest.status == 200 && rest.body.len() < told.body.len(), "{}", rest.status);
    assert_eq!(number(addr, "floe_updates_bytes"), plan, "the same for all");
    drop(held);

    // Others push out what nobody uses, and do not wait for it.
    for (have, want) in [(None, &one), (None, &two), (Some(&two), &one), (Some(&one), &two), (None, &one)] {
        let body = update(have.map(|have: &String| have.as_str()), want, 0);
        assert_eq!(updated(addr, "10.0.0.1", &body).status, 200);
        assert!(number(addr, "floe_updates_bytes") <= 64 << 10);
    }
    let beyond = updated(addr, "10.0.0.1", &update(None, &one, 1000));
    assert!(beyond.status == 400 && beyond.text().contains("unit 1000"), "{}", beyond.text());

    // What a sweep took is gone from here, too.
    let names = [Name::parse("app@1").expect("a name"), Name::parse("app@2").expect("a name")];
    shared(&store).unbind(&names).expect("unbound");
    let sweep = floe::store::SweepOptions {
        chunk_live: &|_| false,
        node_live: &|_| false,
        now_unix_s: 1,
        grace: Duration::ZERO,
        dry_run: false,
    };
    shared(&store).sweep(&sweep).expect("swept");
    assert_eq!(updated(addr, "10.0.0.1", &update(None, &one, 0)).status, 404);
}

#[test]
fn listings_are_shared_out_too() {
    let (store, _) = large();
    let ids: Vec<_> = (0..40_000).map(|n| chunk(1000 + n, 20)).collect();
    ids.chunks(5000).for_each(|some| shared(&store).put_chunks(some).expect("put"));
    let running =
        serve(store, proxied(|limits| (limits.listings, limits.in_flight_bytes_max) = (4, 2 << 20)));
    let addr = running.addr();
    let held: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = connect(addr);
            let ask = request("GET", "/v1/upkeep/chunks", &[&from("10.0.0.2")], b"");
            stream.write_all(&ask).expect("sent");
            stream
        })
        .collect();
    let told = ask(addr, "GET", "/v1/upkeep/chunks", &[&from("10.0.0.1")], b"");
    assert!(told.status == 200 && told.body.len() > 40_000 * 36, "{}", told.status);
    drop(held);
}

#[test]
fn bodies_that_do_not_come_hold_up_their_own_address() {
    let running = serve(empty(), proxied(|limits| limits.bodies_bytes_max = 1 << 20));
    let addr = running.addr();
    let long = |address: &str| {
        let from = from(address);
        let head = "POST /v1/chunks/lens HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.floe.v1\r\n";
        format!("{head}{from}\r\nContent-Length: 400000\r\n\r\nabc")
    };
    let held: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = connect(addr);
            stream.write_all(long("10.0.0.2").as_bytes()).expect("sent");
            stream
        })
        .collect();
    while number(addr, "floe_bodies_bytes") == 0 {}
    let told = ask(addr, "POST", "/v1/chunks/lens", &[&from("10.0.0.1")], &[0; 32 * 12_000]);
    assert_eq!(told.status, 200, "{}", told.text());
    drop(held);
}

#[test]
fn idle_connections_make_room() {
    let running = serve(
        empty(),
        with_limits(|limits| {
            limits.connections = 16;
            limits.header_timeout = Duration::from_secs(3600);
            limits.idle_timeout = Duration::from_secs(3600);
        }),
    );
    let addr = running.addr();
    let mut used = connect(addr);
    used.write_all(&request("GET", "/healthz", &[], b"")).expect("sent");
    used.read_exact(&mut [0; 12]).expect("answered");
    let mut silent: Vec<_> = (0..100).map(|_| connect(addr)).collect();
    assert_eq!(ask(addr, "GET", "/v1", &[], b"").status, 200, "at once");
    let mut rest = Vec::new();
    silent[0].read_to_end(&mut rest).expect("closed");
    assert!(rest.is_empty());
    assert!(number(addr, "floe_refused_total{reason=\"crowd\"}") >= 85);
    // One address has a limit of its own; who sent nothing goes first.
    let running = serve(
        empty(),
        with_limits(|limits| {
            limits.connections_per_client = 2;
            limits.header_timeout = Duration::from_secs(3600);
        }),
    );
    let silent = [connect(running.addr()), connect(running.addr())];
    assert_eq!(ask(running.addr(), "GET", "/v1", &[], b"").status, 200);
    drop(silent);
}
