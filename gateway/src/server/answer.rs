//! One request: what it asks for, whom to ask, what to say.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde_json::json;
use shoal_proto::name::{Reference, Scope};

use super::Settings;
use super::broken::Broken;
use super::failure::{Failure, Sought};
use super::path::{self, Target, What};
use super::record::Recorder;
use super::reply::Reply;
use super::routing::Query;
use crate::caller::Caller;
use crate::source::Source;

/// Says to the client which registry its `ns` was taken for (distribution spec, "Registry Proxying").
const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// What all requests share.
pub(super) struct Shared<S> {
    pub(super) source: Arc<S>,
    pub(super) settings: Settings,
    pub(super) broken: Arc<Broken>,
}

impl<S: Source> Shared<S> {
    /// The same, to answer this caller.
    fn asked_by(&self, caller: &Caller) -> Self {
        Self {
            source: Arc::new(self.source.asked_by(caller)),
            settings: self.settings.clone(),
            broken: self.broken.clone(),
        }
    }
}

/// A request for something of a repository, understood.
pub(super) struct Ask<'a> {
    pub(super) scope: Scope,
    pub(super) what: What,
    pub(super) head: bool,
    pub(super) request: &'a Parts,
    pub(super) query: Query,
}

impl Ask<'_> {
    /// What kind of thing is missing if it is missing.
    pub(super) const fn sought(&self) -> Sought {
        match self.what {
            What::Manifest(_) | What::Referrers(_) => Sought::Manifest,
            What::Blob(_) => Sought::Blob,
            What::Tags => Sought::Repository,
        }
    }
}

/// Answers every request there is.
pub(super) async fn answer<S: Source>(State(shared): State<Arc<Shared<S>>>, request: Request) -> Response {
    let (request, _) = request.into_parts();
    let head = request.method == Method::HEAD;
    let mut recorder = Recorder::start(shared.settings.observe.clone(), head);
    let reply = reply(&shared, &request, head, &mut recorder).await.unwrap_or_else(Failure::into_reply);
    reply.into_response(head, recorder)
}

async fn reply<S: Source>(
    shared: &Shared<S>,
    request: &Parts,
    head: bool,
    recorder: &mut Recorder,
) -> Result<Reply, Failure> {
    if !head && request.method != Method::GET {
        return Err(Failure::method(&request.method));
    }
    let mut caller = Caller::read(&request.headers);
    if caller.hops.end_at(&shared.settings.via) {
        tracing::warn!(
            path = request.uri.path(),
            hops = ?caller.hops,
            "a request of this node came back to it, or through too many others: an upstream's url leads in a circle"
        );
        return Err(Failure::looped(&shared.settings.via));
    }
    let (name, what) = match path::parse(request.uri.path()).map_err(|error| Failure::path(&error))? {
        Target::Base => {
            recorder.asked_for("base", None, None);
            return Ok(Reply::json(StatusCode::OK, &json!({})));
        }
        Target::Repository(name, what) => (name, what),
    };
    let query =
        Query::parse(request.uri.query().unwrap_or_default()).map_err(|error| Failure::name(&error))?;
    let scope =
        shared.settings.routing.route(&name, query.ns.as_ref()).map_err(|error| Failure::name(&error))?;
    caller.names_registry = query.ns.is_some();
    let namespace = query.ns.as_ref().and_then(|_| HeaderValue::from_str(&query.ns_text).ok());
    let (kind, reference) = described(&what);
    recorder.asked_for(kind, Some(scope.clone()), reference);

    let ask = Ask { scope, what, head, request, query };
    let patience = shared.settings.answer_timeout;
    let behalf = (!caller.is_anyone()).then(|| shared.asked_by(&caller));
    let answered = tokio::time::timeout(patience, dispatch(behalf.as_ref().unwrap_or(shared), &ask)).await;
    let mut reply =
        answered.unwrap_or_else(|_| Err(Failure::late(patience))).unwrap_or_else(Failure::into_reply);
    if let Some(namespace) = namespace {
        reply.headers.insert(NAMESPACE, namespace);
    }
    Ok(reply)
}

async fn dispatch<S: Source>(shared: &Shared<S>, ask: &Ask<'_>) -> Result<Reply, Failure> {
    match &ask.what {
        What::Manifest(reference) => shared.manifest(ask, reference).await,
        What::Blob(digest) => shared.blob(ask, digest).await,
        What::Tags | What::Referrers(_) => shared.passage(ask).await,
    }
}

fn described(what: &What) -> (&'static str, Option<String>) {
    match what {
        What::Manifest(Reference::Tag(tag)) => ("manifest", Some(tag.to_string())),
        What::Manifest(Reference::Digest(digest)) => ("manifest", Some(digest.to_string())),
        What::Blob(digest) => ("blob", Some(digest.to_string())),
        What::Tags => ("tags", None),
        What::Referrers(digest) => ("referrers", Some(digest.to_string())),
    }
}
