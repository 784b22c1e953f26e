//! TLS 1.3 as libp2p does it: self-signed certificates that carry the peer id (libp2p TLS specification), each end
//! showing exactly one.
//!
//! What is ours is the order of the ciphers. libp2p puts `ChaCha20` first for everyone; where the CPU has AES
//! instructions, AES-128-GCM does 1.5 to 2 times as much.

use std::sync::Arc;

use futures_rustls::rustls;
use libp2p::PeerId;
use libp2p::tls::certificate;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme, SupportedCipherSuite,
};
use shoal_proto::identity::Keypair;

/// Why there are no TLS configurations.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error(transparent)]
    Certificate(#[from] certificate::GenError),
    #[error(transparent)]
    Rustls(#[from] Error),
}

/// Fastest first: AES where the CPU has instructions for it.
fn cipher_suites(aes_in_hardware: bool) -> Vec<SupportedCipherSuite> {
    if aes_in_hardware {
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256]
    } else {
        vec![TLS13_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384]
    }
}

fn aes_in_hardware() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}

/// The two configurations of a node. Keys are never logged, whatever the environment says.
pub(super) fn configs(keypair: &Keypair, alpn: &[u8]) -> Result<(ClientConfig, ServerConfig), TlsError> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites = cipher_suites(aes_in_hardware());
    let provider = Arc::new(provider);
    let (certificate, key) = certificate::generate(keypair)?;
    let key = provider.key_provider.load_private_key(key)?;
    let own = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key)));
    let versions = &[&rustls::version::TLS13];

    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PeerCertificate))
        .with_client_cert_resolver(own.clone());
    client.alpn_protocols = vec![alpn.to_vec()];
    client.enable_sni = false;
    client.resumption = Resumption::disabled();

    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(Arc::new(PeerCertificate))
        .with_cert_resolver(own);
    server.alpn_protocols = vec![alpn.to_vec()];
    server.send_tls13_tickets = 0;
    Ok((client, server))
}

/// Who showed this certificate: its signatures are checked.
pub(super) fn peer_id(certificate: &CertificateDer<'_>) -> Result<PeerId, certificate::ParseError> {
    certificate::parse(certificate).map(|certificate| certificate.peer_id())
}

/// Takes exactly one certificate of libp2p's form.
#[derive(Debug)]
struct PeerCertificate;

impl PeerCertificate {
    fn verify(certificate: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !intermediates.is_empty() {
            return Err(Error::General("exactly one certificate is expected".to_owned()));
        }
        certificate::parse(certificate)
            .map(|_| ())
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))
    }

    fn verify_signature(
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        certificate::parse(certificate)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?
            .verify_signature(signed.scheme, message, signed.signature())
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadSignature))?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn no_tls12() -> Error {
        Error::General("only TLS 1.3 is spoken".to_owned())
    }
}

/// What libp2p's certificates are signed with.
fn schemes() -> Vec<SignatureScheme> {
    vec![SignatureScheme::ECDSA_NISTP256_SHA256]
}

impl ServerCertVerifier for PeerCertificate {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Self::verify(certificate, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Self::no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

impl ClientCertVerifier for PeerCertificate {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::verify(certificate, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Self::no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::verify_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes_comes_first_where_it_is_fast() {
        assert_eq!(cipher_suites(true)[0].suite(), rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(cipher_suites(false)[0].suite(), rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
        let (client, _) = configs(&Keypair::generate_ed25519(), b"x").unwrap();
        assert_eq!(client.crypto_provider().cipher_suites.len(), 3);
    }
}
