//! Versions as values: building, walking, comparing and planning, against naive models.

mod by_the_book;
mod edits;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use floe::content::CutParams;
use floe::version::{
    Change, ChunkListBuilder, Content, Delta, Entry, EntryKind, Manifest, ManifestBuilder, Node, NodeSink,
    NodeSource, Plan, RelPath, Step, diff, diff_chunks,
};
use floe::{ChunkId, ChunkRef, Error, NodeId, Result, VersionId};
use proptest::prelude::*;

#[derive(Default)]
struct Nodes {
    kept: HashMap<NodeId, Vec<u8>>,
    read: AtomicU64,
    calls: AtomicU64,
}

impl Nodes {
    fn reads(&self) -> u64 {
        self.read.swap(0, Ordering::Relaxed)
    }
}

impl NodeSource for Nodes {
    fn read_nodes(
        &self,
        ids: &[NodeId],
        each: &mut dyn FnMut(usize, Option<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        self.read.fetch_add(ids.len() as u64, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        // Any order is allowed.
        ids.iter().enumerate().rev().try_for_each(|(at, id)| each(at, self.kept.get(id).cloned()))
    }
    fn place(&self) -> String {
        "memory".into()
    }
}

impl NodeSink for Nodes {
    fn put_node(&mut self, id: NodeId, bytes: Vec<u8>) -> Result<()> {
        let node = Node::open(id, &bytes, "the builder")?;
        assert!(node.children().iter().all(|child| self.kept.contains_key(child)), "children come first");
        self.kept.insert(id, bytes);
        Ok(())
    }
}

type Model = BTreeMap<RelPath, EntryKind>;

fn path(text: &str) -> RelPath {
    RelPath::parse(text).expect("a valid path")
}

fn chunk(n: u64) -> ChunkRef {
    ChunkRef { id: ChunkId::of(&n.to_le_bytes()), len: 20_000 + (n % 1000) as u32 }
}

fn list(nodes: &mut Nodes, chunks: impl IntoIterator<Item = ChunkRef>) -> (Content, u64) {
    let mut list = ChunkListBuilder::new(nodes);
    chunks.into_iter().for_each(|chunk| list.push(chunk).expect("a valid chunk"));
    list.finish().expect("memory takes nodes")
}

fn file(nodes: &mut Nodes, chunks: impl IntoIterator<Item = ChunkRef>) -> EntryKind {
    let (content, len) = list(nodes, chunks);
    EntryKind::File { mode: 0o644, len, content }
}

fn build(nodes: &mut Nodes, model: &Model) -> VersionId {
    let mut builder = ManifestBuilder::new(CutParams::V1, nodes);
    for (path, kind) in model {
        builder.push(Entry { path: path.clone(), kind: kind.clone() }).expect("a valid entry");
    }
    builder.finish().expect("memory takes nodes").0
}

fn read(nodes: &Nodes, id: VersionId) -> Model {
    let manifest = Manifest::open(nodes, id).expect("the root is here");
    let model: Model =
        manifest.entries().map(|e| e.expect("a whole tree")).map(|e| (e.path, e.kind)).collect();
    assert_eq!(manifest.totals().entries, model.len() as u64);
    model
}

fn changes(have: &Manifest<'_>, want: &Manifest<'_>) -> Result<Vec<Change>> {
    let mut all = Vec::new();
    diff(have, want, &mut |change| {
        all.push(change);
        Ok(())
    })?;
    Ok(all)
}

fn naive(have: &Model, want: &Model) -> Vec<Change> {
    let paths: BTreeSet<_> = have.keys().chain(want.keys()).collect();
    let entry = |model: &Model, path: &RelPath| {
        model.get(path).map(|kind| Entry { path: path.clone(), kind: kind.clone() })
    };
    let all = paths.into_iter().map(|path| Change {
        path: path.clone(),
        have: entry(have, path),
        want: entry(want, path),
    });
    all.filter(|change| change.have != change.want).collect()
}

fn distinct(nodes: &Nodes, model: &Model, id: VersionId) -> BTreeSet<(ChunkId, u32)> {
    let manifest = Manifest::open(nodes, id).expect("the root is here");
    let contents = model.values().filter_map(|kind| match kind {
        EntryKind::File { content, .. } => Some(content),
        _ => None,
    });
    let chunks = contents.flat_map(|content| manifest.chunks(content)).map(|c| c.expect("a whole tree"));
    chunks.map(|chunk| (chunk.id, chunk.len)).collect()
}

// A small universe, so that renames, copies and conflicts of type happen.
fn seed() -> impl Strategy<Value = Vec<(String, u8, u64)>> {
    let name = prop_oneof!["[ab]", "[ab]-[ab]", "[a-c]{1,2}", "[a-z]{1,8}\\.x"];
    let path = proptest::collection::vec(name, 1..4).prop_map(|parts| parts.join("/"));
    proptest::collection::vec((path, 0..12u8, 0..40u64), 0..400)
}

fn grow(nodes: &mut Nodes, seed: &[(String, u8, u64)]) -> Model {
    let mut model = Model::new();
    edit(nodes, &mut model, seed);
    model
}

// Puts each path, making room as a file system would.
fn edit(nodes: &mut Nodes, model: &mut Model, seed: &[(String, u8, u64)]) {
    for (text, kind, n) in seed {
        let path = path(text);
        let kind = match kind {
            0 => {
                model.remove(&path);
                continue;
            }
            1 => EntryKind::Symlink { target: format!("to/{n}") },
            2 => EntryKind::Dir { mode: 0o755 },
            3 => EntryKind::Dir { mode: 0o700 },
            4 => file(nodes, []),
            5 => file(nodes, (*n..n + 9 + n * 20).map(chunk)),
            6 => match file(nodes, [chunk(*n)]) {
                EntryKind::File { len, content, .. } => EntryKind::File { mode: 0o755, len, content },
                other => other,
            },
            _ => file(nodes, (0..n % 7).map(|at| chunk(n + at))),
        };
        let keeps_below = kind == EntryKind::Dir { mode: 0o700 };
        model.retain(|other, was| {
            let above = path.is_below(other) && *was != EntryKind::Dir { mode: 0o700 };
            !above && (keeps_below || !other.is_below(&path))
        });
        model.insert(path, kind);
    }
}

// What a replica would do, on a map.
fn apply(model: &Model, plan: &Plan) -> Model {
    let mut after = model.clone();
    for step in &plan.steps {
        match step {
            Step::Move { from, .. } => drop(after.remove(from)),
            Step::Delete { have } => drop(after.remove(&have.path)),
            _ => {}
        }
    }
    let content = |kind: &EntryKind| match kind {
        EntryKind::File { len, content, .. } => Some((*len, content.clone())),
        _ => None,
    };
    for step in &plan.steps {
        let (from, want) = match step {
            Step::Delete { .. } => continue,
            Step::SetMode { want } => (Some(&want.path), want),
            Step::Move { from, want } | Step::Copy { from, want } => (Some(from), want),
            Step::Build { want } | Step::Make { want } => (None, want),
        };
        if let Some(from) = from {
            assert_eq!(content(&model[from]), content(&want.kind), "{step:?}");
        }
        after.insert(want.path.clone(), want.kind.clone());
    }
    let targets: BTreeSet<_> = plan.steps.iter().map(Step::path).collect();
    assert!(plan.steps.is_sorted_by(|a, b| a.path() < b.path()) && targets.len() == plan.steps.len());
    let froms: Vec<_> = plan
        .steps
        .iter()
        .filter_map(|s| if let Step::Move { from, .. } = s { Some(from) } else { None })
        .collect();
    assert_eq!(froms.iter().collect::<BTreeSet<_>>().len(), froms.len(), "a source is moved once");
    after
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_version_holds_what_was_put_in(seed in seed(), probes in seed()) {
        let mut nodes = Nodes::default();
        let model = grow(&mut nodes, &seed);
        let id = build(&mut nodes, &model);
        prop_assert_eq!(build(&mut Nodes { kept: nodes.kept.clone(), ..Nodes::default() }, &model), id);
        prop_assert_eq!(&read(&nodes, id), &model);
        let manifest = Manifest::open(&nodes, id).expect("the root is here");
        for path in model.keys().cloned().chain(probes.iter().map(|(text, ..)| path(text))) {
            let found = manifest.get(&path).expect("a whole tree");
            prop_assert_eq!(found.map(|entry| entry.kind), model.get(&path).cloned());
        }
    }

    #[test]
    fn differences_are_those_of_the_sets(seed in seed(), edits in seed(), fresh in any::<bool>()) {
        let mut nodes = Nodes::default();
        let old = grow(&mut nodes, &seed);
        let mut new = if fresh { Model::new() } else { old.clone() };
        let edits = &edits[..if fresh { edits.len() } else { edits.len() / 8 }];
        edit(&mut nodes, &mut new, edits);
        let (old_id, new_id) = (build(&mut nodes, &old), build(&mut nodes, &new));
        let a = Manifest::open(&nodes, old_id).expect("the root is here");
        let b = Manifest::open(&nodes, new_id).expect("the root is here");
        let (there, back) = (changes(&a, &b).expect("whole trees"), changes(&b, &a).expect("whole trees"));
        prop_assert_eq!(&there, &naive(&old, &new));
        prop_assert_eq!(&back, &naive(&new, &old));
        prop_assert_eq!(&apply(&old, &Plan::from_changes(there.clone())), &new);
        prop_assert_eq!(&apply(&new, &Plan::from_changes(back)), &old);

        let (in_old, in_new) = (distinct(&nodes, &old, old_id), distinct(&nodes, &new, new_id));
        let delta = Delta::between(Some(&a), &b).expect("whole trees");
        let missing: Vec<_> = delta.missing.iter().map(|chunk| (chunk.id, chunk.len)).collect();
        prop_assert_eq!(missing.len(), missing.iter().collect::<BTreeSet<_>>().len());
        prop_assert_eq!(missing.into_iter().collect::<BTreeSet<_>>(), &in_new - &in_old);
        let whole = Delta::between(None, &b).expect("a whole tree");
        prop_assert_eq!(whole.missing.len(), in_new.len());
        let is_file = |entry: &Option<Entry>| matches!(entry, Some(Entry { kind: EntryKind::File { .. }, .. }));
        let added = there.iter().filter(|c| is_file(&c.want) && !is_file(&c.have)).count() as u64;
        let removed = there.iter().filter(|c| is_file(&c.have) && !is_file(&c.want)).count() as u64;
        prop_assert_eq!(delta.files_added + delta.files_moved, added);
        prop_assert_eq!(delta.files_removed + delta.files_moved, removed);
    }

    #[test]
    fn lists_of_chunks_come_back(runs in proptest::collection::vec((0..6u64, 1..60usize), 0..40), cut in 0..2000usize) {
        let mut nodes = Nodes::default();
        let old: Vec<_> = runs.iter().flat_map(|(n, times)| std::iter::repeat_n(chunk(*n), *times)).collect();
        let cut = cut.min(old.len());
        let new: Vec<_> = old[..cut].iter().copied().chain([chunk(99)]).chain(old[cut..].iter().copied()).collect();
        let (a, a_len) = list(&mut nodes, old.iter().copied());
        let (b, b_len) = list(&mut nodes, new.iter().copied());
        prop_assert_eq!(a_len, old.iter().map(|c| u64::from(c.len)).sum::<u64>());
        prop_assert_eq!(matches!(a, Content::Inline(_)), old.len() <= Content::INLINE_MAX);
        let model = Model::from([(path("f"), EntryKind::File { mode: 0, len: b_len, content: b.clone() })]);
        let id = build(&mut nodes, &model);
        let manifest = Manifest::open(&nodes, id).expect("the root is here");
        prop_assert_eq!(manifest.chunks(&b).collect::<Result<Vec<_>>>().expect("a whole tree"), new);
        let found = diff_chunks((&nodes, a_len, &a), (&nodes, b_len, &b)).expect("whole trees");
        prop_assert!(found.want.contains(&chunk(99)) && !found.have.contains(&chunk(99)));
    }

    #[test]
    fn damaged_nodes_are_never_believed(seed in seed(), at in any::<usize>(), bit in 0..8u8, cut in any::<bool>()) {
        let mut nodes = Nodes::default();
        let model = grow(&mut nodes, &seed);
        let root = build(&mut nodes, &model);
        for (id, bytes) in &nodes.kept {
            let mut hurt = bytes.clone();
            let at = at % hurt.len();
            if cut { hurt.truncate(at) } else { hurt[at] ^= 1 << bit }
            let refused = matches!(Node::open(*id, &hurt, "here"), Err(Error::Damaged { .. }));
            prop_assert!(refused);
            // Under its own hash it is another node, or none.
            if let Ok(node) = Node::open(NodeId::of(&hurt), &hurt, "here") {
                prop_assert!(node != Node::open(*id, bytes, "here").expect("it was kept"));
                // And where it is believed to be the root, a walk comes to an end.
                let liar = Nodes { kept: nodes.kept.clone().into_iter().chain([(NodeId::of(&hurt), hurt.clone())]).collect(), ..Nodes::default() };
                if let Ok(manifest) = Manifest::open(&liar, VersionId::from_bytes(*NodeId::of(&hurt).as_bytes())) {
                    let walked: Result<Vec<_>> = manifest.entries().collect();
                    prop_assert!(walked.is_err() || manifest.totals().entries == model.len() as u64);
                }
            }
            let mut lacking = Nodes { kept: nodes.kept.clone(), ..Nodes::default() };
            lacking.kept.remove(id);
            match Manifest::open(&lacking, root) {
                Err(error) => {
                    let named = matches!(error, Error::NotFound { .. });
                    prop_assert!(named && *id == root.root());
                }
                Ok(manifest) => {
                    let walk = manifest.entries().try_for_each(|entry| match entry?.kind {
                        EntryKind::File { content, .. } => manifest.chunks(&content).try_for_each(|c| c.map(drop)),
                        _ => Ok(()),
                    });
                    let named = matches!(&walk, Err(Error::Damaged { what, .. }) if what.contains(&id.to_string()));
                    prop_assert!(named || walk.is_ok());
                }
            }
        }
    }
}

fn wide(nodes: &mut Nodes, count: u64) -> Model {
    (0..count)
        .map(|n| (path(&format!("dir{:03}/sub{}/file{n:06}", n / 500, n % 3)), file(nodes, [chunk(n)])))
        .collect()
}

fn nodes_below(nodes: &Nodes, id: VersionId) -> BTreeSet<NodeId> {
    let (mut seen, mut todo) = (BTreeSet::new(), vec![id.root()]);
    while let Some(id) = todo.pop() {
        if seen.insert(id) {
            todo.extend(Node::open(id, &nodes.kept[&id], "memory").expect("a good node").children());
        }
    }
    seen
}

#[test]
fn small_edits_of_a_large_tree_touch_few_nodes() {
    let mut nodes = Nodes::default();
    let model = wide(&mut nodes, 100_000);
    let id = build(&mut nodes, &model);
    let nothing = build(&mut nodes, &Model::new());
    let before = nodes_below(&nodes, id);
    let keys: Vec<_> = model.keys().cloned().collect();
    nodes.reads();
    for at in (0..keys.len()).step_by(24_989) {
        type Edit<'e> = &'e dyn Fn(&mut Model, &mut Nodes);
        let edits: [Edit<'_>; 3] = [
            &|model, nodes| drop(model.insert(keys[at].clone(), file(nodes, [chunk(1 << 40)]))),
            &|model, _| drop(model.remove(&keys[at])),
            &|model, nodes| {
                drop(model.insert(path(&format!("{}+", keys[at])), file(nodes, [chunk(1 << 41)])))
            },
        ];
        for edit in edits {
            let mut new = model.clone();
            edit(&mut new, &mut nodes);
            let new_id = build(&mut nodes, &new);
            let made = nodes_below(&nodes, new_id).difference(&before).count();
            assert!(made <= 10, "{made} new nodes");
            nodes.reads();
            let a = Manifest::open(&nodes, id).expect("the root is here");
            let b = Manifest::open(&nodes, new_id).expect("the root is here");
            assert_eq!(changes(&a, &b).expect("whole trees").len(), 1);
            let reads = nodes.reads();
            assert!(reads < 40, "{reads} nodes read");
        }
    }
    let manifest = Manifest::open(&nodes, id).expect("the root is here");
    nodes.reads();
    assert_eq!(changes(&manifest, &manifest).expect("a whole tree").len(), 0);
    assert_eq!(nodes.reads(), 0);
    manifest.get(&keys[50_000]).expect("a whole tree").expect("it is there");
    assert!(nodes.reads() < 6);
    nodes.calls.store(0, Ordering::Relaxed);
    assert_eq!(manifest.entries().filter(|entry| entry.is_ok()).count(), keys.len());
    assert!(nodes.calls.load(Ordering::Relaxed) * 8 < before.len() as u64, "reads come in batches");
    // Everything is new: batches too.
    nodes.calls.store(0, Ordering::Relaxed);
    let nothing = Manifest::open(&nodes, nothing).expect("the root is here");
    assert_eq!(changes(&nothing, &manifest).expect("whole trees").len(), keys.len());
    assert!(nodes.calls.load(Ordering::Relaxed) * 8 < before.len() as u64, "reads come in batches");
}

#[test]
fn versions_of_any_heights_and_ranges_compare() {
    let mut nodes = Nodes::default();
    let all = wide(&mut nodes, 60_000);
    let keys: Vec<_> = all.keys().cloned().collect();
    let all_id = build(&mut nodes, &all);
    let all_nodes = nodes_below(&nodes, all_id);
    for range in [0..10, 0..20_000, 20_000..20_001, 59_000..60_000, 10_000..59_990, 5..60_000] {
        let mut part = all.clone();
        keys[range.clone()].iter().for_each(|key| drop(part.remove(key)));
        let id = build(&mut nodes, &part);
        let differing = nodes_below(&nodes, id).symmetric_difference(&all_nodes).count() as u64;
        let (a, b) =
            (Manifest::open(&nodes, all_id).expect("a root"), Manifest::open(&nodes, id).expect("a root"));
        for (have, want) in [(&a, &b), (&b, &a)] {
            nodes.reads();
            assert_eq!(changes(have, want).expect("whole trees").len(), range.len());
            let reads = nodes.reads();
            // Beside what differs: where the two meet again, and the neighbours of what is new.
            assert!(
                reads < differing + 40 + 3 * range.len() as u64 / 50,
                "{range:?}: {reads} of {differing}"
            );
        }
    }
}

#[test]
fn new_paths_must_fit_among_those_that_stayed() {
    let mut nodes = Nodes::default();
    let mut sound = wide(&mut nodes, 5000);
    for text in ["dir001", "dir002/sub0/file001000", "dir009"] {
        sound.retain(|other, _| !other.is_below(&path(text)));
        sound.insert(path(text), file(&mut nodes, [chunk(1 << 40)]));
    }
    // The builder refuses such versions; the book does not.
    let have = build(&mut nodes, &sound);
    let rows: [(&str, Option<&str>, bool); 6] = [
        ("dir001/x", None, false),
        ("dir001/x", Some("dir001"), true),
        ("dir002/sub0/file001000/deep/er", None, false),
        ("dir003", None, false),
        ("dir003/sub0", None, false),
        ("dir003/sub9/new", None, true),
    ];
    for (text, without, fine) in rows {
        let mut model = sound.clone();
        without.map(|gone| model.remove(&path(gone)));
        model.insert(path(text), file(&mut nodes, [chunk(1 << 41)]));
        let id = by_the_book::put(&mut nodes.kept, &model);
        let (a, b) =
            (Manifest::open(&nodes, have).expect("a root"), Manifest::open(&nodes, id).expect("a root"));
        let found = changes(&a, &b);
        assert_eq!(found.is_ok(), fine, "{text}: {found:?}");
        assert_eq!(b.entries().collect::<Result<Vec<_>>>().is_ok(), fine, "{text}");
    }
}

#[test]
fn small_edits_of_a_large_file_touch_few_nodes() {
    let mut nodes = Nodes::default();
    let chunks: Vec<_> = (0..13_000).map(chunk).collect();
    let big = |nodes: &mut Nodes, chunks: &[ChunkRef]| {
        let model = Model::from([(path("big"), file(nodes, chunks.iter().copied()))]);
        build(nodes, &model)
    };
    let id = big(&mut nodes, &chunks);
    let before = nodes_below(&nodes, id);
    for at in (0..chunks.len()).step_by(997) {
        let mut new = chunks.clone();
        // One chunk became two and a changed one.
        new.splice(at..=at, [chunk(1 << 40), chunk(1 << 41)]);
        let new_id = big(&mut nodes, &new);
        let made = nodes_below(&nodes, new_id).difference(&before).count();
        assert!(made <= 10, "{made} new nodes");
        let a = Manifest::open(&nodes, id).expect("the root is here");
        let b = Manifest::open(&nodes, new_id).expect("the root is here");
        let get = |m: &Manifest<'_>| match m.get(&path("big")).expect("whole").expect("there").kind {
            EntryKind::File { len, content, .. } => (len, content),
            other => panic!("{other:?}"),
        };
        let ((a_len, a_content), (b_len, b_content)) = (get(&a), get(&b));
        nodes.reads();
        let found =
            diff_chunks((&nodes, a_len, &a_content), (&nodes, b_len, &b_content)).expect("whole trees");
        let reads = nodes.reads();
        assert!(reads < 40, "{reads} nodes read");
        assert!(found.want.starts_with(&[chunk(1 << 40), chunk(1 << 41)]));
        assert_eq!(
            Delta::between(Some(&a), &b).expect("whole trees").missing,
            [chunk(1 << 40), chunk(1 << 41)]
        );
        // The other way round only what both sides have is left: no pass over the base is needed.
        assert_eq!(Delta::between(Some(&b), &a).expect("whole trees").missing, [chunks[at]]);
    }
}

#[test]
fn repetition_does_not_make_trees_deep_or_deltas_slow() {
    let mut nodes = Nodes::default();
    for n in 0..20 {
        let model = Model::from([(
            path("zeros"),
            file(&mut nodes, std::iter::repeat_n(chunk(n), 1_000_000 >> (n / 4))),
        )]);
        let id = build(&mut nodes, &model);
        let below = nodes_below(&nodes, id);
        assert!(below.len() < 100, "{} distinct nodes", below.len());
        let manifest = Manifest::open(&nodes, id).expect("the root is here");
        nodes.reads();
        assert_eq!(Delta::between(None, &manifest).expect("a whole tree").missing, [chunk(n)]);
        let nothing = build(&mut nodes, &Model::new());
        let nothing = Manifest::open(&nodes, nothing).expect("the root is here");
        let manifest = Manifest::open(&nodes, id).expect("the root is here");
        assert_eq!(Delta::between(Some(&manifest), &nothing).expect("a whole tree").missing, []);
        assert!(nodes.reads() < 200);
        if n == 0 {
            let EntryKind::File { content, .. } = &model[&path("zeros")] else { panic!("a file") };
            assert_eq!(manifest.chunks(content).filter(|c| c.is_ok()).count(), 1_000_000);
        }
    }
}

#[test]
fn renames_alone_read_no_chunk_lists() {
    let mut nodes = Nodes::default();
    let big = file(&mut nodes, (0..5000).map(chunk));
    let old =
        Model::from([(path("a/data.bin"), big.clone()), (path("a/x"), file(&mut nodes, [chunk(1 << 40)]))]);
    let new = Model::from([(path("b/data.bin"), big), (path("b/x"), file(&mut nodes, [chunk(1 << 40)]))]);
    let (a, b) = (build(&mut nodes, &old), build(&mut nodes, &new));
    nodes.reads();
    let a = Manifest::open(&nodes, a).expect("the root is here");
    let b = Manifest::open(&nodes, b).expect("the root is here");
    let delta = Delta::between(Some(&a), &b).expect("whole trees");
    assert_eq!(
        (delta.files_moved, delta.files_added, delta.files_removed, delta.files_changed),
        (2, 0, 0, 0)
    );
    assert_eq!(delta.missing, []);
    // Two roots, two leaves, and a look whether `b` is a file.
    assert_eq!(nodes.reads(), 5);
    let plan = Plan::from_changes(changes(&a, &b).expect("whole trees"));
    assert!(plan.steps.iter().all(|step| matches!(step, Step::Move { .. })), "{plan:?}");
    assert_eq!(plan.totals().files_moved, 2);
    assert_eq!(plan.totals().bytes_extra_peak, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_format_is_what_the_book_says(seed in seed(), long in 1..250usize, runs in proptest::collection::vec((0..9u64, 1..300usize), 1..30)) {
        let mut nodes = Nodes::default();
        let mut model = grow(&mut nodes, &seed);
        // Items larger than a page, and levels of long keys.
        for n in 0..long {
            let text = format!("z{}/{n}", "y".repeat(200).repeat(n % 2) + &"/x".repeat(n * 7 % 1900));
            model.insert(path(&text), EntryKind::Symlink { target: "t".repeat(1 + n * 97 % 4095) });
        }
        prop_assert_eq!(build(&mut nodes, &model), by_the_book::put(&mut HashMap::new(), &model));
        let chunks: Vec<_> = runs.iter().flat_map(|(n, times)| (0..*times as u64).map(move |at| chunk(n + at % (n + 1)))).collect();
        if let (Content::Tree { root, .. }, _) = list(&mut nodes, chunks.iter().copied()) {
            prop_assert_eq!(root, by_the_book::chunk_tree(&chunks));
        }
    }
}

#[test]
fn the_ids_of_format_1_stay() {
    let mut nodes = Nodes::default();
    let nothing = build(&mut nodes, &Model::new());
    let mut model = wide(&mut nodes, 5000);
    model.insert(path("big"), file(&mut nodes, (0..3000).map(chunk)));
    model.insert(path("link"), EntryKind::Symlink { target: "big".into() });
    model.insert(path("empty"), EntryKind::Dir { mode: 0o755 });
    let all = build(&mut nodes, &model);
    assert_eq!(all, by_the_book::put(&mut HashMap::new(), &model));
    expect_test::expect!["5e5fdf5028597e43d554b7a8cc7b8112038f2cc2b79bbbda975f3e9aea331237"]
        .assert_eq(&nothing.to_string());
    expect_test::expect!["71e7737fe625640c25e4cd8898c713456e98816816442057bd67968560709005"]
        .assert_eq(&all.to_string());
}
