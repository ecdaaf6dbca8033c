//! The other side, for tests: a server on a socket of this machine that answers as a script says, and a script that is
//! an honest store.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::content::Frame;
use crate::error::{Error, ErrorClass, Result};
use crate::id::{ChunkId, ChunkRef, NodeId};
use crate::limits::{FRAME_LEN_MAX, NODE_LEN_MAX};
use crate::store::wire::*;
use crate::store::{AppName, MemStore, Name, NewChunk, Proof, Source, Store, SweepOptions};
use crate::version::NodeSource;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Heard {
    pub method: String,
    pub path: String,
    pub head: String,
    pub body: Vec<u8>,
}

/// What a server does once it has said its bytes.
#[derive(Debug, Clone)]
pub enum Then {
    Keep,
    Close,
    /// Says nothing more.
    Hang,
    /// Says this again and again, with pauses.
    Repeat(Vec<u8>, Duration),
}

pub struct Reply(pub Vec<u8>, pub Then);

type Script = dyn Fn(&Heard) -> Reply + Send + Sync;

#[derive(Default)]
pub struct Seen {
    pub requests: Vec<Heard>,
    pub received: u64,
    pub sent: u64,
}

pub struct Peer {
    pub port: u16,
    seen: Arc<Mutex<Seen>>,
    over: Arc<AtomicBool>,
}

impl Peer {
    pub fn start(script: impl Fn(&Heard) -> Reply + Send + Sync + 'static) -> Peer {
        Peer::start_with(None, script)
    }

    pub fn start_with(
        tls: Option<Arc<ServerConfig>>,
        script: impl Fn(&Heard) -> Reply + Send + Sync + 'static,
    ) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (seen, over) = (Arc::<Mutex<Seen>>::default(), Arc::new(AtomicBool::new(false)));
        let script: Arc<Script> = Arc::new(script);
        let (to, end) = (Arc::clone(&seen), Arc::clone(&over));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (script, to, end, tls) =
                    (Arc::clone(&script), Arc::clone(&to), Arc::clone(&end), tls.clone());
                let Ok(mut raw) = stream.try_clone() else { continue };
                std::thread::spawn(move || {
                    match tls {
                        None => serve(stream, &*script, &to, &end),
                        Some(config) => {
                            let connection = ServerConnection::new(config).expect("a configuration");
                            serve(StreamOwned::new(connection, stream), &*script, &to, &end)
                        }
                    }
                    // Closing with something unread would take back what was said last.
                    let _ = raw.shutdown(std::net::Shutdown::Write);
                    let _ = raw.set_read_timeout(Some(Duration::from_secs(1)));
                    let _ = std::io::copy(&mut raw, &mut std::io::sink());
                });
            }
        });
        Peer { port, seen, over }
    }

    /// An honest store.
    pub fn honest(store: Arc<MemStore>) -> Peer {
        Peer::start(move |heard| Reply(honest(&store, heard), Then::Keep))
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn with_seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().expect("whole"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(mut stream: impl Read + Write, script: &Script, seen: &Mutex<Seen>, over: &AtomicBool) {
    while let Some((heard, len)) = hear(&mut stream) {
        {
            let mut seen = seen.lock().expect("whole");
            seen.requests.push(heard.clone());
            seen.received += len;
        }
        let Reply(bytes, then) = script(&heard);
        seen.lock().expect("whole").sent += bytes.len() as u64;
        if stream.write_all(&bytes).and_then(|()| stream.flush()).is_err() {
            return;
        }
        match then {
            Then::Keep => {}
            Then::Close => return,
            Then::Hang => {
                while !over.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Then::Repeat(bytes, pause) => {
                while !over.load(Ordering::Relaxed) && stream.write_all(&bytes).is_ok() {
                    std::thread::sleep(pause);
                }
                return;
            }
        }
    }
}

fn hear(stream: &mut impl Read) -> Option<(Heard, u64)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let len = head.len() as u64;
    let head = String::from_utf8(head).expect("text");
    let mut words = head.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let body_len = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = vec![0; body_len.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    let len = len + body.len() as u64;
    Some((Heard { method, path, head, body }, len))
}

/// A whole answer.
pub fn http(status: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

pub fn json(value: &impl serde::Serialize) -> Vec<u8> {
    http("200 OK", "application/json", &serde_json::to_vec(value).expect("JSON"))
}

pub fn binary(body: &[u8]) -> Vec<u8> {
    http("200 OK", BINARY, body)
}

pub fn refusal(status: &str, class: ErrorClass, what: &str, reason: &str) -> Vec<u8> {
    let refusal = Refusal { class: class_word(class).into(), what: what.into(), reason: reason.into() };
    http(status, "application/json", &serde_json::to_vec(&refusal).expect("JSON"))
}

/// A stream of items with its end mark.
pub fn items<B: AsRef<[u8]>>(items: &[(u32, Option<B>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, item) in items {
        let item = item.as_ref().map(AsRef::as_ref);
        bytes.extend_from_slice(&item_head(*number, item.map(|item| item.len() as u32)));
        bytes.extend_from_slice(item.unwrap_or_default());
    }
    bytes.extend_from_slice(&items_end(items.len() as u32));
    bytes
}

/// The answer of an honest server over `store`.
pub fn honest(store: &MemStore, heard: &Heard) -> Vec<u8> {
    answer(store, heard).unwrap_or_else(|error| {
        let status = match &error {
            Error::NotFound { .. } => "404 Not Found",
            Error::Conflict { .. } => "409 Conflict",
            _ => "400 Bad Request",
        };
        refusal(status, error.class(), "this", &error.to_string())
    })
}

fn answer(store: &MemStore, heard: &Heard) -> Result<Vec<u8>> {
    let place = "the request";
    let body = &heard.body[..];
    let (path, query) = heard.path.split_once('?').unwrap_or((&heard.path, ""));
    let node_ids = |bytes| unpack_ids(bytes, place).map(node_ids);
    let chunk_ids = |bytes| unpack_ids(bytes, place).map(chunk_ids);
    let proofs = |proofs: Vec<Proof>| binary(&proofs.into_iter().map(proof_byte).collect::<Vec<_>>());
    let flags = |lacks: Vec<bool>| binary(&lacks.into_iter().map(u8::from).collect::<Vec<_>>());
    let chunks = || -> Result<Vec<NewChunk>> {
        let pack = open_pack(body, FRAME_LEN_MAX, place)?;
        pack.into_iter()
            .map(|(len, id, frame)| {
                let chunk = ChunkRef { id: ChunkId::from_bytes(id), len };
                Ok(NewChunk { chunk, frame: Frame::from_bytes(frame, place)? })
            })
            .collect()
    };
    let nodes = || -> Result<Vec<(NodeId, Vec<u8>)>> {
        let pack = open_pack(body, NODE_LEN_MAX, place)?;
        Ok(pack.into_iter().map(|(_, id, bytes)| (NodeId::from_bytes(id), bytes)).collect())
    };
    let mut told = Vec::new();
    let nothing = || Ok(http("200 OK", "text/plain", b""));
    match (heard.method.as_str(), path) {
        ("GET", path::PREFIX) => Ok(json(&Hello {
            protocol: PROTOCOL,
            server: "test".into(),
            formats: [].into(),
            limits: [(LIMIT_PACK.to_owned(), 300_000)].into(),
        })),
        ("GET", path::NAMES) => {
            let app = query.strip_prefix("app=").map(AppName::parse).transpose()?;
            Ok(json(&store.names(app.as_ref())?.iter().map(NameJson::of).collect::<Vec<_>>()))
        }
        ("POST", path::CHUNKS_READ) => {
            store.read_chunks(&unpack_refs(body, place)?, &mut |at, frame| {
                told.push((at as u32, frame.map(Frame::into_bytes)));
                Ok(())
            })?;
            told.reverse();
            Ok(binary(&items(&told)))
        }
        ("POST", path::NODES_READ) => {
            store.read_nodes(&node_ids(body)?, &mut |at, bytes| {
                told.push((at as u32, bytes));
                Ok(())
            })?;
            Ok(binary(&items(&told)))
        }
        ("POST", path::CHUNKS_LENS) => {
            let lens = store.frame_lens(&chunk_ids(body)?)?;
            let bytes: Vec<_> = lens.iter().flat_map(|len| len.unwrap_or(u32::MAX).to_le_bytes()).collect();
            Ok(binary(&bytes))
        }
        ("POST", path::CHUNKS_LACK) => Ok(flags(store.lacks_chunks(&chunk_ids(body)?)?)),
        ("POST", path::NODES_LACK) => Ok(flags(store.lacks_nodes(&node_ids(body)?)?)),
        ("POST", path::CHUNKS_PROVE) => Ok(proofs(store.prove_chunks(&chunk_ids(body)?)?)),
        ("POST", path::NODES_PROVE) => Ok(proofs(store.prove_nodes(&node_ids(body)?)?)),
        ("POST", path::CHUNKS) => store.put_chunks(&chunks()?).and_then(|()| nothing()),
        ("POST", path::NODES) => store.put_nodes(nodes()?).and_then(|()| nothing()),
        ("POST", path::REPAIR_CHUNKS) => store.replace_chunks(&chunks()?).and_then(|()| nothing()),
        ("POST", path::REPAIR_NODES) => store.replace_nodes(nodes()?).and_then(|()| nothing()),
        ("POST", path::FLUSH) => store.flush().and_then(|()| nothing()),
        ("GET", path::UPKEEP_CHUNKS) => {
            let mut all = Vec::new();
            store.each_chunk(&mut |chunk| {
                all.push(chunk);
                Ok(())
            })?;
            told.extend(all.chunks(1000).zip(0..).map(|(chunks, at)| (at, Some(pack_refs(chunks)))));
            Ok(binary(&items(&told)))
        }
        ("GET", path::UPKEEP_NODES) => {
            let mut all = Vec::new();
            store.each_node(&mut |id| {
                all.push(*id.as_bytes());
                Ok(())
            })?;
            told.extend(all.chunks(1000).zip(0..).map(|(ids, at)| (at, Some(pack_ids(ids)))));
            Ok(binary(&items(&told)))
        }
        ("GET", path::UPKEEP_STATE) => Ok(json(&StateJson {
            stored_bytes: store.stored_bytes()?,
            damaged_records: store.damaged_records()?,
        })),
        ("POST", path::UPKEEP_SWEEP) => sweep(store, body),
        (method, path) => {
            let name = path.strip_prefix("/v1/names/").unwrap_or(path).replacen('/', "@", 1);
            let name = Name::parse(&name)?;
            let absent = || Error::NotFound { what: format!("name `{name}`"), place: "memory".into() };
            match method {
                "GET" => Ok(json(&NameJson::of(&store.resolve(&name)?.ok_or_else(absent)?))),
                "PUT" => {
                    let bind: BindJson = serde_json::from_slice(body).expect("JSON");
                    let record = store.bind(&name, version_of(&bind.version)?, bind.now_unix_s)?;
                    Ok(json(&NameJson::of(&record)))
                }
                _ => {
                    store.resolve(&name)?.ok_or_else(absent)?;
                    store.unbind(&[name]).and_then(|()| nothing())
                }
            }
        }
    }
}

fn sweep(store: &MemStore, body: &[u8]) -> Result<Vec<u8>> {
    let line = body.iter().position(|byte| *byte == b'\n').expect("a line feed");
    let told: SweepJson = serde_json::from_slice(&body[..line]).expect("JSON");
    let ids = unpack_ids(&body[line + 1..], "the request")?;
    assert_eq!(ids.len() as u64, told.nodes_dead + told.chunks_dead);
    let (nodes, chunks) = ids.split_at(told.nodes_dead as usize);
    let swept = store.sweep(&SweepOptions {
        chunk_live: &|id| !chunks.contains(id.as_bytes()),
        node_live: &|id| !nodes.contains(id.as_bytes()),
        now_unix_s: told.now_unix_s,
        grace: Duration::from_secs(told.grace_s),
        dry_run: told.dry_run,
    })?;
    Ok(json(&SweptJson {
        chunks_live: swept.chunks_live,
        chunks_condemned: swept.chunks_condemned,
        chunks_removed: swept.chunks_removed,
        nodes_removed: swept.nodes_removed,
        bytes_removed: swept.bytes_removed,
        bytes_condemned: swept.bytes_condemned,
    }))
}
