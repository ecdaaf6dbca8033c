use floe::content::*;
use floe::store::*;
use floe::sync::units::*;
use floe::version::*;
use floe::*;
use std::path::Path;
use std::time::Instant;
fn main() -> Result<()> {
    let a: Vec<String> = std::env::args().collect();
    let store = MemStore::default();
    let publish = |dir: &str, name: &str| {
        floe::sync::publish(
            Path::new(dir),
            &store,
            &Name::parse(name).unwrap(),
            &floe::sync::PublishOptions {
                compression: Compression::None,
                exclude: vec![],
                rehash: false,
                fingerprints: None,
                threads: 2.try_into().unwrap(),
                in_flight_bytes_max: 64 << 20,
                now_unix_s: 0,
                faults: Faults::default(),
            },
            &Silent,
        )
        .unwrap()
        .version
    };
    let (h, w) = (publish(&a[1], "a@1"), publish(&a[2], "a@2"));
    let (have, want) = (Manifest::open(&store, h)?, Manifest::open(&store, w)?);
    let t = Instant::now();
    let edits = make_edits(Some(&have), &want)?.unwrap();
    let sum = |c: &[ChunkRef]| c.iter().map(|c| c.len as u64).sum::<u64>();
    println!(
        "edits {} zstd {} regions {} new {} orphans {} ({:?})",
        edits.bytes.len(),
        zstd::bulk::compress(&edits.bytes, 19).unwrap().len(),
        edits.regions.len(),
        sum(&edits.new),
        edits.orphans.iter().map(|o| sum(&o.chunks)).sum::<u64>(),
        t.elapsed()
    );
    let mib: u64 = a[3].parse().unwrap();
    let refmib: u64 = a[4].parse().unwrap();
    let t = Instant::now();
    let units = plan_units(&store, &edits, UnitSizes { target: mib << 20, reference: refmib << 20 })?;
    println!("{} units planned in {:?}", units.len(), t.elapsed());
    let plain = |c: &ChunkRef| {
        let mut out = Vec::new();
        store
            .read_chunks(&[*c], &mut |_, f| {
                out = Chunk::open(f.unwrap(), c, "x").unwrap().bytes().to_vec();
                Ok(())
            })
            .unwrap();
        out
    };
    let mut total = 0;
    let t = Instant::now();
    for (i, u) in units.iter().enumerate() {
        let mut reference = Vec::new();
        let mut target = Vec::new();
        for s in &u.reference {
            match *s {
                Stretch::Old { orphans, first, count } => {
                    for c in &edits.orphans[orphans].chunks[first..first + count] {
                        reference.extend(plain(c));
                    }
                }
                Stretch::New { first, count } => {
                    for c in &edits.new[first..first + count] {
                        reference.extend(plain(c));
                    }
                }
            }
        }
        for n in &u.chunks {
            target.extend(plain(&edits.new[*n]));
        }
        if let Some(dir) = a.get(5) {
            std::fs::create_dir_all(dir).unwrap();
            std::fs::write(format!("{dir}/{i}.ref"), &reference).unwrap();
            std::fs::write(format!("{dir}/{i}.tgt"), &target).unwrap();
        }
        let mut c = zstd::bulk::Compressor::new(9).unwrap();
        c.set_parameter(zstd::zstd_safe::CParameter::WindowLog(27)).unwrap();
        c.set_parameter(zstd::zstd_safe::CParameter::EnableLongDistanceMatching(true)).unwrap();
        let mut cc = zstd::zstd_safe::CCtx::create();
        use zstd::zstd_safe::CParameter as P;
        cc.set_parameter(P::CompressionLevel(std::env::var("L").map_or(9, |l| l.parse().unwrap()))).unwrap();
        cc.set_parameter(P::WindowLog(27)).unwrap();
        cc.set_parameter(P::EnableLongDistanceMatching(true)).unwrap();
        cc.ref_prefix(&reference).unwrap();
        let mut out = Vec::with_capacity(target.len() + 1000);
        cc.compress2(&mut out, &target).unwrap();
        total += out.len();
        let news = u
            .reference
            .iter()
            .map(|s| if let Stretch::New { count, .. } = s { *count } else { 0 })
            .sum::<usize>();
        println!(
            "unit {i}: {} chunks, {} bytes, ref {} bytes in {} stretches ({news} new chunks): {}",
            u.chunks.len(),
            target.len(),
            reference.len(),
            u.reference.len(),
            out.len()
        );
    }
    println!("total {total} in {:?}", t.elapsed());
    Ok(())
}
