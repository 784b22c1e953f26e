//! `tags/list` and `referrers/<digest>`: upstream's own answers.

use http::header::{CONTENT_TYPE, LINK};
use http::{HeaderMap, HeaderName, StatusCode};

use super::answer::{Ask, Shared};
use super::failure::Failure;
use super::link;
use super::path::What;
use super::reply::Reply;
use crate::source::{Passage, Source};

/// Says which filters upstream applied (distribution spec, "Listing Referrers").
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

impl<S: Source> Shared<S> {
    /// Upstream's answer, its link to the next page turned to come back here.
    pub(super) async fn passage(&self, ask: &Ask<'_>) -> Result<Reply, Failure> {
        let passage = match &ask.what {
            What::Referrers(digest) => Passage::Referrers(*digest),
            _ => Passage::Tags,
        };
        let passed = self.source.pass(&ask.scope, passage, &ask.query.rest).await;
        let passed = passed.map_err(|error| Failure::pull(ask.sought(), &error))?;
        let mut reply = Reply::bytes(StatusCode::OK, passed.body).typed("application/json");
        copy(&passed.headers, &mut reply.headers);
        let ns = ask.query.ns.is_some().then_some(ask.query.ns_text.as_str());
        // A header that may come in several lines (RFC 8288, section 3).
        let mut links = passed.headers.get_all(LINK).iter();
        if let Some(next) = links.find_map(|link| link::next(link, ask.request.uri.path(), ns)) {
            reply.headers.insert(LINK, next);
        }
        Ok(reply)
    }
}

/// Copies what describes the content. Framing is this server's own, and everything else upstream's business.
fn copy(from: &HeaderMap, to: &mut HeaderMap) {
    for name in [CONTENT_TYPE, FILTERS] {
        if let Some(value) = from.get(&name) {
            to.insert(name, value.clone());
        }
    }
}
