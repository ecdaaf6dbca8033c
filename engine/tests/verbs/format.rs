//! The file `FORMAT` is lost: a repair writes it anew, where it can be told what it said.

use floe::ErrorClass;
use floe::store::{RocksOptions, RocksStore};
use floe::sync::repair_store;

use super::salvage::{Scene, salvaging};
use super::*;

#[test]
fn a_lost_format_file_is_written_anew_beside_a_database_that_says_what_it_is() {
    let scene = Scene::new();
    for text in [None, Some(""), Some("floe st"), Some("floe store 1"), Some("\0\0\0\0")] {
        let path = scene.harmed(Path::new(""), None);
        let file = path.join("FORMAT");
        match text {
            None => fs::remove_file(&file).expect("removed"),
            Some(text) => fs::write(&file, text).expect("written"),
        }
        fs::create_dir_all(path.join("sources")).expect("made");
        let before = photograph(&path);
        let create = RocksOptions { create: true, ..RocksOptions::default() };
        for error in [
            RocksStore::open_read_only(&path).expect_err("no format"),
            RocksStore::open(&path, &create).expect_err("no format"),
            RocksStore::open(&path, &RocksOptions::default()).expect_err("no format"),
        ] {
            assert_eq!(error.class(), ErrorClass::Damaged, "{text:?} {error:?}");
            assert!(error.to_string().contains("FORMAT"), "{text:?} {error}");
        }
        assert_eq!(photograph(&path), before, "{text:?}: nothing was touched");
        let store = RocksStore::open(&path, &salvaging(Faults::default())).expect("written anew");
        let mended = repair_store(&store, &scene.good, &verifying(), &Silent).expect("repairs");
        assert_eq!(mended.damage, [], "{text:?}");
        drop(store);
        assert_eq!(fs::read_to_string(&file).expect("there"), "floe store 1\n");
        scene.assert_whole(&path, &format!("{text:?}"));
    }
    // A stop leaves it lost or written.
    let mut steps = 0;
    loop {
        let path = scene.harmed(Path::new(""), None);
        fs::remove_file(path.join("FORMAT")).expect("removed");
        let stopped = RocksStore::open(&path, &salvaging(failing_at(steps).0)).is_err();
        RocksStore::open(&path, &salvaging(Faults::default())).expect("written anew");
        if !stopped {
            break;
        }
        steps += 1;
    }
    assert_eq!(steps, 3);
}

fn write_meta(db: &Path, key: &[u8], value: &[u8]) {
    let families = ["default", "data", "index", "node", "meta", "condemned"];
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), db, families).expect("opens");
    let meta = db.cf_handle("meta").expect("there");
    db.put_cf(meta, key, value).and_then(|()| db.flush_cf(meta)).expect("put");
}

#[test]
fn a_format_file_is_written_for_no_other_database() {
    let scene = Scene::new();
    let harmed = || {
        let path = scene.harmed(Path::new(""), None);
        fs::remove_file(path.join("FORMAT")).expect("removed");
        path
    };
    let refused = |path: &Path, part: &str| {
        let before = photograph(path);
        let error = RocksStore::open(path, &salvaging(Faults::default())).expect_err(part);
        assert!(error.to_string().contains(part), "{part}: {error}");
        assert_eq!(photograph(path), before, "{part}: nothing was touched");
    };
    // Of a later format, by the file or by the database.
    let path = harmed();
    fs::write(path.join("FORMAT"), "floe store 7\n").expect("written");
    refused(&path, "has format 7, but this floe reads up to 1");
    let path = harmed();
    write_meta(&path.join("db"), b"format", &9u64.to_be_bytes());
    refused(&path, "has format 9, but this floe reads up to 1");
    let path = harmed();
    write_meta(&path.join("db"), b"format", b"x");
    refused(&path, "malformed `format`");
    // Without a list of its tables, of other families, of no families at all, and none.
    let path = harmed();
    fs::remove_file(path.join("db/CURRENT")).expect("removed");
    refused(&path, "does not say what it is");
    let path = quick_tempdir();
    let other = rocksdb::DB::open_default(path.path().join("db")).expect("made");
    other.put("a", "b").and_then(|()| other.flush()).expect("a table");
    drop(other);
    refused(path.path(), "is not that of a store");
    let path = quick_tempdir();
    fs::create_dir(path.path().join("db")).expect("made");
    refused(path.path(), "no store");
    fs::write(path.path().join("db/1.sst"), "x").expect("written");
    refused(path.path(), "does not say what it is");
}
