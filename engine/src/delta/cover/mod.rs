//! `cover`: target bytes aligned with old ones that they came from, and a model of how the old bytes changed.
//!
//! A unit is a list of segments (where the old bytes of each place are), then decisions about every place, all in one
//! stream of a binary range coder. The decoder does what the encoder does, in the same order, with the same integers.
//!
//! In memory: reference and target once, and the model (up to 8 MiB light, 64 MiB mixed); the encoder's search takes four
//! more bytes for each byte of both, and up to 32 MiB, which are given back before the model is made.

mod echo;
mod machine;
mod mix;
mod model;
mod range;
mod search;
mod segments;
mod shifts;
mod walk;

use echo::Echo;
use machine::Machine;
use model::Model;
use range::{Decoder, Encoder, Side};
use segments::{CoverMap, DIST_MIN, code_segments};
use walk::Walk;

/// Zeros before the reference, so that there is always something before and behind.
const LEAD: usize = 16;
/// Zeros behind the target.
const TAIL: usize = 8;
/// Bits of the header.
const ECHO: u8 = 4;

/// How much is spent on a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// A few contexts, tables that stay near the core.
    Light,
    /// Everything that helps.
    Mixed,
}

struct Unit {
    bytes: Vec<u8>,
    first: usize,
    dist: u32,
}

impl Unit {
    fn new(reference: &[u8], target_len: usize) -> Self {
        let first = LEAD + reference.len();
        let mut bytes = Vec::with_capacity(first + target_len + TAIL);
        bytes.resize(LEAD, 0);
        bytes.extend_from_slice(reference);
        bytes.resize(first + target_len + TAIL, 0);
        let dist = if reference.len() >= DIST_MIN as usize { reference.len() as u32 } else { DIST_MIN };
        Unit { bytes, first, dist }
    }

    fn end(&self) -> usize {
        self.bytes.len() - TAIL
    }
}

/// Encodes `target` by `reference`. Together they are shorter than 2 GiB.
pub(super) fn encode(weight: Weight, reference: &[u8], target: &[u8]) -> Vec<u8> {
    let mut unit = Unit::new(reference, target.len());
    let end = unit.end();
    unit.bytes[unit.first..end].copy_from_slice(target);
    let texts = Texts::new(target);
    let first = unit.first;
    let machine = if texts.mostly() { Machine::None } else { machine_of(reference, target) };
    let binary = if machine == Machine::Arm64 { search::ARM64 } else { search::BINARY };
    let depth = if weight == Weight::Light { search::DEPTH_LIGHT } else { search::DEPTH_MIXED };
    let taste = |at: usize| if texts.holds(at - first) { search::TEXT } else { binary };
    let segments = search::find_segments(&unit.bytes[..end], LEAD, unit.first, unit.dist, depth, taste);
    unit.bytes[unit.first..end].fill(0);

    let echo = weight == Weight::Mixed || machine == Machine::None;
    let header = machine.number() | if echo { ECHO } else { 0 };

    let mut padded = vec![0; unit.first];
    padded.extend_from_slice(target);
    let mut side = Encoder::new(&padded, vec![header]);
    let coded = code_segments(&mut side, &segments, unit.first as u32, end as u32, unit.dist);
    let segments = coded.expect("the search keeps to the rules of segments");
    let map = CoverMap::new(segments, unit.first as u32, end as u32);
    walk(weight, header, &mut side, &mut unit, &map, |_| true);
    side.finish()
}

/// Decodes `target_len` bytes. The reference is the encoder's, and together they are shorter than 2 GiB. A stream that is
/// wrong in itself is an error; one for another reference may decode to other bytes.
pub(super) fn decode(
    weight: Weight,
    bytes: &[u8],
    reference: &[u8],
    target_len: usize,
) -> Result<Vec<u8>, &'static str> {
    let (&header, stream) = bytes.split_first().ok_or("empty")?;
    if header & !(3 | ECHO) != 0 || Machine::of_number(header & 3).is_none() {
        return Err("its header has a bit that is not known");
    }
    if target_len == 0 {
        return Err("an empty target is not coded so");
    }
    let mut side = Decoder::new(stream);
    let mut unit = Unit::new(reference, target_len);
    let (first, end) = (unit.first as u32, unit.end() as u32);
    let segments = code_segments(&mut side, &[], first, end, unit.dist)?;
    let map = CoverMap::new(segments, first, end);
    if !walk(weight, header, &mut side, &mut unit, &map, |side| !side.is_past_end()) {
        return Err("it breaks off");
    }
    if !side.is_at_end() {
        return Err("bytes after its end");
    }
    let mut bytes = unit.bytes;
    bytes.truncate(end as usize);
    bytes.drain(..first as usize);
    Ok(bytes)
}

fn walk<S: Side>(
    weight: Weight,
    header: u8,
    side: &mut S,
    unit: &mut Unit,
    map: &CoverMap,
    check: impl Fn(&S) -> bool,
) -> bool {
    let machine = Machine::of_number(header & 3).unwrap_or(Machine::None);
    let (first, end) = (unit.first, unit.end());
    let size = (end - first).ilog2();
    let known_size = end.ilog2();
    let echo_max = if weight == Weight::Light { 20 } else { 21 };
    let echo = (header & ECHO != 0)
        .then(|| Echo::new(known_size.saturating_sub(3).clamp(12, echo_max), &unit.bytes[..first], LEAD));
    let field_bits = size.saturating_sub(7).clamp(12, 18);
    let bytes = &mut unit.bytes[..];
    match weight {
        Weight::Light => {
            let model = Model::<6, 4, 9>::new(16, size.saturating_sub(10).clamp(8, 13));
            Walk::new(side, bytes, first, map, machine, model, field_bits, echo).finish(check)
        }
        Weight::Mixed => {
            let model = Model::<13, 7, 15>::new(18, size.saturating_sub(8).clamp(8, 16));
            Walk::new(side, bytes, first, map, machine, model, field_bits, echo).finish(check)
        }
    }
}

/// Which parts of a target are text.
struct Texts(Vec<bool>);

/// Bytes judged together.
const PART: usize = 16 << 10;

impl Texts {
    fn new(target: &[u8]) -> Self {
        let is_text = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~');
        let parts = target.chunks(PART);
        Texts(
            parts
                .map(|part| part.iter().filter(|byte| is_text(byte)).count() * 20 > part.len() * 19)
                .collect(),
        )
    }

    fn holds(&self, at: usize) -> bool {
        self.0.get(at / PART).copied().unwrap_or(false)
    }

    fn mostly(&self) -> bool {
        self.0.iter().filter(|text| **text).count() * 2 > self.0.len()
    }
}

/// What machine the code is for, by how often an ARM function returns.
fn machine_of(reference: &[u8], target: &[u8]) -> Machine {
    const RETURN: [u8; 4] = 0xd65f_03c0u32.to_le_bytes();
    let known = if reference.is_empty() { target } else { reference };
    let returns = known.windows(4).filter(|word| *word == RETURN).count();
    if returns > known.len() / 8192 { Machine::Arm64 } else { Machine::X86 }
}
