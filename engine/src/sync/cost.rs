//! What a plan costs, found out without touching anything.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::id::{ChunkId, VersionId};
use crate::store::{Source, UpdateAsk};
use crate::tree::{GROUP_CHUNKS_MAX, Replica, Survey};
use crate::version::{Delta, Entry, EntryKind, Manifest, NodeSource, Plan, Step};

use super::stream::{UpdateReader, stream_len, units};

/// What a plan has to fetch: the wanted chunks that no file here holds.
pub(super) struct Cost {
    /// Each once, in order of first use.
    pub missing: Vec<ChunkId>,
    /// Their plain bytes.
    pub bytes_missing: u64,
    /// Plain bytes that need not be fetched.
    pub bytes_reused: u64,
    /// Those of them that an interrupted sync has put in their place in the stage already.
    pub bytes_staged: u64,
    /// Questions for them: one for each group that a stage fills together and that lacks something. Where a file
    /// system shares the blocks of copies, groups are fewer.
    pub requests: u64,
}

impl Cost {
    /// What [`crate::tree::Stage::fill`] is going to do.
    pub fn of(
        plan: &Plan,
        replica: &Replica,
        nodes: &dyn NodeSource,
        want: VersionId,
        survey: &Survey,
    ) -> Result<Cost> {
        let want = Manifest::open(nodes, want)?;
        let (mut wanted, mut lacking, mut bytes, mut places) = (Vec::new(), HashSet::new(), 0u64, 0usize);
        let (mut staged, mut bytes_staged) = (HashSet::new(), 0u64);
        for step in &plan.steps {
            let (Step::Build { want: entry } | Step::Copy { want: entry, .. }) = step else { continue };
            let EntryKind::File { content, .. } = &entry.kind else { continue };
            let (mut left, mut offset) = (replica.staged(entry), 0u64);
            for chunk in want.chunks(content) {
                let chunk = chunk?;
                bytes += u64::from(chunk.len);
                if left.as_mut().is_some_and(|left| left.holds(offset, &chunk)) {
                    bytes_staged += u64::from(chunk.len);
                    staged.insert(chunk.id);
                }
                offset = offset.saturating_add(chunk.len.into());
                if lacking.insert(chunk.id) {
                    wanted.push((chunk, places / GROUP_CHUNKS_MAX));
                }
                places += 1;
            }
        }
        each_chunk_here(replica, survey, &mut |id| {
            lacking.remove(&id);
        })?;
        wanted.retain(|(chunk, _)| lacking.contains(&chunk.id) && !staged.contains(&chunk.id));
        let bytes_missing = wanted.iter().map(|(chunk, _)| u64::from(chunk.len)).sum();
        let requests = wanted.chunk_by(|(_, a), (_, b)| a == b).count() as u64;
        let missing = wanted.into_iter().map(|(chunk, _)| chunk.id).collect();
        let bytes_reused = bytes - bytes_missing;
        Ok(Cost { missing, bytes_missing, bytes_reused, bytes_staged, requests })
    }
}

/// What an update costs in place of nodes and chunks asked for one by one: bytes and questions. `None` if `source` makes
/// none, or none that can be foretold. `missing` is what [`Cost`] found: what of it the update does not bring is asked for
/// beside it. It asks for a stream that begins behind the last unit, which brings no content.
pub(super) fn update_cost(
    source: &dyn Source,
    nodes: &dyn NodeSource,
    from: VersionId,
    want: VersionId,
    missing: &[ChunkId],
) -> Result<Option<(u64, u64)>> {
    let (base, target) = (Manifest::open(nodes, from)?, Manifest::open(nodes, want)?);
    let new = Delta::between(Some(&base), &target)?.missing;
    let ask = UpdateAsk {
        have: Some(from),
        want,
        from_unit: units(&new).count() as u64,
        from_byte: 0,
        profile: None,
    };
    let header = match source.update(&ask) {
        Ok(None) => return Ok(None),
        Ok(Some(stream)) => UpdateReader::open(stream, &ask, &source.place()).map(|update| *update.header()),
        Err(error) => Err(error),
    };
    let header = match header {
        Err(error @ (Error::Cancelled | Error::Network { .. } | Error::Denied { .. })) => return Err(error),
        // What is wrong with it the sync will find out, and go on without.
        Err(_) => return Ok(None),
        Ok(header) if header.units != ask.from_unit => return Ok(None),
        Ok(header) => header,
    };
    let brought: HashSet<_> = new.iter().map(|chunk| chunk.id).collect();
    let beside: Vec<_> = missing.iter().filter(|id| !brought.contains(id)).copied().collect();
    let ids: Vec<_> = new.iter().map(|chunk| chunk.id).chain(beside.iter().copied()).collect();
    let lens: HashMap<_, _> = ids.iter().copied().zip(source.frame_lens(&ids)?).collect();
    let len = |id: &ChunkId| lens.get(id).copied().flatten().unwrap_or(0);
    let beside_len: u64 = beside.iter().map(|id| u64::from(len(id))).sum();
    let bytes = stream_len(&header, &new, |chunk| len(&chunk.id)) + beside_len;
    Ok(Some((bytes, 1 + u64::from(!beside.is_empty()))))
}

fn each_chunk_here(replica: &Replica, survey: &Survey, each: &mut dyn FnMut(ChunkId)) -> Result<()> {
    let nodes = survey.nodes(replica);
    let gone: HashSet<_> = survey.drift.iter().filter(|c| c.have.is_some()).map(|c| c.path.clone()).collect();
    let actual = survey.drift.iter().filter_map(|change| change.want.clone()).map(Ok);
    let Some(version) = replica.version() else {
        return chunks_of(actual, nodes.as_ref(), each);
    };
    let manifest = Manifest::open(replica.nodes(), version)?;
    let kept =
        manifest.entries().filter(|entry| entry.as_ref().map_or(true, |entry| !gone.contains(&entry.path)));
    chunks_of(kept.chain(actual), nodes.as_ref(), each)
}

fn chunks_of(
    entries: impl Iterator<Item = Result<Entry>>,
    nodes: &dyn NodeSource,
    each: &mut dyn FnMut(ChunkId),
) -> Result<()> {
    for entry in entries {
        if let EntryKind::File { content, .. } = entry?.kind {
            for chunk in Manifest::chunks_in(nodes, &content) {
                each(chunk?.id);
            }
        }
    }
    Ok(())
}
