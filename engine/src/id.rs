//! Names made of hashes. Each kind of thing has a type of its own, so that a node is never looked
//! up as a chunk. All of them are BLAKE3-256 and print as 64 lower-case hex digits.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps a hash computed elsewhere.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Returns the BLAKE3 hash of `bytes` as an id.
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }

            /// The 32 raw bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first 12 hex digits, for tables that a person reads.
            pub fn short(&self) -> String {
                self.to_string().chars().take(12).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
                match blake3::Hash::from_hex(text) {
                    Ok(hash) if lower => Ok(Self(*hash.as_bytes())),
                    _ => Err(Error::Usage {
                        what: format!(concat!($what, " `{}`"), text.escape_debug()),
                        reason: "must be 64 lower-case hex digits".into(),
                    }),
                }
            }
        }
    };
}

id!(
    /// Names a chunk: the BLAKE3 of its plain bytes.
    ChunkId,
    "chunk id"
);
id!(
    /// Names a node of a version's tree: the BLAKE3 of its encoded bytes.
    NodeId,
    "node id"
);
id!(
    /// Names a version: the [`NodeId`] of its root node. Same tree, same id, on every machine.
    VersionId,
    "version id"
);

impl VersionId {
    /// The root node of this version.
    pub const fn root(&self) -> NodeId {
        NodeId::from_bytes(self.0)
    }
}

/// A chunk's name and the length of its plain bytes: what a manifest says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub struct ChunkRef {
    /// The chunk's name.
    pub id: ChunkId,
    /// Length of the plain bytes, 1 to [`crate::limits::CHUNK_LEN_MAX`].
    pub len: u32,
}
