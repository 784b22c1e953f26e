//! A Docker Hub for tests: what clients find under its name, over https, is a registry of the test's own.
//!
//! Clients are started in a mount namespace with an `/etc/hosts` of their own, and trust an authority that exists for
//! this test alone. The machine's own files stay as they are. Other addresses of 127.0.0.0/8 than 127.0.0.1 keep
//! port 443 free for several tests at once.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::process::command_behind;
use crate::tool;

/// The names that clients look for Docker Hub under.
const NAMES: [&str; 4] = ["docker.io", "index.docker.io", "registry-1.docker.io", "auth.docker.io"];
/// Binds this `/etc/hosts` over the machine's, for the command alone.
const SHELL: &str = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
/// Proxies would be asked for these names instead.
const PROXIES: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// The Hub. It is gone when dropped.
#[derive(Debug)]
pub struct Hub {
    authority: PathBuf,
    hosts: PathBuf,
    connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Hub {
    /// Starts it before the registry at this address; its files lie in `home`.
    ///
    /// # Errors
    /// If this is not root, or no address of loopback has its port 443 free.
    pub async fn start(home: &Path, registry: SocketAddr) -> Result<Self> {
        tool::need_root("a Docker Hub on port 443")?;
        let directory = home.join("hub");
        fs::create_dir_all(&directory)?;
        let authority = directory.join("ca.pem");
        let acceptor = acceptor(&authority)?;
        let (listener, address) = listen().await?;
        let hosts = directory.join("hosts");
        fs::write(&hosts, format!("127.0.0.1 localhost\n{address} {}\n", NAMES.join(" ")))?;
        let connections = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(accept(listener, acceptor, registry, connections.clone()));
        Ok(Self { authority, hosts, connections, task })
    }

    /// How many connections were made to it so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// The words to put before a command line, by exec, so that it finds this Hub.
    ///
    /// # Errors
    /// If a tool is missing.
    pub fn entrance(&self) -> Result<Vec<OsString>> {
        let mut words = vec![tool::ENV.path()?.into_os_string()];
        words.extend(PROXIES.iter().map(|name| format!("--unset={name}").into()));
        let mut trusted = OsString::from("SSL_CERT_FILE=");
        trusted.push(&self.authority);
        words.extend([trusted, tool::UNSHARE.path()?.into(), "--mount".into(), "--".into()]);
        words.extend(["/bin/sh", "-c", SHELL, "sh"].map(OsString::from));
        words.push(self.hosts.clone().into());
        Ok(words)
    }

    /// A command that finds this Hub.
    ///
    /// # Errors
    /// If a tool is missing.
    pub fn command(&self, program: &Path) -> Result<Command> {
        Ok(command_behind(&self.entrance()?, program))
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// TLS with a certificate of an authority of its own, whose certificate is written to this file.
fn acceptor(authority: &Path) -> Result<TlsAcceptor> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    fs::write(authority, params.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(NAMES.map(str::to_owned))?.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn listen() -> Result<(TcpListener, Ipv4Addr)> {
    let mut last = None;
    for _ in 0..64 {
        let address =
            Ipv4Addr::new(127, rand::random_range(1..255), rand::random(), rand::random_range(1..255));
        match TcpListener::bind((address, 443)).await {
            Ok(listener) => return Ok((listener, address)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("no address was tried")?).context("port 443 is taken on all of loopback")
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    registry: SocketAddr,
    connections: Arc<AtomicU64>,
) {
    // Ends every connection with itself.
    let mut carried = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::Relaxed);
        let acceptor = acceptor.clone();
        carried.spawn(async move {
            let mut client = acceptor.accept(client).await?;
            let mut registry = TcpStream::connect(registry).await?;
            tokio::io::copy_bidirectional(&mut client, &mut registry).await.map(drop)
        });
        while carried.try_join_next().is_some() {}
    }
}
