//! Store -> tree: what is there and what is wanted become changes, changes a plan, the plan a stage, and the
//! stage is made current at once.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use crate::error::{At, Error, Result};
use crate::flow::Flow;
use crate::id::VersionId;
use crate::progress::{Notice, Phase, Progress};
use crate::store::Source;
use crate::tree::{Arrivals, Replica, Stage, StageOptions, Staged, Survey, SurveyOptions};
use crate::version::{Manifest, NodeSource, Plan};

use super::changes::{Protect, Wanted};
use super::cost::{Cost, update_cost};
use super::nodes::{Overlay, copy_nodes, mend_nodes};
use super::query::resolve_root;
use super::receive::Update;
use super::wire::{Counted, Door};
use super::{Planned, SyncOptions, Synced, Target};

/// Brings `dir` to `target`. Files that no version wrote stay, unless `options.delete`. Interrupted at any moment it
/// leaves the old version or the new one, and continues when run again.
pub fn sync(
    source: &dyn Source,
    target: &Target,
    dir: &Path,
    options: &SyncOptions,
    progress: &dyn Progress,
) -> Result<Synced> {
    let name = match target {
        Target::Name(name) => Some(name.to_string()),
        Target::Version(_) => None,
    };
    // A version that is not there, or a bad glob, leaves no trace of a replica.
    let counted = Counted::new(source);
    let wanted = resolve_root(&counted, target)?;
    Protect::new(&options.protect, &[])?;
    keep_apart(source, dir)?;
    let replica = Replica::open(dir, &options.replica(), progress)?;
    sync_to(&counted, wanted, name.as_deref(), replica, options, progress)
}

/// The same for a replica that is open, and records that it was asked for as `name`.
pub(super) fn sync_open(
    source: &dyn Source,
    target: &Target,
    name: Option<&str>,
    replica: Replica,
    options: &SyncOptions,
    progress: &dyn Progress,
) -> Result<Synced> {
    let counted = Counted::new(source);
    let wanted = resolve_root(&counted, target)?;
    sync_to(&counted, wanted, name, replica, options, progress)
}

// To a version whose root was read: a source on another machine is asked once.
fn sync_to(
    counted: &Counted<'_>,
    (want, root): (VersionId, Vec<u8>),
    name: Option<&str>,
    mut replica: Replica,
    options: &SyncOptions,
    progress: &dyn Progress,
) -> Result<Synced> {
    let protect = Protect::new(&options.protect, replica.protect())?;
    let job = Job { source: counted, want, root: &root, name, protect: &protect, options, progress };
    let done = match job.run(&mut replica, &|replica| survey(replica, Replica::try_survey, options, progress))
    {
        Err(error) if replica.nodes().is_blamed(&error) => {
            job.mend(&mut replica, &error)?;
            job.run(&mut replica, &|replica| survey(replica, Replica::survey, options, progress))
        }
        done => done,
    };
    // Every file was read and is as it should be: the journal has nothing more to tell.
    if done.is_ok()
        && (options.rehash || replica.gave_up_switch())
        && let Err(error) = replica.remove_damaged_journal()
    {
        progress.notice(Notice::StateIgnored { what: error.to_string() });
    }
    done
}

/// Refuses a replica and a source of which one lies in the other: each would take the other's files for foreign ones.
pub(super) fn keep_apart(source: &dyn Source, dir: &Path) -> Result<()> {
    let Some(store) = source.local_dir() else { return Ok(()) };
    let (store, replica) = (store.canonicalize().at("find", &store)?, resolved(dir)?);
    let reason = match (store.starts_with(&replica), replica.starts_with(&store)) {
        (true, _) => "the source lies in it",
        (_, true) => "it lies in the source",
        _ => return Ok(()),
    };
    let (what, place) = ("a replica".into(), format!("`{}`", dir.display()));
    Err(Error::Conflict { what, place, reason: reason.into() })
}

// Where `dir` lies or would lie, with no link and no `..` in it.
fn resolved(dir: &Path) -> Result<PathBuf> {
    let dir = std::path::absolute(dir).at("find", dir)?;
    let there = |path: &&Path| path.symlink_metadata().is_ok();
    let Some(there) = dir.ancestors().find(there) else { return Ok(dir) };
    let mut resolved = there.canonicalize().at("find", there)?;
    for part in dir.strip_prefix(there).unwrap_or(Path::new("")).components() {
        match part {
            Component::ParentDir => drop(resolved.pop()),
            part => resolved.push(part),
        }
    }
    Ok(resolved)
}

struct Job<'a> {
    source: &'a Counted<'a>,
    want: VersionId,
    // The bytes of its root node.
    root: &'a [u8],
    name: Option<&'a str>,
    protect: &'a Protect,
    options: &'a SyncOptions,
    progress: &'a dyn Progress,
}

impl Job<'_> {
    // The replica's own nodes are damaged: they are fetched again. If those of the recorded version cannot be had, it
    // is forgotten.
    fn mend(&self, replica: &mut Replica, error: &Error) -> Result<()> {
        if let Some(version) = replica.version() {
            let stage = Stage::begin(replica, version)?;
            let mut put = |id, bytes| stage.put_node(id, bytes);
            let mended = mend_nodes(self.source, stage.replica().nodes(), version.root(), &mut put);
            if mended.is_err() {
                return replica.forget(self.progress, error);
            }
        }
        self.progress.notice(Notice::StateIgnored { what: error.to_string() });
        let stage = Stage::begin(replica, self.want)?;
        let mut put = |id, bytes| stage.put_node(id, bytes);
        mend_nodes(self.source, stage.replica().nodes(), self.want.root(), &mut put)
    }

    // From a version that is recorded, an update is asked for. What an earlier run received of another one goes.
    fn receive(&self, stage: &Stage<'_>, from: Option<VersionId>) -> Result<Option<Arrivals>> {
        let Some(have) = from.filter(|from| *from != self.want) else {
            Arrivals::discard(stage.replica())?;
            return Ok(None);
        };
        let Job { source, want, options, progress, .. } = *self;
        let totals = Manifest::check_root(want, self.root, &source.place())?;
        let flow = Flow { threads: options.threads, weight_max: options.in_flight_bytes_max.max(1) };
        let profile = options.deltas;
        Update { source, have, want, totals, profile, flow, progress }.receive(stage)
    }

    fn run(&self, replica: &mut Replica, survey: &dyn Fn(&Replica) -> Result<Survey>) -> Result<Synced> {
        let Job { source: counted, want, root, name, protect, options, progress } = *self;
        let mut survey = survey(replica)?;
        // After the survey: one that cannot read the recorded nodes forgets the version.
        let from = replica.version();

        let mut stage = Stage::begin(replica, want)?;
        let arrivals = self.receive(&stage, from)?;
        progress.phase(Phase::Plan, None);
        let mut put = |id, bytes| stage.put_node(id, bytes);
        copy_nodes(counted, stage.replica().nodes(), (want.root(), root.to_vec()), &mut put)?;
        stage.keep_nodes()?;
        Wanted::read_claimed(stage.replica(), stage.replica().nodes(), want, &mut survey, options, progress)?;
        let wanted = {
            let nodes = stage.replica().nodes();
            Wanted::find(nodes, nodes, from, want, &survey, options, protect)?
        };
        wanted.refuse_collisions(stage.replica())?;
        if stage.replica().gave_up_switch() && wanted.foreign > 0 {
            let what = format!(
                "files that no version wrote: {}, some perhaps of the switch given up",
                wanted.foreign
            );
            progress.notice(Notice::StateIgnored { what });
        }
        let plan = Plan::from_changes(wanted.changes);
        let unchanged = plan.steps.is_empty() && from == Some(want);
        let totals = plan.totals();
        let mut staged = Staged::default();
        if !plan.steps.is_empty() {
            let door = Door { source: counted, arrivals: arrivals.as_ref(), progress };
            let stage_options =
                StageOptions { threads: options.threads, in_flight_bytes_max: options.in_flight_bytes_max };
            staged = stage.fill(&plan, &survey, &door, &stage_options, progress)?;
        }
        stage.commit(&plan, &survey, name, &options.protect, progress)?;
        Ok(Synced {
            version: want,
            from,
            bytes_fetched: counted.bytes(),
            chunks_fetched: counted.chunks(),
            bytes_reused: staged.bytes_reused,
            bytes_written: staged.bytes_written,
            requests: counted.requests(),
            files_changed: totals.files_changed,
            files_moved: totals.files_moved,
            files_removed: totals.files_removed,
            files_foreign: wanted.foreign,
            paths_unpublishable: survey.unpublishable,
            files_protected: wanted.protected,
            unchanged,
        })
    }
}

/// What [`sync`] would do; touches nothing. It reads the nodes that are not here, and of the content the lengths alone.
/// What an interrupted sync has staged is read and counts as here.
pub fn plan(
    source: &dyn Source,
    target: &Target,
    dir: &Path,
    options: &SyncOptions,
    progress: &dyn Progress,
) -> Result<Planned> {
    let counted = Counted::new(source);
    let (want, root) = resolve_root(&counted, target)?;
    let (root_bytes, root_requests) = (counted.bytes(), counted.requests());
    keep_apart(source, dir)?;
    let replica = Replica::peek(dir)?;
    let protect = Protect::new(&options.protect, replica.protect())?;
    let mut survey = survey(&replica, Replica::survey, options, progress)?;
    let from = replica.version();

    progress.phase(Phase::Plan, None);
    let mut fetched = HashMap::new();
    let mut put = |id, bytes| {
        fetched.insert(id, bytes);
        Ok(())
    };
    copy_nodes(&counted, replica.nodes(), (want.root(), root), &mut put)?;
    let nodes = Overlay { fetched, below: replica.nodes() };
    Wanted::read_claimed(&replica, &nodes, want, &mut survey, options, progress)?;
    let wanted = Wanted::find(replica.nodes(), &nodes, from, want, &survey, options, &protect)?;
    wanted.refuse_collisions(&replica)?;
    let plan = Plan::from_changes(wanted.changes);
    replica.check_switch(&plan, &Manifest::open(&nodes, want)?, &survey)?;
    let cost = Cost::of(&plan, &replica, &nodes, want, &survey)?;
    // With its nodes here no update is asked for.
    let based = from.filter(|from| *from != want && !replica.nodes().contains(&want.root()));
    let update = based.map(|from| update_cost(source, &nodes, from, want, &cost.missing)).transpose()?;
    let (bytes_fetched, requests) = match update.flatten() {
        Some((bytes, requests)) => (root_bytes + bytes, root_requests + requests),
        None => {
            let lens = counted.frame_lens(&cost.missing)?;
            let frames: u64 = lens.into_iter().flatten().map(u64::from).sum();
            (counted.bytes() + frames, counted.requests() + cost.requests)
        }
    };
    let totals = plan.totals();
    Ok(Planned {
        version: want,
        from,
        chunks_missing: cost.missing.len() as u64,
        bytes_missing: cost.bytes_missing,
        bytes_fetched,
        bytes_reused: cost.bytes_reused,
        bytes_written: totals.bytes_written.saturating_sub(cost.bytes_staged),
        bytes_extra_peak: totals.bytes_extra_peak.saturating_sub(cost.bytes_staged),
        requests,
        plan,
    })
}

fn survey(
    replica: &Replica,
    how: fn(&Replica, &SurveyOptions, &dyn Progress) -> Result<Survey>,
    options: &SyncOptions,
    progress: &dyn Progress,
) -> Result<Survey> {
    progress.phase(Phase::Scan, None);
    let survey_options = SurveyOptions { rehash: options.rehash, threads: options.threads };
    let survey = how(replica, &survey_options, progress)?;
    if replica.version().is_some() {
        for change in survey.drift.iter().filter(|change| change.have.is_some()) {
            progress.notice(Notice::LocallyModified { path: change.path.to_string() });
        }
    }
    Ok(survey)
}
