//! What the client does of itself: the whole protocol, resuming, mirrors, waiting, counting, TLS.

use std::error::Error as _;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::peer::{Peer, Reply, Then, binary, honest, http, items, json, refusal};
use super::{Waits, chunk, open, options};
use crate::error::{Error, ErrorClass};
use crate::id::{NodeId, VersionId};
use crate::store::remote::{ClientPem, RemoteAddress, RemoteOptions, RemoteStore, Token};
use crate::store::wire::{pack_refs, path};
use crate::store::{MemStore, Name, NewChunk, Source, Store, UpdateAsk};
use crate::testing::conformance;
use crate::version::NodeSource;

fn name() -> Name {
    Name::parse("game@1").expect("a name")
}

fn patient(attempts: u32) -> RemoteOptions {
    RemoteOptions { silence: Duration::from_secs(20), ..options(attempts) }
}

#[test]
fn is_indistinguishable_from_the_store_behind_it() {
    conformance::run(&|check| {
        let peer = Peer::honest(Arc::default());
        check(&open(&peer.url(), patient(1)));
    });
}

#[test]
fn small_puts_go_together_and_before_what_needs_them() {
    let store = Arc::<MemStore>::default();
    let peer = Peer::honest(Arc::clone(&store));
    let remote = open(&peer.url(), patient(1));
    let chunks: Vec<_> = (0..200).map(|n| chunk(n, 3000)).collect();
    for chunk in &chunks {
        assert_eq!(remote.lacks_chunks(&[chunk.chunk.id]).expect("told"), [true]);
        remote.put_chunks(std::slice::from_ref(chunk)).expect("put");
        assert_eq!(remote.lacks_chunks(&[chunk.chunk.id]).expect("told"), [false]);
    }
    let (root, bytes) = conformance::node(1, true);
    remote.put_nodes(vec![(root, bytes)]).expect("put");
    let asked =
        peer.with_seen(|seen| seen.requests.iter().map(|heard| heard.path.clone()).collect::<Vec<_>>());
    let of = |path: &str| asked.iter().filter(|asked| *asked == path).count();
    // 608 KB in packs of at most 300 KB.
    assert_eq!((of(path::CHUNKS), of(path::NODES), of(path::PREFIX)), (3, 1, 1), "{asked:?}");
    assert_eq!(asked.last().map(String::as_str), Some(path::NODES));
    let mut kept = Vec::new();
    store
        .each_chunk(&mut |chunk| {
            kept.push(chunk);
            Ok(())
        })
        .expect("listed");
    assert_eq!(kept, chunks.iter().map(|new| new.chunk).collect::<Vec<_>>(), "in the order put");
}

#[test]
fn what_came_before_a_break_is_not_asked_for_again() {
    let chunks: Vec<_> = (0..5).map(|n| chunk(n, 100)).collect();
    let want: Vec<_> = chunks.iter().map(|new| new.chunk).collect();
    let stock = chunks.clone();
    // Every answer breaks after its first item.
    let peer = Peer::start(move |heard| {
        let asked = crate::store::wire::unpack_refs(&heard.body, "the request").expect("refs");
        let frame = |at: usize| {
            stock.iter().find(|new| new.chunk == asked[at]).expect("known").frame.as_bytes().to_vec()
        };
        let whole =
            binary(&items(&(0..asked.len()).map(|at| (at as u32, Some(frame(at)))).collect::<Vec<_>>()));
        let cut = whole.len() - (asked.len() - 1) * 109 - 8 - usize::from(asked.len() > 1);
        Reply(whole[..if asked.len() > 1 { cut + 1 } else { whole.len() }].to_vec(), Then::Close)
    });
    let waits = Waits::default();
    let store = open(&peer.url(), RemoteOptions { wait: waits.hook(), ..patient(2) });
    let mut got = Vec::new();
    store
        .read_chunks(&want, &mut |at, frame| {
            got.push((at, frame.is_some()));
            Ok(())
        })
        .expect("read in the end, because each try got further");
    assert_eq!(got, (0..5).map(|at| (at, true)).collect::<Vec<_>>());
    let asked: Vec<_> = peer.with_seen(|seen| seen.requests.iter().map(|heard| heard.body.clone()).collect());
    assert_eq!(asked, (0..5).map(|at| pack_refs(&want[at..])).collect::<Vec<_>>());
    assert_eq!((waits.taken().len(), store.counters().requests()), (4, 5));
}

#[test]
fn waits_grow_are_partly_chance_and_heed_the_server() {
    let waits = Waits::default();
    let with = |peer: &Peer, attempts| {
        let store = open(&peer.url(), RemoteOptions { wait: waits.hook(), ..patient(attempts) });
        let error = store.resolve(&name()).expect_err("always refused");
        assert_eq!(error.class(), ErrorClass::Network);
        waits.taken()
    };
    let peer = Peer::start(|_| Reply(http("503 Busy", "text/plain", b""), Then::Keep));
    let taken = with(&peer, 10);
    assert_eq!(taken.len(), 9);
    for (wait, longest) in taken.iter().zip([500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]) {
        let longest = Duration::from_millis(longest);
        assert!(*wait <= longest && *wait >= longest / 2, "{taken:?}");
    }
    let other = with(&peer, 10);
    assert!(other != taken, "chance");
    let asks = |seconds: u32| {
        let answer = format!("HTTP/1.1 429 Slow\r\nretry-after: {seconds}\r\ncontent-length: 0\r\n\r\n");
        Peer::start(move |_| Reply(answer.clone().into_bytes(), Then::Keep))
    };
    assert_eq!(with(&asks(7), 2), [Duration::from_secs(7)]);
    assert_eq!(with(&asks(100_000), 2), [Duration::from_secs(20)], "no longer than for an answer");
}

#[test]
fn what_comes_or_arrives_damaged_is_sent_again_a_few_times() {
    let store = Arc::<MemStore>::default();
    let (root, bytes) = conformance::node(1, true);
    store.put_nodes(vec![(root, bytes.clone())]).expect("put");
    let stock = [chunk(1, 100)];
    for (bad, requests) in [(0, 1), (1, 2), (2, 3), (9, 3)] {
        // The first answers are flipped.
        let (honest_store, asked, len) = (Arc::clone(&store), AtomicUsize::new(0), bytes.len());
        let peer = Peer::start(move |heard| {
            let mut answer = honest(&honest_store, heard);
            if asked.fetch_add(1, Ordering::Relaxed) < bad {
                // In the only item; the end mark comes after it.
                let at = answer.len() - 8 - len;
                answer[at] ^= 0x10;
            }
            Reply(answer, Then::Keep)
        });
        let sound = bad < 3;
        let remote = open(&peer.url(), patient(1));
        let mut came = None;
        remote
            .read_nodes(&[root], &mut |_, node| {
                came = node;
                Ok(())
            })
            .expect("what comes is the caller's to prove");
        assert_eq!(came.map(|node| NodeId::of(&node) == root), Some(sound), "{bad}");
        assert_eq!(remote.counters().requests(), requests, "{bad}");
    }
    for (bad, requests) in [(0, 1), (2, 3), (9, 3)] {
        let (honest_store, asked) = (Arc::<MemStore>::default(), AtomicUsize::new(0));
        let peer = Peer::start(move |heard| {
            if heard.path == path::CHUNKS && asked.fetch_add(1, Ordering::Relaxed) < bad {
                let told = refusal("422 Unprocessable", ErrorClass::Damaged, "chunk 12", "other bytes");
                return Reply(told, Then::Keep);
            }
            Reply(honest(&honest_store, heard), Then::Keep)
        });
        let remote = open(&peer.url(), patient(1));
        remote.put_chunks(&stock).expect("gathered");
        let told = remote.flush().map_err(|error| error.to_string());
        let posts =
            peer.with_seen(|seen| seen.requests.iter().filter(|heard| heard.path == path::CHUNKS).count());
        assert_eq!(posts, requests, "{bad}");
        match told {
            Ok(()) => assert!(bad < 3),
            Err(told) => {
                let url = peer.url();
                let expected =
                    format!("chunk 12 in what was sent to store `{url}` is damaged: it arrived so 3 times");
                assert!(bad == 9 && told.starts_with(&expected), "{told}");
            }
        }
    }
}

#[test]
fn what_is_damaged_over_there_is_not_what_was_sent() {
    let (asked, chunks) = (Arc::new(AtomicUsize::new(0)), [chunk(1, 500)]);
    let counted = Arc::clone(&asked);
    let honest_store = Arc::<MemStore>::default();
    let peer = Peer::start(move |heard| {
        if heard.path == path::CHUNKS {
            counted.fetch_add(1, Ordering::Relaxed);
            let told = refusal("500 Internal", ErrorClass::Damaged, "database", "it cannot be read");
            return Reply(told, Then::Keep);
        }
        Reply(honest(&honest_store, heard), Then::Keep)
    });
    let remote = open(&peer.url(), patient(1));
    remote.put_chunks(&chunks).expect("gathered");
    let told = remote.flush().expect_err("damaged").to_string();
    assert_eq!(told, format!("database in store `{}` is damaged: it cannot be read", peer.url()));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

// A server that answers at the head of a request and closes, while the body is still on its way.
fn hasty(answer: &'static str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read_exact(&mut byte).is_err() {
                    break;
                }
                head.push(byte[0]);
            }
            let hello = json(&crate::store::wire::Hello {
                protocol: 1,
                server: "test".into(),
                formats: [].into(),
                limits: [].into(),
            });
            let refuses = head.starts_with(b"POST");
            let bytes = if refuses { answer.as_bytes().to_vec() } else { hello };
            let _ = stream.write_all(&bytes);
        }
    });
    url
}

#[test]
fn a_refusal_in_the_middle_of_a_body_is_heard() {
    let big: Vec<_> = (0..40).map(|n| chunk(n, 200_000)).collect();
    for (answer, expected) in [
        ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "Denied: store `http"),
        ("HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\n\r\n", "Conflict: POST /v1/chunks"),
        ("HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n", "Failure: cannot do as asked"),
        ("HTTP/1.1 507 Full\r\ncontent-length: 0\r\n\r\n", "Network: cannot get an answer from"),
        ("", "Network: cannot reach"),
    ] {
        let store = open(&hasty(answer), patient(1));
        let told = store.put_chunks(&big).and_then(|()| store.flush()).expect_err("refused");
        let told = format!("{:?}: {told}", told.class());
        assert!(told.starts_with(expected), "{told}");
    }
}

#[test]
fn a_caller_who_wants_to_stop_does() {
    let silent = Peer::start(|_| Reply(Vec::new(), Then::Hang));
    let asked = AtomicUsize::new(0);
    let stop = Arc::new(move |_: Duration| asked.fetch_add(1, Ordering::Relaxed) < 1);
    let begun = Instant::now();
    let store = open(&silent.url(), RemoteOptions { wait: stop, ..patient(5) });
    assert!(matches!(store.resolve(&name()), Err(Error::Cancelled)), "while nothing comes");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let busy = Peer::start(|_| Reply(http("503 Busy", "text/plain", b""), Then::Keep));
    let store = open(&busy.url(), RemoteOptions { wait: Arc::new(|_| false), ..patient(5) });
    assert!(matches!(store.resolve(&name()), Err(Error::Cancelled)), "between two tries");
    assert_eq!(store.counters().requests(), 1);
}

#[test]
fn everything_is_counted() {
    let store = Arc::<MemStore>::default();
    let peer = Peer::honest(Arc::clone(&store));
    let token = Token::parse("hush").expect("a token");
    let remote = open(&peer.url(), RemoteOptions { token: Some(token), ..patient(1) });
    let chunks = [chunk(1, 1000), chunk(2, 200_000)];
    remote.put_chunks(&chunks).expect("put");
    remote.flush().expect("flushed");
    remote.read_chunks(&chunks.each_ref().map(|new| new.chunk), &mut |_, _| Ok(())).expect("read");
    let counted = remote.counters();
    peer.with_seen(|seen| {
        assert_eq!(counted.requests(), seen.requests.len() as u64);
        assert_eq!((counted.sent(), counted.received()), (seen.received, seen.sent));
        assert!(seen.requests.iter().all(|heard| heard.head.contains("uthorization: Bearer hush")));
        let (small, answer) = (seen.requests[0].head.len(), seen.requests[0].head.clone());
        assert!(small < 150, "{small} bytes of header:\n{answer}");
    });
    assert!(!remote.place().contains("hush"));
}

#[test]
fn both_directions_keep_to_the_rate() {
    let peer = Peer::honest(Arc::default());
    let begin = Instant::now();
    let passed = Arc::new(Mutex::new(Duration::ZERO));
    let (clock, hand) = (Arc::clone(&passed), Arc::clone(&passed));
    let remote = open(
        &peer.url(),
        RemoteOptions {
            limit_rate: Some(100_000),
            now: Arc::new(move || begin + *clock.lock().expect("whole")),
            wait: Arc::new(move |time| {
                *hand.lock().expect("whole") += time;
                true
            }),
            ..patient(1)
        },
    );
    let chunks: Vec<_> = (0..5).map(|n| chunk(n, 200_000)).collect();
    remote.put_chunks(&chunks).expect("put");
    remote.flush().expect("flushed");
    let up = std::mem::take(&mut *passed.lock().expect("whole")).as_secs_f64();
    assert!((9.0..11.0).contains(&up), "a megabyte sent in {up} s");
    let want: Vec<_> = chunks.iter().map(|new| new.chunk).collect();
    remote.read_chunks(&want, &mut |_, _| Ok(())).expect("read");
    let down = passed.lock().expect("whole").as_secs_f64();
    assert!(down > 9.0, "a megabyte received in {down} s");
}

fn stock(chunks: &[NewChunk], nodes: &[(NodeId, Vec<u8>)]) -> Arc<MemStore> {
    let store = MemStore::default();
    store.put_chunks(chunks).expect("put");
    store.put_nodes(nodes.to_vec()).expect("put");
    Arc::new(store)
}

fn with_mirrors(first: &Peer, mirrors: &[&Peer], options: RemoteOptions) -> RemoteStore {
    let mirrors =
        mirrors.iter().map(|peer| (RemoteAddress::parse(&peer.url()).expect("an address"), None)).collect();
    open(&first.url(), RemoteOptions { mirrors, ..options })
}

#[test]
fn what_a_source_lacks_has_damaged_or_cannot_send_comes_from_the_next() {
    let chunks: Vec<_> = (0..6).map(|n| chunk(n, 500)).collect();
    let want: Vec<_> = chunks.iter().map(|new| new.chunk).collect();
    let nodes: Vec<_> = (0..4).map(|n| conformance::node(n, true)).collect();
    let ids: Vec<_> = nodes.iter().map(|(id, _)| *id).collect();
    let mut damaged = chunks[..4].to_vec();
    damaged[2].frame = chunk(99, 500).frame;
    let partly = Peer::honest(stock(&damaged, &[nodes[0].clone(), (nodes[1].0, b"wrong".to_vec())]));
    let whole = Peer::honest(stock(&chunks, &nodes));
    let broken = Peer::start(|_| Reply(b"HTTP/1.1 200 OK\r\n".to_vec(), Then::Close));
    let closed = Peer::start(|_| Reply(http("403 Forbidden", "text/plain", b""), Then::Close));
    let empty = Peer::honest(Arc::default());
    let read = |store: &RemoteStore| {
        let mut got = vec![None; want.len()];
        store.read_chunks(&want, &mut |at, frame| {
            assert!(got[at].is_none(), "chunk {at} came twice");
            got[at] = Some(frame == Some(chunks[at].frame.clone()));
            Ok(())
        })?;
        let mut seen = 0;
        store.read_nodes(&ids, &mut |at, bytes| {
            seen += usize::from(bytes.as_deref() == Some(&nodes[at].1[..]));
            Ok(())
        })?;
        Ok::<_, Error>((got.iter().filter(|good| **good == Some(true)).count(), seen))
    };
    for (what, first, mirrors, expected) in [
        ("alone", &whole, vec![], Some((6, 4))),
        ("damaged alone", &partly, vec![], Some((3, 1))),
        ("a damaged one first", &partly, vec![&whole], Some((6, 4))),
        ("a broken one first", &broken, vec![&whole], Some((6, 4))),
        ("all kinds", &closed, vec![&broken, &empty, &partly, &whole], Some((6, 4))),
        ("none has it", &empty, vec![&empty], Some((0, 0))),
        ("one cannot say", &closed, vec![&empty], None),
        ("the last cannot say", &partly, vec![&broken], None),
    ] {
        let store = with_mirrors(first, &mirrors, patient(2));
        assert_eq!(read(&store).ok(), expected, "{what}");
    }
    let asked = |peer: &Peer| peer.with_seen(|seen| seen.requests.last().map(|heard| heard.body.len()));
    let store = with_mirrors(&partly, &[&whole], patient(1));
    store.read_chunks(&want, &mut |_, _| Ok(())).expect("read");
    assert_eq!((asked(&partly), asked(&whole)), (Some(6 * 36), Some(3 * 36)), "only what was not whole");
}

#[test]
fn an_update_that_broke_is_asked_of_the_next_source() {
    let stream = |from: &'static str, cut: bool| {
        Peer::start(move |_| {
            let whole = binary(from.as_bytes());
            match cut {
                true => Reply(whole[..whole.len() - 1].to_vec(), Then::Close),
                false => Reply(whole, Then::Keep),
            }
        })
    };
    let (first, second) = (stream("first", true), stream("second", false));
    let lacking = Peer::honest(Arc::default());
    let ask = UpdateAsk { have: None, want: VersionId::of(b"x"), from_unit: 0, from_byte: 0, profile: None };
    let read = |store: &RemoteStore| {
        let Some(mut stream) = store.update(&ask).expect("answered") else { return "none".into() };
        let mut text = String::new();
        stream.read_to_string(&mut text).map_or_else(|error| error.to_string(), |_| text)
    };
    let store = with_mirrors(&first, &[&second], patient(1));
    let told = read(&store);
    assert!(told.contains(&first.url()) && told.contains("broke off"), "{told}");
    assert_eq!((read(&store), read(&store)), ("second".into(), "second".into()));
    let gone = Peer::start(|_| {
        Reply(super::peer::refusal("404 Not Found", ErrorClass::Failure, "version", "none"), Then::Keep)
    });
    assert_eq!(read(&with_mirrors(&gone, &[&gone], patient(1))), "none");
    assert_eq!(read(&with_mirrors(&gone, &[&second], patient(1))), "second");
    drop(lacking);
}

#[test]
fn a_token_goes_nowhere_it_should_not() {
    let token = || Some(Token::parse("hush").expect("a token"));
    let open = |url: &str, insecure| {
        let address = RemoteAddress::parse(url).expect("an address");
        RemoteStore::open(&address, RemoteOptions { token: token(), insecure, ..patient(1) }).map(drop)
    };
    assert!(matches!(open("http://store.example", false), Err(Error::Usage { .. })));
    assert!(open("http://store.example", true).is_ok());
    assert!(open("http://127.0.0.1:1", false).is_ok());
    let (first, mirror) = (Peer::honest(Arc::default()), Peer::honest(Arc::default()));
    let store = with_mirrors(&first, &[&mirror], RemoteOptions { token: token(), ..patient(1) });
    assert_eq!(store.resolve(&name()).expect("told"), None);
    let told = |peer: &Peer| {
        peer.with_seen(|seen| seen.requests.iter().map(|h| h.head.contains("hush")).collect::<Vec<_>>())
    };
    assert_eq!((told(&first), told(&mirror)), (vec![true], vec![false]));
}

#[test]
fn a_put_that_failed_is_not_forgotten() {
    let store = Arc::<MemStore>::default();
    let (behind, fails) = (Arc::clone(&store), Arc::new(AtomicBool::new(true)));
    let failing = Arc::clone(&fails);
    let peer =
        Peer::start(move |heard| match heard.path == path::CHUNKS && failing.load(Ordering::Relaxed) {
            true => Reply(http("503 Busy", "text/plain", b""), Then::Keep),
            false => Reply(honest(&behind, heard), Then::Keep),
        });
    let remote = open(&peer.url(), patient(2));
    let new = chunk(1, 1000);
    remote.put_chunks(std::slice::from_ref(&new)).expect("gathered");
    assert_eq!(remote.flush().expect_err("refused").class(), ErrorClass::Network);
    assert_eq!(remote.lacks_chunks(&[new.chunk.id]).expect("told"), [false]);
    fails.store(false, Ordering::Relaxed);
    remote.flush().expect("flushed");
    assert_eq!(store.lacks_chunks(&[new.chunk.id]).expect("told"), [false]);
}

struct Certs {
    ca: String,
    server: (CertificateDer<'static>, PrivateKeyDer<'static>),
    client: String,
}

fn certs() -> Certs {
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let ca = params.self_signed(&key).expect("signed");
    let issuer = rcgen::Issuer::from_params(&params, &key);
    let signed = |name: &str| {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
        (params.signed_by(&key, &issuer).expect("signed"), key)
    };
    let (server, server_key) = signed("localhost");
    let (client, client_key) = signed("client");
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
    let client = format!("{}{}", client.pem(), client_key.serialize_pem());
    Certs { ca: ca.pem(), server: (server.der().clone(), der), client }
}

#[test]
fn tls_trusts_whom_it_is_told_to() {
    let (certs, other) = (certs(), certs());
    let server = |wants_client: bool| {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = match wants_client {
            false => builder.with_no_client_auth(),
            true => {
                use rustls_pki_types::pem::PemObject;
                let mut roots = rustls::RootCertStore::empty();
                let ca = CertificateDer::from_pem_slice(certs.ca.as_bytes()).expect("PEM");
                roots.add(ca).expect("added");
                let verifier =
                    rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                builder.with_client_cert_verifier(verifier.build().expect("built"))
            }
        };
        let (cert, key) = &certs.server;
        let config = builder.with_single_cert(vec![cert.clone()], key.clone_key()).expect("a pair");
        let store = Arc::<MemStore>::default();
        Peer::start_with(Some(Arc::new(config)), move |heard| Reply(honest(&store, heard), Then::Keep))
    };
    let (open_to_all, picky) = (server(false), server(true));
    for (what, peer, host, ca, client, expected) in [
        ("trusted", &open_to_all, "localhost", &certs.ca, None, ""),
        ("another authority", &open_to_all, "localhost", &other.ca, None, "is not trusted: its issuer is "),
        (
            "another host",
            &open_to_all,
            "127.0.0.1",
            &certs.ca,
            None,
            "is not trusted: it is for another host name",
        ),
        ("a client known", &picky, "localhost", &certs.ca, Some(&certs.client), ""),
        ("a client unknown", &picky, "localhost", &certs.ca, Some(&other.client), "refuses a connection"),
        ("no client", &picky, "localhost", &certs.ca, None, "refuses a connection"),
    ] {
        let client_pem = client.map(|pem| ClientPem::new(pem.clone().into_bytes()));
        let options = RemoteOptions { ca_pem: Some(ca.clone().into_bytes()), client_pem, ..patient(2) };
        let store = open(&format!("https://{host}:{}", peer.port), options);
        let told = store.resolve(&name()).map(drop);
        let told = told.map_or_else(|error| format!("{error}, {:?}", error.source()), |()| String::new());
        assert!(told.contains(expected) && told.is_empty() == expected.is_empty(), "{what}: {told}");
        assert_eq!(store.counters().requests(), 1, "{what}: not tried again");
    }
    let silent = Peer::start(|_| Reply(Vec::new(), Then::Hang));
    let quick = RemoteOptions {
        ca_pem: Some(certs.ca.clone().into_bytes()),
        connect: Duration::from_millis(80),
        ..options(2)
    };
    let error =
        open(&format!("https://localhost:{}", silent.port), quick).resolve(&name()).expect_err("silent");
    assert_eq!(error.class(), ErrorClass::Network, "{error}");
}
