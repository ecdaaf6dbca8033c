//! The exit door: records read by `wincode`, which is maintained, in place of `bincode`. It shares no code with the
//! engine; values that are enums are read word by word, tag first.

use wincode::SchemaReadOwned;
use wincode::config::{Configuration, DEFAULT_PREALLOCATION_SIZE_LIMIT};
use wincode::int_encoding::{LittleEndian, VarInt};
use wincode::len::BincodeLen;

/// Little-endian, integers of variable length, enum tags as `u32`: as `bincode` 2 is by itself.
pub type AsBincode =
    Configuration<true, DEFAULT_PREALLOCATION_SIZE_LIMIT, BincodeLen, LittleEndian, VarInt, u32>;

pub type Hash = [u8; 32];
pub type Chunk = (Hash, u32);
pub type Root = (u8, (u8, u32, u32, u32), Option<(Hash, u8)>, (u64, u64, u64, u64));
pub type InnerEntries = (u8, Vec<(String, Hash, u64)>);
pub type Chunks = Vec<Chunk>;
pub type InnerChunks = (u8, Vec<(Hash, u64, u64)>);
pub type Name = (Hash, u64, u64);
/// Base and target, the edits' length plain and sent and their hash, units, first unit, and the plan of deltas.
pub type UpdateHeader = (Option<Hash>, Hash, u64, u64, Hash, u64, u64, u64, Option<Hash>);
/// Number, lengths of chunks and frames, frames.
pub type UpdateUnit = (u64, Vec<(u32, u32)>, Vec<u8>);
/// Number, runs of chunks, their lengths, reference (only stretches of old files), hash of the content, delta.
pub type UpdateDelta = (u64, Vec<(u64, u64)>, Vec<u32>, Vec<(u32, u64, u64, u64)>, Hash, Vec<u8>);
pub type UpdateEnd = (Hash, u64);
pub type State = (Hash, Option<String>, Vec<String>, u64, u64);
pub type Table = (Hash, Hash, i128, Vec<u8>, Vec<Row>);
/// Bytes shared with the path before, bytes of its own; length, mtime, ctime, inode, mode.
pub type Row = (u16, u16, (u64, i64, i64, u64, u32));

#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    File(u16, u64, Content),
    Symlink(String),
    Dir(u16),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    Inline(Vec<Chunk>),
    Tree(Hash, u64),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Journal {
    pub version: Hash,
    pub name: Option<String>,
    pub protect: Vec<String>,
    pub loosen: Vec<String>,
    pub stash: Vec<String>,
    pub place: Vec<String>,
}

/// Takes one value after the other.
pub struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// The body of a node, behind its kind and format.
    pub fn named(bytes: &'a [u8], kind: u8) -> Words<'a> {
        assert_eq!(bytes[..2], [kind, 1]);
        Words(&bytes[2..])
    }

    /// The body of a filed record, behind its header of 48 bytes.
    pub fn filed(bytes: &'a [u8], kind: u8) -> Words<'a> {
        let (header, body) = bytes.split_at(48);
        assert_eq!((&header[..4], &header[4..8]), (&b"FLOE"[..], &[kind, 1, 0, 0][..]));
        assert_eq!(header[8..16], (body.len() as u64).to_le_bytes());
        assert_eq!(header[16..], *blake3::hash(body).as_bytes());
        Words(body)
    }

    pub fn take<T: SchemaReadOwned<AsBincode, Dst = T>>(&mut self) -> T {
        wincode::config::deserialize_from(&mut self.0, AsBincode::new()).expect("wincode reads it")
    }

    /// The one value that this is.
    pub fn only<T: SchemaReadOwned<AsBincode, Dst = T>>(mut self) -> T {
        let value = self.take();
        self.end();
        value
    }

    fn end(self) {
        assert!(self.0.is_empty(), "{} bytes left", self.0.len());
    }

    fn list<T>(&mut self, item: impl Fn(&mut Self) -> T) -> Vec<T> {
        let len: u64 = self.take();
        (0..len).map(|_| item(self)).collect()
    }

    pub fn entries(mut self) -> Vec<(String, Kind)> {
        let entries = self.list(|words| {
            let path = words.take();
            let kind = match words.take::<u32>() {
                0 => Kind::File(words.take(), words.take(), words.content()),
                1 => Kind::Symlink(words.take()),
                2 => Kind::Dir(words.take()),
                tag => panic!("tag {tag} of an entry"),
            };
            (path, kind)
        });
        self.end();
        entries
    }

    fn content(&mut self) -> Content {
        match self.take::<u32>() {
            0 => Content::Inline(self.take()),
            1 => Content::Tree(self.take(), self.take()),
            tag => panic!("tag {tag} of a content"),
        }
    }

    /// Edits as lines, behind the parameters of the cut; paths as what they share and the rest.
    pub fn edits(bytes: &'a [u8]) -> ((u8, u32, u32, u32), Vec<String>) {
        let mut words = Words(bytes);
        let params = words.take();
        let path = |words: &mut Self| {
            let (shared, rest): (u16, Vec<u8>) = (words.take(), words.take());
            format!("{shared}+{}", String::from_utf8(rest).expect("text"))
        };
        let lines = words.list(|words| {
            let at = path(words);
            match words.take::<u32>() {
                0 => format!("remove {at}"),
                1 => format!("dir {at} {:o}", words.take::<u16>()),
                2 => format!("link {at} {}", words.take::<String>()),
                3 => format!("mode {at} {:o}", words.take::<u16>()),
                4 => format!("whole {at} {:o} {}", words.take::<u16>(), path(words)),
                5 => {
                    let mode: u16 = words.take();
                    let runs = words.list(|words| match words.take::<u32>() {
                        0 => format!("copy {} {}", words.take::<u64>(), words.take::<u64>()),
                        1 => format!("new {}", words.take::<u64>()),
                        2 => format!("again {} {}", words.take::<u64>(), words.take::<u64>()),
                        3 => format!("from {}", path(words)),
                        tag => panic!("tag {tag} of a run"),
                    });
                    format!("file {at} {mode:o}: {}", runs.join(", "))
                }
                tag => panic!("tag {tag} of an edit"),
            }
        });
        words.end();
        (params, lines)
    }

    pub fn journal(mut self) -> Journal {
        let journal = Journal {
            version: self.take(),
            name: self.take(),
            protect: self.take(),
            loosen: self.list(Self::step),
            stash: self.list(Self::step),
            place: self.list(Self::step),
        };
        self.end();
        journal
    }

    // As a line: keys of staged files by their first digits, files by their length; inode and mtime are never the same
    // twice.
    fn step(&mut self) -> String {
        let known = |words: &mut Self| {
            let (inode, len, mtime_ns) = (words.take::<u64>(), words.take::<u64>(), words.take::<i64>());
            assert!(inode > 0 && mtime_ns > 0);
            format!("({len})")
        };
        let over = |words: &mut Self| match words.take::<u8>() {
            0 => "over nothing".to_owned(),
            1 => format!("over {}", known(words)),
            tag => panic!("tag {tag} of an option"),
        };
        let key = |words: &mut Self| blake3::Hash::from_bytes(words.take()).to_hex()[..8].to_owned();
        let path = |words: &mut Self| words.take::<String>();
        let mode = |words: &mut Self| format!("{:o}", words.take::<u16>());
        match self.take::<u32>() {
            0 => format!("loosen {} {}", path(self), mode(self)),
            1 => format!("stash {} {} {}", path(self), key(self), known(self)),
            2 => format!("unlink {} {}", path(self), known(self)),
            3 => format!("rmdir {}", path(self)),
            4 => format!("mkdir {}", path(self)),
            5 => format!("place {} {} {}", key(self), path(self), over(self)),
            6 => format!("mode {} {}", path(self), mode(self)),
            7 => format!("dir-mode {} {}", path(self), mode(self)),
            tag => panic!("tag {tag} of a step"),
        }
    }
}

/// The bytes that `wincode` makes of a value.
pub fn written<T: wincode::SchemaWrite<AsBincode, Src = T>>(value: &T) -> Vec<u8> {
    wincode::config::serialize(value, AsBincode::new()).expect("wincode writes it")
}
