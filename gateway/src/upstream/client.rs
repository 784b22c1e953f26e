//! HTTP clients: what they send, whom they trust, which addresses they connect to.
//!
//! A client never follows a redirect, never decodes a body and never uses a proxy, whatever `HTTPS_PROXY` says:
//! the address that is checked is the address that is connected to.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, VIA};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Identity};
use url::Url;

use super::address::{NotPublic, PublicOnly, check_literal};
use super::identity::Who;
use super::roots::Roots;
use super::settings::{Checked, ConfigError};

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For an answer's status and headers, tokens and redirects included.
    pub head: Duration,
    /// For the next bytes of a body.
    pub stall: Duration,
}

impl Default for Limits {
    /// 3, 6 and 4 s. A body of the gateway waits 8 s for its next byte and then breaks off: a registry that goes
    /// silent has to be given up early enough before that for another try to bring the byte.
    fn default() -> Self {
        Self { connect: Duration::from_secs(3), head: Duration::from_secs(6), stall: Duration::from_secs(4) }
    }
}

/// What every request of this node says of it.
#[derive(Debug, Clone)]
pub(super) struct Introduction {
    agent: HeaderValue,
    via: HeaderValue,
}

impl Introduction {
    pub(super) fn new(agent: &str, via: &str) -> Result<Self, ConfigError> {
        let value = |what, text: &str, header: &str| {
            let plain = !text.is_empty() && text.bytes().all(|b| matches!(b, b' '..=b'~'));
            HeaderValue::from_str(header)
                .ok()
                .filter(|_| plain)
                .ok_or_else(|| ConfigError::Header { what, value: text.to_owned() })
        };
        Ok(Self { agent: value("agent", agent, agent)?, via: value("via", via, &format!("1.1 {via}"))? })
    }
}

/// A client, and whether it connects to any address or to public ones only.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    pub(super) http: Client,
    public_only: bool,
}

impl Wire {
    /// The client for registries without configuration, and for hosts that registries send us to.
    pub(super) fn public(
        introduction: &Introduction,
        limits: Limits,
        roots: &Roots,
    ) -> Result<Self, ConfigError> {
        let error = |problem: reqwest::Error| ConfigError::Client {
            name: "registries without configuration".to_owned(),
            problem: chain(&problem),
        };
        let builder = base(introduction, limits).dns_resolver(Arc::new(PublicOnly));
        let http = roots.trusted_by(builder, Vec::new()).build().map_err(error)?;
        Ok(Self { http, public_only: true })
    }

    /// A client for a configured registry, which shows this certificate.
    fn configured(
        checked: &Checked,
        shown: Option<Identity>,
        introduction: &Introduction,
        limits: Limits,
        roots: &Roots,
    ) -> Result<Self, ConfigError> {
        let public_only = checked.url.is_none();
        let builder = base(introduction, limits).tls_danger_accept_invalid_certs(checked.insecure);
        let builder = if public_only { builder.dns_resolver(Arc::new(PublicOnly)) } else { builder };
        let builder = match shown {
            Some(identity) => builder.identity(identity),
            None => builder,
        };
        let http = roots.trusted_by(builder, certificates(checked)?).build().map_err(|problem| {
            let (name, problem) = (checked.registry.to_string(), chain(&problem));
            match &checked.ca {
                Some((path, _)) => ConfigError::File { name, key: "ca", path: path.clone(), problem },
                None => ConfigError::Client { name, problem },
            }
        })?;
        Ok(Self { http, public_only })
    }

    /// Refuses a URL whose host is a literal address that this client must not connect to. For names, the
    /// client's own lookup does so.
    pub(super) fn check(&self, url: &Url) -> Result<(), NotPublic> {
        if self.public_only { check_literal(url) } else { Ok(()) }
    }
}

/// The clients of one registry, each with connections of its own: one on which a certificate was shown is its owner's.
#[derive(Debug, Clone)]
pub(super) struct Wires {
    /// Says nothing of who asks.
    pub(super) bare: Wire,
    /// Shows the operator's certificate, if there is one.
    pub(super) certified: Option<Wire>,
}

impl Wires {
    /// Those of a configured registry.
    pub(super) fn configured(
        checked: &Checked,
        introduction: &Introduction,
        limits: Limits,
        roots: &Roots,
    ) -> Result<Self, ConfigError> {
        let wire = |shown| Wire::configured(checked, shown, introduction, limits, roots);
        Ok(Self {
            bare: wire(None)?,
            certified: identity(checked)?.map(|shown| wire(Some(shown))).transpose()?,
        })
    }

    /// The client that asks for `who`. A certificate is the operator's, as a login is: for nobody else is it shown.
    pub(super) fn of(&self, who: &Who) -> &Wire {
        match who {
            Who::Operator => self.certified.as_ref().unwrap_or(&self.bare),
            Who::Nobody | Who::Client(_) => &self.bare,
        }
    }
}

fn base(introduction: &Introduction, limits: Limits) -> ClientBuilder {
    let mut headers = HeaderMap::new();
    headers.insert(VIA, introduction.via.clone());
    // Bytes exactly as the registry stores them: no content coding is wanted, and none is undone.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Client::builder()
        .user_agent(introduction.agent.clone())
        .default_headers(headers)
        .redirect(Policy::none())
        .referer(false)
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .no_proxy()
        .connect_timeout(limits.connect)
        .pool_idle_timeout(Duration::from_mins(1))
        .pool_max_idle_per_host(32)
        .tcp_nodelay(true)
}

fn certificates(checked: &Checked) -> Result<Vec<Certificate>, ConfigError> {
    let Some((path, pem)) = &checked.ca else { return Ok(Vec::new()) };
    let error = |problem: String| ConfigError::File {
        name: checked.registry.to_string(),
        key: "ca",
        path: path.clone(),
        problem,
    };
    let found = Certificate::from_pem_bundle(pem)
        .map_err(|problem| error(format!("holds no PEM certificates: {}", chain(&problem))))?;
    if found.is_empty() {
        return Err(error("holds no PEM certificates (-----BEGIN CERTIFICATE-----)".to_owned()));
    }
    Ok(found)
}

/// What this node shows of itself in TLS.
fn identity(checked: &Checked) -> Result<Option<Identity>, ConfigError> {
    let Some((path, pem)) = &checked.client else { return Ok(None) };
    client_identity(pem).map(Some).map_err(|problem| ConfigError::File {
        name: checked.registry.to_string(),
        key: "client_cert",
        path: path.clone(),
        problem: format!(
            "holds nothing that can be shown ({problem}): a certificate of X.509 version 3 is wanted, with its private \
             key, in PEM and without a passphrase; the key may be in a file of its own: client_key"
        ),
    })
}

fn client_identity(pem: &[u8]) -> Result<Identity, String> {
    let identity = Identity::from_pem(pem).map_err(|problem| chain(&problem))?;
    // A certificate of an old version, or another's key, is noticed only when a client is made of it.
    let made = Client::builder().no_proxy().tls_certs_only([]).identity(identity.clone()).build();
    made.map(|_| identity).map_err(|problem| chain(&problem))
}

/// Whether a certificate and its private key, in PEM, can be shown to a registry.
///
/// # Errors
/// Why not, as TLS says it.
pub fn check_client_certificate(pem: &[u8]) -> Result<(), String> {
    client_identity(pem).map(drop)
}

/// An error with all its causes, each said once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}
