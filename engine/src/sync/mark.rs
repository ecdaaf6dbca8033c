//! Walks every node below a root once, in batches.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::id::NodeId;
use crate::version::{Node, NodeSource};

const NODES_PER_READ: usize = 64;

/// A node met on a walk, hashed and checked.
pub(super) struct Met<'a> {
    pub bytes: &'a [u8],
    pub node: &'a Node,
}

/// Calls `each` for every node at or below `root` that is not in `seen` yet, parents first, and adds it there. Stops
/// at a missing or damaged node with an error that names it.
pub(super) fn walk(
    source: &dyn NodeSource,
    root: NodeId,
    seen: &mut HashSet<NodeId>,
    each: &mut dyn FnMut(Met<'_>) -> Result<()>,
) -> Result<()> {
    walk_past(source, root, seen, each, &mut |_, error| Err(error))
}

/// The same, but `damaged` decides whether to go on past a missing or damaged node.
pub(super) fn walk_past(
    source: &dyn NodeSource,
    root: NodeId,
    seen: &mut HashSet<NodeId>,
    each: &mut dyn FnMut(Met<'_>) -> Result<()>,
    damaged: &mut dyn FnMut(NodeId, Error) -> Result<()>,
) -> Result<()> {
    let place = source.place();
    let mut todo = vec![root];
    while !todo.is_empty() {
        let mut batch = todo.split_off(todo.len().saturating_sub(NODES_PER_READ));
        batch.retain(|id| seen.insert(*id));
        source.read_nodes(&batch, &mut |index, bytes| {
            let Some(&id) = batch.get(index) else { return Ok(()) };
            let Some(bytes) = bytes else {
                let (what, place) = (format!("node {id}"), place.clone());
                return damaged(id, Error::Damaged { what, place, reason: "missing".into() });
            };
            match Node::open(id, &bytes, &place) {
                Ok(node) => {
                    todo.extend(node.children());
                    each(Met { bytes: &bytes, node: &node })
                }
                Err(error) => damaged(id, error),
            }
        })?;
    }
    Ok(())
}
