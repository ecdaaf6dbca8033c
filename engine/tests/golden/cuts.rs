//! Inputs made by rule, and where they are cut.

use floe::content::{Chunker, cut};

use crate::golden;

const INPUTS: &[(&str, u64, usize)] = &[
    ("noise", 0, 0),
    ("noise", 1, 1),
    ("noise", 2, 16 << 10),
    ("noise", 3, (16 << 10) + 1),
    ("noise", 4, 65_537),
    ("noise", 5, 256 << 10),
    ("noise", 6, 1_000_003),
    ("noise", 7, 3_000_000),
    ("zeros", 0, (256 << 10) - 1),
    ("zeros", 0, 1_000_001),
    ("lines", 0, 700_001),
    ("cycle", 251, 600_000),
    ("cycle", 4096, 600_000),
    ("mixed", 8, 1_500_000),
];

fn input(pattern: &str, seed: u64, len: usize) -> Vec<u8> {
    let noise = |len: usize| {
        let mut bytes = vec![0; len];
        blake3::Hasher::new_derive_key("floe cuts")
            .update(&seed.to_le_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    };
    match pattern {
        "noise" => noise(len),
        "zeros" => vec![0; len],
        "lines" => (0..).flat_map(|n| format!("line {n}\n").into_bytes()).take(len).collect(),
        "cycle" => noise(usize::try_from(seed).expect("short")).into_iter().cycle().take(len).collect(),
        // Stretches of noise and of one byte, 50 000 bytes each.
        "mixed" => {
            let flat = |(at, byte): (usize, u8)| if at / 50_000 % 2 == 0 { byte } else { 7 };
            noise(len).into_iter().enumerate().map(flat).collect()
        }
        other => panic!("no pattern `{other}`"),
    }
}

pub fn make() -> String {
    let line = |&(pattern, seed, len): &(&str, u64, usize)| {
        let data = input(pattern, seed, len);
        let lens: Vec<_> = lens(&data).iter().map(usize::to_string).collect();
        format!("{pattern} {seed} {len} {} {}\n", blake3::hash(&data).to_hex(), lens.join(","))
    };
    "# pattern seed length BLAKE3 cut-lengths\n"
        .chars()
        .chain(INPUTS.iter().map(line).collect::<String>().chars())
        .collect()
}

fn lens(data: &[u8]) -> Vec<usize> {
    let mut rest = data;
    let mut lens = Vec::new();
    while !rest.is_empty() {
        let len = cut(rest);
        rest = &rest[len..];
        lens.push(len);
    }
    lens
}

#[test]
fn files_are_cut_where_they_were_always_cut() {
    let list = String::from_utf8(golden("cuts/v1.txt")).expect("text");
    let mut seen = 0;
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let [pattern, seed, len, hash, cuts] = words[..] else { panic!("{line}") };
        let data = input(pattern, seed.parse().expect("a number"), len.parse().expect("a number"));
        assert_eq!(blake3::hash(&data).to_hex().as_str(), hash, "the input of `{pattern} {seed} {len}`");
        let cuts: Vec<usize> =
            cuts.split(',').filter(|cut| !cut.is_empty()).map(|cut| cut.parse().expect("a length")).collect();
        assert_eq!(lens(&data), cuts, "{pattern} {seed} {len}");
        let mut chunker = Chunker::new(data.as_slice());
        for cut in cuts {
            assert_eq!(chunker.next_chunk().expect("memory").map(<[u8]>::len), Some(cut));
        }
        assert!(chunker.next_chunk().expect("memory").is_none());
        seen += 1;
    }
    assert_eq!(seen, INPUTS.len());
}
