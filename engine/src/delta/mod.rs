//! Bytes in terms of other bytes.
mod cover;
#[allow(missing_docs)]
pub fn enc(mixed: bool, reference: &[u8], target: &[u8]) -> Vec<u8> {
    cover::encode(if mixed { cover::Weight::Mixed } else { cover::Weight::Light }, reference, target)
}
#[allow(missing_docs)]
pub fn dec(mixed: bool, b: &[u8], reference: &[u8], len: usize) -> Result<Vec<u8>, &'static str> {
    cover::decode(if mixed { cover::Weight::Mixed } else { cover::Weight::Light }, b, reference, len)
}
