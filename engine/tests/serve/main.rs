//! A server from the outside: the conformance suite through it, and clients that wish it ill.
#![cfg(all(feature = "testing", feature = "server"))]

mod fair;
mod hostile;
mod orderly;
mod proxy;
mod trips;
mod wire;
#[path = "../world/mod.rs"]
mod world;

use std::sync::Arc;
use std::time::Duration;

use floe::serve::{Running, ServeLimits, ServeOptions, Served, Server, TlsOptions};
use floe::store::{MemStore, RemoteAddress, RemoteOptions, RemoteStore, Store};
use floe::testing::conformance;

/// Options for tests: everything short, and sweeps at once.
pub fn quick() -> ServeOptions {
    let limits = ServeLimits { prune_grace_min: Duration::ZERO, ..ServeLimits::default() };
    ServeOptions { limits, ..ServeOptions::default() }
}

pub fn with_limits(edit: impl FnOnce(&mut ServeLimits)) -> ServeOptions {
    let mut options = quick();
    edit(&mut options.limits);
    options
}

pub fn serve(store: Served, options: ServeOptions) -> Running {
    Server::start(store, options).expect("a free port on loopback")
}

pub fn empty() -> Served {
    Arc::new(MemStore::default())
}

pub fn remote(running: &Running, scheme: &str, options: RemoteOptions) -> RemoteStore {
    let address = format!("{scheme}://{}", running.addr().to_string().replace("127.0.0.1", "localhost"));
    let address = RemoteAddress::parse(&address).expect("an address");
    RemoteStore::open(&address, options).expect("a store")
}

fn conforms(make: &dyn Fn(&dyn Fn(Served))) {
    conformance::run(&|check| {
        make(&|store| {
            let running = serve(store, quick());
            check(&remote(&running, "http", RemoteOptions::default()));
            running.stop(Duration::ZERO);
        });
    });
}

#[test]
fn conforms_over_memory() {
    conforms(&|check| check(empty()));
}

#[cfg(feature = "rocks")]
#[test]
fn conforms_over_rocks() {
    use floe::store::{RocksOptions, RocksStore};
    conforms(&|check| {
        let dir = tempfile::tempdir().expect("a directory");
        let options = RocksOptions { create: true, ..RocksOptions::default() };
        check(Arc::new(RocksStore::open(dir.path(), &options).expect("a store")));
    });
}

/// Certificates that nobody else has.
pub struct Pki {
    pub ca_pem: Vec<u8>,
    pub server: TlsOptions,
    pub client_pem: Vec<u8>,
}

pub fn pki() -> Pki {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let signed = |names: Vec<String>| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("parameters");
        (params.signed_by(&key, &ca).expect("a certificate").pem(), key.serialize_pem())
    };
    let (cert, key) = signed(vec!["localhost".into(), "127.0.0.1".into()]);
    let (client_cert, client_key) = signed(vec!["a client".into()]);
    Pki {
        ca_pem: ca.pem().into_bytes(),
        server: TlsOptions { cert_pem: cert.into_bytes(), key_pem: key.into_bytes(), client_ca_pem: None },
        client_pem: (client_cert + &client_key).into_bytes(),
    }
}

#[test]
fn conforms_over_tls() {
    let pki = pki();
    conformance::run(&|check| {
        let running = serve(empty(), ServeOptions { tls: Some(pki.server.clone()), ..quick() });
        let options = RemoteOptions { ca_pem: Some(pki.ca_pem.clone()), ..RemoteOptions::default() };
        check(&remote(&running, "https", options));
    });
}

#[test]
fn client_certificates_are_asked_for() {
    use floe::store::{ClientPem, Name, Source};
    let pki = pki();
    let tls = TlsOptions { client_ca_pem: Some(pki.ca_pem.clone()), ..pki.server.clone() };
    let running = serve(empty(), ServeOptions { tls: Some(tls), ..quick() });
    let name = Name::parse("a@1").expect("a name");
    for (client_pem, good) in [(Some(ClientPem::new(pki.client_pem.clone())), true), (None, false)] {
        let ca_pem = Some(pki.ca_pem.clone());
        let wait: floe::store::Wait = Arc::new(|_| true);
        let options = RemoteOptions { ca_pem, client_pem, wait, ..RemoteOptions::default() };
        let resolved = remote(&running, "https", options).resolve(&name);
        assert_eq!(resolved.is_ok(), good, "{resolved:?}");
    }
}

/// So that a store may be used by several threads of a test.
pub fn shared(store: &Served) -> &dyn Store {
    &**store
}
