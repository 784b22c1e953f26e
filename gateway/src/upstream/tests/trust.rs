//! Certificates, and registries of all kinds at once.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use super::fake::{Fake, hello};
use super::*;

/// A certificate authority that nobody knows, and its certificate in a file.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    folder: TempDir,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), certificate: certificate.der().clone(), folder }
    }

    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A file with a client's certificate of this authority, and its key.
    pub(super) fn client(&self) -> PathBuf {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["node".to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let file = self.folder.path().join("client.pem");
        std::fs::write(&file, certificate.pem() + &key.serialize_pem()).unwrap();
        file
    }

    /// TLS for a server on loopback, with a certificate of this authority.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.verifying(WebPkiClientVerifier::no_client_auth())
    }

    /// The same, which asks clients for a certificate of this authority; if it is `needed`, no others are let in.
    pub(super) fn asking_acceptor(&self, needed: bool) -> TlsAcceptor {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let verifier = if needed { verifier } else { verifier.allow_unauthenticated() };
        self.verifying(verifier.build().unwrap())
    }

    fn verifying(&self, clients: Arc<dyn ClientCertVerifier>) -> TlsAcceptor {
        let names = ["127.0.0.1", "::1", "localhost"].map(str::to_owned);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

async fn with_tls(authority: &Authority) -> Fake {
    Fake::listening("127.0.0.1:0", Some(authority.acceptor()), |_| hello()).await
}

#[tokio::test]
async fn a_certificate_counts_if_its_authority_is_configured() {
    let (ours, other) = (Authority::new(), Authority::new());
    let registry = with_tls(&ours).await;
    let trusting = |ca: Option<PathBuf>, insecure| UpstreamSettings { ca, insecure, ..at(registry.https()) };

    let known = upstreams([("reg.test", trusting(Some(ours.file()), false))]);
    assert_eq!(get(&known, "reg.test").await.unwrap(), b"hello");
    let unchecked = upstreams([("reg.test", trusting(None, true))]);
    assert_eq!(get(&unchecked, "reg.test").await.unwrap(), b"hello");

    for ca in [None, Some(other.file())] {
        let error = get(&upstreams([("reg.test", trusting(ca, false))]), "reg.test").await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("invalid peer certificate"), "{text}");
        assert!(text.contains("[upstream.\"reg.test\"] ca = "), "{text}");
    }
    assert_eq!(registry.asked().len(), 2);
}

#[tokio::test]
async fn registries_of_all_kinds_at_once() {
    let (one, two) = (Authority::new(), Authority::new());
    let (secure, other) = (with_tls(&one).await, with_tls(&two).await);
    let plain = Fake::start(|_| hello()).await;
    let upstreams = upstreams([
        ("one.test", UpstreamSettings { ca: Some(one.file()), ..at(secure.https()) }),
        ("two.test", UpstreamSettings { ca: Some(two.file()), ..at(other.https()) }),
        ("plain.test", at(format!("{}/behind/a/path/", plain.http()))),
        ("docker.io", at(plain.http())),
    ]);
    let all = ["one.test", "two.test", "plain.test", "docker.io"];
    for pulled in futures::future::join_all(all.map(|name| get(&upstreams, name))).await {
        assert_eq!(pulled.unwrap(), b"hello");
    }
    let mut paths = plain.paths();
    paths.sort();
    let path = format!("/v2/team/app/blobs/{}", digest());
    assert_eq!(paths, [format!("/behind/a/path{path}"), path]);
}

#[tokio::test]
async fn a_registry_on_ipv6() {
    let authority = Authority::new();
    let plain = Fake::listening("[::1]:0", None, |_| hello()).await;
    let secure = Fake::listening("[::1]:0", Some(authority.acceptor()), |_| hello()).await;
    let upstreams = upstreams([
        ("[::1]:5000", at(plain.http())),
        ("six.test", UpstreamSettings { ca: Some(authority.file()), ..at(secure.https()) }),
    ]);
    // Its table holds in every spelling.
    for name in ["[::1]:5000", "[0:0:0:0:0:0:0:1]:5000", "six.test"] {
        assert_eq!(get(&upstreams, name).await.unwrap(), b"hello", "{name}");
    }
}

#[tokio::test]
async fn without_a_table_private_addresses_are_not_asked() {
    let registry = Fake::start(|_| hello()).await;
    let upstreams = upstreams([]);
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let name = format!("{host}:{}", registry.address.port());
        let error = get(&upstreams, &name).await.unwrap_err();
        assert!(matches!(&error, PullError::Refused(why) if why.contains("private addresses")), "{error}");
    }
    assert!(registry.asked().is_empty());
}
