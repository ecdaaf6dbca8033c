//! What only an admin does: lists of everything, the store's state, sweeps.

use std::collections::HashSet;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::id::{ChunkId, NodeId};
use crate::store::wire::{
    ITEM_HEAD_LEN, LISTED_IDS_MAX, StateJson, SweepJson, SweptJson, item_head, items_end, pack_refs,
};
use crate::store::{Store, SweepOptions};

use super::answer::{self, Answer, Refused};
use super::body::receive_alone;
use super::site::Ask;
use super::stream::pushed;

// An item of ids.
const LIST_MAKING_BYTES: usize = 256 << 10;

pub(super) async fn list_chunks(ask: Ask) -> Answer {
    list(ask, |store, list| store.each_chunk(&mut |chunk| list.push(&pack_refs(&[chunk])))).await
}

pub(super) async fn list_nodes(ask: Ask) -> Answer {
    list(ask, |store, list| store.each_node(&mut |id| list.push(id.as_bytes()))).await
}

async fn list(ask: Ask, job: fn(&dyn Store, &mut List<'_>) -> Result<()>) -> Answer {
    let body = pushed(&ask.site, ask.client, LIST_MAKING_BYTES, move |store, out| {
        let mut list = List { out, item: vec![0; ITEM_HEAD_LEN], ids: 0, items: 0 };
        job(store, &mut list)?;
        list.close()?;
        let end = items_end(list.items).to_vec();
        (list.out)(end)?;
        Ok(true)
    });
    Ok(answer::binary(body.await?.unwrap_or_default()))
}

// Ids on their way into items.
struct List<'o> {
    out: &'o mut dyn FnMut(Vec<u8>) -> Result<()>,
    item: Vec<u8>,
    ids: usize,
    items: u32,
}

impl List<'_> {
    fn push(&mut self, id: &[u8]) -> Result<()> {
        self.item.extend_from_slice(id);
        self.ids += 1;
        if self.ids == LISTED_IDS_MAX { self.close() } else { Ok(()) }
    }

    fn close(&mut self) -> Result<()> {
        if self.ids == 0 {
            return Ok(());
        }
        let mut item = std::mem::replace(&mut self.item, vec![0; ITEM_HEAD_LEN]);
        let head = item_head(self.items, Some((item.len() - ITEM_HEAD_LEN) as u32));
        item[..ITEM_HEAD_LEN].copy_from_slice(&head);
        self.items = self.items.wrapping_add(1);
        self.ids = 0;
        (self.out)(item)
    }
}

pub(super) async fn state(ask: Ask) -> Answer {
    let job = |store: &dyn Store| {
        Ok(StateJson { stored_bytes: store.stored_bytes()?, damaged_records: store.damaged_records()? })
    };
    answer::json(&ask.site.bridge.read(job).await?)
}

pub(super) async fn sweep(ask: Ask) -> Answer {
    let Ask { site, head, body, .. } = ask;
    let _alone =
        site.sweeps.try_acquire().map_err(|_| Refused::busy("sweeps", "another sweep is running"))?;
    let limits = &site.options.limits;
    let received = receive_alone(&site, &head.headers, body, limits.sweep_len_max).await?;
    let (mut asked, nodes, chunks) = dead(&received.bytes)?;
    drop(received);
    let least = limits.prune_grace_min;
    if !least.is_zero() {
        if asked.grace_s < least.as_secs() {
            let reason = format!("this server takes no less than {} s", least.as_secs());
            return Err(Error::Usage { what: format!("grace of {} s", asked.grace_s), reason }.into());
        }
        // Else a wrong clock elsewhere would make the grace pass at once.
        asked.now_unix_s = site.now_unix_s();
    }
    let job = move |store: &dyn Store| {
        store.sweep(&SweepOptions {
            chunk_live: &|id| !chunks.contains(id),
            node_live: &|id| !nodes.contains(id),
            now_unix_s: asked.now_unix_s,
            grace: Duration::from_secs(asked.grace_s),
            dry_run: asked.dry_run,
        })
    };
    let swept = site.bridge.write(job).await?;
    answer::json(&SweptJson {
        chunks_live: swept.chunks_live,
        chunks_condemned: swept.chunks_condemned,
        chunks_removed: swept.chunks_removed,
        nodes_removed: swept.nodes_removed,
        bytes_removed: swept.bytes_removed,
        bytes_condemned: swept.bytes_condemned,
    })
}

type Dead = (SweepJson, HashSet<NodeId>, HashSet<ChunkId>);

fn dead(body: &[u8]) -> Result<Dead> {
    let bad = |reason: String| Error::Usage { what: "the request to sweep".to_owned(), reason };
    let end =
        body.iter().position(|byte| *byte == b'\n').ok_or_else(|| bad("it has no line feed".to_owned()))?;
    let (json, ids) = body.split_at(end);
    let asked: SweepJson = serde_json::from_slice(json).map_err(|error| bad(error.to_string()))?;
    let (ids, rest) = ids.get(1..).unwrap_or_default().as_chunks::<32>();
    let counted = asked.nodes_dead.checked_add(asked.chunks_dead) == Some(ids.len() as u64);
    let split = usize::try_from(asked.nodes_dead).ok().and_then(|nodes| ids.split_at_checked(nodes));
    let Some((nodes, chunks)) = split.filter(|_| counted && rest.is_empty()) else {
        return Err(bad("it has other than as many ids as it says".to_owned()));
    };
    let nodes = nodes.iter().map(|id| NodeId::from_bytes(*id)).collect();
    let chunks = chunks.iter().map(|id| ChunkId::from_bytes(*id)).collect();
    Ok((asked, nodes, chunks))
}
