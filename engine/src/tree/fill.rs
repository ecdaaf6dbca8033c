//! Fills staged files with chunks, a group of chunks at a time so that memory does not grow with the tree.
//!
//! A group has one job for every distinct chunk, with all places that want it; so a chunk is brought once however
//! often it is used. First come the jobs that something local may serve: an interrupted run's file, a seed, a file
//! staged earlier in this run. What that does not serve is fetched, all of it by one question, in the order of first
//! use; while the answer is read, other threads open and write what came so far.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::content::Frame;
use crate::error::{Error, Result};
use crate::flow::{Flow, Push, ordered, pushed};
use crate::id::{ChunkId, ChunkRef};
use crate::progress::{Progress, check};
use crate::version::Manifest;

use super::disk::Disk;
use super::replica::Replica;
use super::seed::{OpenSeeds, Seeds, read_proven};
use super::stage::{Fetch, StageOptions, Staged};
use super::stat::Fingerprint;
use super::state::StageKey;
use super::survey::Survey;
use super::target::{OpenTargets, Target};

/// Most places of chunks that a stage fills together: what is missing of them is asked for at once.
pub const GROUP_CHUNKS_MAX: usize = 64 << 10;
const BATCH_CHUNKS_MAX: usize = 256;
const BATCH_BYTES_MAX: u64 = 8 << 20;
// What arrives is worked on in smaller batches: every thread has some soon, and little waits to be written when the
// process is killed.
const ARRIVED_CHUNKS_MAX: usize = 64;
const ARRIVED_BYTES_MAX: u64 = 128 << 10;
// Staged chunks remembered over groups; beyond, a chunk wanted again is brought again.
const STAGED_CHUNKS_MAX: usize = 512 << 10;

// How many of the next chunks, by length, are worked on together: at least one.
fn batch_len(lens: impl Iterator<Item = u32>) -> usize {
    let mut bytes = 0u64;
    let fits = |len: &u32| {
        bytes += u64::from(*len);
        bytes <= BATCH_BYTES_MAX
    };
    lens.take(BATCH_CHUNKS_MAX).take_while(fits).count().max(1)
}

/// What one run of filling works with.
pub(super) struct Fill<'a> {
    pub(super) disk: &'a Disk,
    pub(super) replica: &'a Replica,
    pub(super) survey: &'a Survey,
    pub(super) targets: &'a [Target<'a>],
    pub(super) fetch: &'a dyn Fetch,
    pub(super) options: &'a StageOptions,
    pub(super) progress: &'a dyn Progress,
    pub(super) tally: Tally,
}

/// Bytes counted by all threads.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) reused: AtomicU64,
    pub(super) new: AtomicU64,
    pub(super) written: AtomicU64,
}

impl Tally {
    pub(super) fn sum(&self) -> Staged {
        Staged {
            bytes_reused: self.reused.load(Ordering::Relaxed),
            bytes_new: self.new.load(Ordering::Relaxed),
            bytes_written: self.written.load(Ordering::Relaxed),
        }
    }
}

// A distinct chunk of a group, and where it is wanted.
struct Job {
    chunk: ChunkRef,
    places: Vec<Place>,
}

// A job's chunk, not opened yet.
struct Arrived {
    job: u32,
    frame: Frame,
}

#[derive(Clone, Copy)]
struct Place {
    target: u32,
    offset: u64,
}

#[derive(Default)]
struct Group {
    jobs: Vec<Job>,
    by_id: HashMap<ChunkId, u32>,
    places: usize,
}

// Where a chunk was staged earlier in this run.
type StagedChunks = HashMap<ChunkId, (StageKey, u64)>;

impl Group {
    fn push(&mut self, chunk: ChunkRef, place: Place) {
        let next = self.jobs.len() as u32;
        let index = *self.by_id.entry(chunk.id).or_insert(next);
        if index == next {
            self.jobs.push(Job { chunk, places: Vec::with_capacity(1) });
        }
        self.places += 1;
        self.jobs[index as usize].places.push(place);
    }
}

impl Fill<'_> {
    /// Fills every target that `skip` does not name with the chunks that `want` lists for it.
    pub(super) fn run(&self, want: &Manifest<'_>, skip: &[bool]) -> Result<()> {
        let mut group = Group::default();
        let mut staged = StagedChunks::new();
        for ((index, target), _) in (0u32..).zip(self.targets).zip(skip).filter(|(_, skip)| !**skip) {
            check(self.progress)?;
            let mut offset = 0u64;
            for chunk in want.chunks(target.content) {
                let chunk = chunk?;
                group.push(chunk, Place { target: index, offset });
                offset += u64::from(chunk.len);
                if offset > target.len {
                    return Err(target.uneven());
                }
                if group.places >= GROUP_CHUNKS_MAX {
                    self.fill(std::mem::take(&mut group), want, &mut staged)?;
                }
            }
            if offset != target.len {
                return Err(target.uneven());
            }
            if target.len == 0 {
                let path = target.key.path();
                target.done_whole(self.disk, &target.open(self.disk, &path)?, &path)?;
            }
        }
        self.fill(group, want, &mut staged)
    }

    /// Shares the blocks of files whose content is wanted whole, where the file system can. Returns which targets are
    /// done by that; the others are put together from chunks.
    pub(super) fn clone_copies(&self) -> Result<Vec<bool>> {
        let mut cloned = vec![false; self.targets.len()];
        for (target, cloned) in self.targets.iter().zip(&mut cloned) {
            let Some(from) = target.from else { continue };
            check(self.progress)?;
            let Ok(source) = self.disk.open_file(from.as_str()) else { continue };
            let unchanged = || {
                let stat = rustix::fs::fstat(&source).ok().map(|stat| Fingerprint::of(&stat));
                stat.is_some() && stat.as_ref() == self.survey.seen.get(from)
            };
            if !unchanged() {
                continue;
            }
            let path = target.key.path();
            let file = target.open(self.disk, &path)?;
            if !self.disk.clone_file(&source, &file, &path)? {
                // One file system for all: what it cannot do once it cannot do at all.
                break;
            }
            // A file that changed while its blocks were shared is built from chunks instead.
            if unchanged() {
                *cloned = true;
                target.done_whole(self.disk, &file, &path)?;
                self.tally.reused.fetch_add(target.len, Ordering::Relaxed);
                self.progress.advance(target.len);
            }
        }
        Ok(cloned)
    }

    fn fill(&self, group: Group, want: &Manifest<'_>, staged: &mut StagedChunks) -> Result<()> {
        let Group { jobs, by_id, .. } = group;
        if jobs.is_empty() {
            return Ok(());
        }
        let seeds = Seeds::find(self.replica, self.survey, want.id(), &by_id);
        drop(by_id);
        let local = |job: &Job| {
            seeds.contains(&job.chunk.id)
                || staged.contains_key(&job.chunk.id)
                || job.places.iter().any(|place| self.target(place.target).existing)
        };
        let (near, mut far): (Vec<u32>, Vec<u32>) =
            (0..jobs.len() as u32).partition(|&index| local(&jobs[index as usize]));
        let flow =
            Flow { threads: self.options.threads, weight_max: self.options.in_flight_bytes_max.max(1) };
        ordered(
            flow,
            batches(&jobs, &near),
            |batch| self.lift(&jobs, batch, &seeds, staged),
            |missing: Vec<u32>| {
                far.extend(missing);
                Ok(())
            },
        )?;
        far.sort_unstable();
        if !far.is_empty() {
            // More than keeps every thread busy would only be lost when the process is killed.
            let busy = (self.options.threads.get() as u64 + 2) * 4 * ARRIVED_BYTES_MAX;
            let flow = Flow { weight_max: flow.weight_max.min(busy), ..flow };
            let feed = |push: &mut Push<'_, Vec<Arrived>>| self.fetch(&jobs, &far, push);
            pushed(flow, feed, |arrived| self.write_all(&jobs, arrived), |()| Ok(()))?;
        }
        for job in &jobs {
            if let (Some(place), true) = (job.places.first(), staged.len() < STAGED_CHUNKS_MAX) {
                staged.insert(job.chunk.id, (self.target(place.target).key, place.offset));
            }
        }
        Ok(())
    }

    // Serves jobs from what is here; returns those it could not serve.
    fn lift(&self, jobs: &[Job], batch: &[u32], seeds: &Seeds, staged: &StagedChunks) -> Result<Vec<u32>> {
        let (mut open_seeds, mut open, mut buffer) =
            (OpenSeeds::default(), OpenTargets::default(), Vec::new());
        let mut missing = Vec::new();
        for &index in batch {
            check(self.progress)?;
            let job = &jobs[index as usize];
            let there = self.already_there(job, &mut open, &mut buffer)?;
            let have = there.iter().any(|there| *there)
                || seeds.lift(self.disk, &mut open_seeds, &job.chunk, &mut buffer)
                || self.lift_staged(staged, &job.chunk, &mut buffer);
            if !have {
                missing.push(index);
                continue;
            }
            for (place, _) in job.places.iter().zip(&there).filter(|(_, there)| !**there) {
                self.write(*place, &buffer, &mut open)?;
            }
            self.tally
                .reused
                .fetch_add(u64::from(job.chunk.len) * job.places.len() as u64, Ordering::Relaxed);
        }
        Ok(missing)
    }

    // Which places an interrupted run filled already. If any, the chunk is in `buffer` afterwards.
    fn already_there(&self, job: &Job, open: &mut OpenTargets, buffer: &mut Vec<u8>) -> Result<Vec<bool>> {
        let mut there = vec![false; job.places.len()];
        let mut last = None;
        for (at, place) in job.places.iter().enumerate() {
            let target = self.target(place.target);
            if !target.existing {
                continue;
            }
            let (file, path) = open.get(self.disk, self.targets, place.target)?;
            if read_proven(file, place.offset, &job.chunk, buffer) {
                there[at] = true;
                last = Some(*place);
                target.done(self.disk, file, path, 1)?;
                self.progress.advance(u64::from(job.chunk.len));
            } else if let Some(good) = last {
                // The failed read spoiled the buffer.
                let (file, _) = open.get(self.disk, self.targets, good.target)?;
                if !read_proven(file, good.offset, &job.chunk, buffer) {
                    return Err(Error::Changed {
                        path: self.disk.full(&self.target(good.target).key.path()),
                    });
                }
            }
        }
        Ok(there)
    }

    fn lift_staged(&self, staged: &StagedChunks, chunk: &ChunkRef, buffer: &mut Vec<u8>) -> bool {
        staged.get(&chunk.id).is_some_and(|(key, offset)| {
            self.disk.open_file(&key.path()).is_ok_and(|file| read_proven(&file, *offset, chunk, buffer))
        })
    }

    // Asks for the chunks of `far` and hands them on as they come.
    fn fetch(&self, jobs: &[Job], far: &[u32], push: &mut Push<'_, Vec<Arrived>>) -> Result<()> {
        check(self.progress)?;
        let wanted: Vec<ChunkRef> = far.iter().map(|&index| jobs[index as usize].chunk).collect();
        let mut got = vec![false; far.len()];
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let fetched = self.fetch.fetch(&wanted, &mut |at, frame| {
            let (Some(&job), Some(chunk), Some(got)) = (far.get(at), wanted.get(at), got.get_mut(at)) else {
                return Err(Error::Damaged {
                    what: format!("chunk number {at} of {}", wanted.len()),
                    place: "what was fetched".into(),
                    reason: "it was not asked for".into(),
                });
            };
            if std::mem::replace(got, true) {
                return Ok(());
            }
            bytes += u64::from(chunk.len);
            batch.push(Arrived { job, frame });
            if bytes >= ARRIVED_BYTES_MAX || batch.len() >= ARRIVED_CHUNKS_MAX {
                push(std::mem::take(&mut batch), std::mem::take(&mut bytes))?;
            }
            Ok(())
        });
        // What came before it broke off need not come again.
        if !batch.is_empty() {
            push(batch, bytes)?;
        }
        fetched?;
        match got.iter().zip(&wanted).find(|(got, _)| !**got) {
            None => Ok(()),
            Some((_, chunk)) => {
                Err(Error::NotFound { what: format!("chunk {}", chunk.id), place: "what was fetched".into() })
            }
        }
    }

    fn write_all(&self, jobs: &[Job], arrived: Vec<Arrived>) -> Result<()> {
        let mut open = OpenTargets::default();
        for Arrived { job, frame } in arrived {
            let job = &jobs[job as usize];
            let chunk = self.fetch.open(&job.chunk, frame)?;
            if chunk.to_ref() != job.chunk {
                return Err(Error::Damaged {
                    what: format!("chunk {}", chunk.id()),
                    place: "what was fetched".into(),
                    reason: "it was not asked for".into(),
                });
            }
            for place in &job.places {
                self.write(*place, chunk.bytes(), &mut open)?;
            }
            let len = u64::from(job.chunk.len);
            self.tally.new.fetch_add(len, Ordering::Relaxed);
            self.tally.reused.fetch_add(len * (job.places.len() as u64 - 1), Ordering::Relaxed);
        }
        Ok(())
    }

    fn write(&self, place: Place, bytes: &[u8], open: &mut OpenTargets) -> Result<()> {
        check(self.progress)?;
        let (file, path) = open.get(self.disk, self.targets, place.target)?;
        self.disk.write_at(file, path, bytes, place.offset)?;
        self.tally.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.progress.advance(bytes.len() as u64);
        self.target(place.target).done(self.disk, file, path, 1)
    }

    fn target(&self, index: u32) -> &Target<'_> {
        &self.targets[index as usize]
    }
}

// Cuts a list of jobs into batches, each with its plain bytes.
fn batches<'a>(jobs: &'a [Job], list: &'a [u32]) -> impl Iterator<Item = Result<(&'a [u32], u64)>> + Send {
    let mut rest = list;
    std::iter::from_fn(move || {
        let lens = rest.iter().map(|&index| jobs[index as usize].chunk.len);
        let count = batch_len(lens.clone()).min(rest.len());
        let bytes = lens.take(count).map(u64::from).sum();
        let (batch, tail) = rest.split_at(count);
        rest = tail;
        (count > 0).then_some(Ok((batch, bytes)))
    })
}
