//! What lies where in the database: column families, keys, values, and how RocksDB is set up for each.
//!
//! Numbers in keys are big-endian, so that key order is number order. All memory that RocksDB may use is
//! bounded here: [`CACHE_BYTES`] for blocks, [`MEMTABLE_BYTES`] for memtables, one open table's buffers.

use std::sync::LazyLock;

use bincode::{Decode, Encode};
use rocksdb::{
    BlockBasedOptions, Cache, ChecksumType, ColumnFamilyDescriptor, DBCompressionType, DataBlockIndexType,
    InfoLogger, LogLevel, Options,
};

use crate::codec::{self, FILED_HEADER_LEN, Kind};
use crate::error::{Error, Result};
use crate::id::{ChunkId, NodeId, VersionId};
use crate::store::{AppName, Name, NameRecord};

/// Sequence number -> frame. In the order chunks were put, so that a file reads back in one sweep.
pub(super) const DATA: &str = "data";
/// Chunk id -> [`Location`].
pub(super) const INDEX: &str = "index";
/// Node id -> node.
pub(super) const NODE: &str = "node";
/// Names and counters.
pub(super) const META: &str = "meta";
/// Kind and id -> when a sweep condemned it.
pub(super) const CONDEMNED: &str = "condemned";
/// RocksDB insists on it; it stays empty.
pub(super) const DEFAULT: &str = "default";

pub(super) const FAMILIES: [&str; 5] = [DATA, INDEX, NODE, META, CONDEMNED];

/// Blocks of data, indexes and filters, for all families together.
pub(super) const CACHE_BYTES: usize = 32 << 20;
/// Memtables of all families together; the largest is flushed when it is reached.
const MEMTABLE_BYTES: usize = 32 << 20;
/// Memtable of `index` and of `node`.
const LARGE_MEMTABLE_BYTES: usize = 8 << 20;
const SMALL_MEMTABLE_BYTES: usize = 2 << 20;
/// Tables and file handles that stay open.
const OPEN_FILES_MAX: i32 = 256;
/// Also bounds what RocksDB allocates ahead for each new log, which on tmpfs is memory.
const WAL_BYTES_MAX: u64 = 256 << 10;

/// Counts bound names. Kept apart from them, so that no position is given twice.
pub(super) const NAMES_BOUND_KEY: &[u8] = b"count/names";
/// No sequence number below it is given again, although its chunk may be gone.
pub(super) const NEXT_SEQ_KEY: &[u8] = b"count/data";
/// Above 0: a salvage may have lost names, and no repair has looked for them since.
pub(super) const NAMES_LOST_KEY: &[u8] = b"lost/names";
/// A format after the first writes its number here, so that a database whose `FORMAT` file is lost says what it is.
pub(super) const FORMAT_KEY: &[u8] = b"format";
const NAME_PREFIX: &[u8] = b"name/";
const NAME_KIND: Kind = Kind { number: 0x20, name: "name", format: 1 };
const NAME_VALUE_LEN_MAX: usize = FILED_HEADER_LEN + 64;

/// Where a chunk's frame is, and how long it is plain and stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub seq: u64,
    pub plain_len: u32,
    pub stored_len: u32,
}

impl Location {
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.seq.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.plain_len.to_be_bytes());
        bytes[12..].copy_from_slice(&self.stored_len.to_be_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<Location> {
        let (seq, rest) = bytes.split_first_chunk()?;
        let (plain_len, rest) = rest.split_first_chunk()?;
        let stored_len = rest.try_into().ok()?;
        let seq = u64::from_be_bytes(*seq);
        // The last number is never given, so that there is always one after it.
        (seq < u64::MAX).then_some(Location {
            seq,
            plain_len: u32::from_be_bytes(*plain_len),
            stored_len: u32::from_be_bytes(stored_len),
        })
    }
}

/// Reads a number as keys and counters hold it.
pub(super) fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// The kind byte of a mark, before the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum MarkKind {
    Chunk = b'c',
    Node = b'n',
}

/// Key of a mark in [`CONDEMNED`].
pub(super) type MarkKey = [u8; 33];

pub(super) fn mark_key(kind: MarkKind, id: &[u8; 32]) -> MarkKey {
    let mut key = [kind as u8; 33];
    key[1..].copy_from_slice(id);
    key
}

/// Ids that are keys of a family.
pub(super) trait Key: Copy {
    const MARK: MarkKind;
    const FAMILY: &'static str;
    fn bytes(&self) -> &[u8; 32];
    fn from_key(bytes: [u8; 32]) -> Self;
}

impl Key for ChunkId {
    const MARK: MarkKind = MarkKind::Chunk;
    const FAMILY: &'static str = INDEX;
    fn bytes(&self) -> &[u8; 32] {
        self.as_bytes()
    }
    fn from_key(bytes: [u8; 32]) -> Self {
        ChunkId::from_bytes(bytes)
    }
}

impl Key for NodeId {
    const MARK: MarkKind = MarkKind::Node;
    const FAMILY: &'static str = NODE;
    fn bytes(&self) -> &[u8; 32] {
        self.as_bytes()
    }
    fn from_key(bytes: [u8; 32]) -> Self {
        NodeId::from_bytes(bytes)
    }
}

#[derive(Encode, Decode)]
struct NameValue {
    version: VersionId,
    bound_unix_s: u64,
    sequence: u64,
}

pub(super) fn name_key(name: &Name) -> Vec<u8> {
    [NAME_PREFIX, name.to_string().as_bytes()].concat()
}

/// The keys of all names, or of one app's, begin with this.
pub(super) fn name_prefix(app: Option<&AppName>) -> Vec<u8> {
    let mut prefix = NAME_PREFIX.to_vec();
    if let Some(app) = app {
        prefix.extend_from_slice(app.as_str().as_bytes());
        prefix.push(b'@');
    }
    prefix
}

pub(crate) fn name_value(record: &NameRecord) -> Vec<u8> {
    let NameRecord { version, bound_unix_s, sequence, .. } = *record;
    codec::encode_filed(NAME_KIND, &NameValue { version, bound_unix_s, sequence })
}

pub(super) fn name_record(key: &[u8], value: &[u8], place: &str) -> Result<NameRecord> {
    let text = key.strip_prefix(NAME_PREFIX).and_then(|key| std::str::from_utf8(key).ok());
    let Some(name) = text.and_then(|text| Name::parse(text).ok()) else {
        return Err(Error::Malformed {
            kind: "name",
            place: place.to_owned(),
            reason: format!("key `{}`", key.escape_ascii()),
        });
    };
    let NameValue { version, bound_unix_s, sequence } =
        codec::decode_filed(NAME_KIND, value, NAME_VALUE_LEN_MAX, &format!("{place}, name `{name}`"))?;
    Ok(NameRecord { name, version, bound_unix_s, sequence })
}

/// Opens the value of a name and encodes again what it says.
#[cfg(feature = "testing")]
pub(crate) fn name_again(value: &[u8]) -> Result<Vec<u8>> {
    name_record(b"name/game@1.0", value, "bytes").map(|record| name_value(&record))
}

/// Reads the value of a chunk in [`INDEX`] and makes it anew.
#[cfg(feature = "testing")]
pub(crate) fn location_again(value: &[u8]) -> Option<[u8; 16]> {
    Location::from_bytes(value).map(Location::to_bytes)
}

/// Set-up of the whole database. `create` makes what is missing; never on a store that was complete once, where
/// something missing is damage.
pub(super) fn database_options(create: bool) -> Result<Options, rocksdb::Error> {
    // What is not flushed was not promised. Dropping it makes closing quick, and a store that is dropped in a
    // crash test as forgetful as one that lost power.
    let mut options = Options::default().get_options_from_string("avoid_flush_during_shutdown=true")?;
    options.create_if_missing(create);
    options.create_missing_column_families(create);
    options.set_db_write_buffer_size(MEMTABLE_BYTES);
    options.set_max_open_files(OPEN_FILES_MAX);
    // Each table that is opened at once with others costs a thread.
    options.set_max_file_opening_threads(1);
    options.set_max_background_jobs(2);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_manifest_preallocation_size(64 << 10);
    options.set_max_manifest_file_size(4 << 20);
    options.set_skip_stats_update_on_db_open(true);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    // Also spares the LOG file that each opening would make.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, |_, text| {
        tracing::debug!(target: "rocksdb", "{}", text.trim_end());
    }));
    Ok(options)
}

/// Every family with its set-up, sharing one block cache.
pub(super) fn families(cache: &Cache) -> Vec<ColumnFamilyDescriptor> {
    let mut families = vec![ColumnFamilyDescriptor::new(DEFAULT, small_options(cache))];
    families.push(ColumnFamilyDescriptor::new(DATA, data_options(Some(cache))));
    families.push(ColumnFamilyDescriptor::new(INDEX, index_options(cache)));
    families.push(ColumnFamilyDescriptor::new(NODE, node_options(cache)));
    families.push(ColumnFamilyDescriptor::new(META, small_options(cache)));
    families.push(ColumnFamilyDescriptor::new(CONDEMNED, small_options(cache)));
    families
}

/// Set-up of tables written outside the database, to be ingested into [`DATA`].
pub(super) static TABLE_OPTIONS: LazyLock<Options> = LazyLock::new(|| data_options(None));

fn blocks(cache: Option<&Cache>, block_bytes: usize) -> BlockBasedOptions {
    let mut blocks = BlockBasedOptions::default();
    match cache {
        None => blocks.disable_cache(),
        Some(cache) => {
            blocks.set_block_cache(cache);
            // Otherwise indexes and filters live outside the cache, without a bound.
            blocks.set_cache_index_and_filter_blocks(true);
            blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
        }
    }
    blocks.set_block_size(block_bytes);
    blocks.set_checksum_type(ChecksumType::XXH3);
    blocks.set_format_version(6);
    blocks
}

fn family(memtable_bytes: usize, blocks: &BlockBasedOptions) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(memtable_bytes);
    options.set_max_write_buffer_number(2);
    options.set_compression_type(DBCompressionType::None);
    options.set_block_based_table_factory(blocks);
    // Nothing here gets better by rewriting it for its age.
    options.set_ttl(0);
    options.set_periodic_compaction_seconds(0);
    options
}

// Frames are compressed already, and one of 16 KiB fills a block: no compression, no filter.
fn data_options(cache: Option<&Cache>) -> Options {
    let mut options = family(SMALL_MEMTABLE_BYTES, &blocks(cache, 16 << 10));
    options.set_target_file_size_base(128 << 20);
    options.set_max_bytes_for_level_base(1 << 30);
    options
}

// Keys are hashes, asked for one by one and mostly in vain: a filter and hashed blocks, no compression.
fn index_options(cache: &Cache) -> Options {
    let mut blocks = blocks(Some(cache), 4 << 10);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_whole_key_filtering(true);
    blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    blocks.set_data_block_hash_ratio(0.75);
    family(LARGE_MEMTABLE_BYTES, &blocks)
}

fn node_options(cache: &Cache) -> Options {
    let mut blocks = blocks(Some(cache), 16 << 10);
    blocks.set_bloom_filter(10.0, false);
    let mut options = family(LARGE_MEMTABLE_BYTES, &blocks);
    options.set_compression_type(DBCompressionType::Zstd);
    options
}

fn small_options(cache: &Cache) -> Options {
    family(SMALL_MEMTABLE_BYTES, &blocks(Some(cache), 4 << 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        let location = Location { seq: 1 << 40, plain_len: 7, stored_len: 8 };
        assert_eq!(Location::from_bytes(&location.to_bytes()), Some(location));
        for len in [0, 8, 15, 17] {
            assert_eq!(Location::from_bytes(&vec![0; len]), None);
        }
        let record = NameRecord {
            name: Name::parse("game@1.0").expect("a name"),
            version: VersionId::of(b"x"),
            bound_unix_s: u64::MAX,
            sequence: u64::MAX,
        };
        let (key, value) = (name_key(&record.name), name_value(&record));
        assert_eq!(name_record(&key, &value, "here").expect("valid"), record);
        assert!(name_record(b"name/../x", &value, "here").is_err());
        assert!(name_record(&key, &value[1..], "here").is_err());
    }
}
