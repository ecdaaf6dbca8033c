//! Edits: whatever the pair, they lead from one version to the other; whatever the bytes, they end.

use floe::limits::EDITS_COUNT_MAX;
use floe::version::{Edits, apply_edits, make_edits};

use super::by_the_book::varint;
use super::*;

fn open(nodes: &Nodes, id: VersionId) -> Manifest<'_> {
    Manifest::open(nodes, id).expect("the root is here")
}

fn made(have: Option<&Manifest<'_>>, want: &Manifest<'_>) -> Edits {
    make_edits(have, want).expect("whole trees").expect("within the limits")
}

/// Carries out edits in a place that has only what `have` needs, and returns what came of it.
fn applied(edits: &Edits, nodes: &Nodes, have: Option<VersionId>) -> Result<(VersionId, Nodes)> {
    let below = have.map(|id| nodes_below(nodes, id)).unwrap_or_default();
    let kept: HashMap<_, _> = below.into_iter().map(|id| (id, nodes.kept[&id].clone())).collect();
    let here = Nodes { kept: kept.clone(), ..Nodes::default() };
    let mut sink = Nodes { kept, ..Nodes::default() };
    let base = have.map(|id| open(&here, id));
    let id = apply_edits(&edits.bytes, base.as_ref(), &edits.new, &mut sink, "the test")?;
    Ok((id, sink))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn edits_lead_from_any_version_to_any_other(seed in seed(), edits in seed(), fresh in any::<bool>()) {
        let mut nodes = Nodes::default();
        let old = grow(&mut nodes, &seed);
        let mut new = if fresh { Model::new() } else { old.clone() };
        edit(&mut nodes, &mut new, &edits[..if fresh { edits.len() } else { edits.len() / 8 }]);
        let ids = [build(&mut nodes, &old), build(&mut nodes, &new)];
        for (have, want) in [(Some(ids[0]), ids[1]), (Some(ids[1]), ids[0]), (None, ids[1]), (Some(ids[0]), ids[0])] {
            let (base, target) = (have.map(|id| open(&nodes, id)), open(&nodes, want));
            let edits = made(base.as_ref(), &target);
            let delta = Delta::between(base.as_ref(), &target).expect("whole trees");
            prop_assert_eq!(&edits.new, &delta.missing);
            let (id, sink) = applied(&edits, &nodes, have).expect("own edits");
            prop_assert_eq!(id, want);
            prop_assert_eq!(read(&sink, id).len() as u64, target.totals().entries);
        }
    }

    #[test]
    fn hurt_edits_end(seed in seed(), edits in seed(), at in any::<usize>(), bit in 0..8u8, cut in any::<bool>()) {
        let mut nodes = Nodes::default();
        let (old, new) = (grow(&mut nodes, &seed), grow(&mut nodes, &edits));
        let (have, want) = (build(&mut nodes, &old), build(&mut nodes, &new));
        let mut edits = made(Some(&open(&nodes, have)), &open(&nodes, want));
        let at = at % edits.bytes.len();
        if cut { edits.bytes.truncate(at) } else { edits.bytes[at] ^= 1 << bit }
        let arrived = applied(&edits, &nodes, Some(have));
        prop_assert!(!cut || arrived.is_err());
        if let Ok((id, sink)) = arrived {
            // Somewhere else, then, and sound; a mode bit may be ignored nowhere.
            prop_assert_ne!(id, want);
            read(&sink, id);
        }
    }
}

type Tree<'a> = &'a [(&'a str, std::ops::Range<u64>)];

fn grown(nodes: &mut Nodes, tree: Tree<'_>) -> VersionId {
    let model: Model = tree.iter().map(|(text, n)| (path(text), file(nodes, n.clone().map(chunk)))).collect();
    build(nodes, &model)
}

#[test]
fn what_is_there_is_not_brought_again() {
    // Trees, how many chunks are new, and how long the edits may be.
    let rows: [(&str, Tree<'_>, Tree<'_>, usize, usize); 9] = [
        ("equal", &[("a", 0..5)], &[("a", 0..5)], 0, 16),
        ("moved", &[("a", 0..5000)], &[("b/c", 0..5000)], 0, 40),
        ("copied", &[("a", 0..5000)], &[("a", 0..5000), ("b", 0..5000), ("c", 0..5000)], 0, 40),
        ("copied small", &[("a", 0..3), ("z", 7..9)], &[("a", 0..3), ("b", 0..3), ("z", 7..9)], 0, 40),
        ("cut short", &[("a", 0..5000)], &[("a", 0..4990)], 0, 40),
        ("in part, under another name", &[("a", 0..5000)], &[("b", 1000..4000)], 0, 40),
        ("grown", &[("a", 0..5000)], &[("a", 0..5003)], 3, 40),
        ("used twice", &[], &[("a", 0..20), ("b", 0..20), ("c", 3..9)], 20, 60),
        ("a directory moved", &[("a/x", 0..9), ("a/y", 10..30)], &[("b/x", 0..9), ("b/y", 10..30)], 0, 60),
    ];
    for (what, old, new, brought, len) in rows {
        let mut nodes = Nodes::default();
        let (have, want) = (grown(&mut nodes, old), grown(&mut nodes, new));
        let edits = made(Some(&open(&nodes, have)), &open(&nodes, want));
        assert_eq!(edits.new.len(), brought, "{what}");
        assert!(edits.bytes.len() <= len, "{what}: {} bytes", edits.bytes.len());
        assert_eq!(applied(&edits, &nodes, Some(have)).expect("own edits").0, want, "{what}");
    }
}

#[test]
fn data_moved_within_a_file_costs_no_chunks() {
    let mut nodes = Nodes::default();
    let all: Vec<_> = (0..3000).map(chunk).collect();
    let orders: [&[std::ops::Range<usize>]; 4] =
        [&[1000..3000, 0..1000], &[0..500, 500..501, 500..3000], &[2999..3000, 0..2999], &[0..1, 0..1, 0..1]];
    let first = file(&mut nodes, all.iter().copied());
    let have = build(&mut nodes, &Model::from([(path("a"), first)]));
    for order in orders {
        let chunks = order.iter().flat_map(|range| all[range.clone()].iter().copied());
        let kind = file(&mut nodes, chunks);
        let want = build(&mut nodes, &Model::from([(path("a"), kind)]));
        let edits = made(Some(&open(&nodes, have)), &open(&nodes, want));
        assert_eq!(edits.new, []);
        assert!(edits.bytes.len() < 60, "{order:?}: {} bytes", edits.bytes.len());
        assert_eq!(applied(&edits, &nodes, Some(have)).expect("own edits").0, want);
    }
}

#[test]
fn few_nodes_are_read_where_little_changed() {
    let mut nodes = Nodes::default();
    let mut model = wide(&mut nodes, 20_000);
    model.insert(path("large"), file(&mut nodes, (0..20_000).map(chunk)));
    model.insert(path("other"), file(&mut nodes, (30_000..50_000).map(chunk)));
    let have = build(&mut nodes, &model);
    // Nothing is new, so the base is not looked through.
    let kind = model.remove(&path("large")).expect("put in");
    model.insert(path("dir/large"), kind);
    model.insert(path("other"), file(&mut nodes, (30_000..49_000).map(chunk)));
    let want = build(&mut nodes, &model);
    nodes.reads();
    let (a, b) = (open(&nodes, have), open(&nodes, want));
    let edits = made(Some(&a), &b);
    assert!(nodes.reads() < 150);
    let mut sink = Nodes { kept: nodes.kept.clone(), ..Nodes::default() };
    assert_eq!(apply_edits(&edits.bytes, Some(&a), &edits.new, &mut sink, "here").expect("own edits"), want);
    let (entries, chunks) = (nodes_below(&nodes, have).len(), nodes.reads());
    assert!(chunks < entries as u64, "chunk trees of files that stay are not read");
}

/// Edits by hand: numbers as they are, paths as what they share and the rest.
#[derive(Default)]
struct Hand(Vec<u8>);

impl Hand {
    fn head(edits: u64) -> Hand {
        Hand::default().n(1).n(16 << 10).n(64 << 10).n(256 << 10).n(edits)
    }
    fn n(mut self, n: u64) -> Hand {
        varint(&mut self.0, n);
        self
    }
    fn path(mut self, shared: u64, rest: &str) -> Hand {
        varint(&mut self.0, shared);
        varint(&mut self.0, rest.len() as u64);
        self.0.extend(rest.bytes());
        self
    }
}

const REMOVE: u64 = 0;
const DIR: u64 = 1;
const MODE: u64 = 3;
const WHOLE: u64 = 4;
const FILE: u64 = 5;
const COPY: u64 = 0;
const NEW: u64 = 1;
const AGAIN: u64 = 2;
const FROM: u64 = 3;

#[test]
fn lies_are_errors() {
    let mut nodes = Nodes::default();
    let have = grown(&mut nodes, &[("a", 0..30), ("b", 5..6), ("c", 0..3)]);
    let new = [chunk(100), chunk(101)];
    let file = |path: &str, runs: u64| Hand::head(1).path(0, path).n(FILE).n(0).n(runs);
    let used = |hand: Hand| hand.n(NEW).n(2);
    let rows: Vec<(&str, Hand, bool)> = vec![
        ("the truth", used(file("a", 2)).n(COPY).n(3).n(20), true),
        ("from another", used(file("x", 3)).n(FROM).path(0, "a").n(COPY).n(0).n(30), true),
        ("again", used(file("x", 2)).n(AGAIN).n(0).n(2), true),
        ("no edits, but new chunks", Hand::head(0), false),
        ("more edits than there are", Hand::head(2).path(0, "a").n(REMOVE), false),
        ("2^60 edits", Hand::head(1 << 60), false),
        ("2^60 edits and some", Hand::head(1 << 60).path(0, "a").n(REMOVE), false),
        ("2^60 runs", used(file("a", 1 << 60)), false),
        ("a copy of 2^60", used(file("a", 2)).n(COPY).n(0).n(1 << 60), false),
        ("a copy from 2^60", used(file("a", 2)).n(COPY).n(1 << 60).n(1), false),
        ("a copy that overflows", used(file("a", 2)).n(COPY).n(u64::MAX).n(2), false),
        ("a copy of too many", used(file("a", 2)).n(COPY).n(1).n(30), false),
        ("an empty copy", used(file("a", 2)).n(COPY).n(1).n(0), false),
        ("a copy from nothing", used(file("x", 2)).n(COPY).n(0).n(1), false),
        ("a file that is not there", used(file("a", 2)).n(FROM).path(0, "x"), false),
        ("its own new path", used(file("x", 2)).n(FROM).path(0, "x"), false),
        ("more new chunks than there are", file("a", 1).n(NEW).n(3), false),
        ("2^60 new chunks", file("a", 1).n(NEW).n(1 << 60), false),
        ("fewer new chunks than there are", file("a", 1).n(NEW).n(1), false),
        ("again what was not used", file("a", 2).n(AGAIN).n(0).n(1).n(NEW).n(2), false),
        ("again too many", used(file("a", 2)).n(AGAIN).n(1).n(2), false),
        ("an unknown run", used(file("a", 2)).n(9), false),
        ("an unknown edit", Hand::head(1).path(0, "a").n(9), false),
        ("bytes after the end", used(file("a", 1)).n(0), false),
        ("a mode beyond the bits", Hand::head(1).path(0, "a").n(FILE).n(0o1000).n(1).n(NEW).n(2), false),
        ("no path", used(file("", 1)), false),
        ("a path that climbs", used(file("../x", 1)), false),
        ("a path into .floe", used(file(".floe/x", 1)), false),
        ("a path below a file", used(file("a/x", 1)), false),
        (
            "paths out of order",
            used(used(Hand::head(2).path(0, "x").n(FILE).n(0).n(1)).path(0, "a").n(REMOVE)),
            false,
        ),
        ("a path twice", used(Hand::head(2).path(0, "a").n(REMOVE).path(1, "").n(FILE).n(0).n(1)), false),
        ("more shared than there is", used(Hand::head(1).path(1, "a").n(FILE).n(0).n(1)), false),
        (
            "less shared than there is",
            used(Hand::head(2).path(0, "b").n(REMOVE).path(0, "bb").n(FILE).n(0).n(1)),
            false,
        ),
        (
            "removing nothing",
            used(Hand::head(2).path(0, "0").n(REMOVE).path(0, "x").n(FILE).n(0).n(1)),
            false,
        ),
        (
            "another mode for nothing",
            used(Hand::head(2).path(0, "0").n(MODE).n(0).path(0, "x").n(FILE).n(0).n(1)),
            false,
        ),
        (
            "the whole of nothing",
            used(Hand::head(2).path(0, "0").n(WHOLE).n(0).path(0, "y").path(0, "x").n(FILE).n(0).n(1)),
            false,
        ),
        (
            "an entry for a directory that is implied",
            used(Hand::head(2).path(0, "0").n(DIR).n(0o755).path(1, "/x").n(FILE).n(0).n(1)),
            false,
        ),
    ];
    for (what, hand, fine) in rows {
        let edits = Edits { bytes: hand.0, new: new.to_vec(), ..Edits::default() };
        let arrived = applied(&edits, &nodes, Some(have));
        assert_eq!(arrived.is_ok(), fine, "{what}: {:?}", arrived.map(|(id, _)| id));
        if let Err(error) = arrived {
            assert!(
                error.to_string().contains("the test") || matches!(error, Error::UnsafePath { .. }),
                "{what}: {error}"
            );
        }
    }
}

#[test]
fn a_few_bytes_cannot_ask_for_much() {
    let mut nodes = Nodes::default();
    let have = grown(&mut nodes, &[("a", 0..1000)]);
    // Each run stands for a thousand chunks; all together for hundreds of millions.
    let mut hand = Hand::head(1).path(0, "a").n(FILE).n(0).n(EDITS_COUNT_MAX - 1);
    for _ in 0..2000 {
        hand = hand.n(COPY).n(0).n(1000);
    }
    let error = applied(&Edits { bytes: hand.0, ..Edits::default() }, &nodes, Some(have))
        .map(drop)
        .expect_err("a bomb");
    assert!(error.to_string().starts_with("chunks that runs stand for from the test is 1000"), "{error}");
    let error = applied(
        &Edits { bytes: Hand::head(1).path(0, "a").n(FILE).n(0).n(EDITS_COUNT_MAX).0, ..Edits::default() },
        &nodes,
        Some(have),
    )
    .map(drop)
    .expect_err("too many runs");
    assert!(error.to_string().starts_with("count of edits"), "{error}");
}

#[test]
fn a_file_of_one_chunk_repeated_is_within_the_limits() {
    let mut nodes = Nodes::default();
    let kind = file(&mut nodes, std::iter::repeat_n(chunk(1), 50_000));
    let want = build(&mut nodes, &Model::from([(path("zeros"), kind)]));
    let edits = made(None, &open(&nodes, want));
    assert_eq!(edits.new, [chunk(1)]);
    assert_eq!(applied(&edits, &nodes, None).expect("own edits").0, want);
}
