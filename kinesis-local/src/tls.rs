//! HTTPS: certificates, and the handshake of a connection.

use std::fmt;
use std::io;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, InconsistentKeys, ServerConfig};

/// The first byte of a TLS handshake, with which no request in plain HTTP begins.
pub(super) const HANDSHAKE: u8 = 0x16;

/// The certificate and key that a server proves its name with.
///
/// ```
/// use kinesis_local::{WireOptions, WireServer, WireTls};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let tls = WireTls::self_signed(["localhost", "127.0.0.1"])?;
/// let trusted_by_clients = tls.authority_pem().to_owned();
/// let options = WireOptions { tls: Some(tls), ..WireOptions::default() };
/// let server = WireServer::start([], options).await?;
/// assert!(server.endpoint().starts_with("https://127.0.0.1:"));
/// # assert!(trusted_by_clients.starts_with("-----BEGIN CERTIFICATE-----"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct WireTls {
    config: Arc<ServerConfig>,
    authority: String,
}

impl WireTls {
    /// Makes an authority, and a certificate signed by it for these names and addresses.
    ///
    /// The key of the authority is forgotten. Clients must trust [`authority_pem`](Self::authority_pem).
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] when a name is neither a domain name nor an address.
    pub fn self_signed(names: impl IntoIterator<Item = impl Into<String>>) -> io::Result<Self> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        if let Some(none) = names
            .iter()
            .find(|name| ServerName::try_from(name.as_str()).is_err())
        {
            return Err(invalid(format!(
                "{none:?} is neither a domain name nor an address that a certificate could be for"
            )));
        }
        let (authority, certificate, key) = issue(&names).map_err(invalid)?;
        let tls = Self::from_pem(&certificate, &key.serialize_pem())?;
        Ok(Self { authority, ..tls })
    }

    /// Takes a certificate, with those that it rests on after it, and its private key, both in PEM.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] when one of both is missing or no PEM, or when the key is not that of the certificate.
    pub fn from_pem(certificate: &str, key: &str) -> io::Result<Self> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| invalid(format!("the certificate cannot be read as PEM: {error}")))?;
        if chain.is_empty() {
            return Err(invalid(
                "the certificate holds no block that begins with -----BEGIN CERTIFICATE-----",
            ));
        }
        // The parser's message about a key could hold a part of that key.
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| {
            invalid("the key holds no private key in PEM: a block -----BEGIN PRIVATE KEY----- without a passphrase is needed")
        })?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(invalid)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            authority: certificate.to_owned(),
        })
    }

    /// The certificates that clients must trust, in PEM: the authority of a [self-signed](Self::self_signed) one, or the given certificate with those
    /// that it rests on.
    #[must_use]
    pub fn authority_pem(&self) -> &str {
        &self.authority
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.config).into()
    }
}

/// Two are equal if they share one certificate and key.
impl PartialEq for WireTls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }
}

impl Eq for WireTls {}

/// Shows nothing of the key.
impl fmt::Debug for WireTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireTls").finish_non_exhaustive()
    }
}

/// The authority and a certificate signed by it, in PEM, and the key of the certificate.
fn issue(names: &[String]) -> Result<(String, String, KeyPair), rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let name = &mut authority.distinguished_name;
    name.push(DnType::CommonName, "kinesis-local authority");
    let authority_key = KeyPair::generate()?;
    let authority_pem = authority.self_signed(&authority_key)?.pem();

    let mut certificate = CertificateParams::new(names.to_vec())?;
    certificate.is_ca = IsCa::ExplicitNoCa;
    certificate.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    certificate.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    certificate.use_authority_key_identifier_extension = true;
    certificate
        .distinguished_name
        .push(DnType::CommonName, "kinesis-local");
    let key = KeyPair::generate()?;
    let issuer = Issuer::new(authority, authority_key);
    let certificate = certificate.signed_by(&key, &issuer)?;
    Ok((authority_pem, certificate.pem(), key))
}

/// Why a certificate and a key, each of which could be read, are of no use together.
fn unusable(error: rustls::Error) -> io::Error {
    if error == rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) {
        return invalid("the key is not that of the certificate: give the two files that were made together");
    }
    invalid(format!("the certificate and its key cannot be used: {error}"))
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(certificate: &str, key: &str) -> String {
        let refused = WireTls::from_pem(certificate, key).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        refused.to_string()
    }

    #[test]
    fn unusable_pairs_are_refused_with_a_reason() {
        let names = ["localhost".to_owned()];
        let (_, certificate, key) = issue(&names).unwrap();
        let key = key.serialize_pem();
        let (_, _, other) = issue(&names).unwrap();
        WireTls::from_pem(&certificate, &key).unwrap();
        assert!(refusal("", &key).contains("BEGIN CERTIFICATE"));
        assert!(refusal(&key, &key).contains("BEGIN CERTIFICATE"));
        assert!(refusal(&certificate, "").contains("BEGIN PRIVATE KEY"));
        assert!(refusal(&certificate, &certificate).contains("BEGIN PRIVATE KEY"));
        assert!(refusal(&certificate, &other.serialize_pem()).contains("not that of the certificate"));
        let cut = &certificate[..certificate.len() / 2];
        assert!(refusal(cut, &key).contains("certificate"));
    }

    #[test]
    fn name_that_is_none_is_refused() {
        for name in ["no name", "é", "", "https://localhost"] {
            let refused = WireTls::self_signed([name]).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
            assert!(refused.to_string().contains("neither a domain name"), "{refused}");
        }
    }

    #[test]
    fn no_key_is_shown() {
        let tls = WireTls::self_signed(["localhost"]).unwrap();
        assert_eq!(format!("{tls:?}"), "WireTls { .. }");
        assert!(!tls.authority_pem().contains("PRIVATE KEY"));
    }
}
