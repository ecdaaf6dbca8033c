//! The rules of the house, held as data. Each test reads the sources as text and names the line that breaks a rule.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms of the engine by floor. A file may name its own room and rooms on lower floors; rooms on one floor do not
/// know each other. Files directly below `src` are the ground.
const FLOORS: &[(&str, u8)] = &[
    ("content", 1),
    ("delta", 1),
    ("version", 2),
    ("store", 3),
    ("tree", 3),
    ("sync", 4),
    ("serve", 6),
    ("testing", 9),
];

/// What may be named only in some files: the words, where they are at home, why.
const HOMES: &[(&[&str], &[&str], &str)] = &[
    (
        &["std::fs"],
        &["store/", "tree/", "serve/tokens.rs", "testing/"],
        "only stores, trees and the tokens file touch the file system",
    ),
    (&["rocksdb"], &["store/rocks"], "the database is a secret of its store"),
    (
        &["bincode::config", "bincode::encode_", "bincode::decode_", "bincode::borrow_decode_"],
        &["codec.rs"],
        "only the codec turns records into bytes and back",
    ),
    (&["async fn", ".await", "tokio"], &["serve/"], "the engine is blocking but for its edge"),
    (
        &["std::env", "println!(", "eprintln!("],
        &[],
        "the engine reads no environment and writes to no terminal",
    ),
];

/// Ends of names that say nothing.
const EMPTY_NAMES: &[&str] = &["Manager", "Handler", "Helper", "Helpers", "Util", "Utils", "Info", "Data"];

const LINES_MAX: usize = 600;

struct Source {
    /// Relative to the workspace.
    path: String,
    text: String,
}

impl Source {
    /// Path below the engine's sources, if it is one of them.
    fn in_engine(&self) -> Option<&str> {
        self.path.strip_prefix("engine/src/")
    }

    /// Lines of code with their numbers: no comments, and nothing from the test module on, nor of test modules in files
    /// of their own.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let all_tests = self.in_engine().is_some_and(|path| path.contains("/tests/"));
        let lines: Vec<_> = self.text.lines().collect();
        let test_only = |line: &str| line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test");
        let opens =
            |pair: &[&str]| matches!(pair, [cfg, module] if test_only(cfg) && module.starts_with("mod "));
        let end = lines.windows(2).position(opens).unwrap_or(lines.len());
        let end = if all_tests { 0 } else { end };
        let numbered = lines.into_iter().take(end).enumerate();
        numbered.map(|(n, line)| (n + 1, line.split("//").next().unwrap_or_default()))
    }
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the engine lies in a workspace").to_owned()
}

fn sources() -> Vec<Source> {
    let root = workspace();
    let mut found = Vec::new();
    let mut dirs: Vec<_> = ["engine", "cli", "benches", "fuzz"].iter().map(|dir| root.join(dir)).collect();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory of the workspace") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("target") {
                dirs.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(&path).expect("sources are text");
                let path = path.strip_prefix(&root).expect("below the root");
                found.push(Source { path: path.to_string_lossy().replace('\\', "/"), text });
            }
        }
    }
    assert!(found.len() > 20, "the sources were not found");
    found
}

fn refuse(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

fn floor(room: &str) -> u8 {
    FLOORS.iter().find(|(name, _)| *name == room).map_or(0, |(_, floor)| *floor)
}

/// The first word of `text`.
fn word(text: &str) -> &str {
    text.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// The modules that a line names directly below `crate::`.
fn crate_paths(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for rest in line.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => found.push(word(rest)),
            // Of `{a::b, c}` the first word of every part counts.
            Some(group) => {
                let group = group.split('}').next().unwrap_or_default();
                found.extend(group.split(',').map(word));
            }
        }
    }
    found
}

/// The longest run of `super::` in a line.
fn supers(line: &str) -> usize {
    let run =
        |at: usize| line.get(at..).unwrap_or_default().split("super::").take_while(|s| s.is_empty()).count();
    line.match_indices("super::").map(|(at, _)| run(at)).max().unwrap_or(0)
}

#[test]
fn no_arrow_runs_up() {
    let mut broken = Vec::new();
    for source in sources() {
        let Some(path) = source.in_engine().filter(|path| *path != "lib.rs") else { continue };
        let room = path.split_once('/').map_or("", |(room, _)| room);
        if !room.is_empty() && floor(room) == 0 {
            broken.push(format!("{path}: the room `{room}` has no floor in this test"));
        }
        let module = path.trim_end_matches("/mod.rs").trim_end_matches(".rs");
        let depth = module.split('/').count();
        for (n, line) in source.code() {
            for other in crate_paths(line) {
                let beside = floor(other) == floor(room) && floor(other) > 0 && other != room;
                if floor(other) > floor(room) || beside {
                    broken.push(format!("{path}:{n}: `{room}` may not use `{other}`"));
                }
            }
            if supers(line) >= depth && !room.is_empty() {
                broken.push(format!("{path}:{n}: `super` leaves the room; say `crate::`"));
            }
        }
    }
    refuse(&broken);
}

#[test]
fn things_are_named_only_where_they_are_at_home() {
    let mut broken = Vec::new();
    for source in sources() {
        let Some(path) = source.in_engine() else { continue };
        for (n, line) in source.code() {
            let line = line.replace("std::{fs", "std::fs").replace("bincode::{", "bincode::");
            for (words, homes, why) in HOMES {
                let at_home = homes.iter().any(|home| path.starts_with(home));
                if !at_home && words.iter().any(|word| line.contains(word)) {
                    broken.push(format!("{path}:{n}: {why}"));
                }
            }
        }
    }
    refuse(&broken);
}

#[test]
fn files_are_short() {
    let long = |source: &Source| {
        let lines = source.text.lines().count();
        (lines > LINES_MAX).then(|| format!("{}: {lines} lines, at most {LINES_MAX}", source.path))
    };
    refuse(&sources().iter().filter_map(long).collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_for_later() {
    // Spelled in two parts, because this file is read too.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("HA", "CK"),
        concat!("to", "do!("),
        concat!("unimpl", "emented!("),
    ];
    let mut broken = Vec::new();
    for source in sources() {
        for (n, line) in source.text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                broken.push(format!("{}:{}: {word}", source.path, n + 1));
            }
        }
    }
    refuse(&broken);
}

#[test]
fn types_have_names_that_say_something() {
    let mut broken = Vec::new();
    for source in sources() {
        for (n, line) in source.code() {
            let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
            // What an associated type is called, its trait decides.
            let associated = line.starts_with(' ') && line.trim_start().starts_with("type ");
            let declares = matches!(words.next(), Some("struct" | "enum" | "trait" | "type")) && !associated;
            let name = words.next().map(word).unwrap_or_default();
            if declares && EMPTY_NAMES.iter().any(|empty| name.ends_with(empty)) {
                broken.push(format!("{}:{n}: `{name}`", source.path));
            }
        }
    }
    refuse(&broken);
}

/// A kind of record as the sources declare it.
#[derive(Debug, PartialEq, Eq)]
struct Declared {
    number: String,
    name: String,
    format: String,
    path: String,
}

fn kinds(source: &Source) -> Vec<Declared> {
    let code: String = source.code().map(|(_, line)| format!("{} ", line.trim())).collect();
    let mut parts = code.split("Kind {");
    let mut before = parts.next().unwrap_or_default();
    let mut found = Vec::new();
    for part in parts {
        // `const NODE: Kind = Kind { … }`, under whatever name the type was imported.
        let constant =
            before.rsplit(';').next().is_some_and(|last| last.contains("const ") && last.contains("Kind = "));
        before = part;
        if !constant {
            continue;
        }
        let body = part.split('}').next().unwrap_or_default();
        let field = |name: &str| {
            let value = body.split(name).nth(1).unwrap_or_default().split(',').next().unwrap_or_default();
            value.trim().trim_matches('"').to_owned()
        };
        let (number, name, format) = (field("number:"), field("name:"), field("format:"));
        found.push(Declared { number, name, format, path: source.path.clone() });
    }
    found
}

#[test]
fn format_page_and_code_agree_on_every_kind() {
    let page = fs::read_to_string(workspace().join("FORMAT.md")).expect("FORMAT.md is there");
    let cells = |line: &str| -> Vec<String> {
        line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with('|')).map(cells).collect();
    let kinds: Vec<_> =
        sources().iter().filter(|source| source.in_engine().is_some()).flat_map(kinds).collect();
    assert!(!kinds.is_empty(), "no kind of record was found in the sources");
    let mut broken = Vec::new();
    let mut numbers = BTreeMap::new();
    for kind in &kinds {
        let Declared { number, name, format, path } = kind;
        if let Some(other) = numbers.insert(number, name) {
            broken.push(format!("{path}: `{name}` and `{other}` share the number {number}"));
        }
        let told = rows.iter().any(|row| [number, name, format].iter().all(|cell| row.contains(cell)));
        if !told {
            broken.push(format!(
                "{path}: FORMAT.md needs a table row with the cells {number}, {name}, {format}"
            ));
        }
    }
    refuse(&broken);
}

#[test]
fn the_readers_of_lines_work() {
    assert_eq!(crate_paths("use crate::{store::Name, sync, Error};"), ["store", "sync", "Error"]);
    assert_eq!(crate_paths("use crate::tree::disk; crate::id::ChunkId"), ["tree", "id"]);
    assert_eq!(supers("use super::super::x; super::y"), 2);
    assert_eq!(supers("use x;"), 0);
    assert!(floor("store") == floor("tree") && floor("tree") < floor("sync"));
    let text = "struct Kind { number: u8 }\nconst A: RecordKind = RecordKind { number: 3, name: \"state\", format: 1 };\n\
                pub const B: Kind =\n    Kind { number: 4, name: \"journal\",\n format: 2 };\nenum Kind { A }";
    let found = kinds(&Source { path: "x".into(), text: text.into() });
    let row = |kind: &Declared| format!("{} {} {}", kind.number, kind.name, kind.format);
    assert_eq!(found.iter().map(row).collect::<Vec<_>>(), ["3 state 1", "4 journal 2"]);
}
