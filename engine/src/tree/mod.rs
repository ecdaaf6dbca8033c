//! Where trees live: directories to publish from, and replicas to sync into.

mod arrivals;
mod beneath;
mod disk;
mod fill;
mod implied;
mod judge;
mod known;
mod nodelog;
mod portable;
mod reader;
mod recognise;
mod replica;
mod rules;
mod scan;
mod seed;
mod spot;
mod stage;
mod stat;
mod state;
mod survey;
mod swap;
mod target;
mod walk;

#[cfg(feature = "testing")]
pub(crate) use nodelog::index_of;
#[cfg(feature = "testing")]
pub(crate) use state::{format_number, journal_again, state_again};

pub use arrivals::Arrivals;
pub use fill::GROUP_CHUNKS_MAX;
pub use nodelog::NodeLog;
pub use reader::FileReader;
pub use replica::{Replica, ReplicaOptions};
pub(crate) use rules::compile_globs;
pub use scan::{Found, FoundKind, Scan, ScanOptions, SourceTree};
pub use seed::OldFiles;
pub use stage::{Fetch, Stage, StageOptions, Staged};
pub use stat::{Fingerprint, StatTable};
pub use survey::{Survey, SurveyOptions};
pub use target::StagedFile;
