//! Re-hash and report; mend from another source.

mod replica;
mod store;

pub use replica::{repair_replica, verify_replica};
pub use store::{repair_store, verify_store};
