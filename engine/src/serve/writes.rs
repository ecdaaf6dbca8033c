//! What is put through a server. Nothing is kept that was not proven first, whoever sends it: a chunk opens, a node
//! opens and what it names is here, a name's version has its root here.

use std::collections::HashSet;
use std::sync::Arc;

use crate::content::{Chunk, Frame};
use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkRef, NodeId};
use crate::limits::{FRAME_LEN_MAX, NODE_LEN_MAX};
use crate::store::wire::{
    BindJson, NameJson, chunk_ids, node_ids, open_pack, proof_byte, unpack_ids, unpack_ids_to_prove,
    version_of,
};
use crate::store::{NewChunk, Store};
use crate::version::{Manifest, Node};

use super::answer::{self, Answer};
use super::routes::PLACE;
use super::site::Ask;
use super::stream::counted;

// Ids that are asked for at once.
const GROUP: usize = 4096;

pub(super) async fn lacks_chunks(ask: Ask) -> Answer {
    let (site, client, received) = ask.received().await?;
    let ids = chunk_ids(unpack_ids(&received.bytes, PLACE)?);
    let lacks = site.bridge.write(move |store| store.lacks_chunks(&ids)).await?;
    Ok(answer::binary(counted(&site, client, bytes_of(lacks)).await))
}

pub(super) async fn lacks_nodes(ask: Ask) -> Answer {
    let (site, client, received) = ask.received().await?;
    let ids = node_ids(unpack_ids(&received.bytes, PLACE)?);
    let lacks = site.bridge.write(move |store| store.lacks_nodes(&ids)).await?;
    Ok(answer::binary(counted(&site, client, bytes_of(lacks)).await))
}

pub(super) async fn prove_chunks(ask: Ask) -> Answer {
    let (site, _, received) = ask.received().await?;
    let ids = chunk_ids(unpack_ids_to_prove(&received.bytes, PLACE)?);
    let proofs = site.bridge.write(move |store| store.prove_chunks(&ids)).await?;
    Ok(answer::binary(proofs.into_iter().map(proof_byte).collect::<Vec<u8>>()))
}

pub(super) async fn prove_nodes(ask: Ask) -> Answer {
    let (site, _, received) = ask.received().await?;
    let ids = node_ids(unpack_ids_to_prove(&received.bytes, PLACE)?);
    let proofs = site.bridge.write(move |store| store.prove_nodes(&ids)).await?;
    Ok(answer::binary(proofs.into_iter().map(proof_byte).collect::<Vec<u8>>()))
}

fn bytes_of(lacks: Vec<bool>) -> Vec<u8> {
    lacks.into_iter().map(u8::from).collect()
}

pub(super) async fn put_chunks(ask: Ask) -> Answer {
    take_chunks(ask, |store, chunks| store.put_chunks(&chunks)).await
}

pub(super) async fn repair_chunks(ask: Ask) -> Answer {
    take_chunks(ask, |store, chunks| store.replace_chunks(&chunks)).await
}

async fn take_chunks(ask: Ask, keep: fn(&dyn Store, Vec<NewChunk>) -> Result<()>) -> Answer {
    let (site, _, received) = ask.received().await?;
    let received = Arc::new(received);
    let held = Arc::clone(&received);
    let chunks = site.bridge.read(move |_| proven_chunks(&held.bytes)).await?;
    site.bridge.write(move |store| keep(store, chunks)).await?;
    drop(received);
    Ok(answer::done())
}

fn proven_chunks(pack: &[u8]) -> Result<Vec<NewChunk>> {
    let open = |(len, id, body): (u32, [u8; 32], Vec<u8>)| {
        let chunk = ChunkRef { id: ChunkId::from_bytes(id), len };
        let frame = Frame::from_bytes(body, PLACE)?;
        Chunk::open(frame.clone(), &chunk, PLACE)?;
        Ok(NewChunk { chunk, frame })
    };
    open_pack(pack, FRAME_LEN_MAX, PLACE)?.into_iter().map(open).collect()
}

pub(super) async fn put_nodes(ask: Ask) -> Answer {
    take_nodes(ask, |store, nodes| store.put_nodes(nodes)).await
}

pub(super) async fn repair_nodes(ask: Ask) -> Answer {
    take_nodes(ask, |store, nodes| store.replace_nodes(nodes)).await
}

type Nodes = Vec<(NodeId, Vec<u8>)>;

async fn take_nodes(ask: Ask, keep: fn(&dyn Store, Nodes) -> Result<()>) -> Answer {
    let (site, _, received) = ask.received().await?;
    let received = Arc::new(received);
    let held = Arc::clone(&received);
    let job = move |store: &dyn Store| {
        let nodes = proven_nodes(store, &held.bytes)?;
        keep(store, nodes)
    };
    site.bridge.write(job).await?;
    drop(received);
    Ok(answer::done())
}

// All of them, before any is kept. Asking reprieves what they name, so that no sweep takes it meanwhile.
fn proven_nodes(store: &dyn Store, pack: &[u8]) -> Result<Nodes> {
    let mut nodes = Vec::new();
    let mut before = HashSet::new();
    let (mut children, mut chunks) = (Vec::new(), Vec::new());
    for (_, id, bytes) in open_pack(pack, NODE_LEN_MAX, PLACE)? {
        let id = NodeId::from_bytes(id);
        let node = Node::open(id, &bytes, PLACE)?;
        children.extend(
            node.children().into_iter().filter(|child| !before.contains(child)).map(|child| (child, id)),
        );
        chunks.extend(node.chunks().into_iter().map(|chunk| (chunk.id, id)));
        before.insert(id);
        nodes.push((id, bytes));
    }
    let missing = |what: &str, id: String, of: NodeId| Error::Conflict {
        what: format!("node {of}"),
        place: PLACE.to_owned(),
        reason: format!("its {what} {id} is not here"),
    };
    if let Some((child, of)) = first_lacking(&mut children, |ids| store.lacks_nodes(ids))? {
        return Err(missing("node", child.to_string(), of));
    }
    if let Some((chunk, of)) = first_lacking(&mut chunks, |ids| store.lacks_chunks(ids))? {
        return Err(missing("chunk", chunk.to_string(), of));
    }
    Ok(nodes)
}

fn first_lacking<I: Copy + Ord>(
    named: &mut Vec<(I, NodeId)>,
    lacks: impl Fn(&[I]) -> Result<Vec<bool>>,
) -> Result<Option<(I, NodeId)>> {
    named.sort_unstable();
    named.dedup_by_key(|(id, _)| *id);
    for group in named.chunks(GROUP) {
        let ids: Vec<I> = group.iter().map(|(id, _)| *id).collect();
        let lacking = lacks(&ids)?.into_iter().position(|lacks| lacks);
        if let Some(found) = lacking.and_then(|at| group.get(at)) {
            return Ok(Some(*found));
        }
    }
    Ok(None)
}

pub(super) async fn flush(ask: Ask) -> Answer {
    ask.site.bridge.write(|store| store.flush()).await?;
    Ok(answer::done())
}

pub(super) async fn bind(ask: Ask) -> Answer {
    let name = ask.name()?;
    let (site, _, received) = ask.received().await?;
    let asked: BindJson = serde_json::from_slice(&received.bytes).map_err(|error| Error::Usage {
        what: "the request to bind a name".to_owned(),
        reason: error.to_string(),
    })?;
    let version = version_of(&asked.version)?;
    let job = move |store: &dyn Store| {
        // A node that is no root would be bound as well as one.
        Manifest::open(store, version)?;
        store.bind(&name, version, asked.now_unix_s)
    };
    let record = site.bridge.write(job).await?;
    answer::json(&NameJson::of(&record))
}

pub(super) async fn unbind(ask: Ask) -> Answer {
    let name = ask.name()?;
    let job = move |store: &dyn Store| match store.resolve(&name)? {
        Some(_) => store.unbind(&[name]),
        None => Err(Error::NotFound { what: format!("name `{name}`"), place: PLACE.to_owned() }),
    };
    ask.site.bridge.write(job).await?;
    Ok(answer::done())
}
