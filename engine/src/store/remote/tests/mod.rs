//! The client against a server of few lines that says whatever a row wants it to say.

mod hostile;
mod peer;
mod ssh;
mod steady;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{RemoteAddress, RemoteOptions, RemoteStore, Retries, Wait};
use crate::content::{Chunk, Compression};
use crate::store::NewChunk;

/// Waits that are only written down.
#[derive(Clone, Default)]
struct Waits(Arc<Mutex<Vec<Duration>>>);

impl Waits {
    fn hook(&self) -> Wait {
        let waits = self.clone();
        Arc::new(move |time| {
            if !time.is_zero() {
                waits.0.lock().expect("whole").push(time);
            }
            true
        })
    }

    fn taken(&self) -> Vec<Duration> {
        std::mem::take(&mut self.0.lock().expect("whole"))
    }
}

/// Options of a test: short times, no waits.
fn options(attempts: u32) -> RemoteOptions {
    RemoteOptions {
        silence: Duration::from_millis(60),
        connect: Duration::from_secs(5),
        retries: Retries { attempts, ..Retries::default() },
        wait: Waits::default().hook(),
        ..RemoteOptions::default()
    }
}

fn open(url: &str, options: RemoteOptions) -> RemoteStore {
    RemoteStore::open(&RemoteAddress::parse(url).expect("an address"), options).expect("opened")
}

fn chunk(seed: u8, len: usize) -> NewChunk {
    let chunk = Chunk::new(vec![seed; len]);
    NewChunk { chunk: chunk.to_ref(), frame: chunk.frame(Compression::None) }
}
