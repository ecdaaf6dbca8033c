//! Remove what nothing kept needs: names first, then what only they needed.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::id::NodeId;
use crate::progress::{Phase, Progress, check};
use crate::store::{AppName, Name, NameRecord, Store, SweepOptions};

use super::mark::walk;
use super::{Keep, PruneOptions, Pruned};

/// Removes names that `options.keep` does not keep, then what only they needed. A damaged version that is kept
/// stops the prune before anything is removed, for what it needs cannot be known.
///
/// Memory: 8 bytes for each chunk and 32 for each node that is kept, and what the hash tables add.
pub fn prune(store: &dyn Store, options: &PruneOptions, progress: &dyn Progress) -> Result<Pruned> {
    let (kept, removed) = judge(store.names(None)?, &options.keep, &store.place())?;

    progress.phase(Phase::Mark, None);
    let mut live = Live::default();
    for record in &kept {
        walk(store, record.version.root(), &mut live.nodes, &mut |met| {
            check(progress)?;
            progress.advance(1);
            live.chunks.extend(met.node.chunks().into_iter().map(|chunk| Live::key(chunk.id.as_bytes())));
            Ok(())
        })?;
    }

    check(progress)?;
    progress.phase(Phase::Sweep, None);
    let names_removed: Vec<Name> = removed.into_iter().map(|record| record.name).collect();
    if !options.dry_run {
        store.unbind(&names_removed)?;
    }
    let swept = store.sweep(&SweepOptions {
        chunk_live: &|id| live.chunks.contains(&Live::key(id.as_bytes())),
        node_live: &|id| live.nodes.contains(id),
        now_unix_s: options.now_unix_s,
        grace: options.grace,
        dry_run: options.dry_run,
    })?;
    Ok(Pruned { names_kept: kept.len() as u64, names_removed, swept })
}

/// What kept versions need.
#[derive(Default)]
struct Live {
    nodes: HashSet<NodeId>,
    chunks: HashSet<u64>,
}

impl Live {
    // The first 8 bytes stand for a chunk: a clash keeps something that could go, never the other way round.
    fn key(id: &[u8; 32]) -> u64 {
        id.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

fn judge(names: Vec<NameRecord>, keep: &Keep, place: &str) -> Result<(Vec<NameRecord>, Vec<NameRecord>)> {
    let usage = |reason: String| Err(Error::Usage { what: "prune".into(), reason });
    if keep.last.unwrap_or(0) == 0 && keep.names.is_empty() && !keep.none {
        return usage("nothing says which versions stay".to_owned());
    }
    if let Some(name) = keep.names.iter().find(|name| names.iter().all(|record| record.name != **name)) {
        return Err(Error::NotFound { what: format!("name `{name}`"), place: place.to_owned() });
    }
    let mut newer: HashMap<AppName, u64> = HashMap::new();
    let mut kept = Vec::new();
    let mut removed = Vec::new();
    let mut judged_stay = false;
    for record in names.into_iter().rev() {
        let newer = newer.entry(record.name.app().clone()).or_default();
        let judged = keep.app.as_ref().is_none_or(|app| app == record.name.app());
        let stays =
            !judged || keep.last.is_some_and(|last| *newer < last) || keep.names.contains(&record.name);
        *newer += 1;
        judged_stay |= judged && stays;
        if stays { kept.push(record) } else { removed.push(record) }
    }
    if !judged_stay && !removed.is_empty() && !keep.none {
        let whose = keep.app.as_ref().map_or_else(String::new, |app| format!(" of app `{app}`"));
        return usage(format!("none of the names to keep is{whose}, so all of its names would go"));
    }
    kept.reverse();
    removed.reverse();
    Ok((kept, removed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::VersionId;

    fn records(names: &[&str]) -> Vec<NameRecord> {
        let record = |(sequence, name): (usize, &&str)| NameRecord {
            name: Name::parse(name).expect(name),
            version: VersionId::of(name.as_bytes()),
            bound_unix_s: 0,
            sequence: sequence as u64,
        };
        names.iter().enumerate().map(record).collect()
    }

    fn check(names: &[&str], keep: Keep, removed: &[&str]) {
        let (_, gone) = judge(records(names), &keep, "here").expect("a rule");
        assert_eq!(gone.iter().map(|r| r.name.to_string()).collect::<Vec<_>>(), removed);
    }

    #[test]
    fn the_newest_of_each_app_and_what_is_named_stay() {
        let names = ["a@1", "b@1", "a@2", "a@3", "b@2"];
        let name = |text| Name::parse(text).expect(text);
        let keep = Keep::default;
        check(&names, Keep { last: Some(1), ..keep() }, &["a@1", "b@1", "a@2"]);
        check(&names, Keep { last: Some(9), ..keep() }, &[]);
        check(&names, Keep { none: true, ..keep() }, &names);
        check(&names, Keep { none: true, last: Some(0), ..keep() }, &names);
        check(&names, Keep { names: vec![name("a@1")], ..keep() }, &["b@1", "a@2", "a@3", "b@2"]);
        check(&names, Keep { last: Some(1), names: vec![name("a@1")], ..keep() }, &["b@1", "a@2"]);
        check(&names, Keep { last: Some(1), app: AppName::parse("b").ok(), ..keep() }, &["b@1"]);
        check(&names, Keep { none: true, app: AppName::parse("b").ok(), ..keep() }, &["b@1", "b@2"]);
        let app = AppName::parse("b").ok();
        check(&names, Keep { last: Some(0), names: vec![name("b@1")], app: app.clone(), ..keep() }, &["b@2"]);
        // What keeps none of the names it judges is not meant.
        for keep in [
            keep(),
            Keep { last: Some(0), ..keep() },
            Keep { names: vec![name("a@1")], app: app.clone(), ..keep() },
            Keep { last: Some(0), names: vec![name("a@1")], app, ..keep() },
        ] {
            let refused = judge(records(&names), &keep, "here");
            assert!(matches!(refused, Err(Error::Usage { .. })), "{keep:?}");
        }
        assert!(judge(Vec::new(), &Keep { names: vec![name("a@9")], ..keep() }, "here").is_err());
    }
}
