use std::time::Instant;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (r, t) = (std::fs::read(&args[1]).unwrap(), std::fs::read(&args[2]).unwrap());
    let which = args.get(3).map(|s| s.as_str()).unwrap_or("both");
    for mixed in [false, true] {
        if which == "small" && mixed || which == "smallest" && !mixed { continue; }
        let s = Instant::now();
        let e = floe::delta::enc(mixed, &r, &t);
        let te = s.elapsed().as_secs_f64();
        let s = Instant::now();
        let d = floe::delta::dec(mixed, &e, &r, t.len());
        let td = s.elapsed().as_secs_f64();
        let ok = d.as_ref().map(|d| d == &t);
        let mb = t.len() as f64 / 1e6;
        println!("{} {} bytes={} enc {:.1} MB/s dec {:.1} MB/s ok={:?}", args[2], if mixed {"smallest"} else {"small"}, e.len(), mb/te, mb/td, ok);
    }
}
