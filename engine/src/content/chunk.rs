//! `Frame` is what came from outside, `Chunk` is proven, and `Chunk::open` is the only door between them: it
//! bounds, decodes and hashes.

use std::cell::RefCell;
use std::fmt;

use zstd::bulk::{Compressor, Decompressor};

use crate::error::{Error, Result};
use crate::id::{ChunkId, ChunkRef};
use crate::limits::{CHUNK_LEN_MAX, FRAME_LEN_MAX};

/// How a frame's body holds the plain bytes. The number is the frame's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// The body is the plain bytes.
    Stored = 0,
    /// The body is one zstd frame.
    Zstd = 1,
}

/// How a publisher compresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Frames are stored plain.
    None,
    /// zstd at this level, 1 to 19. A chunk that would not shrink by 1/64 is stored plain.
    Zstd(i32),
}

thread_local! {
    // A zstd context is hundreds of kilobytes to set up; each thread keeps the one it used last.
    static COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// A chunk as stored or sent: codec byte and body. Unproven.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(Vec<u8>);

impl Frame {
    /// Encodes plain bytes, 1 to `CHUNK_LEN_MAX` of them.
    pub fn encode(plain: &[u8], compression: Compression) -> Frame {
        Frame::encode_in(Vec::new(), plain, compression)
    }

    /// The same, in the memory of `bytes`, whose content is dropped.
    pub fn encode_in(mut bytes: Vec<u8>, plain: &[u8], compression: Compression) -> Frame {
        if let Compression::Zstd(level) = compression {
            // Room for what would still pay; running out of it is zstd's way to say that it does not.
            let most = plain.len() - plain.len() / 64;
            bytes.resize(most, 0);
            if let Some(len) = compress(plain, &mut bytes[1..], level) {
                bytes[0] = Codec::Zstd as u8;
                bytes.truncate(1 + len);
                return Frame(bytes);
            }
        }
        bytes.clear();
        bytes.reserve(1 + plain.len());
        bytes.push(Codec::Stored as u8);
        bytes.extend_from_slice(plain);
        Frame(bytes)
    }

    /// Whether bytes have the outer form of a frame.
    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    pub(crate) fn may_be(bytes: &[u8]) -> bool {
        matches!(bytes, [0 | 1, _, ..]) && bytes.len() <= FRAME_LEN_MAX
    }

    /// Takes an encoded form from `place`; an empty or overlong one, or an unknown codec, is an error.
    pub fn from_bytes(bytes: Vec<u8>, place: &str) -> Result<Frame> {
        if bytes.len() > FRAME_LEN_MAX {
            let what = format!("length of a frame in {place}");
            return Err(Error::Limit { what, actual: bytes.len() as u64, max: FRAME_LEN_MAX as u64 });
        }
        let reason = match bytes.as_slice() {
            [0 | 1, _, ..] => return Ok(Frame(bytes)),
            [] | [_] => "empty".to_owned(),
            [codec, ..] => format!("unknown codec {codec}"),
        };
        Err(Error::Malformed { kind: "frame", place: place.to_owned(), reason })
    }

    /// The encoded form: codec byte, body.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The encoded form, owned.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The codec.
    pub fn codec(&self) -> Codec {
        if self.0.first() == Some(&(Codec::Zstd as u8)) { Codec::Zstd } else { Codec::Stored }
    }

    fn body(&self) -> &[u8] {
        self.0.get(1..).unwrap_or_default()
    }

    // Its plain bytes, at most `most` of them if they are encoded, or why it has none.
    fn decode(self, most: usize) -> std::result::Result<Vec<u8>, String> {
        match self.codec() {
            Codec::Stored => {
                let mut bytes = self.into_bytes();
                bytes.remove(0);
                Ok(bytes)
            }
            Codec::Zstd => Ok(decompress(self.body(), most).ok_or("its frame does not decode")?),
        }
    }

    // Its `len` plain bytes, or why it has not.
    fn plain(self, len: usize) -> std::result::Result<Vec<u8>, String> {
        let plain = self.decode(len)?;
        match plain.len() == len {
            true => Ok(plain),
            false => Err(format!("{} bytes where {len} belong", plain.len())),
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:?}, {} bytes)", self.codec(), self.0.len())
    }
}

/// Content proven to be what its id says.
#[derive(Clone, PartialEq, Eq)]
pub struct Chunk {
    id: ChunkId,
    plain: Vec<u8>,
}

impl Chunk {
    /// Hashes `plain`, which must be 1 to `CHUNK_LEN_MAX` bytes.
    pub fn new(plain: Vec<u8>) -> Chunk {
        debug_assert!(!plain.is_empty() && plain.len() <= CHUNK_LEN_MAX as usize);
        Chunk { id: ChunkId::of(&plain), plain }
    }

    /// The only door: bounds, decodes and hashes. `place` is named in the error.
    pub fn open(frame: Frame, want: &ChunkRef, place: &str) -> Result<Chunk> {
        let len = want.len as usize;
        if want.len > CHUNK_LEN_MAX {
            let what = format!("length of chunk {} in {place}", want.id);
            return Err(Error::Limit { what, actual: u64::from(want.len), max: u64::from(CHUNK_LEN_MAX) });
        }
        let damaged = |reason: &str| Error::Damaged {
            what: format!("chunk {}", want.id),
            place: place.to_owned(),
            reason: reason.to_owned(),
        };
        let plain = frame.plain(len).map_err(|reason| damaged(&reason))?;
        if ChunkId::of(&plain) != want.id {
            return Err(damaged("its content does not match its hash"));
        }
        Ok(Chunk { id: want.id, plain })
    }

    /// Opens a frame whose chunk has no name yet: bounds, decodes to exactly `len` bytes (without one, to 1 to
    /// `CHUNK_LEN_MAX`), and names the chunk by their hash. What it stands for is the caller's to prove.
    pub fn open_unnamed(frame: Frame, len: Option<u32>, place: &str) -> Result<Chunk> {
        let plain = match len {
            Some(len) if (1..=CHUNK_LEN_MAX).contains(&len) => frame.plain(len as usize),
            Some(len) => return Err(out_of_bounds(len as usize, place)),
            None => frame.decode(CHUNK_LEN_MAX as usize),
        };
        let damaged = |reason| Error::Damaged { what: "a chunk".to_owned(), place: place.to_owned(), reason };
        let plain = plain.map_err(damaged)?;
        match (1..=CHUNK_LEN_MAX as usize).contains(&plain.len()) {
            true => Ok(Chunk::new(plain)),
            false => Err(out_of_bounds(plain.len(), place)),
        }
    }

    /// Its name.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// Its name and length.
    pub fn to_ref(&self) -> ChunkRef {
        ChunkRef { id: self.id, len: self.plain.len() as u32 }
    }

    /// The plain bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.plain
    }

    /// Encodes it for storing or sending.
    pub fn frame(&self, compression: Compression) -> Frame {
        Frame::encode(&self.plain, compression)
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({}, {} bytes)", self.id.short(), self.plain.len())
    }
}

fn out_of_bounds(len: usize, place: &str) -> Error {
    let what = format!("length of a chunk in {place}");
    Error::Limit { what, actual: len as u64, max: u64::from(CHUNK_LEN_MAX) }
}

// `None` when the result does not fit into `into`.
fn compress(plain: &[u8], into: &mut [u8], level: i32) -> Option<usize> {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(kept, _)| *kept != level) {
            *slot = Compressor::new(level).ok().map(|compressor| (level, compressor));
        }
        let (_, compressor) = slot.as_mut()?;
        compressor.compress_to_buffer(plain, into).ok()
    })
}

// `None` when it does not decode, or to more than `len` bytes.
fn decompress(body: &[u8], len: usize) -> Option<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Decompressor::new().ok();
        }
        slot.as_mut()?.decompress(body, len).ok()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain() -> impl Strategy<Value = Vec<u8>> {
        let noise = proptest::collection::vec(any::<u8>(), 1..5000);
        let text = proptest::collection::vec(0u8..4, 1..60_000);
        let long = (any::<u8>(), 1usize..=CHUNK_LEN_MAX as usize).prop_map(|(byte, len)| vec![byte; len]);
        prop_oneof![noise, text, long]
    }

    fn compression() -> impl Strategy<Value = Compression> {
        prop_oneof![Just(Compression::None), (1i32..10).prop_map(Compression::Zstd)]
    }

    proptest! {
        #[test]
        fn opens_to_itself_and_to_nothing_else(
            plain in plain(), compression in compression(), at in any::<usize>(), bit in 0..8u8,
        ) {
            let chunk = Chunk::new(plain);
            let frame = chunk.frame(compression);
            prop_assert!(frame.as_bytes().len() <= 1 + chunk.bytes().len());
            let again = Frame::from_bytes(frame.as_bytes().to_vec(), "here").expect("own bytes");
            prop_assert_eq!(&Chunk::open(again, &chunk.to_ref(), "here").expect("own frame"), &chunk);

            let bytes = frame.as_bytes();
            let at = at % bytes.len();
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << bit;
            for wrong in [flipped, bytes[..at].to_vec()] {
                let opened = Frame::from_bytes(wrong, "here").and_then(|f| Chunk::open(f, &chunk.to_ref(), "here"));
                // zstd headers have bits that do not matter; the content always does.
                prop_assert!(opened.is_err() || opened.is_ok_and(|c| c == chunk));
            }
        }

        #[test]
        fn any_frame_gives_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300), len in any::<u32>()) {
            let want = ChunkRef { id: ChunkId::of(b"something else"), len };
            prop_assert!(Frame::from_bytes(bytes, "here").and_then(|f| Chunk::open(f, &want, "here")).is_err());
        }
    }

    #[test]
    fn a_bomb_stays_small() {
        let bomb = Frame::encode(&vec![0; CHUNK_LEN_MAX as usize], Compression::Zstd(19));
        let want = ChunkRef { id: ChunkId::of(&[0; 16]), len: 16 };
        let error = Chunk::open(bomb, &want, "`store`").expect_err("too long for its name").to_string();
        assert!(error.ends_with("in `store` is damaged: its frame does not decode"), "{error}");
    }
}
