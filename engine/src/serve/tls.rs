//! TLS: from PEM to what accepts connections.

use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::error::{Error, Result};

use super::options::TlsOptions;

/// What accepts connections as `options` say. [`Error::Usage`] for a certificate, key or authority that cannot be used.
pub(super) fn acceptor(options: &TlsOptions) -> Result<TlsAcceptor> {
    let certs = certs("TLS certificate", &options.cert_pem)?;
    let key = PrivateKeyDer::from_pem_slice(&options.key_pem).map_err(|error| bad("TLS key", error))?;
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad("TLS", error))?;
    let builder = match &options.client_ca_pem {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for cert in self::certs("authority of client certificates", pem)? {
                roots.add(cert).map_err(|error| bad("authority of client certificates", error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier =
                verifier.build().map_err(|error| bad("authority of client certificates", error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config =
        builder.with_single_cert(certs, key).map_err(|error| bad("TLS certificate or key", error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certs(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certs = certs.map_err(|error| bad(what, error))?;
    if certs.is_empty() { Err(bad(what, "there is none in the PEM")) } else { Ok(certs) }
}

fn bad(what: &str, reason: impl ToString) -> Error {
    Error::Usage { what: what.to_owned(), reason: reason.to_string() }
}
