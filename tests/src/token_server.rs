//! A token service that a real registry believes: who may pull what, for how long, and who asked.
//!
//! After the distribution project's token specification: the registry's 401 names the service, the service judges who asks
//! and signs a token, and the registry checks the signature against a key that it was given.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderMap, StatusCode, header};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PublicKeyData as _};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What the registry is told to expect.
pub const ISSUER: &str = "shoal-tests";
/// What the registry calls itself.
pub const SERVICE: &str = "registry.tests";
/// The distribution registry takes a token for so many seconds after its end.
pub const LEEWAY: i64 = 60;

/// One request for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The `Authorization` that came with it.
    pub authorization: Option<String>,
    /// The repository that it is for.
    pub repository: String,
    /// Whether a token that lets one pull it was given.
    pub granted: bool,
}

#[derive(Debug)]
struct Rules {
    users: BTreeSet<String>,
    public: BTreeSet<String>,
    /// For how long tokens are said to last, in seconds.
    said: u64,
    /// For how long they do, in seconds; the registry adds [`LEEWAY`].
    lasts: i64,
    asked: Vec<Asked>,
}

/// The service. It ends when dropped.
#[derive(Debug)]
pub struct TokenServer {
    address: SocketAddr,
    keys: PathBuf,
    rules: Arc<Mutex<Rules>>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Desk {
    rules: Arc<Mutex<Rules>>,
    key: Arc<EncodingKey>,
}

impl TokenServer {
    /// Starts a service at a free port of this host, and writes its public key into `home`. It knows nobody.
    ///
    /// # Errors
    /// If nothing can listen or be written there.
    pub async fn start(host: &str, home: &Path) -> Result<Self> {
        let pair = KeyPair::generate()?;
        // An uncompressed point: 4, x, y.
        let (x, y) =
            pair.der_bytes().get(1..).and_then(|point| point.split_at_checked(32)).context("no point")?;
        let (x, y) = (BASE64_URL_SAFE_NO_PAD.encode(x), BASE64_URL_SAFE_NO_PAD.encode(y));
        let keys = home.join("jwks.json");
        let public =
            json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "k", "x": x, "y": y });
        fs::write(&keys, json!({ "keys": [public] }).to_string())?;
        let rules = Rules {
            users: BTreeSet::new(),
            public: BTreeSet::new(),
            said: 300,
            lasts: 300,
            asked: Vec::new(),
        };
        let rules = Arc::new(Mutex::new(rules));
        let key = Arc::new(EncodingKey::from_ec_der(&pair.serialize_der()));
        let desk = Desk { rules: rules.clone(), key };
        let listener = TcpListener::bind((host, 0)).await?;
        let address = listener.local_addr()?;
        let router = Router::new().fallback(answer).with_state(desk);
        let task = tokio::spawn(async move {
            // It ends with the task.
            drop(axum::serve(listener, router).await);
        });
        Ok(Self { address, keys, rules, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL that a registry names in its challenges.
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.address)
    }

    /// The file of its public key.
    pub fn keys(&self) -> &Path {
        &self.keys
    }

    /// Lets who sends this `Authorization` pull everything.
    pub fn allow(&self, authorization: &str) {
        self.rules().users.insert(authorization.to_owned());
    }

    /// Lets who sends this `Authorization` pull nothing any more; tokens that were given hold.
    pub fn revoke(&self, authorization: &str) {
        self.rules().users.remove(authorization);
    }

    /// Lets everyone pull this repository.
    pub fn publish(&self, repository: &str) {
        self.rules().public.insert(repository.to_owned());
    }

    /// Says of tokens from now on that they last `said` seconds, while they do for `lasts`.
    pub fn lifetime(&self, said: u64, lasts: i64) {
        let mut rules = self.rules();
        (rules.said, rules.lasts) = (said, lasts);
    }

    /// What it was asked since this was last looked at.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.rules().asked)
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Deserialize)]
struct Wanted {
    scope: Option<String>,
}

#[derive(Debug, Serialize)]
struct Claims {
    iss: &'static str,
    aud: &'static str,
    sub: &'static str,
    jti: String,
    nbf: i64,
    iat: i64,
    exp: i64,
    access: Vec<serde_json::Value>,
}

async fn answer(State(desk): State<Desk>, Query(wanted): Query<Wanted>, headers: HeaderMap) -> Response {
    let authorization =
        headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let scope = wanted.scope.unwrap_or_default();
    let repository = scope.split(':').nth(1).unwrap_or_default().to_owned();
    let mut rules = desk.rules.lock().unwrap_or_else(PoisonError::into_inner);
    let known = authorization.as_ref().is_some_and(|given| rules.users.contains(given));
    let granted = known || rules.public.contains(&repository);
    rules.asked.push(Asked { authorization: authorization.clone(), repository: repository.clone(), granted });
    if authorization.is_some() && !known {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    // Who may not is given a token all the same, that is good for nothing.
    let access = json!({ "type": "repository", "name": repository, "actions": ["pull"] });
    let claims = Claims {
        iss: ISSUER,
        aud: SERVICE,
        sub: "",
        jti: rules.asked.len().to_string(),
        nbf: now - 1,
        iat: now,
        exp: now + rules.lasts,
        access: if granted { vec![access] } else { Vec::new() },
    };
    let signed = Header { kid: Some("k".to_owned()), ..Header::new(Algorithm::ES256) };
    match encode(&signed, &claims, &desk.key) {
        Ok(token) => Json(json!({ "token": token, "expires_in": rules.said })).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
