//! Which blocks are the reference of a unit: greedily those that have most windows in common with it that no block
//! chosen before has.

use std::collections::{BinaryHeap, HashMap, HashSet};

use super::likeness::Likeness;
use super::{Blocks, Stretch};

/// A block with fewer windows of its own in common is not worth its place.
const LEAST: usize = 4;

pub(super) struct Choice<'b> {
    blocks: &'b Blocks,
    chosen: HashSet<usize>,
    // Bytes that may be chosen still.
    room: u64,
}

impl<'b> Choice<'b> {
    pub fn new(blocks: &'b Blocks, bytes_max: u64) -> Self {
        Self { blocks, chosen: HashSet::new(), room: bytes_max }
    }

    fn choose(&mut self, block: usize) -> bool {
        let len = self.blocks.len(block);
        if len > self.room {
            return false;
        }
        if self.chosen.insert(block) {
            self.room -= len;
        }
        true
    }

    /// Chooses blocks for where they are.
    pub fn take(&mut self, blocks: Vec<usize>) {
        for block in blocks {
            self.choose(block);
        }
    }

    /// Chooses blocks for what they have in common with `windows`.
    pub fn cover(&mut self, likeness: &Likeness, windows: &[u32]) {
        let mut windows = windows.to_vec();
        windows.sort_unstable();
        windows.dedup();
        let mut shares: HashMap<usize, Vec<u32>> = HashMap::new();
        let mut covered = vec![false; windows.len()];
        for (at, window) in windows.iter().enumerate() {
            for block in likeness.blocks(*window) {
                if self.chosen.contains(&block) {
                    covered[at] = true;
                } else {
                    shares.entry(block).or_default().push(at as u32);
                }
            }
        }
        // By how much each may still add; what the heap says is an upper bound. The first of equals.
        let upper = |(block, share): (&usize, &Vec<u32>)| (share.len(), std::cmp::Reverse(*block));
        let mut heap: BinaryHeap<_> = shares.iter().map(upper).collect();
        while let Some((claimed, block)) = heap.pop() {
            let share = shares.get(&block.0).map(Vec::as_slice).unwrap_or_default();
            let gain = share.iter().filter(|at| !covered[**at as usize]).count();
            if gain < LEAST {
                if claimed < LEAST {
                    break;
                }
                continue;
            }
            if heap.peek().is_some_and(|next| (gain, block) < *next) {
                heap.push((gain, block));
                continue;
            }
            if self.choose(block.0) {
                share.iter().for_each(|at| covered[*at as usize] = true);
            }
        }
    }

    /// What was chosen, in the order of the blocks.
    pub fn stretches(self) -> Vec<Stretch> {
        let mut blocks: Vec<usize> = self.chosen.into_iter().collect();
        blocks.sort_unstable();
        let mut stretches: Vec<Stretch> = Vec::new();
        for block in blocks {
            let next = self.blocks.stretch(block);
            match (stretches.last_mut(), next) {
                (Some(Stretch::Old { orphans, first, count }), Stretch::Old { orphans: o, first: f, .. })
                    if *orphans == o && *first + *count == f =>
                {
                    *count += 1;
                }
                (Some(Stretch::New { first, count }), Stretch::New { first: f, .. })
                    if *first + *count == f =>
                {
                    *count += 1;
                }
                _ => stretches.push(next),
            }
        }
        stretches
    }
}
