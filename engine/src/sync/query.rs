//! Questions: what is there, how do two versions differ.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::id::{NodeId, VersionId};
use crate::store::{AppName, NameRecord, Source};
use crate::version::{Delta, Entry, Manifest, NodeSource, Totals};

use super::mark::walk;
use super::{Diffed, Target};

/// The version that `target` means in `source`. Its root is there, or the error says which is missing.
pub fn resolve(source: &dyn Source, target: &Target) -> Result<VersionId> {
    resolve_root(source, target).map(|(version, _)| version)
}

/// The same, with the root node's bytes, which are what the version's name says.
pub(super) fn resolve_root(source: &dyn Source, target: &Target) -> Result<(VersionId, Vec<u8>)> {
    let version = match target {
        Target::Version(version) => *version,
        Target::Name(name) => {
            let record = source.resolve(name)?;
            let what = format!("name `{name}`");
            record.ok_or_else(|| Error::NotFound { what, place: source.place() })?.version
        }
    };
    let mut root = None;
    source.read_nodes(&[version.root()], &mut |_, bytes| {
        root = bytes;
        Ok(())
    })?;
    let (what, place) = (format!("version {version}"), source.place());
    match (root, target) {
        (Some(root), _) => {
            Manifest::check_root(version, &root, &place)?;
            Ok((version, root))
        }
        // A bound name promises its version; a bare id promises nothing.
        (None, Target::Name(name)) => Err(Error::Damaged {
            what,
            place,
            reason: format!("its root node is missing, though `{name}` is bound to it"),
        }),
        (None, Target::Version(_)) => Err(Error::NotFound { what, place }),
    }
}

/// How `have` becomes `want`, with what an update would move.
pub fn diff(source: &dyn Source, have: VersionId, want: VersionId) -> Result<Diffed> {
    let (base, target) = (Manifest::open(source, have)?, Manifest::open(source, want)?);
    let mut changes = Vec::new();
    crate::version::diff(&base, &target, &mut |change| {
        changes.push(change);
        Ok(())
    })?;
    let delta = Delta::between(Some(&base), &target)?;
    let ids: Vec<_> = delta.missing.iter().map(|chunk| chunk.id).collect();
    let frames: u64 = source.frame_lens(&ids)?.into_iter().flatten().map(u64::from).sum();
    let nodes = node_bytes_between(source, have, want)?;
    Ok(Diffed { delta, changes, bytes_update: frames + nodes })
}

// Bytes of the nodes of `want` that `have` lacks: what a replica at `have` would receive.
fn node_bytes_between(source: &dyn NodeSource, have: VersionId, want: VersionId) -> Result<u64> {
    if have == want {
        return Ok(0);
    }
    let mut seen: HashSet<NodeId> = HashSet::new();
    walk(source, have.root(), &mut seen, &mut |_| Ok(()))?;
    let mut bytes = 0;
    walk(source, want.root(), &mut seen, &mut |node| {
        bytes += node.bytes.len() as u64;
        Ok(())
    })?;
    Ok(bytes)
}

/// Calls `each` for every entry of a version, in path order.
pub fn list(
    source: &dyn Source,
    version: VersionId,
    each: &mut dyn FnMut(Entry) -> Result<()>,
) -> Result<Totals> {
    let manifest = Manifest::open(source, version)?;
    manifest.entries().try_for_each(|entry| each(entry?))?;
    Ok(manifest.totals())
}

/// The names of one app or of all, in the order they were bound, each with its version's totals; `None` for a version
/// whose root is missing or damaged.
pub fn log(source: &dyn Source, app: Option<&AppName>) -> Result<Vec<(NameRecord, Option<Totals>)>> {
    let names = source.names(app)?;
    let with_totals = |record: NameRecord| match Manifest::open(source, record.version) {
        Ok(manifest) => Ok((record, Some(manifest.totals()))),
        Err(Error::NotFound { .. } | Error::Damaged { .. } | Error::Malformed { .. }) => Ok((record, None)),
        Err(error) => Err(error),
    };
    names.into_iter().map(with_totals).collect()
}
