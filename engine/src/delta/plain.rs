//! zstd, alone or with the reference as its prefix. Deterministic for one build of zstd, but not a format of ours: only
//! what it decodes to is promised.

use zstd::zstd_safe::{CCtx, CParameter, DCtx, compress_bound};

/// One zstd frame of `target`; `None` when zstd refuses.
pub(super) fn compress(reference: &[u8], target: &[u8], level: i32) -> Option<Vec<u8>> {
    let mut context = CCtx::try_create()?;
    let reach = (reference.len() + target.len()).next_power_of_two().ilog2();
    let window = reach.clamp(10, if cfg!(target_pointer_width = "64") { 31 } else { 30 });
    for parameter in [
        CParameter::CompressionLevel(level),
        CParameter::WindowLog(window),
        // Far content, too: the reference is longer than what the level looks through.
        CParameter::EnableLongDistanceMatching(!reference.is_empty()),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
    ] {
        context.set_parameter(parameter).ok()?;
    }
    if !reference.is_empty() {
        context.ref_prefix(reference).ok()?;
    }
    let mut frame = Vec::with_capacity(compress_bound(target.len()));
    context.compress2(&mut frame, target).ok()?;
    Some(frame)
}

/// The `len` bytes of a frame, or fewer; never more.
pub(super) fn decompress(frame: &[u8], reference: &[u8], len: usize) -> Result<Vec<u8>, &'static str> {
    let mut context = DCtx::try_create().ok_or("no memory for zstd")?;
    if !reference.is_empty() {
        context.ref_prefix(reference).map_err(|_| "zstd refuses the reference")?;
    }
    let mut target = Vec::with_capacity(len);
    context.decompress(&mut target, frame).map_err(|_| "its frame does not decode")?;
    Ok(target)
}
