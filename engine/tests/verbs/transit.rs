//! What is damaged on the way from a source is read again, a few times.

use std::collections::HashMap;

use floe::content::Frame;
use floe::store::{AppName, NameRecord};
use floe::sync::{MirrorOptions, mirror};
use floe::version::NodeSource;
use floe::{ChunkId, ChunkRef, NodeId};

use super::*;

/// A source that damages every chunk the first so many times.
struct Flipping<'s> {
    store: &'s dyn Store,
    times: usize,
    sent: Mutex<HashMap<ChunkId, usize>>,
}

impl NodeSource for Flipping<'_> {
    fn read_nodes(
        &self,
        ids: &[NodeId],
        each: &mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        self.store.read_nodes(ids, each)
    }
    fn place(&self) -> String {
        self.store.place()
    }
}

impl Source for Flipping<'_> {
    fn read_chunks(
        &self,
        want: &[ChunkRef],
        each: &mut dyn FnMut(usize, Option<Frame>) -> Result<()>,
    ) -> Result<()> {
        self.store.read_chunks(want, &mut |at, frame| {
            let frame = frame.map(|frame| {
                let sent = {
                    let mut sent = self.sent.lock().expect("whole");
                    let sent = sent.entry(want[at].id).or_default();
                    *sent += 1;
                    *sent
                };
                let mut bytes = frame.into_bytes();
                if sent <= self.times {
                    *bytes.last_mut().expect("a body") ^= 1;
                }
                Frame::from_bytes(bytes, "here").expect("a frame")
            });
            each(at, frame)
        })
    }
    fn frame_lens(&self, ids: &[ChunkId]) -> Result<Vec<Option<u32>>> {
        self.store.frame_lens(ids)
    }
    fn resolve(&self, name: &Name) -> Result<Option<NameRecord>> {
        self.store.resolve(name)
    }
    fn names(&self, app: Option<&AppName>) -> Result<Vec<NameRecord>> {
        self.store.names(app)
    }
}

#[test]
fn a_chunk_damaged_on_the_way_is_read_again() {
    let from = tempdir();
    let tree = Tree::default().with("a", Item::text("some text")).with("b/c", Item::text("other text"));
    tree.write_over(from.path());
    let store = MemStore::default();
    publish(&store, from.path(), "app@1");
    for (times, good) in [(0, true), (1, true), (2, true), (3, false)] {
        let flipping = Flipping { store: &store, times, sent: Mutex::default() };
        let to = tempdir();
        let synced = try_sync(&flipping, "app@1", to.path());
        let flipping = Flipping { store: &store, times, sent: Mutex::default() };
        let dest = MemStore::default();
        let options = MirrorOptions { threads: threads(), in_flight_bytes_max: 1 << 20 };
        let mirrored = mirror(&flipping, &dest, &[], &options, &Silent).map(drop);
        for told in [synced.map(drop), mirrored] {
            assert_eq!(told.is_ok(), good, "{times}: {told:?}");
            if let Err(error) = told {
                let told = error.to_string();
                assert!(matches!(error, Error::Damaged { .. }), "{told}");
                assert!(told.contains("memory") && told.contains("3 times, there or on the way"), "{told}");
            }
        }
    }
}
