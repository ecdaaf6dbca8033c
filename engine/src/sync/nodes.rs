//! Brings the nodes of a version to where they are needed: level by level, many to a request, so that the number of
//! requests follows the height of the tree and not its size. Children are put before parents: what a batch has below
//! it is brought, in batches of its own, before the batch itself is put.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::id::NodeId;
use crate::limits::NODE_LEN_MAX;
use crate::tree::NodeLog;
use crate::version::{Node, NodeSource};

// Levels of the entry tree and of a chunk tree below it, and their roots.
const DEPTH_MAX: usize = 2 * crate::limits::TREE_HEIGHT_MAX as usize + 4;
const NODES_PER_READ: usize = 2048;
// Nodes that wait for their children fill at most this: the fuller it is, the smaller are the batches below.
const WAITING_BYTES_MAX: usize = NODES_PER_READ * NODE_LEN_MAX;
const NODES_PER_READ_MIN: usize = 16;

/// Brings every node at or below `root`, which was fetched already, that `here` lacks, children before parents. A node
/// that is here has everything below it here, because nodes are put in that order and a log is only ever cut at its
/// end.
pub(super) fn copy_nodes(
    source: &dyn NodeSource,
    here: &dyn NodeSource,
    (root, bytes): (NodeId, Vec<u8>),
    put: &mut dyn FnMut(NodeId, Vec<u8>) -> Result<()>,
) -> Result<()> {
    let mut copy = Copy { source, here, put, seen: HashSet::new(), waiting: 0, deep: false };
    if copy.lacking(&[root])?.0.is_empty() {
        return Ok(());
    }
    let children = Node::open(root, &bytes, &source.place())?.children();
    copy.settle(Fetched { nodes: vec![(root, bytes)], children }, 0)
}

/// Brings every node at or below `root` that `here` lacks or has damaged, wherever that is.
pub(super) fn mend_nodes(
    source: &dyn NodeSource,
    here: &dyn NodeSource,
    root: NodeId,
    put: &mut dyn FnMut(NodeId, Vec<u8>) -> Result<()>,
) -> Result<()> {
    Copy { source, here, put, seen: HashSet::new(), waiting: 0, deep: true }.below(&[root], 0)
}

struct Copy<'a> {
    source: &'a dyn NodeSource,
    here: &'a dyn NodeSource,
    put: &'a mut dyn FnMut(NodeId, Vec<u8>) -> Result<()>,
    // Put already, or found to be here. What waits is not: below it may be something that has it below itself.
    seen: HashSet<NodeId>,
    // Bytes of nodes fetched and not put yet.
    waiting: usize,
    // Look below what is here too.
    deep: bool,
}

#[derive(Default)]
struct Fetched {
    nodes: Vec<(NodeId, Vec<u8>)>,
    children: Vec<NodeId>,
}

impl Copy<'_> {
    fn below(&mut self, ids: &[NodeId], depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            let what = format!("depth of the tree in {}", self.source.place());
            return Err(Error::Limit { what, actual: depth as u64, max: DEPTH_MAX as u64 });
        }
        let mut rest = ids;
        while !rest.is_empty() {
            let room = WAITING_BYTES_MAX.saturating_sub(self.waiting) / NODE_LEN_MAX;
            let count = room.clamp(NODES_PER_READ_MIN, NODES_PER_READ).min(rest.len());
            let (ids, later) = rest.split_at(count);
            rest = later;
            let (lacking, below) = self.lacking(ids)?;
            if self.deep {
                self.below(&below, depth + 1)?;
            }
            let fetched = self.fetch(&lacking)?;
            self.settle(fetched, depth)?;
        }
        Ok(())
    }

    // Those of `ids` that are not here, each once, and the children of those that are.
    fn lacking(&mut self, ids: &[NodeId]) -> Result<(Vec<NodeId>, Vec<NodeId>)> {
        let mut lacking: Vec<_> = ids.iter().copied().filter(|id| !self.seen.contains(id)).collect();
        lacking.sort_unstable();
        lacking.dedup();
        let mut below = Vec::new();
        let (place, seen, deep) = (self.here.place(), &mut self.seen, self.deep);
        self.here.read_nodes(&lacking, &mut |index, bytes| {
            if let (Some(id), Some(bytes)) = (lacking.get(index), bytes)
                && let Ok(node) = Node::open(*id, &bytes, &place)
            {
                seen.insert(*id);
                below.extend(deep.then(|| node.children()).into_iter().flatten());
            }
            Ok(())
        })?;
        lacking.retain(|id| !self.seen.contains(id));
        Ok((lacking, below))
    }

    fn fetch(&mut self, ids: &[NodeId]) -> Result<Fetched> {
        let mut fetched = Fetched::default();
        if ids.is_empty() {
            return Ok(fetched);
        }
        let (place, waiting) = (self.source.place(), &mut self.waiting);
        self.source.read_nodes(ids, &mut |index, bytes| {
            let Some(&id) = ids.get(index) else { return Ok(()) };
            let Some(bytes) = bytes else {
                let (what, place) = (format!("node {id}"), place.clone());
                return Err(Error::Damaged { what, place, reason: "missing".into() });
            };
            let children = Node::open(id, &bytes, &place)?.children();
            *waiting += bytes.len();
            fetched.nodes.push((id, bytes));
            fetched.children.extend(children);
            Ok(())
        })?;
        Ok(fetched)
    }

    fn settle(&mut self, fetched: Fetched, depth: usize) -> Result<()> {
        self.below(&fetched.children, depth + 1)?;
        for (id, bytes) in fetched.nodes {
            self.waiting = self.waiting.saturating_sub(bytes.len());
            if self.seen.insert(id) {
                (self.put)(id, bytes)?;
            }
        }
        Ok(())
    }
}

/// Nodes in memory, then those of a replica.
pub(super) struct Overlay<'a> {
    pub fetched: HashMap<NodeId, Vec<u8>>,
    pub below: &'a NodeLog,
}

impl NodeSource for Overlay<'_> {
    fn read_nodes(
        &self,
        ids: &[NodeId],
        each: &mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        for (index, id) in ids.iter().enumerate() {
            match self.fetched.get(id) {
                Some(bytes) => each(index, Some(bytes.clone()))?,
                None => self.below.read_nodes(&[*id], &mut |_, bytes| each(index, bytes))?,
            }
        }
        Ok(())
    }

    fn place(&self) -> String {
        self.below.place()
    }
}
