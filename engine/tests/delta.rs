//! The delta codecs as functions: what is encoded decodes to the same bytes, what is damaged gets an answer, and what
//! was once encoded is decoded for good.
#![cfg(feature = "testing")]

use std::fs;
use std::path::PathBuf;

use floe::delta::{Codec, Profile, decode, encode, encode_with};
use floe::testing::doors::knock;
use proptest::prelude::*;

const CODECS: [Codec; 5] = [Codec::Stored, Codec::Zstd, Codec::Prefix, Codec::CoverLight, Codec::CoverMixed];
const PROFILES: [Profile; 3] = [Profile::Fast, Profile::Small, Profile::Smallest];

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("floe delta").update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Calls of functions: a relative address after E8 every few bytes, all of them to `entries` entries of a table.
fn x86(len: usize, entries: u32, shift: u32) -> Vec<u8> {
    let mut code = noise(1, len);
    for (n, at) in (0..len.saturating_sub(16)).step_by(16).enumerate() {
        let target = (n as u32 * 7 % entries) * 64 + if n % 3 == 0 { shift } else { 0 };
        code[at + 6] = 0xe8;
        code[at + 7..at + 11].copy_from_slice(&target.wrapping_sub(at as u32 + 11).to_le_bytes());
    }
    code
}

/// Branches and pages of 64-bit ARM, and returns by which it is known.
fn arm64(len: usize, shift: u32) -> Vec<u8> {
    let mut code = noise(2, len / 4 * 4);
    for (n, word) in code.chunks_exact_mut(4).enumerate() {
        let at = n as u32 * 4;
        let target = (n as u32 * 13 % 97) * 256 + shift;
        let value = match n % 8 {
            0 => 0x9400_0000 | target.wrapping_sub(at) >> 2 & 0x03ff_ffff,
            3 => 0x9000_0001 | (target >> 12 & 0x7ff) << 5,
            6 => 0xd65f_03c0,
            _ => continue,
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
    code
}

/// A table of numbers that grow.
fn numbers(count: u32, by: u32) -> Vec<u8> {
    (0..count).flat_map(|n| (n * 24 + if n > count / 3 { by } else { 0 }).to_le_bytes()).collect()
}

fn lines(range: std::ops::Range<u32>) -> Vec<u8> {
    range
        .flat_map(|n| format!("function f{n}(a, b) {{ return a * {} + b; }}\n", n % 17).into_bytes())
        .collect()
}

/// Name, reference, target.
fn cases() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let same = noise(3, 70_000);
    let moved = [&same[40_000..], &noise(4, 3000), &same[..40_000]].concat();
    vec![
        ("both empty", vec![], vec![]),
        ("empty target", same.clone(), vec![]),
        ("no reference", vec![], lines(0..800)),
        ("a byte", vec![], vec![7]),
        ("a byte of a byte", vec![7], vec![7]),
        ("another byte of a byte", vec![7], vec![8]),
        ("seven bytes", b"1234567".to_vec(), b"1234567".to_vec()),
        ("nine bytes", b"123456789".to_vec(), b"12345678X".to_vec()),
        ("the same", same.clone(), same.clone()),
        ("a prefix", same.clone(), same[..50_001].to_vec()),
        ("longer", same[..20_000].to_vec(), same.clone()),
        ("moved", same.clone(), moved),
        ("nothing in common", noise(5, 30_000), noise(6, 30_000)),
        ("of itself", vec![], noise(7, 5000).repeat(12)),
        ("one byte often", vec![1; 100], vec![0; 200_000]),
        ("a short period", vec![], b"abc".repeat(9000)),
        ("x86", x86(120_000, 300, 0), x86(120_000, 300, 4096)),
        ("arm64", arm64(120_000, 0), arm64(120_000, 0x2_0040)),
        ("numbers", numbers(20_000, 0), numbers(20_000, 1000)),
        ("text", lines(0..2000), [lines(0..500), lines(3000..3100), lines(600..2000)].concat()),
        (
            "text and code",
            [lines(0..900), x86(50_000, 90, 0)].concat(),
            [lines(10..910), x86(50_000, 90, 64)].concat(),
        ),
    ]
}

fn same(name: &str, delta: &[u8], reference: &[u8], target: &[u8]) {
    let decoded =
        decode(delta, reference, target.len(), "here").unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(decoded == target, "{name}: other bytes");
}

#[test]
fn every_codec_gives_back_what_it_got() {
    for (name, reference, target) in cases() {
        for codec in CODECS {
            let Ok(delta) = encode_with(codec, &reference, &target) else {
                assert!(target.is_empty(), "{name}, {codec:?}");
                continue;
            };
            assert_eq!(Codec::of(&delta), Some(codec));
            same(&format!("{name}, {codec:?}"), &delta, &reference, &target);
        }
        for profile in PROFILES {
            let delta = encode(profile, &reference, &target).expect("short enough");
            assert!(delta.len() <= target.len() + 1, "{name}, {profile:?}: longer than stored");
            assert_eq!(
                delta,
                encode(profile, &reference, &target).expect("as before"),
                "{name}: not the same"
            );
            same(&format!("{name}, {profile:?}"), &delta, &reference, &target);
        }
    }
}

#[test]
fn what_moved_together_costs_little() {
    // Name, codec, most bytes.
    for (name, codec, most) in [
        ("the same", Codec::CoverLight, 32),
        ("the same", Codec::CoverMixed, 32),
        ("of itself", Codec::CoverMixed, 6000),
        ("x86", Codec::CoverLight, 2500),
        ("x86", Codec::CoverMixed, 2000),
        ("arm64", Codec::CoverLight, 4000),
        ("numbers", Codec::CoverLight, 600),
    ] {
        let (_, reference, target) = cases().into_iter().find(|case| case.0 == name).expect("a case");
        let len = encode_with(codec, &reference, &target).expect("encoded").len();
        assert!(len <= most, "{name}, {codec:?}: {len} bytes");
    }
}

/// An edit of bytes: where, how many are replaced, by what.
fn edited(reference: &[u8], edits: &[(u16, u16, Vec<u8>)]) -> Vec<u8> {
    let mut target = reference.to_vec();
    for (at, gone, new) in edits {
        let at = usize::from(*at) % (target.len() + 1);
        let end = (at + usize::from(*gone)).min(target.len());
        target.splice(at..end, new.iter().copied());
    }
    target
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn random_edits_come_back(
        seed in any::<u64>(),
        kind in 0..5usize,
        len in 0..20_000usize,
        edits in proptest::collection::vec((any::<u16>(), 0..900u16, proptest::collection::vec(any::<u8>(), 0..60)), 0..20),
    ) {
        let reference = match kind {
            0 => noise(seed, len),
            1 => x86(len, 40, seed as u32 & 0xfff),
            2 => arm64(len, seed as u32 & 0xf_ffff),
            3 => lines(0..len as u32 / 40),
            _ => numbers(len as u32 / 4, seed as u32),
        };
        let target = edited(&reference, &edits);
        for profile in PROFILES {
            let delta = encode(profile, &reference, &target).expect("short enough");
            same("edited", &delta, &reference, &target);
        }
        for codec in [Codec::CoverLight, Codec::CoverMixed] {
            if let Ok(delta) = encode_with(codec, &reference, &target) {
                same("edited", &delta, &reference, &target);
            }
        }
    }

    #[test]
    fn any_bytes_get_an_answer(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        codec in 0..6u8,
        header in 0..16u8,
        len in 0..3000usize,
    ) {
        let delta = [&[codec, header][..], &bytes].concat();
        for reference in [vec![], x86(2000, 20, 0), arm64(2000, 0)] {
            if let Ok(target) = decode(&delta, &reference, len, "here") {
                prop_assert_eq!(target.len(), len);
            }
        }
        let _ = knock("delta", &delta);
    }
}

#[test]
fn damage_gets_an_answer() {
    let reference = [x86(1500, 9, 0), lines(0..20), numbers(150, 0)].concat();
    let target = [lines(3..25), x86(1500, 9, 64), noise(8, 40), numbers(150, 72)].concat();
    for codec in CODECS {
        let good = encode_with(codec, &reference, &target).expect("encoded");
        let check = |delta: &[u8], reference: &[u8], len: usize| match decode(delta, reference, len, "here") {
            Ok(target) => assert_eq!(target.len(), len),
            Err(error) => assert!(error.to_string().contains("here"), "{error}"),
        };
        for len in 0..good.len() {
            check(&good[..len], &reference, target.len());
        }
        for bit in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            check(&flipped, &reference, target.len());
        }
        for other in [&[][..], &reference[..100], &noise(9, reference.len()), &target] {
            check(&good, other, target.len());
        }
        for len in [0, 1, 7, target.len() - 1, target.len() + 1, 3 * target.len()] {
            check(&good, &reference, len);
            assert!(decode(&good, &reference, len, "here").is_err() || codec as u8 >= 3, "{codec:?}, {len}");
        }
        let long = [&good[..], &[0; 32]].concat();
        assert!(
            decode(&long, &reference, target.len(), "here").is_err(),
            "{codec:?}: more bytes than it has"
        );
        // A claim that no delta could pay for meets its bound before memory does.
        assert!(decode(&good, &reference, usize::MAX / 2, "here").is_err());
        assert!(decode(&good, &reference, 1 << 31, "here").is_err());
    }
}

/// Where the bytes lie that must be decoded for good; `UPDATE_GOLDEN=1` writes them anew.
fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../testdata/formats/v1").join(format!("delta-{name}.bin"))
}

/// A reference and a target with a bit of everything.
fn specimen() -> (Vec<u8>, Vec<u8>) {
    let reference = [x86(6000, 30, 0), lines(0..60), numbers(400, 0), noise(10, 900)].concat();
    let target =
        [lines(5..50), x86(6000, 30, 640), numbers(400, 1000), noise(11, 200), noise(10, 900)].concat();
    (reference, target)
}

#[test]
fn what_was_encoded_once_is_decoded_for_good() {
    let (reference, target) = specimen();
    let hash = blake3::hash(&[reference.clone(), target.clone()].concat()).to_hex();
    assert_eq!(hash.as_str(), SPECIMEN, "the specimen is made otherwise than it was");
    for (name, codec) in [
        ("stored", CODECS[0]),
        ("zstd", CODECS[1]),
        ("prefix", CODECS[2]),
        ("light", CODECS[3]),
        ("mixed", CODECS[4]),
    ] {
        let made = encode_with(codec, &reference, &target).expect("encoded");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(golden(name), &made).expect("written");
        }
        let kept = fs::read(golden(name)).expect("testdata");
        same(name, &kept, &reference, &target);
        // The encoder's choices may change, the integers behind them not: what is made decodes, too.
        same(name, &made, &reference, &target);
    }
}

const SPECIMEN: &str = "f87b5ec7ca1afad9d1e62557538d1ade65e3c3a811ffdd1bbc3a440393b64ee4";
