//! The client's side of `/v2/`: manifests and blobs of one repository, through the node's gateway.

use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde::Deserialize;
use shoal_proto::digest::{Algorithm, Digest};
use shoal_proto::manifest::{ACCEPT_ALL, MAX_MANIFEST, Platform};
use shoal_proto::name::{Reference, Scope};

use super::digest_of;
use super::failure::{After, PullFailure};
use crate::cli::local::{LocalError, LocalNode, printable};

/// How often a blob is asked for that did not come in time: at 25 s each, some minutes.
const TRIES: u32 = 12;
/// The pause before it is asked for again.
const PAUSE: Duration = Duration::from_millis(500);
/// The most bytes and errors read of an error answer.
const MAX_ERROR: u64 = 64 * 1024;
const MAX_ERRORS: usize = 5;
/// How long the node may take to say why a body broke off. It decides any request within 25 s.
const AGAIN: Duration = Duration::from_secs(30);

/// One repository, as the node's gateway serves it.
#[derive(Debug, Clone)]
pub(super) struct Gateway {
    node: LocalNode,
    scope: Scope,
}

/// A manifest whose digest was proven here.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) digest: Digest,
    /// What the answer's header says it is.
    pub(super) media_type: Option<String>,
    pub(super) bytes: Vec<u8>,
}

impl Gateway {
    pub(super) fn new(node: LocalNode, scope: Scope) -> Self {
        Self { node, scope }
    }

    /// A manifest by tag or digest.
    pub(super) async fn manifest(&self, reference: &Reference) -> Result<Manifest, PullFailure> {
        let what = format!("the manifest {}", self.named(reference));
        let accept = ACCEPT_ALL.join(", ");
        let request = self.get(&format!("manifests/{reference}")).header(ACCEPT, accept);
        let response = self.answer(request, &what).await?;
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let media_type = header(CONTENT_TYPE.as_str())
            .map(|value| value.split(';').next().unwrap_or_default().trim().to_owned())
            .filter(|media_type| !media_type.is_empty());
        let promised = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => header("docker-content-digest").and_then(|text| text.parse().ok()),
        };
        let (bytes, whole) = self.body(response, MAX_MANIFEST).await?;
        if !whole {
            return Err(PullFailure::Unusual(format!("{what} is larger than 4 MiB, which no client takes")));
        }
        let algorithm = promised.map_or(Algorithm::Sha256, |promised| promised.algorithm());
        let digest = digest_of(&bytes, algorithm);
        match promised {
            Some(promised) if promised != digest => {
                Err(PullFailure::Mismatch { what: "manifest", promised, actual: Box::new(digest) })
            }
            _ => Ok(Manifest { digest, media_type, bytes }),
        }
    }

    /// A blob's body. A node with `stream = "proven"` may say that nothing came in time while it goes on fetching: it is
    /// asked again.
    pub(super) async fn blob(&self, digest: &Digest) -> Result<reqwest::Response, PullFailure> {
        let mut tries = 1;
        loop {
            let answer =
                self.answer(self.get(&format!("blobs/{digest}")), &format!("the blob {digest}")).await;
            let late = matches!(
                &answer,
                Err(PullFailure::Refused { status, .. }) if *status == reqwest::StatusCode::GATEWAY_TIMEOUT
            );
            if !late || tries >= TRIES {
                return answer;
            }
            tries += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What an image's configuration says it runs on, if it can be had and says so.
    pub(super) async fn platform(&self, config: &Digest) -> Option<Platform> {
        let response = self.blob(config).await.ok()?;
        let (bytes, whole) = self.body(response, MAX_MANIFEST).await.ok()?;
        whole.then(|| serde_json::from_slice(&bytes).ok()).flatten()
    }

    /// What the node says of a blob whose body has just broken off.
    pub(super) async fn after(&self, digest: &Digest) -> After {
        match tokio::time::timeout(AGAIN, self.blob(digest)).await {
            // Its body is not read: that it begins is what was asked.
            Ok(Ok(_)) => After::Given,
            Ok(Err(PullFailure::Refused { status, said, .. })) => After::Refused { status, said },
            Ok(Err(_)) | Err(_) => After::Silent,
        }
    }

    /// What a broken body means.
    pub(super) fn failure(&self, error: &reqwest::Error) -> LocalError {
        self.node.failure(error)
    }

    fn named(&self, reference: &Reference) -> String {
        let separator = if matches!(reference, Reference::Tag(_)) { ':' } else { '@' };
        format!("{}{separator}{reference}", self.scope)
    }

    /// A request for something in the repository; `ns` says of which registry, as containerd does.
    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        // Neither repositories nor registries contain anything that a URL would read differently.
        let Scope { registry, repository } = &self.scope;
        self.node.get(&format!("/v2/{repository}/{path}?ns={registry}"))
    }

    /// Sends a request; anything but a 200 is a failure that says what the gateway said.
    async fn answer(
        &self,
        request: reqwest::RequestBuilder,
        what: &str,
    ) -> Result<reqwest::Response, PullFailure> {
        let sent = request.send().await.map_err(|error| match self.failure(&error) {
            nobody @ LocalError::Nobody { .. } => PullFailure::Local(nobody),
            reason => PullFailure::NoAnswer { what: what.to_owned(), reason },
        });
        let response = sent?;
        let status = response.status();
        if status == reqwest::StatusCode::OK {
            return Ok(response);
        }
        let (body, _) = self.body(response, MAX_ERROR).await.unwrap_or_default();
        Err(PullFailure::Refused { what: what.to_owned(), status, said: said(&body) })
    }

    /// Reads a body up to a bound, and says whether that was all of it.
    async fn body(&self, mut response: reqwest::Response, most: u64) -> Result<(Vec<u8>, bool), LocalError> {
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.failure(&error))? {
            if (bytes.len() + piece.len()) as u64 > most {
                return Ok((bytes, false));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok((bytes, true))
    }
}

/// What an answer's body says, for people: the errors of OCI's JSON (distribution spec, "Error Codes"), or the
/// text itself.
fn said(body: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Answer {
        errors: Vec<OciError>,
    }
    #[derive(Deserialize)]
    struct OciError {
        code: String,
        #[serde(default)]
        message: Option<String>,
        #[serde(default)]
        detail: serde_json::Value,
    }
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
        let text = printable(&String::from_utf8_lossy(body));
        return if text.is_empty() { Vec::new() } else { vec![text] };
    };
    let one = |error: OciError| {
        let message = error.message.unwrap_or_default();
        let detail = match error.detail {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(text) if text.is_empty() || text == message => String::new(),
            serde_json::Value::String(text) => format!(" ({text})"),
            other => format!(" ({other})"),
        };
        printable(&format!("{}: {message}{detail}", error.code))
    };
    answer.errors.into_iter().take(MAX_ERRORS).map(one).collect()
}
