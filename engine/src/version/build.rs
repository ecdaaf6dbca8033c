//! Builds either tree from its items in order, by the split rule of `page.rs`. Holds one open page a level.

use crate::codec;
use crate::error::{Error, Result};
use crate::id::NodeId;
use crate::limits::TREE_HEIGHT_MAX;

use super::node::NodeSink;
use super::page::{PAGE_ITEMS_MIN, PAGE_MAX, RawPage, Shape, closes};

/// A tree being built.
pub(super) struct TreeBuilder<S: Shape> {
    levels: Vec<Level<S>>,
}

/// The open page of a level, and how many came before it.
struct Level<S: Shape> {
    // The items, encoded.
    body: Vec<u8>,
    count: u64,
    sum: S::Sum,
    closed: u64,
    last: Option<NodeId>,
}

impl<S: Shape> TreeBuilder<S> {
    pub fn new() -> Self {
        Self { levels: Vec::new() }
    }

    /// Adds the next item.
    pub fn push(&mut self, item: S::Item, sink: &mut dyn NodeSink) -> Result<()> {
        let hash = S::item_hash(&item);
        let level = self.level(0)?;
        let start = level.body.len();
        codec::append(&mut level.body, &item);
        let size = self.make_room(0, start, sink)?;
        self.count(0, size, hash, |sum| S::add_item(sum, item), sink)
    }

    /// Closes every open page; returns the top and its level, or `None` if nothing was pushed.
    pub fn finish(mut self, sink: &mut dyn NodeSink) -> Result<Option<(NodeId, u8)>> {
        let mut at = 0;
        while let Some(level) = self.levels.get(usize::from(at)) {
            if level.count > 0 {
                self.close(at, sink)?;
            }
            // The link to an only page was pushed above, where nobody will look.
            match &self.levels[usize::from(at)] {
                Level { closed: 1, last: Some(top), .. } => return Ok(Some((*top, at))),
                _ => at += 1,
            }
        }
        Ok(None)
    }

    fn push_link(&mut self, at: u8, link: S::Link, sink: &mut dyn NodeSink) -> Result<()> {
        let hash = S::link_hash(&link, at);
        let level = self.level(at)?;
        let start = level.body.len();
        codec::append(&mut level.body, &link);
        let size = self.make_room(at, start, sink)?;
        self.count(at, size, hash, |sum| S::add_link(sum, link), sink)
    }

    fn level(&mut self, at: u8) -> Result<&mut Level<S>> {
        if at > TREE_HEIGHT_MAX {
            return Err(over("height of a version's tree", at.into(), TREE_HEIGHT_MAX.into()));
        }
        if self.levels.len() == usize::from(at) {
            let (body, sum) = (Vec::with_capacity(PAGE_MAX / 2), S::Sum::default());
            self.levels.push(Level { body, count: 0, sum, closed: 0, last: None });
        }
        Ok(&mut self.levels[usize::from(at)])
    }

    // The item encoded from `start` on may be too much for the page: then the page closes without it.
    fn make_room(&mut self, at: u8, start: usize, sink: &mut dyn NodeSink) -> Result<usize> {
        let level = self.level(at)?;
        let size = level.body.len() - start;
        if level.count >= PAGE_ITEMS_MIN && level.body.len() > PAGE_MAX {
            let item = level.body.split_off(start);
            self.close(at, sink)?;
            self.level(at)?.body.extend_from_slice(&item);
        }
        Ok(size)
    }

    fn count(
        &mut self,
        at: u8,
        size: usize,
        hash: u32,
        add: impl FnOnce(&mut S::Sum) -> Option<()>,
        sink: &mut dyn NodeSink,
    ) -> Result<()> {
        let level = self.level(at)?;
        add(&mut level.sum).ok_or_else(|| over("size of a version", u64::MAX, u64::MAX))?;
        level.count += 1;
        if level.count >= PAGE_ITEMS_MIN && closes(hash, size) { self.close(at, sink) } else { Ok(()) }
    }

    fn close(&mut self, at: u8, sink: &mut dyn NodeSink) -> Result<()> {
        let kind = if at == 0 { S::LEAF } else { S::INNER };
        let level = self.level(at)?;
        let bytes = codec::encode_named(kind, &RawPage { level: at, count: level.count, body: &level.body });
        let id = NodeId::of(&bytes);
        let sum = std::mem::take(&mut level.sum);
        level.body.clear();
        level.count = 0;
        level.closed += 1;
        level.last = Some(id);
        sink.put_node(id, bytes)?;
        self.push_link(at + 1, S::link(sum, id), sink)
    }
}

fn over(what: &str, actual: u64, max: u64) -> Error {
    Error::Limit { what: what.to_owned(), actual, max }
}
