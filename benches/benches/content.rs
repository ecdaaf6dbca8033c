//! Cutting, hashing and encoding, on one thread.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fastcdc::v2020::{FastCDC, Normalization};
use floe::ChunkId;
use floe::content::{Chunk, Compression, Frame, cut};

fn sample(len: usize, compressible: bool) -> Vec<u8> {
    let mut data = vec![0; len];
    blake3::Hasher::new().update(b"sample").finalize_xof().fill(&mut data);
    if compressible {
        data.iter_mut().for_each(|byte| *byte = b"the quick brown fox\n"[usize::from(*byte) % 20]);
    }
    data
}

fn lens(data: &[u8]) -> Vec<usize> {
    let (mut rest, mut lens) = (data, Vec::new());
    while !rest.is_empty() {
        lens.push(cut(rest));
        rest = &rest[lens[lens.len() - 1]..];
    }
    lens
}

fn content(c: &mut Criterion) {
    let data = sample(64 << 20, false);
    let mut group = c.benchmark_group("content");
    group.sample_size(10).throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("cut", |b| b.iter(|| lens(black_box(&data))));
    group.bench_function("cut, the fastcdc crate", |b| {
        b.iter(|| {
            let cuts =
                FastCDC::with_level(black_box(&data), 16 << 10, 64 << 10, 256 << 10, Normalization::Level1);
            cuts.count()
        });
    });
    let lens = lens(&data);
    group.bench_function("hash chunk by chunk", |b| {
        b.iter(|| {
            let mut rest = data.as_slice();
            for len in &lens {
                black_box(ChunkId::of(&rest[..*len]));
                rest = &rest[*len..];
            }
        });
    });
    group.bench_function("hash whole", |b| b.iter(|| black_box(blake3::hash(&data))));
    group.finish();

    let text = sample(128 << 10, true);
    let chunk = Chunk::new(text.clone());
    let mut group = c.benchmark_group("frame, 128 KiB of text");
    group.throughput(Throughput::Bytes(text.len() as u64));
    for level in [1, 3, 9] {
        group.bench_function(format!("encode zstd {level}"), |b| {
            b.iter(|| black_box(Frame::encode(&text, Compression::Zstd(level))));
        });
    }
    for (name, compression) in [("stored", Compression::None), ("zstd 3", Compression::Zstd(3))] {
        let frame = chunk.frame(compression);
        group.bench_function(format!("open {name}"), |b| {
            b.iter(|| Chunk::open(frame.clone(), &chunk.to_ref(), "bench").expect("a good frame"));
        });
    }
    group.finish();
}

criterion_group!(benches, content);
criterion_main!(benches);
