//! Clients that wish a server ill: each gets a named refusal, costs little, and leaves the store as it was.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use floe::serve::{NewToken, Role, ServeOptions, Server, Tokens};
use floe::store::AppName;
use floe::testing::conformance::{chunk, node, nodes_in};
use floe::{Error, ErrorClass};

use super::wire::{ask, connect, request, send, told};
use super::{empty, quick, serve, shared, with_limits};

const IDS: &str = "/v1/chunks/lens";

fn item(number: u32, id: &[u8; 32], body: &[u8]) -> Vec<u8> {
    let len = 32 + body.len() as u32;
    [&number.to_le_bytes()[..], &len.to_le_bytes(), id, body].concat()
}

fn pack(items: &[Vec<u8>]) -> Vec<u8> {
    let end = [u32::MAX.to_le_bytes(), (items.len() as u32).to_le_bytes()].concat();
    [items.concat(), end].concat()
}

#[test]
fn bad_requests_are_refused_by_name() {
    let store = empty();
    let running = serve(store.clone(), with_limits(|limits| limits.body_len_max = 4 << 20));
    let good = chunk(1, 5000);
    let (id, frame) = (good.chunk.id.as_bytes(), good.frame.as_bytes());
    let other = *chunk(2, 10).chunk.id.as_bytes();
    let (root, bytes) = node(1, true);
    let page = node(1, false);
    // A root over a page that nobody put, and a page that names a chunk that nobody put.
    let orphan = floe::testing::conformance::tree(3);
    let children: Vec<_> = orphan.iter().map(|(id, bytes)| pack(&[item(0, id.as_bytes(), bytes)])).collect();
    let long = vec![0; (4 << 20) + 1];
    let hex = root.to_string();
    let bind = format!("{{\"version\":\"{hex}\",\"now_unix_s\":1}}");
    let to_page = format!("{{\"version\":\"{}\",\"now_unix_s\":1}}", page.0);
    shared(&store).put_nodes(vec![page.clone()]).expect("put");

    let rows: &[(&str, &str, &[u8], u16, &str)] = &[
        ("POST", IDS, &long, 413, "over the limit"),
        ("POST", IDS, &[0; 33], 422, "multiple of 32"),
        ("POST", IDS, &vec![0; 32 * 65537], 413, "over the limit of 65536"),
        ("POST", "/v1/chunks/prove", &[0; 33], 422, "multiple of 32"),
        ("POST", "/v1/nodes/prove", &vec![0; 32 * 1025], 413, "over the limit of 1024"),
        ("POST", "/v1/chunks/read", &[0; 35], 422, "multiple of 36"),
        ("POST", "/v1/chunks", b"x", 422, "before its end mark"),
        ("POST", "/v1/chunks", &pack(&[item(5000, &other, frame)]), 422, "does not match its hash"),
        ("POST", "/v1/chunks", &pack(&[item(5001, id, frame)]), 422, "5000 bytes where 5001 belong"),
        ("POST", "/v1/chunks", &pack(&[item(262_145, id, frame)]), 413, "over the limit of 262144"),
        ("POST", "/v1/chunks", &pack(&[item(5000, id, &[9, 9, 9])]), 422, "unknown codec 9"),
        ("POST", "/v1/chunks", &pack(&[item(5000, id, &[])]), 422, "empty"),
        ("POST", "/v1/nodes", &pack(&[item(0, &other, &bytes)]), 422, "another hash"),
        ("POST", "/v1/nodes", &pack(&[item(0, root.as_bytes(), b"x")]), 422, "another hash"),
        ("POST", "/v1/nodes", &children[0], 409, "its chunk"),
        ("POST", "/v1/nodes", &children[1], 409, "its node"),
        ("PUT", "/v1/names/game/1", bind.as_bytes(), 404, "version"),
        ("PUT", "/v1/names/game/1", to_page.as_bytes(), 422, "not the root of a version"),
        ("PUT", "/v1/names/game/1", b"{}", 400, "missing field"),
        ("PUT", "/v1/names/game/1", b"{\"version\":\"xyz\",\"now_unix_s\":1}", 400, "64 lower-case hex"),
        ("GET", "/v1/names/%2e%2e%2f/1", b"", 400, "must be a letter"),
        ("GET", "/v1/names/game/%2e%2e%2fx", b"", 400, "must be a letter"),
        ("GET", "/v1/names/game/1%00", b"", 400, "must be a letter"),
        ("GET", "/v1/names/%ff/1", b"", 400, "must be a letter"),
        ("GET", "/v1/names/a%40b/1", b"", 400, "must be"),
        ("GET", "/v1/names?app=../x", b"", 400, "application name"),
        ("GET", "/v1/names?other=1", b"", 400, "only `?app=NAME`"),
        ("GET", "/v1/../v1/names", b"", 404, "such path"),
        ("GET", "/etc/passwd", b"", 404, "such path"),
        ("GET", "/v1/chunks/abc", b"", 400, "64 lower-case hex"),
        ("GET", &format!("/v1/chunks/{hex}"), b"", 404, "chunk"),
        ("GET", &format!("/v1/nodes/{hex}"), b"", 404, "node"),
        ("DELETE", "/v1/chunks", b"", 405, "does not take it"),
        ("POST", "/v1/update", b"{}", 400, "missing field"),
        ("POST", "/v1/upkeep/sweep", b"{}", 400, "line feed"),
        (
            "POST",
            "/v1/upkeep/sweep",
            b"{\"now_unix_s\":1,\"grace_s\":0,\"dry_run\":false,\"nodes_dead\":1,\"chunks_dead\":18446744073709551615}\n",
            400,
            "as many ids as it says",
        ),
    ];
    for (method, path, body, status, words) in rows {
        let told = ask(running.addr(), method, path, &[], body);
        assert_eq!(told.status, *status, "{method} {path}: {}", told.text());
        assert!(told.text().contains(words), "{method} {path}: {}", told.text());
        assert!(told.text().contains("\"class\":"), "{}", told.text());
    }
    assert_eq!(nodes_in(shared(&store)).expect("read"), [page.0], "nothing was kept");
    assert!(shared(&store).lacks_chunks(&[good.chunk.id]).expect("read")[0]);
    assert!(shared(&store).names(None).expect("read").is_empty());
}

#[test]
fn garbage_is_not_answered_with_a_panic() {
    let running = serve(empty(), quick());
    let header = format!("X: {}\r\n", "y".repeat(40 << 10));
    let many = "A: b\r\n".repeat(1000);
    let rows: Vec<(Vec<u8>, &[u16])> = vec![
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[400, 0]),
        (b"\0\0\0\0\r\n\r\n".to_vec(), &[400]),
        (b"GET / HTTP/9.9\r\n\r\n".to_vec(), &[400, 505]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[400, 505, 0]),
        (b"GET /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".to_vec(), &[400]),
        (b"POST /v1/flush HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n".to_vec(), &[400]),
        (
            b"POST /v1/flush HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
            &[400],
        ),
        (format!("GET /v1 HTTP/1.1\r\nHost: a\r\n{header}\r\n").into_bytes(), &[431, 400]),
        (format!("GET /v1 HTTP/1.1\r\nHost: a\r\n{many}\r\n").into_bytes(), &[431, 400]),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(90_000)).into_bytes(), &[414, 431, 400]),
        (Vec::new(), &[0]),
    ];
    for (bytes, statuses) in rows {
        let told = told(&send(running.addr(), &bytes));
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert!(statuses.contains(&told.status), "{shown:?}: {told:?}");
    }
    assert_eq!(ask(running.addr(), "GET", "/v1", &[], b"").status, 200, "it goes on");
}

#[test]
fn bodies_are_what_they_are_said_to_be() {
    let running = serve(empty(), quick());
    let (json, binary) = ("Content-Type: application/json", "Content-Type: application/vnd.floe.v1");
    let update = format!("{{\"have\":null,\"want\":\"{}\",\"from_unit\":0,\"format\":1}}", node(1, true).0);
    for (method, path, kind, body, status, words) in [
        ("POST", IDS, binary, &[0; 32][..], 200, ""),
        ("POST", IDS, "Content-Type: Application/vnd.floe.v1; x=y", &[0; 32], 200, ""),
        ("POST", IDS, json, &[0; 32], 415, "this path takes `application/vnd.floe.v1`"),
        ("POST", IDS, "Content-Type:", &[0; 32], 415, "without a type"),
        ("POST", "/v1/chunks", "Content-Type: text/plain", b"x", 415, "a body of type `text/plain`"),
        ("POST", "/v1/update", json, update.as_bytes(), 404, "update to version"),
        ("POST", "/v1/update", binary, update.as_bytes(), 415, "this path takes `application/json`"),
        ("PUT", "/v1/names/a/1", binary, b"{}", 415, "this path takes `application/json`"),
        ("POST", "/v1/flush", "Content-Type: text/plain", b"x", 204, ""),
    ] {
        let told = ask(running.addr(), method, path, &[kind], body);
        assert!(told.status == status && told.text().contains(words), "{path} {kind}: {told:?}");
    }
    let head =
        "POST /v1/chunks/lens HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/vnd.floe.v1\r\n";
    let zeros = "0".repeat(32);
    for (rest, status, words) in [
        (format!("Transfer-Encoding: chunked\r\n\r\n20\r\n{zeros}\r\n0\r\n\r\n"), 200, ""),
        ("Transfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(), 400, "its chunks are not as HTTP has them"),
        ("Transfer-Encoding: chunked\r\n\r\n1000\r\n00".to_owned(), 408, "broke off"),
        (
            format!("Content-Length: 32\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{zeros}\r\n0\r\n\r\n"),
            200,
            "",
        ),
    ] {
        // Where two lengths may disagree, what follows on the connection is not taken for a request.
        let bytes = [head.as_bytes(), rest.as_bytes(), &request("GET", "/healthz", &[], b"")].concat();
        let answers = send(running.addr(), &bytes);
        let told = told(&answers);
        assert!(told.status == status && told.text().contains(words), "{rest}: {told:?}");
        assert_eq!(told.header("connection"), Some("close"), "{rest}");
        assert_eq!(String::from_utf8_lossy(&answers).matches("HTTP/1.1 ").count(), 1, "{rest}");
    }
}

#[test]
fn pipelined_and_half_closed_clients_are_answered() {
    let running = serve(empty(), quick());
    let two = request("GET", "/v1", &[], b"");
    let last = request("GET", "/readyz", &["Connection: close"], b"");
    let answers = send(running.addr(), &[&two[..], &two, &last].concat());
    let text = String::from_utf8_lossy(&answers).into_owned();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3, "{text}");
}

#[test]
fn web_pages_cannot_use_a_trusting_server() {
    let running = serve(empty(), quick());
    for (headers, status) in
        [(&["Origin: http://evil.example"][..], 403), (&["Host: evil.example"], 400), (&[], 200)]
    {
        let told = ask(running.addr(), "GET", "/v1/names", headers, b"");
        assert!(told.status == status || (status == 400 && told.status == 403), "{headers:?}: {told:?}");
    }
    for (target, host, status) in [
        ("/v1/names", "evil.example", 403),
        ("http://evil.example/v1/names", "localhost", 403),
        ("http://localhost:80/v1/names", "evil.example", 403),
        ("http://localhost:80/v1/names", "localhost", 200),
        ("http://[::1]/v1/names", "127.0.0.1:7400", 200),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(told(&send(running.addr(), head.as_bytes())).status, status, "{target} {host}");
    }
}

#[test]
fn slow_clients_are_cut() {
    let running = serve(
        empty(),
        with_limits(|limits| {
            limits.header_timeout = Duration::from_millis(100);
            limits.idle_timeout = Duration::from_millis(100);
            limits.stall_timeout = Duration::from_millis(100);
        }),
    );
    // Silent from the start, within the headers, within a body, and between requests.
    let body = request("POST", IDS, &["Content-Length: 64"], b"");
    let body = [&body[..], b"abc"].concat();
    let idle = request("GET", "/healthz", &[], b"");
    for (bytes, statuses) in
        [(&b""[..], &[0, 408][..]), (b"GET /v1 HT", &[0, 408]), (&body, &[408]), (&idle, &[200])]
    {
        let mut stream = connect(running.addr());
        stream.write_all(bytes).expect("sent");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(statuses.contains(&told(&answer).status), "{:?}", String::from_utf8_lossy(&answer));
    }
}

// Asks for 16 MiB and takes nothing.
fn stuck(addr: SocketAddr, refs: &[u8]) -> std::net::TcpStream {
    let mut stream = connect(addr);
    stream.write_all(&request("POST", "/v1/chunks/read", &["Connection: close"], refs)).expect("sent");
    let mut first = [0; 12];
    stream.read_exact(&mut first).expect("it begins");
    stream
}

#[test]
fn readers_that_take_nothing_hold_little_and_not_for_long() {
    let store = empty();
    let chunks: Vec<_> = (0..64).map(|n| chunk(n, 256 << 10)).collect();
    shared(&store).put_chunks(&chunks).expect("put");
    let refs: Vec<u8> = chunks
        .iter()
        .flat_map(|new| [&new.chunk.id.as_bytes()[..], &new.chunk.len.to_le_bytes()].concat())
        .collect();
    let running = serve(
        store,
        with_limits(|limits| {
            limits.in_flight_bytes_max = 4 << 20;
            limits.stall_timeout = Duration::from_millis(300);
        }),
    );
    let stuck: Vec<_> = (0..8).map(|_| stuck(running.addr(), &refs)).collect();
    // They fill the budget; once they are cut, somebody who reads is served.
    let told = ask(running.addr(), "POST", "/v1/chunks/read", &[], &refs[..36 * 8]);
    assert_eq!(told.status, 200);
    assert!(told.body.len() > 8 * (256 << 10));
    let whole = refs.len() / 36 * (256 << 10);
    let cut = stuck.into_iter().filter_map(|mut stream| {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        (rest.len() < whole).then_some(())
    });
    assert!(cut.count() > 0, "who took nothing was cut");
}

#[test]
fn connections_beyond_the_limit_wait_or_are_closed() {
    let options = with_limits(|limits| {
        limits.connections = 8;
        limits.header_timeout = Duration::from_millis(200);
    });
    let running = serve(empty(), options);
    let silent: Vec<_> = (0..200).map(|_| connect(running.addr())).collect();
    assert_eq!(ask(running.addr(), "GET", "/v1", &[], b"").status, 200, "its turn comes");
    drop(silent);

    let running = serve(empty(), with_limits(|limits| limits.connections_per_client = 2));
    let held: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = connect(running.addr());
            stream.write_all(&request("GET", "/v1", &[], b"")).expect("sent");
            let mut first = [0; 12];
            stream.read_exact(&mut first).expect("answered");
            stream
        })
        .collect();
    assert_eq!(ask(running.addr(), "GET", "/v1", &[], b"").status, 0, "closed at once");
    drop(held);
}

#[test]
fn tokens_decide() {
    let dir = tempfile::tempdir().expect("a directory");
    let tokens = Tokens::of_store(dir.path());
    let make = |role, app: Option<&str>, expires_unix_s| {
        let app = app.map(|app| AppName::parse(app).expect("an app"));
        let (record, secret) = tokens.create(&NewToken { role, app, expires_unix_s }, 0).expect("made");
        (record, format!("Authorization: Bearer {}", secret.expose()))
    };
    let (reader, read) = make(Role::Read, None, None);
    let (_, game) = make(Role::Publish, Some("game"), None);
    let (_, admin) = make(Role::Admin, None, None);
    let (_, game_admin) = make(Role::Admin, Some("game"), None);
    let (_, old) = make(Role::Admin, None, Some(1));
    let store = empty();
    let (root, bytes) = node(1, true);
    shared(&store).put_nodes(vec![(root, bytes)]).expect("put");
    let options =
        ServeOptions { tokens: Some(tokens.path().to_owned()), metrics_need_admin: true, ..quick() };
    let running = serve(store, options);
    let bind = format!("{{\"version\":\"{root}\",\"now_unix_s\":1}}");
    let bind = bind.as_bytes();
    let basic = "Authorization: Basic YTpi".to_owned();
    let wrong = format!("Authorization: Bearer floe_{}", "0".repeat(64));
    let none = "X: y".to_owned();
    let rows: &[(&str, &str, &str, &[u8], u16)] = &[
        (&none, "GET", "/healthz", b"", 200),
        (&none, "GET", "/v1", b"", 401),
        (&none, "GET", "/metrics", b"", 401),
        (&basic, "GET", "/v1", b"", 401),
        (&wrong, "GET", "/v1", b"", 401),
        (&old, "GET", "/v1", b"", 401),
        (&read, "GET", "/v1/names", b"", 200),
        (&read, "POST", "/v1/flush", b"", 403),
        (&read, "PUT", "/v1/names/game/1", bind, 403),
        (&game, "PUT", "/v1/names/other/1", bind, 403),
        (&game, "PUT", "/v1/names/game/1", bind, 200),
        (&game, "GET", "/v1/names?app=other", b"", 403),
        (&game, "GET", "/v1/names/other/1", b"", 403),
        (&game, "DELETE", "/v1/names/game/1", b"", 403),
        (&game_admin, "GET", "/v1/upkeep/state", b"", 403),
        (&game_admin, "DELETE", "/v1/names/other/1", b"", 403),
        (&admin, "PUT", "/v1/names/other/1", bind, 200),
        (&admin, "GET", "/v1/upkeep/state", b"", 200),
        (&admin, "GET", "/metrics", b"", 200),
        (&game_admin, "DELETE", "/v1/names/game/1", b"", 204),
    ];
    for (token, method, path, body, status) in rows {
        let told = ask(running.addr(), method, path, &[token], body);
        assert_eq!(told.status, *status, "{method} {path} {}", told.text());
        let secret = token.rsplit('_').next().unwrap_or_default();
        assert!(secret.len() < 64 || !told.text().contains(secret), "no token is told");
    }
    let listed = ask(running.addr(), "GET", "/v1/names", &[&game], b"").text();
    assert_eq!(listed, "[]", "only its own names");

    tokens.revoke(&reader.id).expect("revoked");
    assert_eq!(ask(running.addr(), "GET", "/v1", &[&read], b"").status, 401, "at once");
    std::fs::write(tokens.path(), "{").expect("written");
    assert_eq!(
        ask(running.addr(), "GET", "/v1", &[&admin], b"").status,
        401,
        "what cannot be read lets nobody in"
    );
    std::fs::remove_file(tokens.path()).expect("removed");
    assert_eq!(ask(running.addr(), "GET", "/v1", &[], b"").status, 401, "nor does what is gone");
}

#[test]
fn doors_are_not_left_open() {
    let dir = tempfile::tempdir().expect("a directory");
    let tokens = Tokens::of_store(dir.path());
    tokens.create(&NewToken { role: Role::Read, app: None, expires_unix_s: None }, 0).expect("made");
    let pki = super::pki();
    let anywhere: SocketAddr = "0.0.0.0:0".parse().expect("an address");
    let with_tokens = Some(tokens.path().to_owned());
    for (tokens, tls, insecure, good) in [
        (None, false, false, false),
        (with_tokens.clone(), false, false, false),
        (None, true, false, false),
        (with_tokens, true, false, true),
        (None, false, true, true),
    ] {
        let tls = tls.then(|| pki.server.clone());
        let started =
            Server::start(empty(), ServeOptions { listen: anywhere, tokens, tls, insecure, ..quick() });
        let refused = matches!(&started, Err(Error::Usage { .. }));
        assert_eq!((started.is_ok(), refused), (good, !good));
    }
    let error = Server::start(
        empty(),
        ServeOptions {
            tls: Some(floe::serve::TlsOptions { cert_pem: b"x".to_vec(), ..pki.server.clone() }),
            ..quick()
        },
    );
    assert_eq!(error.err().map(|error| error.class()), Some(ErrorClass::Usage));
}
