//! A reader cut into chunks. The cuts do not depend on how the reader hands out its bytes.

use std::io::{self, Read};

use super::cut::cut;
use crate::limits::CHUNK_LEN_MAX;

// Four longest chunks: at most a quarter of what is read is moved to the front again.
const BUFFER_LEN: usize = 4 * CHUNK_LEN_MAX as usize;

/// Cuts a reader into chunks, through one buffer of 1 MiB that can be used again for the next reader.
#[derive(Debug)]
pub struct Chunker<R> {
    reader: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    ended: bool,
}

impl<R: Read> Chunker<R> {
    /// Cuts `reader`.
    pub fn new(reader: R) -> Self {
        Self::with_buffer(reader, Vec::new())
    }

    /// Cuts `reader` through a buffer that [`Chunker::into_parts`] gave back.
    pub fn with_buffer(reader: R, mut buffer: Vec<u8>) -> Self {
        buffer.resize(BUFFER_LEN, 0);
        Self { reader, buffer, start: 0, end: 0, ended: false }
    }

    /// The next chunk's bytes; `None` at the end of the reader.
    pub fn next_chunk(&mut self) -> io::Result<Option<&[u8]>> {
        if !self.ended && self.end - self.start < CHUNK_LEN_MAX as usize {
            self.fill()?;
        }
        let rest = &self.buffer[self.start..self.end];
        if rest.is_empty() {
            return Ok(None);
        }
        let len = cut(rest);
        self.start += len;
        Ok(Some(&rest[..len]))
    }

    /// The reader, for what is to be asked of it at the end, and the buffer.
    pub fn into_parts(self) -> (R, Vec<u8>) {
        (self.reader, self.buffer)
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while !self.ended && self.end < self.buffer.len() {
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(len) => self.end += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Hands out its bytes in pieces of the given lengths, over and over.
    struct Dribble<'a>(&'a [u8], std::iter::Cycle<std::slice::Iter<'a, usize>>);

    impl Read for Dribble<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = self.1.next().map_or(1, |len| *len).min(buffer.len()).min(self.0.len());
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    fn chunks(reader: impl Read) -> Vec<Vec<u8>> {
        let mut chunker = Chunker::new(reader);
        let mut chunks = Vec::new();
        while let Some(chunk) = chunker.next_chunk().expect("memory does not fail") {
            chunks.push(chunk.to_vec());
        }
        chunks
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn cuts_do_not_depend_on_the_reads(
            seed in any::<[u8; 32]>(),
            len in 0usize..3_000_000,
            reads in proptest::collection::vec(1usize..900_000, 1..6),
        ) {
            let mut data = vec![0; len];
            blake3::Hasher::new_keyed(&seed).finalize_xof().fill(&mut data);
            let whole = chunks(data.as_slice());
            prop_assert_eq!(&whole.concat(), &data);
            prop_assert_eq!(chunks(Dribble(&data, reads.iter().cycle())), whole);
        }
    }

    #[test]
    fn a_failing_reader_fails() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::PermissionDenied.into())
            }
        }
        assert!(Chunker::new(Broken).next_chunk().is_err());
        assert!(Chunker::new(io::empty()).next_chunk().expect("empty").is_none());
    }
}
