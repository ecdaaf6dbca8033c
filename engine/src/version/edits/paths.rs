//! The paths of edits, for those who name an edit by its number.

use super::format::{EDITS, Edit, Head, LastPath, Run, What, malformed};
use crate::codec;
use crate::error::Result;
use crate::limits::{EDITS_COUNT_MAX, EDITS_LEN_MAX};
use crate::version::path::RelPath;

/// The path of each edit, in order. More than [`EDITS_COUNT_MAX`] of them, or together longer than [`EDITS_LEN_MAX`], are
/// an error that names `place`, like whatever is wrong with `bytes`.
pub fn edit_paths(bytes: &[u8], place: &str) -> Result<Vec<RelPath>> {
    let mut rest = bytes;
    let head: Head = codec::take(EDITS, &mut rest, place)?;
    let (mut paths, mut last) = (Vec::new(), LastPath::default());
    let (mut count, mut len) = (0u64, 0);
    for _ in 0..head.edits {
        let edit: Edit = codec::take(EDITS, &mut rest, place)?;
        let path = last.decode(&edit.path, place)?;
        len += path.as_str().len();
        let runs = if let What::File { runs, .. } = edit.what { runs } else { 0 };
        count = count.saturating_add(1).saturating_add(runs);
        if count > EDITS_COUNT_MAX || len > EDITS_LEN_MAX {
            return Err(malformed(place, "more paths than can be kept"));
        }
        for _ in 0..runs {
            codec::take::<Run>(EDITS, &mut rest, place)?;
        }
        paths.push(path);
    }
    Ok(paths)
}
