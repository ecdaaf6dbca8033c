//! A store that is a few maps, trees as plain values, and a sync in its shortest form.
// Each of several test programs uses a part of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Mutex;

use floe::content::{Chunk, Chunker, Compression, CutParams, Frame};
use floe::tree::{Fetch, Replica, ReplicaOptions, Stage, StageOptions, Staged, Survey, SurveyOptions};
use floe::version::{
    Change, ChunkListBuilder, Entry, EntryKind, Manifest, ManifestBuilder, NodeSink, Plan, RelPath,
};
use floe::{ChunkId, ChunkRef, Faults, NodeId, Notice, Progress, Result, Silent, VersionId};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    File(u32, Vec<u8>),
    Symlink(String),
    Dir(u32),
}

impl Item {
    pub fn file(mode: u32, data: Vec<u8>) -> Item {
        Item::File(mode, data)
    }
    pub fn text(text: &str) -> Item {
        Item::File(0o644, text.as_bytes().to_vec())
    }
}

/// Entries by path. Directories only where they are entries of a version.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tree(BTreeMap<String, Item>);

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (path, item) in &self.0 {
            match item {
                Item::File(mode, data) => {
                    writeln!(f, "{path} {mode:o} {} {:?}", data.len(), ChunkId::of(data))?
                }
                other => writeln!(f, "{path} {other:?}")?,
            }
        }
        Ok(())
    }
}

impl Tree {
    pub fn with(mut self, path: &str, item: Item) -> Tree {
        for (at, _) in path.match_indices('/') {
            if matches!(self.0.get(&path[..at]), Some(Item::File(..) | Item::Symlink(_) | Item::Dir(0o755))) {
                self.0.remove(&path[..at]);
            }
        }
        let below = format!("{path}/");
        if !matches!(item, Item::Dir(_)) {
            self.0.retain(|other, _| !other.starts_with(&below));
        }
        if item != Item::Dir(0o755) || !self.0.keys().any(|other| other.starts_with(&below)) {
            self.0.insert(path.to_owned(), item);
        } else {
            self.0.remove(path);
        }
        self
    }

    pub fn get(&self, path: &str) -> Option<&Item> {
        self.0.get(path)
    }

    pub fn items(&self) -> impl Iterator<Item = (&str, &Item)> {
        self.0.iter().map(|(path, item)| (path.as_str(), item))
    }

    /// Puts every entry on disk, in place of what is there.
    pub fn write_over(&self, dir: &Path) {
        for (path, item) in &self.0 {
            let full = dir.join(path);
            let mut above = dir.to_owned();
            for component in Path::new(path).parent().expect("relative").components() {
                above.push(component);
                if !above.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                    let _ = fs::remove_file(&above);
                    fs::create_dir(&above).expect("made");
                } else if above.metadata().is_ok_and(|meta| meta.mode() & 0o300 != 0o300) {
                    fs::set_permissions(&above, fs::Permissions::from_mode(0o755)).expect("set");
                }
            }
            match full.symlink_metadata() {
                Ok(meta) if meta.is_dir() && matches!(item, Item::Dir(_)) => {}
                Ok(meta) if meta.is_dir() => remove_all(&full),
                Ok(_) => fs::remove_file(&full).expect("removed"),
                Err(_) => {}
            }
            match item {
                Item::File(mode, data) => {
                    fs::write(&full, data).expect("written");
                    fs::set_permissions(&full, fs::Permissions::from_mode(*mode)).expect("set");
                }
                Item::Symlink(target) => symlink(target, &full).expect("made"),
                Item::Dir(mode) => {
                    fs::create_dir_all(&full).expect("made");
                    // Widened so that the rest can be written by anyone.
                    fs::set_permissions(&full, fs::Permissions::from_mode(*mode | 0o700)).expect("set");
                }
            }
        }
        for (path, item) in self.0.iter().rev() {
            if let Item::Dir(mode) = item {
                fs::set_permissions(dir.join(path), fs::Permissions::from_mode(*mode)).expect("set");
            }
        }
    }
}

fn remove_all(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).expect("set");
    for entry in fs::read_dir(dir).expect("listed") {
        let entry = entry.expect("listed");
        if entry.file_type().expect("known").is_dir() {
            remove_all(&entry.path());
        }
    }
    fs::remove_dir_all(dir).expect("removed");
}

/// What lies in `dir`, without `.floe`.
pub fn on_disk(dir: &Path) -> Tree {
    let mut tree = Tree::default();
    walk(dir, "", &mut tree);
    tree
}

fn walk(dir: &Path, prefix: &str, tree: &mut Tree) -> bool {
    let mut any = false;
    for entry in fs::read_dir(dir).expect("listed") {
        let entry = entry.expect("listed");
        let name = entry.file_name().into_string().expect("UTF-8");
        if prefix.is_empty() && name == ".floe" {
            continue;
        }
        any = true;
        let (path, meta) = (format!("{prefix}{name}"), entry.metadata().expect("there"));
        let mode = meta.mode() & 0o777;
        if meta.is_dir() {
            if !walk(&entry.path(), &format!("{path}/"), tree) || mode != 0o755 {
                tree.0.insert(path, Item::Dir(mode));
            }
        } else if meta.is_symlink() {
            let target = fs::read_link(entry.path()).expect("read");
            tree.0.insert(path, Item::Symlink(target.to_str().expect("UTF-8").to_owned()));
        } else if meta.is_file() {
            tree.0.insert(path, Item::File(mode, fs::read(entry.path()).expect("read")));
        }
    }
    any
}

/// A small tree; trees of different seeds share paths and content.
pub fn random_tree(seed: u64) -> Tree {
    let mut dice = Dice(seed.wrapping_mul(2).wrapping_add(1));
    let mut tree = Tree::default();
    for _ in 0..dice.below(14) {
        let depth = 1 + dice.below(3);
        let path: Vec<&str> = (0..depth).map(|_| ["a", "b", "a-", "a.txt"][dice.below(4) as usize]).collect();
        let item = match dice.below(10) {
            0 => Item::Symlink(["a", "/etc", "../.."][dice.below(3) as usize].into()),
            1 => Item::Dir(0o755),
            2 => Item::Dir([0o700, 0o555][dice.below(2) as usize]),
            n => {
                let mode = [0o644, 0o755, 0o444, 0o600][dice.below(4) as usize];
                let data = match n {
                    3 => Vec::new(),
                    4..=7 => format!("content {}", dice.below(4)).into_bytes(),
                    8 => World::noise(dice.below(3), 100_000),
                    // Pieces in any order: chunks in common, and more than an entry holds.
                    _ => (0..6).flat_map(|_| World::noise(dice.below(3), 200_000)).collect(),
                };
                Item::File(mode, data)
            }
        };
        tree = tree.with(&path.join("/"), item);
    }
    tree
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

#[derive(Default)]
pub struct World {
    nodes: HashMap<VersionId, Vec<(NodeId, Vec<u8>)>>,
    chunks: HashMap<ChunkId, Vec<u8>>,
    pub delete: bool,
    pub faults: Faults,
}

#[derive(Debug)]
pub struct Report {
    pub steps: usize,
    pub foreign: u64,
    pub fetched: usize,
    pub fetched_twice: Vec<ChunkId>,
    pub staged: Staged,
}

pub struct Counted {
    pub result: Result<Report>,
    pub taken: BTreeSet<ChunkId>,
}

#[derive(Default)]
struct Nodes(Vec<(NodeId, Vec<u8>)>);

impl NodeSink for Nodes {
    fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
        self.0.push((id, bytes));
        Ok(())
    }
}

struct Fetcher<'a> {
    world: &'a World,
    asked: Mutex<Vec<ChunkId>>,
    taken: Mutex<BTreeSet<ChunkId>>,
}

impl Fetch for Fetcher<'_> {
    fn fetch(&self, want: &[ChunkRef], each: &mut dyn FnMut(usize, Frame) -> Result<()>) -> Result<()> {
        self.asked.lock().expect("not poisoned").extend(want.iter().map(|chunk| chunk.id));
        // Any order is allowed.
        for (index, chunk) in want.iter().enumerate().rev() {
            each(index, Frame::encode(&self.world.chunks[&chunk.id], Compression::None))?;
            self.taken.lock().expect("not poisoned").insert(chunk.id);
        }
        Ok(())
    }

    fn open(&self, want: &ChunkRef, frame: Frame) -> Result<Chunk> {
        Chunk::open(frame, want, "the world")
    }
}

impl World {
    pub fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new_derive_key("noise").update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    pub fn publish(&mut self, tree: &Tree) -> VersionId {
        let mut list = Nodes::default();
        let mut entries = Vec::new();
        for (path, item) in &tree.0 {
            let kind = match item {
                Item::Dir(mode) => EntryKind::Dir { mode: *mode as u16 },
                Item::Symlink(target) => EntryKind::Symlink { target: target.clone() },
                Item::File(mode, data) => {
                    let mut builder = ChunkListBuilder::new(&mut list);
                    let mut chunker = Chunker::new(&data[..]);
                    while let Some(bytes) = chunker.next_chunk().expect("memory can be read") {
                        let chunk = ChunkRef { id: ChunkId::of(bytes), len: bytes.len() as u32 };
                        self.chunks.insert(chunk.id, bytes.to_vec());
                        builder.push(chunk).expect("taken");
                    }
                    let (content, len) = builder.finish().expect("finished");
                    EntryKind::File { mode: *mode as u16, len, content }
                }
            };
            entries.push(Entry { path: RelPath::parse(path).expect("a path"), kind });
        }
        let mut builder = ManifestBuilder::new(CutParams::V1, &mut list);
        entries.into_iter().for_each(|entry| builder.push(entry).expect("taken"));
        let (version, _) = builder.finish().expect("finished");
        self.nodes.insert(version, list.0);
        version
    }

    pub fn sync(&self, dir: &Path, version: VersionId) -> Result<Report> {
        self.sync_counting(dir, version).result
    }

    pub fn sync_meddling(&self, dir: &Path, version: VersionId, meddle: impl Fn(&Path)) -> Result<Report> {
        self.run(dir, version, &self.fetcher(), &meddle)
    }

    pub fn sync_counting(&self, dir: &Path, version: VersionId) -> Counted {
        let fetcher = self.fetcher();
        let result = self.run(dir, version, &fetcher, &|_| {});
        Counted { result, taken: fetcher.taken.into_inner().expect("not poisoned") }
    }

    fn fetcher(&self) -> Fetcher<'_> {
        Fetcher { world: self, asked: Mutex::default(), taken: Mutex::default() }
    }

    fn run(
        &self,
        dir: &Path,
        version: VersionId,
        fetcher: &Fetcher<'_>,
        meddle: &dyn Fn(&Path),
    ) -> Result<Report> {
        let mut replica = Replica::open(
            dir,
            &ReplicaOptions { faults: self.faults.clone(), ..Default::default() },
            &Silent,
        )?;
        self.run_open(&mut replica, version, fetcher, &Silent, meddle)
    }

    pub fn sync_open(
        &self,
        replica: &mut Replica,
        version: VersionId,
        progress: &dyn Progress,
    ) -> Result<Report> {
        self.sync_open_meddling(replica, version, progress, &|_| {})
    }

    pub fn sync_open_meddling(
        &self,
        replica: &mut Replica,
        version: VersionId,
        progress: &dyn Progress,
        meddle: &dyn Fn(&Path),
    ) -> Result<Report> {
        self.run_open(replica, version, &self.fetcher(), progress, meddle)
    }

    fn run_open(
        &self,
        replica: &mut Replica,
        version: VersionId,
        fetcher: &Fetcher<'_>,
        progress: &dyn Progress,
        meddle: &dyn Fn(&Path),
    ) -> Result<Report> {
        let dir = replica.dir().to_owned();
        let options = SurveyOptions { rehash: false, threads: threads() };
        let survey = replica.survey(&options, progress)?;
        let stage = Stage::begin(replica, version)?;
        for (id, bytes) in &self.nodes[&version] {
            stage.put_node(*id, bytes.clone())?;
        }
        let (plan, foreign) = self.plan(stage.replica(), &survey, version)?;
        let mut stage = stage;
        let stage_options = StageOptions { threads: threads(), in_flight_bytes_max: 16 << 20 };
        let staged = stage.fill(&plan, &survey, fetcher, &stage_options, progress)?;
        meddle(&dir);
        stage.commit(&plan, &survey, Some("game@1"), &[], progress)?;
        assert_eq!(replica.version(), Some(version));
        let mut asked = HashSet::new();
        let log = fetcher.asked.lock().expect("not poisoned");
        let fetched_twice = log.iter().filter(|id| !asked.insert(**id)).copied().collect();
        Ok(Report { steps: plan.steps.len(), foreign, fetched: log.len(), fetched_twice, staged })
    }

    // What is on disk becomes what is wanted; what nobody recorded stays, unless `delete`.
    fn plan(&self, replica: &Replica, survey: &Survey, version: VersionId) -> Result<(Plan, u64)> {
        let entries = |version| -> Result<BTreeMap<RelPath, Entry>> {
            let manifest = Manifest::open(replica.nodes(), version)?;
            manifest.entries().map(|entry| entry.map(|entry| (entry.path.clone(), entry))).collect()
        };
        let mut recorded = replica.version().map(entries).transpose()?.unwrap_or_default();
        let mut want = entries(version)?;
        let mut actual = recorded.clone();
        for Change { path, have, want: found } in &survey.drift {
            if let (Some(have), None) = (have, recorded.get(path)) {
                // A directory that is recorded by what lies below it.
                recorded.insert(path.clone(), have.clone());
                want.entry(path.clone()).or_insert_with(|| have.clone());
            }
            match found {
                Some(found) => actual.insert(path.clone(), found.clone()),
                None => actual.remove(path),
            };
        }
        let paths: BTreeSet<&RelPath> = actual.keys().chain(want.keys()).collect();
        let (mut changes, mut foreign) = (Vec::new(), 0);
        for path in paths {
            let (have, wanted) = (actual.get(path), want.get(path));
            if have == wanted {
                continue;
            }
            if wanted.is_none() && have != recorded.get(path) && !self.delete {
                foreign += 1;
                continue;
            }
            changes.push(Change { path: path.clone(), have: have.cloned(), want: wanted.cloned() });
        }
        Ok((Plan::from_changes(changes), foreign))
    }
}

pub fn survey(replica: &Replica, rehash: bool) -> Survey {
    replica.survey(&SurveyOptions { rehash, threads: threads() }, &Silent).expect("surveys")
}

fn threads() -> NonZeroUsize {
    NonZeroUsize::new(3).expect("not zero")
}

/// Counts what is told.
#[derive(Default)]
pub struct Notices(Mutex<Vec<Notice>>);

impl Progress for Notices {
    fn notice(&self, notice: Notice) {
        self.0.lock().expect("not poisoned").push(notice);
    }
}

impl Notices {
    pub fn ignored(&self) -> usize {
        let told = self.0.lock().expect("not poisoned");
        told.iter().filter(|notice| matches!(notice, Notice::StateIgnored { .. })).count()
    }
}
