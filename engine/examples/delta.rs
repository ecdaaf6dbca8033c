//! Measures the delta codecs: `delta OLD NEW [fast|small|smallest] [UNIT-MiB]`. Speeds are of processor time.

use floe::delta::{Codec, Profile, decode, encode};

fn seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (r, t) = (std::fs::read(&args[1]).unwrap(), std::fs::read(&args[2]).unwrap());
    let which = args.get(3).map(|s| s.as_str()).unwrap_or("all");
    for (name, profile) in
        [("fast", Profile::Fast), ("small", Profile::Small), ("smallest", Profile::Smallest)]
    {
        if which != "all" && which != name {
            continue;
        }
        let unit = args.get(4).map_or(usize::MAX, |mib| mib.parse::<usize>().unwrap() << 20).min(t.len());
        let (mut te, mut td, mut len, mut ok) = (0.0, 0.0, 0, true);
        let mut kinds = Vec::new();
        for (n, t1) in t.chunks(unit).enumerate() {
            let scale = |x: usize| (x as f64 * r.len() as f64 / t.len() as f64) as usize;
            let r1 = if unit == t.len() {
                &r[..]
            } else {
                &r[scale(n * unit).saturating_sub(12 << 20).min(r.len())
                    ..(scale(n * unit + unit) + (12 << 20)).min(r.len())]
            };
            let s = seconds();
            let e = encode(profile, r1, t1).unwrap();
            te += seconds() - s;
            let s = seconds();
            let d = decode(&e, r1, t1.len(), "x");
            td += seconds() - s;
            ok &= d.is_ok_and(|d| d == t1);
            len += e.len();
            kinds.push(Codec::of(&e).unwrap() as u8);
        }
        let mb = t.len() as f64 / 1e6;
        println!(
            "{} {name} bytes={len} enc {:.1} MB/s dec {:.1} MB/s ok={ok} {:?}",
            args[2].rsplit('/').next().unwrap(),
            mb / te,
            mb / td,
            &kinds[..kinds.len().min(8)]
        );
    }
}
