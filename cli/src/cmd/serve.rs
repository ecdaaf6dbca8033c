//! `floe serve STORE`

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use floe::serve::{ServeLimits, ServeOptions, Server, TlsOptions, Tokens};
use floe::store::{RocksOptions, RocksStore};
use floe::{Error, Result};
use serde::Serialize;

use crate::args::{Serve, ServeVerb};
use crate::lazy::LazyStore;
use crate::output::Output;
use crate::place::{Place, read_pem};
use crate::report::End;
use crate::settings::Settings;
use crate::terms::count;

#[derive(Serialize)]
struct Listening {
    kind: &'static str,
    address: String,
    url: String,
}

#[derive(Serialize)]
struct Report {
    requests_cut: u64,
}

pub fn run(args: &Serve, settings: &Settings, output: &Output) -> Result<End> {
    if let Some(ServeVerb::Token(token)) = &args.verb {
        return super::token::run(token, settings, output);
    }
    let Some(store) = &args.store else {
        return Err(Error::Usage { what: "serve".to_owned(), reason: "needs a store".to_owned() });
    };
    let dir = match Place::parse(&store.to_string_lossy())? {
        Place::Dir(_) => store,
        Place::Url(url) => {
            let reason = "only a directory can be served".to_owned();
            return Err(Error::Usage { what: format!("store `{url}`"), reason });
        }
    };
    let options = options(args, dir)?;
    if args.stdio {
        floe::serve::stdio(Arc::new(LazyStore::open(dir, args.create)?), &options)?;
        return Ok(End::Done);
    }
    let store =
        Arc::new(RocksStore::open(dir, &RocksOptions { create: args.create, ..RocksOptions::default() })?);
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let running = Server::start(store, options)?;
    let url = format!("{scheme}://{}", running.addr());
    output.line(format_args!("listening {url}"))?;
    output.object(&Listening { kind: "listening", address: running.addr().to_string(), url })?;
    output.flush()?;
    let stop = output.stop();
    while !stop.load(Ordering::Relaxed) {
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let report = Report { requests_cut: running.stop(args.grace) as u64 };
    let cut = format!("{} cut", count(report.requests_cut, "request"));
    output.report("serve", &report, &[("stopped", cut)])?;
    Ok(End::Done)
}

fn options(args: &Serve, dir: &Path) -> Result<ServeOptions> {
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => Some(TlsOptions {
            cert_pem: read_pem(cert)?,
            key_pem: read_pem(key)?,
            client_ca_pem: args.client_ca.as_deref().map(read_pem).transpose()?,
        }),
        _ => None,
    };
    let limits = &args.limits;
    let tokens = args.tokens.clone().unwrap_or_else(|| Tokens::of_store(dir).path().to_owned());
    Ok(ServeOptions {
        listen: listen(&args.listen)?,
        tls,
        tokens: Some(tokens),
        public_read: args.public_read,
        insecure: args.insecure,
        metrics_need_admin: args.private_metrics,
        proxied: args.proxied,
        limits: ServeLimits {
            connections: limits.max_connections.get(),
            connections_per_client: limits.max_client_connections.get(),
            streams_per_client: limits.max_client_streams.get(),
            updates: limits.max_updates.get(),
            updates_bytes_max: limits.max_update_memory,
            deltas: limits.deltas.profile(),
            listings: limits.max_listings.get(),
            in_flight_bytes_max: limits.max_in_flight,
            bodies_bytes_max: limits.max_bodies,
            body_len_max: limits.max_body,
            sweep_len_max: limits.max_prune_body,
            header_len_max: usize::try_from(limits.max_headers).unwrap_or(usize::MAX),
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            stall_timeout: limits.stall_timeout,
            rate_min: limits.min_rate,
            total_timeout: limits.total_timeout,
            limit_rate: limits.limit_rate,
            prune_grace_min: limits.min_prune_grace,
        },
        ..ServeOptions::default()
    })
}

// The first address that a name has.
fn listen(text: &str) -> Result<SocketAddr> {
    let found = text.to_socket_addrs().ok().and_then(|mut found| found.next());
    found.ok_or_else(|| Error::Usage {
        what: format!("address `{}`", text.escape_debug()),
        reason: "must be ADDRESS:PORT, as in 127.0.0.1:7400 or [::]:7400".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Verb};
    use clap::Parser;

    #[test]
    fn the_defaults_in_the_help_are_those_of_the_engine() {
        let Verb::Serve(args) = Args::parse_from(["floe", "serve", "x"]).verb else { unreachable!("serve") };
        let ours = options(&args, Path::new("x")).expect("options");
        assert_eq!(format!("{:?}", ours.limits), format!("{:?}", ServeLimits::default()));
    }

    #[test]
    fn addresses() {
        for (text, want) in
            [("127.0.0.1:0", true), ("[::1]:7400", true), ("7400", false), ("", false), ("x:y", false)]
        {
            assert_eq!(listen(text).is_ok(), want, "{text}");
        }
    }
}
