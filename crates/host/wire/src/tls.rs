//! TLS 1.3 with raw public keys (RFC 7250) on both sides.
//!
//! No names, no X.509, no resumption: each connection proves possession of a key, and the key is
//! in the list or it is not.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, RwLock};

use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName,
    OtherError, PeerIncompatible, ServerConfig, ServerConnection, SignatureScheme,
};

use crate::key::{KeyDigest, KeyPair, PublicKey};

/// The protocol name both sides agree on; the number is the version of the link.
pub const ALPN: &[u8] = b"flux/1";

/// Why no TLS configuration can be made.
#[derive(Debug, Clone, thiserror::Error)]
#[error("tls configuration: {0}")]
pub struct TlsError(#[from] rustls::Error);

/// The public keys that are accepted from a peer. Clones share the list, so that replacing it
/// in one place counts for every connection made from then on.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys(Arc<RwLock<Arc<BTreeSet<PublicKey>>>>);

impl TrustedKeys {
    /// A list of exactly these keys.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> TrustedKeys {
        let trusted = TrustedKeys::default();
        trusted.replace(keys);
        trusted
    }

    /// Replaces the list. Connections that exist stay: ask [`TrustedKeys::contains`] about them.
    pub fn replace(&self, keys: impl IntoIterator<Item = PublicKey>) {
        let keys = Arc::new(keys.into_iter().collect());
        // A poisoned lock still holds a whole list: it is only ever replaced.
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = keys;
    }

    /// Whether `key` is accepted now.
    #[must_use]
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).contains(key)
    }
}

/// What a verifier says about a key that is not in the list; travels inside a rustls error.
#[derive(Debug)]
pub(crate) struct Untrusted(pub(crate) KeyDigest);

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {} is not trusted", self.0)
    }
}

impl std::error::Error for Untrusted {}

#[derive(Debug)]
struct Verifier {
    trusted: TrustedKeys,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn check(&self, key: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let key =
            PublicKey::from_spki_der(key.as_ref()).map_err(|_| CertificateError::BadEncoding)?;
        if self.trusted.contains(&key) {
            return Ok(());
        }
        Err(CertificateError::Other(OtherError(Arc::new(Untrusted(key.digest())))).into())
    }

    fn check_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(key.as_ref()),
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn verifier(trusted: &TrustedKeys) -> (Arc<CryptoProvider>, Arc<Verifier>) {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Verifier { trusted: trusted.clone(), provider: Arc::clone(&provider) };
    (provider, Arc::new(verifier))
}

fn certified(keys: &KeyPair) -> Result<Arc<CertifiedKey>, TlsError> {
    let secret = PrivatePkcs8KeyDer::from(keys.to_pkcs8_der());
    let signer = aws_lc_rs::sign::any_eddsa_type(&secret)?;
    let public = CertificateDer::from(keys.public().to_spki_der());
    Ok(Arc::new(CertifiedKey::new(vec![public], signer)))
}

/// What the connecting end of a link needs: its key, and which keys it accepts.
#[derive(Debug, Clone)]
pub struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// A client with the key `keys` that accepts servers with a key in `trusted`.
    ///
    /// # Errors
    /// When the TLS library refuses the key.
    pub fn new(keys: &KeyPair, trusted: &TrustedKeys) -> Result<TlsClient, TlsError> {
        let (provider, verifier) = verifier(trusted);
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let resolver = AlwaysResolvesClientRawPublicKeys::new(certified(keys)?);
        let mut config = config.with_client_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(TlsClient(Arc::new(config)))
    }

    /// A client that has no key of its own, which no server accepts.
    #[cfg(test)]
    pub(crate) fn without_key(trusted: &TrustedKeys) -> TlsClient {
        let (provider, verifier) = verifier(trusted);
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        TlsClient(Arc::new(config))
    }

    /// The same client, speaking another protocol.
    #[cfg(test)]
    pub(crate) fn with_alpn(&self, alpn: &[&[u8]]) -> TlsClient {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        TlsClient(Arc::new(config))
    }

    pub(crate) fn connection(&self) -> Result<ClientConnection, rustls::Error> {
        // Names mean nothing here and are not sent; the library wants one.
        let name = ServerName::try_from("flux")
            .map_err(|_| rustls::Error::General("server name".to_owned()))?;
        ClientConnection::new(Arc::clone(&self.0), name)
    }
}

/// What the accepting end of a link needs: its key, and which keys it accepts.
#[derive(Debug, Clone)]
pub struct TlsServer(Arc<ServerConfig>);

impl TlsServer {
    /// A server with the key `keys` that accepts clients with a key in `trusted`.
    ///
    /// # Errors
    /// When the TLS library refuses the key.
    pub fn new(keys: &KeyPair, trusted: &TrustedKeys) -> Result<TlsServer, TlsError> {
        let (provider, verifier) = verifier(trusted);
        let resolver = AlwaysResolvesServerRawPublicKeys::new(certified(keys)?);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // The list of keys is asked at each connection, so no connection may resume another.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(TlsServer(Arc::new(config)))
    }

    pub(crate) fn connection(&self) -> Result<ServerConnection, rustls::Error> {
        ServerConnection::new(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_the_list_see_its_replacement() {
        let [a, b] = [1, 2].map(|n| KeyPair::from_seed([n; 32]).unwrap().public());
        let trusted = TrustedKeys::new([a]);
        let clone = trusted.clone();
        assert!(clone.contains(&a) && !clone.contains(&b));
        trusted.replace([b]);
        assert!(!clone.contains(&a) && clone.contains(&b));
    }
}
