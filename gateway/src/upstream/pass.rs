//! Requests whose answers are passed on as they are: tag lists and referrers.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LINK};
use http::{Method, StatusCode};
use shoal_proto::manifest::OCI_INDEX;
use url::Url;

use super::body::{self, ReadError};
use super::request::{self, Ask};
use super::site::At;
use crate::error::PullError;
use crate::source::{Passage, Passed};

/// The largest answer that is passed on.
const MAX_BODY: u64 = 4 * 1024 * 1024;
/// The longest query that is passed on.
const MAX_QUERY: usize = 4096;
/// Which of the asked filters the registry applied (OCI distribution spec, "Listing Referrers").
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

pub(super) async fn pass(at: At<'_>, passage: Passage, query: &str) -> Result<Passed, PullError> {
    let (rest, accept) = match passage {
        Passage::Tags => ("tags/list".to_owned(), "application/json"),
        Passage::Referrers(digest) => (format!("referrers/{digest}"), OCI_INDEX),
    };
    if query.len() > MAX_QUERY {
        return Err(PullError::TooLarge(format!("the query is longer than {MAX_QUERY} bytes")));
    }
    let mut url = at.endpoint(&rest);
    url.set_query((!query.is_empty()).then_some(query));
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    let ask = Ask { method: Method::GET, url: url.clone(), headers };
    // A registry that fails at one query of a client's is not down.
    let response = request::ask_registry(at, &ask).await?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(at.site.failed(Some(status), format!("it answered {status} to {rest}")));
    }
    let headers = kept(at, &url, response.headers());
    let body = read(at, &rest, response).await?;
    Ok(Passed { headers, body })
}

async fn read(at: At<'_>, rest: &str, response: reqwest::Response) -> Result<Bytes, PullError> {
    body::read(response, MAX_BODY, at.web.limits.stall).await.map_err(|error| match error {
        ReadError::TooLarge(_) => PullError::TooLarge(format!(
            "{rest} of {}/{} is larger than {MAX_BODY} bytes, the most that Shoal passes on: ask for fewer at \
             once, with n",
            at.site.registry, at.repository
        )),
        error => at.site.failed(None, format!("the body of {rest}: {error}")),
    })
}

fn kept(at: At<'_>, asked: &Url, headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for name in [CONTENT_TYPE, OCI_FILTERS_APPLIED] {
        if let Some(value) = headers.get(&name) {
            kept.insert(name, value.clone());
        }
    }
    let links = headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok());
    for link in links {
        if let Some(value) = relative_link(at, asked, link) {
            kept.append(LINK, value);
        }
    }
    kept
}

/// The link as a path of the `/v2/` tree, as clients of this gateway can follow it.
///
/// A registry behind a proxy often does not know its own scheme, port or path there, so only the host and what
/// follows `/v2/` count. One that leaves the host or the repository is dropped: a client would take it for the
/// registry's own.
fn relative_link(at: At<'_>, asked: &Url, link: &str) -> Option<HeaderValue> {
    let (target, params) = link.trim().strip_prefix('<')?.split_once('>')?;
    let target = asked.join(target).ok()?;
    let path = target.path();
    let below = path.strip_prefix(at.site.prefix().0).unwrap_or(path);
    let own = below.strip_prefix("/v2/").and_then(|rest| rest.strip_prefix(&at.site.path_of(at.repository)));
    let rest = own.filter(|rest| rest.starts_with('/') && target.host() == asked.host())?;
    let below = format!("/v2/{}{rest}", at.repository);
    let query = target.query().map(|query| format!("?{query}")).unwrap_or_default();
    HeaderValue::from_str(&format!("<{below}{query}>{params}")).ok()
}
