//! Writes what two trees do not share: `orphans OLD NEW OUT` makes OUT.old and OUT.new.
use std::collections::HashSet;
use std::path::{Path, PathBuf};
fn files(root: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for p in entries {
        if p.is_symlink() {
            continue;
        }
        if p.is_dir() { files(&p, out) } else { out.push(p) }
    }
}
fn chunks(root: &str) -> Vec<([u8; 32], Vec<u8>)> {
    let mut list = Vec::new();
    files(Path::new(root), &mut list);
    let mut out = Vec::new();
    for f in list {
        let data = std::fs::read(f).unwrap();
        let mut rest = &data[..];
        while !rest.is_empty() {
            let n = floe::content::cut(rest);
            let n = if n == 0 { rest.len() } else { n };
            out.push((*blake3::hash(&rest[..n]).as_bytes(), rest[..n].to_vec()));
            rest = &rest[n..];
        }
    }
    out
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let (old, new) = (chunks(&a[1]), chunks(&a[2]));
    for (x, y, ext) in [(&old, &new, "old"), (&new, &old, "new")] {
        let mut seen: HashSet<[u8; 32]> = y.iter().map(|c| c.0).collect();
        let mut out = Vec::new();
        for (id, b) in x {
            if seen.insert(*id) {
                out.extend_from_slice(b)
            }
        }
        println!("{}.{} {}", a[3], ext, out.len());
        std::fs::write(format!("{}.{}", a[3], ext), out).unwrap();
    }
}
