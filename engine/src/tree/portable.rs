//! What other systems cannot hold, and what no version keeps: pure, over the paths of a scan.
//!
//! Two paths collide by case exactly where two names in one directory do, so only those pairs are reported.

use std::collections::HashMap;

use rustix::fs::FileType;

use crate::progress::Notice;
use crate::version::RelPath;

/// Most notices of each kind: a tree made for one system must not flood the report.
pub(super) const NOTICES_MAX: usize = 100;

/// What to tell of `paths`, which are in order.
pub(super) fn notices<'a>(paths: impl Iterator<Item = &'a str> + Clone) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut hashes = Vec::with_capacity(paths.size_hint().0);
    each_name(paths.clone(), |name| {
        hashes.push(name.hash);
        if notices.len() < NOTICES_MAX
            && let Some(reason) = refusal(name.name())
        {
            let notice = Notice::NotPortable { path: name.path().to_owned(), reason };
            // A directory that is an entry of its own may come by twice.
            if !notices.contains(&notice) {
                notices.push(notice);
            }
        }
    });
    hashes.sort_unstable();
    let mut doubles: Vec<u64> =
        hashes.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    doubles.dedup();
    if !doubles.is_empty() {
        notices.extend(collisions(paths, &doubles));
    }
    notices
}

/// What to tell of files and directories with bits that no version keeps, and of names that are `.floe` in another
/// case.
pub(super) fn not_kept(mut special: Vec<(RelPath, FileType)>, mut state_like: Vec<String>) -> Vec<Notice> {
    state_like.sort_unstable();
    const STATE: &str = "left out: `.floe`, in any case, is where a synced directory keeps its own state";
    const FILE: &str = "its setuid, setgid or sticky bit is not kept";
    let told = |path, reason: &str| Notice::NotKept { path, reason: reason.to_owned() };
    special.sort_unstable_by(|left, right| left.0.cmp(&right.0));
    let (dirs, files): (Vec<_>, Vec<_>) =
        special.into_iter().partition(|(_, kind)| *kind == FileType::Directory);
    let mut notices: Vec<_> =
        state_like.into_iter().take(NOTICES_MAX).map(|path| told(path, STATE)).collect();
    notices.extend(files.into_iter().take(NOTICES_MAX).map(|(path, _)| told(path.to_string(), FILE)));
    // Directories inherit such a bit from the one above: often all of them have it.
    if let Some((first, _)) = dirs.first() {
        let reason = match dirs.len() - 1 {
            0 => "its setgid or sticky bit is not kept".to_owned(),
            more => format!("its setgid or sticky bit is not kept, nor that of {more} more directories"),
        };
        notices.push(told(first.to_string(), &reason));
    }
    notices
}

// Equal hashes only point at candidates; the names decide.
fn collisions<'a>(paths: impl Iterator<Item = &'a str>, doubles: &[u64]) -> Vec<Notice> {
    let mut firsts: HashMap<(&str, String), &str> = HashMap::new();
    let mut notices = Vec::new();
    each_name(paths, |name| {
        if notices.len() == NOTICES_MAX || doubles.binary_search(&name.hash).is_err() {
            return;
        }
        let first = *firsts.entry((name.parent(), name.name().to_lowercase())).or_insert(name.path());
        if first != name.path() {
            let notice = Notice::CaseCollision { first: first.to_owned(), second: name.path().to_owned() };
            if !notices.contains(&notice) {
                notices.push(notice);
            }
        }
    });
    notices
}

struct Name<'a> {
    whole: &'a str,
    start: usize,
    end: usize,
    // Of the exact parent and the name in lower case.
    hash: u64,
}

impl<'a> Name<'a> {
    fn parent(&self) -> &'a str {
        &self.whole[..self.start]
    }
    fn name(&self) -> &'a str {
        &self.whole[self.start..self.end]
    }
    fn path(&self) -> &'a str {
        &self.whole[..self.end]
    }
}

// Every name of every path once, also those of directories that are no entry themselves. (An entry directory
// comes twice if a sibling sorts between it and what is below it.)
fn each_name<'a>(paths: impl Iterator<Item = &'a str>, mut each: impl FnMut(Name<'a>)) {
    let mut previous = "";
    // Length, with the slash, and hash of every directory above the current name.
    let mut above = vec![(0, FNV_BASIS)];
    for path in paths {
        let same = previous.bytes().zip(path.bytes()).take_while(|(left, right)| left == right).count();
        let below_previous = same == previous.len() && path.as_bytes().get(same) == Some(&b'/');
        let mut start = if below_previous {
            same + 1
        } else {
            path.as_bytes()[..same].iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1)
        };
        above.retain(|(len, _)| *len <= start);
        while start < path.len() {
            let mut parent = above.last().copied().unwrap_or((0, FNV_BASIS));
            if parent.0 < start {
                parent = (start, fnv(parent.1, path[parent.0..start].bytes()));
                above.push(parent);
            }
            let end = path[start..].find('/').map_or(path.len(), |at| start + at);
            let name = &path[start..end];
            let hash = if name.is_ascii() {
                fnv(parent.1, name.bytes().map(|byte| byte.to_ascii_lowercase()))
            } else {
                fnv(parent.1, name.to_lowercase().bytes())
            };
            each(Name { whole: path, start, end, hash });
            start = end + 1;
        }
        previous = path;
    }
}

const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv(state: u64, bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(state, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

// Why Windows cannot hold a name.
fn refusal(name: &str) -> Option<&'static str> {
    if name.ends_with(['.', ' ']) {
        return Some("ends in a dot or a space, which Windows drops");
    }
    if name
        .bytes()
        .any(|byte| byte < 0x20 || matches!(byte, b'<' | b'>' | b':' | b'"' | b'|' | b'?' | b'*' | b'\\'))
    {
        return Some("holds a character that Windows does not allow");
    }
    let stem = name.split('.').next().unwrap_or(name).trim_end_matches(' ');
    is_device(stem).then_some("is a device on Windows")
}

fn is_device(stem: &str) -> bool {
    // With a superscript digit it is five bytes long.
    if !(3..=5).contains(&stem.len()) {
        return false;
    }
    if ["con", "prn", "aux", "nul"].iter().any(|device| stem.eq_ignore_ascii_case(device)) {
        return true;
    }
    let Some((kind, digit)) = stem.split_at_checked(3) else { return false };
    let numbered = kind.eq_ignore_ascii_case("com") || kind.eq_ignore_ascii_case("lpt");
    numbered && matches!(digit, "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" | "¹" | "²" | "³")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_windows_cannot_hold() {
        let rows = [
            ("con", true),
            ("CON", true),
            ("Aux.txt", true),
            ("nul .tar.gz", true),
            ("com1", true),
            ("LPT9.log", true),
            ("com²", true),
            ("com0", false),
            ("com10", false),
            ("console", false),
            ("co", false),
            ("x.con", false),
            (".con", false),
            ("coü", false),
            ("end.", true),
            ("end ", true),
            (" begin", false),
            ("a:b", true),
            ("a\\b", true),
            ("a\tb", true),
            ("what?", true),
            ("a|b", true),
            ("ünïcode", false),
            ("...", true),
        ];
        for (name, want) in rows {
            assert_eq!(refusal(name).is_some(), want, "{name}");
        }
    }

    fn pairs(paths: &[&str]) -> Vec<(String, String)> {
        let mut paths = paths.to_vec();
        paths.sort_unstable();
        let pair = |notice| match notice {
            Notice::CaseCollision { first, second } => Some((first, second)),
            _ => None,
        };
        notices(paths.iter().copied()).into_iter().filter_map(pair).collect()
    }

    #[test]
    fn collisions_by_case() {
        let rows: [(&[&str], &[(&str, &str)]); 8] = [
            (&["a", "b/a", "c/A"], &[]),
            (&["README", "readme"], &[("README", "readme")]),
            (&["d/X", "d/x", "e/x"], &[("d/X", "d/x")]),
            // The directories collide; that what is below them does, too, follows.
            (&["Lib/a", "Lib/b", "lib/a", "lib/b"], &[("Lib", "lib")]),
            (&["Lib/a", "lib"], &[("Lib", "lib")]),
            (&["Ünï", "üNÏ"], &[("Ünï", "üNÏ")]),
            (&["AB", "Ab", "aB"], &[("AB", "Ab"), ("AB", "aB")]),
            // An entry directory, its sibling in between, its content.
            (&["D", "D.x", "D/y", "d/z"], &[("D", "d")]),
        ];
        for (paths, want) in rows {
            let want: Vec<_> = want.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            assert_eq!(pairs(paths), want, "{paths:?}");
        }
    }

    #[test]
    fn notices_are_capped() {
        let paths: Vec<String> = (0..500).map(|n| format!("{n:03}:x")).collect();
        assert_eq!(notices(paths.iter().map(String::as_str)).len(), NOTICES_MAX);
    }
}
