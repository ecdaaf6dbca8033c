//! New chunks told by what the base leaves behind: units as deltas, each proven by decoding before it is given out.

use super::format::{DELTA, DeltaRecord, Reference, STRETCHES_MAX};
use crate::codec::encode_filed;
use crate::delta::{self, Profile};
use crate::error::{Error, Result};
use crate::id::ChunkRef;
use crate::limits::{DELTA_REFERENCE_BYTES_MAX, DELTA_UNIT_BYTES_MAX, EDITS_LEN_MAX};
use crate::store::Source;
use crate::sync::units::{Stretch, UnitPlan, UnitSizes, each_plain, plan_units};
use crate::version::{Edits, Orphans};

/// Most bytes of new chunks and of orphans that are read to plan with. Beyond, an update holds frames.
const PLANNED_BYTES_MAX: u64 = 2 << 30;

const SIZES: UnitSizes = UnitSizes { target: DELTA_UNIT_BYTES_MAX, reference: DELTA_REFERENCE_BYTES_MAX };

/// The deltas of one update.
pub(super) struct Deltas {
    orphans: Vec<Orphans>,
    plan: Vec<UnitPlan>,
    profile: Profile,
    /// BLAKE3 of which chunks each unit has.
    pub hash: [u8; 32],
}

impl Deltas {
    /// Plans them, where it can be done with what a unit and a receiver may hold. Takes the orphans out of `edits`.
    pub fn plan(source: &dyn Source, edits: &mut Edits, profile: Profile) -> Result<Option<Deltas>> {
        let bytes = |chunks: &[ChunkRef]| chunks.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>();
        let orphaned: u64 = edits.orphans.iter().map(|orphans| bytes(&orphans.chunks)).sum();
        let paths: usize = edits.orphans.iter().map(|orphans| orphans.path.as_str().len()).sum();
        if bytes(&edits.new) + orphaned > PLANNED_BYTES_MAX || paths > EDITS_LEN_MAX / 2 {
            return Ok(None);
        }
        let planned = match plan_units(source, edits, SIZES) {
            // Whatever is wrong with the base, the new chunks can be told without it.
            Err(Error::Damaged { .. }) => {
                edits.orphans.clear();
                plan_units(source, edits, SIZES)
            }
            planned => planned,
        };
        let plan = match planned {
            Err(Error::Damaged { .. }) => return Ok(None),
            planned => planned?,
        };
        if plan.iter().any(|unit| unit.reference.len() > STRETCHES_MAX) {
            return Ok(None);
        }
        let mut hasher = blake3::Hasher::new();
        for unit in &plan {
            hasher.update(&(unit.chunks.len() as u64).to_le_bytes());
            for number in &unit.chunks {
                hasher.update(&(*number as u64).to_le_bytes());
            }
        }
        let orphans = std::mem::take(&mut edits.orphans);
        Ok(Some(Deltas { orphans, plan, profile, hash: *hasher.finalize().as_bytes() }))
    }

    /// Bytes of memory that they take.
    pub fn held_bytes(&self) -> usize {
        let orphans = |own: &Orphans| size_of_val(own) + own.path.as_str().len() + size_of_val(&*own.chunks);
        let unit = |unit: &UnitPlan| size_of_val(&*unit.chunks) + size_of_val(&*unit.reference);
        self.orphans.iter().map(orphans).sum::<usize>() + self.plan.iter().map(unit).sum::<usize>()
    }

    /// How many units there are.
    pub fn count(&self) -> u64 {
        self.plan.len() as u64
    }

    /// The record of one unit, where `all` are the new chunks.
    pub fn unit(&self, source: &dyn Source, all: &[ChunkRef], index: u64) -> Result<Vec<u8>> {
        let missing = || Error::Usage { what: format!("unit {index}"), reason: "there is none".into() };
        let plan = self.plan.get(index as usize).ok_or_else(missing)?;
        let reference = gather(source, plan.reference.iter().flat_map(|stretch| self.stretch(all, stretch)))?;
        let new = |number: &usize| all.get(*number);
        let target = gather(source, plan.chunks.iter().filter_map(new))?;
        let delta = delta::encode(self.profile, &reference, &target)?;
        // A codec that does not come back is a bug here; the receiver must not meet it.
        let delta = match delta::decode(&delta, &reference, target.len(), "an own delta") {
            Ok(decoded) if decoded == target => delta,
            _ => delta::encode_with(delta::Codec::Zstd, &[], &target)?,
        };
        Ok(encode_filed(
            DELTA,
            &DeltaRecord {
                index,
                chunks: runs(&plan.chunks),
                lens: plan.chunks.iter().filter_map(new).map(|chunk| chunk.len).collect(),
                reference: plan.reference.iter().filter_map(|stretch| self.named(stretch)).collect(),
                hash: *blake3::hash(&target).as_bytes(),
                delta,
            },
        ))
    }

    fn stretch<'c>(&'c self, new: &'c [ChunkRef], stretch: &Stretch) -> &'c [ChunkRef] {
        let (chunks, first, count) = match *stretch {
            Stretch::New { first, count } => (new, first, count),
            Stretch::Old { orphans, first, count } => {
                (self.orphans.get(orphans).map(|own| own.chunks.as_slice()).unwrap_or_default(), first, count)
            }
        };
        chunks.get(first..first + count).unwrap_or_default()
    }

    fn named(&self, stretch: &Stretch) -> Option<Reference> {
        Some(match *stretch {
            Stretch::New { first, count } => Reference::New { first: first as u64, count: count as u64 },
            Stretch::Old { orphans, first, count } => {
                let own = self.orphans.get(orphans)?;
                Reference::Old { edit: own.edit, first: own.first + first as u64, count: count as u64 }
            }
        })
    }
}

fn gather<'c>(source: &dyn Source, chunks: impl Iterator<Item = &'c ChunkRef>) -> Result<Vec<u8>> {
    let chunks: Vec<ChunkRef> = chunks.copied().collect();
    let mut bytes = Vec::with_capacity(chunks.iter().map(|chunk| chunk.len as usize).sum());
    each_plain(source, &chunks, &mut |_, plain| {
        bytes.extend_from_slice(plain);
        Ok(())
    })?;
    Ok(bytes)
}

// Numbers as runs of consecutive ones.
fn runs(numbers: &[usize]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        let number = *number as u64;
        match runs.last_mut() {
            Some((first, count)) if *first + *count == number => *count += 1,
            _ => runs.push((number, 1)),
        }
    }
    runs
}
