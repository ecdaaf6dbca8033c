//! Updates that were worked out, kept for those who ask for the same or come back for the rest.
//!
//! Of one update there is one at a time, however many ask for it. All that are kept or in use are counted in bytes; what
//! nobody uses goes first, longest unused first.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout};

use crate::delta::Profile;
use crate::error::Result;
use crate::id::VersionId;
use crate::store::Store;
use crate::sync::stream::Update;

use super::answer::Refused;
use super::limits::{Client, lock};
use super::shares::{Share, Shares};
use super::site::Site;

// A small one costs more than its bytes.
const LEN_MIN: usize = 4 << 10;
const A_WHILE: Duration = Duration::from_millis(50);

/// The base, or nothing, the target, and how new chunks are told.
pub(super) type Pair = (Option<VersionId>, VersionId, Option<Profile>);

/// An update with its share of the memory.
pub(super) struct Plan {
    update: Update,
    _share: Share,
}

impl Deref for Plan {
    type Target = Update;

    fn deref(&self) -> &Update {
        &self.update
    }
}

type Slot = Arc<OnceCell<Arc<Plan>>>;

/// All updates of a server.
pub(super) struct Plans {
    bytes: Shares,
    making: Shares,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    slots: HashMap<Pair, (Slot, u64)>,
    used: u64,
}

impl Plans {
    /// Of `bytes_max` bytes, `at_once` of them worked out at once.
    pub fn new(bytes_max: u64, at_once: usize) -> Self {
        Self { bytes: Shares::new(bytes_max), making: Shares::new(at_once as u64), kept: Mutex::default() }
    }

    /// Bytes of those that are kept.
    pub fn taken(&self) -> usize {
        self.bytes.taken()
    }

    /// The update of `pair`; `None` if there is none.
    pub async fn get(&self, site: &Site, client: Client, pair: Pair) -> Result<Option<Arc<Plan>>, Refused> {
        let slot = lock(&self.kept).slot(pair);
        if let Some(plan) = slot.get() {
            let asked = Arc::clone(plan);
            // A sweep may have taken a version meanwhile.
            if site.bridge.read(move |store| asked.is_in(store)).await? {
                return Ok(Some(Arc::clone(plan)));
            }
            lock(&self.kept).forget(pair, &slot);
            return Ok(None);
        }
        let made = slot.get_or_try_init(|| self.make(site, client, pair)).await.map(Arc::clone);
        match made {
            Ok(plan) => Ok(Some(plan)),
            Err(none) => {
                lock(&self.kept).forget(pair, &slot);
                none.map_or(Ok(None), Err)
            }
        }
    }

    // What it fails with is `None` if there is no such update.
    async fn make(&self, site: &Site, client: Client, pair: Pair) -> Result<Arc<Plan>, Option<Refused>> {
        let busy = |_: Elapsed| Some(Refused::busy("updates", "too many updates at once"));
        let patience = site.options.limits.stall_timeout;
        let place = timeout(patience, self.making.take(client, 1)).await.map_err(busy)?;
        let job = move |store: &dyn Store| {
            // With the job, not with whoever waits for it; and then with what was made, until that has its share.
            Ok((Update::prepare(store, pair.0, pair.1, pair.2)?, place))
        };
        let (made, _place) = site.bridge.aside(job).await.map_err(|error| Some(error.into()))?;
        let update = made.ok_or(None)?;
        let len = update.held_bytes().max(LEN_MIN);
        let until = Instant::now() + patience;
        let taking = self.bytes.take(client, len);
        tokio::pin!(taking);
        let mut wait = Duration::ZERO;
        let share = loop {
            match timeout(wait, &mut taking).await {
                Ok(share) => break share,
                Err(late) if Instant::now() >= until => return Err(busy(late)),
                Err(_) => {}
            }
            // What is in use now may not be in a while.
            wait = if lock(&self.kept).drop_unused() { Duration::ZERO } else { A_WHILE };
        };
        Ok(Arc::new(Plan { update, _share: share }))
    }
}

impl Kept {
    fn slot(&mut self, pair: Pair) -> Slot {
        self.used += 1;
        let (slot, used) = self.slots.entry(pair).or_default();
        *used = self.used;
        Arc::clone(slot)
    }

    fn forget(&mut self, pair: Pair, slot: &Slot) {
        if self.slots.get(&pair).is_some_and(|(kept, _)| Arc::ptr_eq(kept, slot)) {
            self.slots.remove(&pair);
        }
    }

    // Whether there was one.
    fn drop_unused(&mut self) -> bool {
        let unused = |slot: &Slot| {
            Arc::strong_count(slot) == 1 && slot.get().is_some_and(|plan| Arc::strong_count(plan) == 1)
        };
        let all = self.slots.iter().filter(|(_, (slot, _))| unused(slot));
        let oldest = all.min_by_key(|(_, (_, used))| *used).map(|(pair, _)| *pair);
        oldest.is_some_and(|pair| self.slots.remove(&pair).is_some())
    }
}
