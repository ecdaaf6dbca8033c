//! floe: a content-addressed delta sync engine.
//!
//! Rooms, ground floor first; a file uses only its own room and rooms below it.
//!
//! | floor | room | holds |
//! |---|---|---|
//! | 0 | ground | errors, limits, ids, record encoding, progress |
//! | 1 | [`content`] | bytes -> chunks |
//! | 1 | [`delta`] | bytes in terms of other bytes |
//! | 2 | [`version`] | trees as values |
//! | 3 | [`store`] | where content lives |
//! | 3 | [`tree`] | where trees live |
//! | 4 | [`sync`] | the verbs |
//! | 6 | `serve` | a store with a socket (feature `server`) |
//!
//! A tree goes into a store under a name, and comes out in another directory:
//!
//! ```
//! use floe::Silent;
//! use floe::store::{MemStore, Name};
//! use floe::sync::{PublishOptions, SyncOptions, Target, publish, sync};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let work = tempfile::tempdir()?;
//! # let (art, copy) = (work.path().join("art"), work.path().join("copy"));
//! std::fs::create_dir(&art)?;
//! std::fs::write(art.join("grass.png"), vec![7; 100_000])?;
//!
//! let store = MemStore::default(); // or `RocksStore::open(dir, &options)?`
//! let name = Name::parse("art@1")?;
//! let published = publish(&art, &store, &name, &PublishOptions::default(), &Silent)?;
//! assert_eq!((published.files, published.bytes), (1, 100_000));
//!
//! let synced = sync(&store, &Target::Name(name), &copy, &SyncOptions::default(), &Silent)?;
//! assert_eq!(synced.version, published.version);
//! assert_eq!(std::fs::read(copy.join("grass.png"))?, vec![7; 100_000]);
//! # Ok(())
//! # }
//! ```
//!
//! The verbs in [`sync`] take options and a [`Progress`], and return a report or an [`Error`]. The engine is
//! blocking, keeps no global state, and reads no environment.
#![warn(missing_docs)]

mod codec;
mod error;
mod fault;
mod flow;
mod id;
pub mod limits;
mod progress;

pub mod content;
pub mod delta;
#[cfg(feature = "server")]
pub mod serve;
pub mod store;
pub mod sync;
pub mod tree;
pub mod version;

#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;

pub use error::{Error, ErrorClass, Result};
pub use fault::Faults;
pub use id::{ChunkId, ChunkRef, NodeId, VersionId};
pub use progress::{Notice, Phase, Progress, Silent};
