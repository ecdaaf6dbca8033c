//! Whom TLS trusts, and what it shows of us. Every certificate is checked here, so that none fails later.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use super::options::RemoteOptions;
use crate::error::{Error, Result};

/// The TLS side of `options`: their certificates, or the system's.
pub(super) fn config(options: &RemoteOptions) -> Result<TlsConfig> {
    let provider = Arc::new(ring::default_provider());
    let trusted = match &options.ca_pem {
        Some(pem) => certificates(pem, "certificates to trust")?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(trusted.iter().cloned());
    if usable == 0 {
        let whose = if options.ca_pem.is_some() { "given" } else { "system's" };
        return Err(unusable("certificates to trust", format!("none of the {whose} ones can be used")));
    }
    let client = options.client_pem.as_ref().map(|pem| client(pem.reveal(), roots, &provider)).transpose()?;
    let trusted = trusted.into_iter().map(|cert| Certificate::from_der(&cert).to_owned());
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::from(trusted.collect::<Vec<_>>()))
        .client_cert(client)
        .unversioned_rustls_crypto_provider(provider)
        .build())
}

fn client(pem: &[u8], roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<ClientCert> {
    const WHAT: &str = "client certificate";
    let chain = certificates(pem, WHAT)?;
    let key =
        PrivateKeyDer::from_pem_slice(pem).map_err(|error| unusable(WHAT, format!("its key: {error}")))?;
    // Tried here: where it is used, a pair that does not fit would be a panic.
    ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_root_certificates(roots))
        .and_then(|builder| builder.with_client_auth_cert(chain.clone(), key))
        .map_err(|error| unusable(WHAT, error.to_string()))?;
    let chain: Vec<_> = chain.iter().map(|cert| Certificate::from_der(cert).to_owned()).collect();
    let key = PrivateKey::from_pem(pem).map_err(|error| unusable(WHAT, error.to_string()))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable(what, "there is no certificate in them".into())),
        Err(error) => Err(unusable(what, error.to_string())),
    }
}

fn unusable(what: &str, reason: String) -> Error {
    Error::Usage { what: what.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::remote::options::ClientPem;

    fn pair(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("made");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn certificates_that_cannot_be_used_are_an_error_and_no_panic() {
        let ((cert, key), (other, _)) = (pair("a"), pair("b"));
        let with = |ca: &str, client: Option<String>| {
            let client_pem = client.map(|pem| ClientPem::new(pem.into_bytes()));
            config(&RemoteOptions { ca_pem: Some(ca.into()), client_pem, ..RemoteOptions::default() })
        };
        assert!(with(&cert, None).is_ok());
        assert!(with(&cert, Some(format!("{cert}{key}"))).is_ok());
        for (ca, client) in [
            ("", None),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None),
            (&key, None),
            (&cert, Some(String::new())),
            (&cert, Some(cert.clone())),
            (&cert, Some(key.clone())),
            (&cert, Some(format!("{other}{key}"))),
        ] {
            let error = with(ca, client).expect_err("refused");
            assert!(matches!(error, Error::Usage { .. }), "{error}");
        }
    }
}
