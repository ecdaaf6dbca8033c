//! Tables of fingerprints: kept, and refused when damaged.

use super::*;

fn table(scan: &Scan) -> StatTable {
    let rows = scan.found.iter().map(|found| (found.path.clone(), found.stat)).collect();
    StatTable { version: VersionId::of(b"v"), context: [9; 32], started_unix_ns: scan.started_unix_ns, rows }
}

#[test]
fn tables_are_kept_and_damage_is_seen() {
    let dir = tree(&["a/b", "a/c", "a/d/e", "l -> x", "z/"]);
    let out = TempDir::new().expect("a directory");
    let path = out.path().join("table");
    assert!(StatTable::load(&path).expect("no error").is_none());
    let scan = scan(dir.path());
    let mut table = table(&scan);
    table.save(&path, &Faults::default()).expect("saved");
    assert_eq!(StatTable::load(&path).expect("loaded").as_ref(), Some(&table));
    assert_eq!(fs::read_dir(out.path()).expect("a directory").count(), 1, "nothing but the table is left");

    // All of it was written a moment ago: only directories are proven.
    assert_eq!(table.unchanged(&scan.found), [false, false, false, false, true]);
    table.started_unix_ns += 10_000_000_000;
    assert!(table.is_unchanged(&scan.found));

    let bytes = fs::read(&path).expect("its bytes");
    for len in 0..bytes.len() {
        fs::write(&path, &bytes[..len]).expect("truncated");
        assert!(StatTable::load(&path).is_err(), "cut to {len}");
    }
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).expect("damaged");
        let error = StatTable::load(&path).expect_err("damaged").to_string();
        assert!(error.contains("table"), "{error}");
    }
}

#[test]
fn a_failed_save_leaves_the_old_table() {
    let dir = tree(&["a"]);
    let path = dir.path().join("table");
    let table = table(&scan(dir.path()));
    table.save(&path, &Faults::default()).expect("saved");
    for stop in ["write", "rename"] {
        let faults =
            Faults::new(
                move |action, _| {
                    if action == stop { Err(std::io::Error::other("no power")) } else { Ok(()) }
                },
            );
        let other = StatTable { context: [1; 32], ..table.clone() };
        assert!(other.save(&path, &faults).is_err(), "{stop}");
        assert_eq!(StatTable::load(&path).expect("loaded").as_ref(), Some(&table), "{stop}");
    }
    // A left-over of a crash is no hindrance, and a link there is not written through.
    symlink(dir.path().join("a"), dir.path().join("table.new")).expect("a symlink");
    table.save(&path, &Faults::default()).expect("saved");
    assert_eq!(fs::read(dir.path().join("a")).expect("a"), b"");
}
