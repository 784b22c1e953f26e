//! One question to a registry: with its token, over its redirects, to an answer or an error.

use std::error::Error as _;
use std::io;
use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, HeaderMap, VIA};
use http::{Method, StatusCode};
use reqwest::{Request, Response};
use rustls::AlertDescription;
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::address::NotPublic;
use super::auth::{self, Grant};
use super::body;
use super::challenge;
use super::circuit::{self, Circuit};
use super::client::{Wire, chain};
use super::identity::Who;
use super::mirrors;
use super::redirect::{self, MAX_REDIRECTS, is_redirect};
use super::site::{At, Site, host_and_port};
use crate::error::PullError;

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
}

/// An answer, and who gave it in the end.
struct Answer {
    response: Response,
    url: Url,
}

/// Asks the mirrors that may be asked and then the registry, and returns the head of a successful answer (2xx), or of
/// a 416.
pub(super) async fn ask(at: At<'_>, ask: Ask) -> Result<Response, PullError> {
    if let Some(response) = mirrors::ask(at, &ask).await {
        return Ok(response);
    }
    let answer = ask_registry(at, &ask).await;
    // A client's login may be what is wrong.
    if !at.checks_login {
        at.site.reach.note(&answer, Instant::now());
    }
    answer
}

/// The same, of the registry alone, and says nothing of whether that is down.
pub(super) async fn ask_registry(at: At<'_>, ask: &Ask) -> Result<Response, PullError> {
    let site = at.site;
    let pause = |circuit: &Circuit, is_own: bool| {
        circuit.pause(Instant::now()).map(|pause| PullError::Throttled {
            registry: site.registry.to_string(),
            status: pause.status.as_u16(),
            retry_after: is_own.then_some(pause.left),
        })
    };
    if let Some(error) = pause(&site.circuit, true).or_else(|| pause(&site.hearsay, false)) {
        return Err(error);
    }
    let head = at.web.limits.head;
    // Boxed: what it holds over its waits is large.
    match tokio::time::timeout(head, Box::pin(authorized(at, ask))).await {
        Ok(result) => result,
        Err(_) => Err(site.failed(None, format!("it did not answer within {head:?}"))),
    }
}

/// Tries with the token at hand, if any, and once more with a new one.
async fn authorized(at: At<'_>, ask: &Ask) -> Result<Response, PullError> {
    let grant = at.site.tokens.current(at).await;
    let answer = follow(at, ask, grant.as_ref()).await?;
    if answer.response.status() != StatusCode::UNAUTHORIZED || !at.site.is_home(&answer.url) {
        return judge(at, answer, grant.as_ref()).await;
    }
    let Some(challenge) = challenge::read(answer.response.headers()) else {
        return judge(at, answer, grant.as_ref()).await;
    };
    body::drain(answer.response).await;
    let grant = auth::authorize(at, &challenge, grant.as_ref().map(|grant| &grant.header)).await?;
    let answer = follow(at, ask, Some(&grant)).await?;
    judge(at, answer, Some(&grant)).await
}

/// Sends, and goes where it is sent.
async fn follow(at: At<'_>, ask: &Ask, grant: Option<&Grant>) -> Result<Answer, PullError> {
    let site = at.site;
    let mut url = ask.url.clone();
    for _ in 0..=MAX_REDIRECTS {
        let wire = redirect::route(at, &url)?;
        let mut request = Request::new(ask.method.clone(), url.clone());
        *request.headers_mut() = ask.headers.clone();
        if let Some(via) = at.via {
            request.headers_mut().insert(VIA, via.clone());
        }
        if let Some(grant) = grant
            && site.is_home(&url)
        {
            request.headers_mut().insert(AUTHORIZATION, grant.header.clone());
        }
        let response = execute(wire, site, request).await?;
        // What a client's own login may still ask says nothing of what this node may.
        if site.is_home(&url) && !matches!(at.who, Who::Client(_)) {
            note_quota(site, response.headers());
        }
        if !is_redirect(response.status()) {
            return Ok(Answer { response, url });
        }
        url = redirect::target(site, &url, response.headers())?;
        body::drain(response).await;
    }
    Err(site.failed(None, format!("it redirects more than {MAX_REDIRECTS} times")))
}

fn note_quota(site: &Site, headers: &HeaderMap) {
    if let Some(low) = site.quota.note(headers) {
        let (remaining, limit) = (low.remaining, low.limit.unwrap_or_default());
        tracing::warn!(registry = %site.registry, remaining, limit, "it soon allows no more requests");
    }
}

/// Sends one request; once more if the connection turns out to be dead before any answer.
pub(super) async fn execute(wire: &Wire, site: &Site, request: Request) -> Result<Response, PullError> {
    let url = request.url().clone();
    let again = request.try_clone();
    match (wire.http.execute(request).await, again) {
        (Ok(response), _) => Ok(response),
        (Err(error), Some(again)) if is_reset(&error) => {
            wire.http.execute(again).await.map_err(|error| transport(site, &url, error))
        }
        (Err(error), _) => Err(transport(site, &url, error)),
    }
}

/// Whether the other end hung up. What is asked is GET and HEAD, and POST for a token, so it can be asked again.
fn is_reset(error: &reqwest::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(error) = cause.downcast_ref::<hyper::Error>()
            && (error.is_incomplete_message() || error.is_closed() || error.is_canceled())
        {
            return true;
        }
        if let Some(error) = cause.downcast_ref::<io::Error>()
            && matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof)
        {
            return true;
        }
        next = cause.source();
    }
    false
}

/// A request that got no answer: refused by the address rule, or failed on the way.
pub(super) fn transport(site: &Site, url: &Url, error: reqwest::Error) -> PullError {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(problem) = cause.downcast_ref::<NotPublic>() {
            return site.not_public(url, problem);
        }
        next = cause.source();
    }
    let tls = tls_problem(&error);
    // It says no to who shows it no certificate, as another registry does with a 401: it is not in trouble.
    if matches!(tls, Some(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)))
        && site.wires.certified.is_some()
        && site.is_home(url)
    {
        let status = StatusCode::UNAUTHORIZED.as_u16();
        return PullError::Denied { registry: site.registry.to_string(), status };
    }
    let advice = if matches!(tls, Some(rustls::Error::InvalidCertificate(_))) {
        format!(
            "; if it has a certificate authority of its own, name its certificate: [upstream.\"{}\"] ca = \"FILE\"",
            site.registry
        )
    } else {
        String::new()
    };
    // The URL may hold a signature.
    site.failed(None, format!("{}: {}{advice}", host_and_port(url), chain(&error.without_url())))
}

/// What went wrong in TLS, if that is where it did.
fn tls_problem(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(problem) = cause.downcast_ref() {
            return Some(problem);
        }
        // An io::Error's source is the one below what it was made of.
        next = match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    None
}

/// Notes that the registry wants to be left alone. What a client's own login has used up is that client's trouble: it
/// stops nobody else, and is not told on.
pub(super) fn throttled(at: At<'_>, status: StatusCode, asked: Duration) -> PullError {
    let site = at.site;
    let pause = match at.who {
        Who::Client(_) => None,
        Who::Nobody | Who::Operator => {
            let pause = site.circuit.throttled(status, asked, Instant::now());
            tracing::warn!(registry = %site.registry, %status, seconds = pause.as_secs(), "it wants to be left alone");
            Some(pause)
        }
    };
    PullError::Throttled { registry: site.registry.to_string(), status: status.as_u16(), retry_after: pause }
}

/// What a status means.
async fn judge(at: At<'_>, answer: Answer, grant: Option<&Grant>) -> Result<Response, PullError> {
    let site = at.site;
    let Answer { response, url } = answer;
    let status = response.status();
    if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
        return Ok(response);
    }
    if let Some(asked) = circuit::asked(status, response.headers(), SystemTime::now()) {
        body::drain(response).await;
        return Err(throttled(at, status, asked));
    }
    let home = site.is_home(&url);
    match status {
        StatusCode::NOT_FOUND => {
            body::drain(response).await;
            Err(PullError::NotFound { registry: site.registry.to_string() })
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if home => {
            body::drain(response).await;
            Err(match grant.and_then(|grant| grant.withheld.as_deref()) {
                Some(why) => PullError::Refused(why.to_owned()),
                None => PullError::Denied { registry: site.registry.to_string(), status: status.as_u16() },
            })
        }
        _ => {
            let who =
                if home { "it".to_owned() } else { format!("{}, where it leads,", host_and_port(&url)) };
            let said = message(&body::drain(response).await);
            let reason = format!("{who} answered {status}{said}");
            // Storage that a registry leads to does not speak for it: a link may have ended.
            Err(if home && is_rejection(status) {
                site.rejected(status, reason)
            } else {
                site.failed(Some(status), reason)
            })
        }
    }
}

/// Whether the registry says no by it: by any 4xx that does not ask to be asked again.
fn is_rejection(status: StatusCode) -> bool {
    use StatusCode as Is;
    let once_more = [Is::REQUEST_TIMEOUT, Is::MISDIRECTED_REQUEST, Is::TOO_EARLY, Is::TOO_MANY_REQUESTS];
    status.is_client_error() && !once_more.contains(&status)
}

/// The first message of an OCI error body, for the operator.
fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        message: String,
    }
    const SHOWN: usize = 200;
    let Ok(Errors { errors }) = serde_json::from_slice(body) else { return String::new() };
    let Some(Entry { message }) = errors.into_iter().next() else { return String::new() };
    let shown: String = message.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    format!(" ({shown:?})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_strangers_are_cut_and_cleaned() {
        let body = format!(r#"{{"errors":[{{"code":"X","message":"a\u001b[0m{}"}}]}}"#, "b".repeat(9999));
        let shown = message(body.as_bytes());
        assert!(shown.starts_with(" (\"a[0mbbb") && shown.len() < 220, "{shown}");
        for nothing in ["", "<html>", "{}", r#"{"errors":[]}"#] {
            assert_eq!(message(nothing.as_bytes()), "");
        }
    }
}
