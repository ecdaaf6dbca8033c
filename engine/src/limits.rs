//! Every bound in one place. A length read from outside meets one of these before it meets an
//! allocator.

/// Longest chunk, in bytes of plain content.
pub const CHUNK_LEN_MAX: u32 = 256 << 10;
/// Longest encoded frame: a stored chunk and its codec byte.
pub const FRAME_LEN_MAX: usize = CHUNK_LEN_MAX as usize + 1;
/// Files up to this length are one chunk; it is also the chunker's minimum.
pub const SINGLE_CHUNK_LEN_MAX: u64 = 16 << 10;
/// Longest encoded node. A node closes near 4 KiB and is forced to at 16 KiB; one entry with the
/// longest path and symlink target may come on top.
pub const NODE_LEN_MAX: usize = 64 << 10;
/// Most levels above the leaves of one tree. Every level at least halves the count, so 2^48 items fit.
pub const TREE_HEIGHT_MAX: u8 = 48;
/// Longest relative path, in bytes: the kernel's PATH_MAX without its NUL.
pub const PATH_LEN_MAX: usize = 4095;
/// Longest component of a path, in bytes.
pub const COMPONENT_LEN_MAX: usize = 255;
/// Longest symlink target, in bytes.
pub const SYMLINK_LEN_MAX: usize = 4095;
/// Longest application part of a name.
pub const NAME_APP_LEN_MAX: usize = 64;
/// Longest label part of a name.
pub const NAME_LABEL_LEN_MAX: usize = 128;
/// Most threads one call uses, however many it is given.
pub const THREADS_MAX: usize = 1024;
/// Default bound on the plain bytes of chunks in flight inside one verb.
pub const IN_FLIGHT_BYTES_MAX: u64 = 64 << 20;
/// Longest edits of an update stream, in bytes before they are compressed.
pub const EDITS_LEN_MAX: usize = 64 << 20;
/// Most edits of an update stream, and runs in them, together.
pub const EDITS_COUNT_MAX: u64 = 1 << 20;
/// Most chunks that an update stream brings. A larger update is asked for node by node.
pub const UPDATE_CHUNKS_MAX: u64 = 1 << 20;
/// Most chunks of one unit of an update stream.
pub const UNIT_CHUNKS_MAX: usize = 1024;
/// Most bytes of plain content of one unit.
pub const UNIT_BYTES_MAX: u64 = 2 << 20;
/// Most bytes of plain content of a unit that is a delta.
pub const DELTA_UNIT_BYTES_MAX: u64 = 8 << 20;
/// Most bytes of such a unit's reference.
pub const DELTA_REFERENCE_BYTES_MAX: u64 = 16 << 20;
/// Most bytes of the reference and the target of one delta, together.
pub const DELTA_BYTES_MAX: usize = 1 << 30;

const _: () = assert!(UNIT_BYTES_MAX >= CHUNK_LEN_MAX as u64);
const _: () = assert!(SINGLE_CHUNK_LEN_MAX < CHUNK_LEN_MAX as u64);
const _: () = assert!(NODE_LEN_MAX > (16 << 10) + PATH_LEN_MAX + SYMLINK_LEN_MAX + 1024);
