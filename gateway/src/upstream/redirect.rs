//! Where a registry may send us.
//!
//! | to | reached |
//! | --- | --- |
//! | the registry's own host | as the registry is |
//! | a host with an `[upstream]` URL of its own, if the registry has one too | as that one is, without its credentials |
//! | any other host | https, on a public address |
//!
//! What a registry without configuration says is worth no more than the client's word that named it: it leads
//! to the public internet alone. From https to http leads no way, unless that host is configured so.
//! The client certificate stays at the registry itself, and so does `Authorization`: the caller sees to that by
//! [`Site::is_home`].

use http::StatusCode;
use http::header::{HeaderMap, LOCATION};
use url::Url;

use super::client::Wire;
use super::site::{At, Site, Web, host_and_port};
use crate::error::PullError;

/// The most redirects that one request follows.
pub(super) const MAX_REDIRECTS: usize = 5;

/// Whether a status sends the client elsewhere with the same request.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Reads `Location`, relative to where it was answered.
pub(super) fn target(site: &Site, from: &Url, headers: &HeaderMap) -> Result<Url, PullError> {
    let malformed = |what: &str| site.failed(None, format!("{} redirects {what}", host_and_port(from)));
    let location = headers.get(LOCATION).ok_or_else(|| malformed("without saying where to"))?;
    let location = location.to_str().map_err(|_| malformed("to something unreadable"))?;
    let mut url = from.join(location).map_err(|_| malformed("to something that is no URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(malformed("to something other than http and https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // They would be sent as an Authorization of the redirect's choice.
        return Err(malformed("to a URL with a user or password in it"));
    }
    url.set_fragment(None);
    Ok(url)
}

/// The client by which `url` may be asked, if it may.
pub(super) fn route<'a>(at: At<'a>, url: &Url) -> Result<&'a Wire, PullError> {
    let (web, site) = (at.web, at.site);
    let (wire, plain_allowed) = if url.host() == site.base.host() {
        // Another port may be another's.
        let wire = if site.is_home(url) { site.wires.of(at.who) } else { &site.wires.bare };
        (wire, site.is_plain() || site.insecure)
    } else if let Some(other) = site.placed.then(|| neighbour(web, url)).flatten() {
        (&other.wires.bare, other.is_plain() || other.insecure)
    } else {
        (&web.public, false)
    };
    if url.scheme() == "http" && !plain_allowed {
        let host = host_and_port(url);
        return Err(PullError::Refused(format!(
            "{} redirects to {host} without TLS, which is not followed. If it belongs there, configure the URL of \
             both: [upstream.\"{}\"] and [upstream.\"{host}\"] url = \"http://{host}\"",
            site.registry, site.registry
        )));
    }
    wire.check(url).map_err(|problem| site.not_public(url, &problem))?;
    Ok(wire)
}

/// The registry whose configured URL has this host, best with the port too.
fn neighbour<'a>(web: &'a Web, url: &Url) -> Option<&'a Site> {
    let mut same_host = web.configured.iter().filter(|site| site.placed && site.base.host() == url.host());
    let first = same_host.clone().next();
    same_host.find(|site| site.is_home(url)).or(first).map(AsRef::as_ref)
}
