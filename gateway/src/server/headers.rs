//! What request headers mean: accepted types, conditions, ranges.

use http::{HeaderMap, HeaderValue, header};
use shoal_proto::digest::Digest;
use shoal_proto::range::RangeRequest;

use crate::source::Accept;

/// The most accepted types that are read; clients send about ten.
const MAX_ACCEPTED: usize = 64;
/// The longest media type that is taken for one (RFC 6838, section 4.2: twice 127 characters and a slash).
const MAX_MEDIA_TYPE: usize = 255;

/// The parts of a list header that may come in several lines (RFC 9110, section 5.3).
fn listed<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line: &HeaderValue| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|part| !part.is_empty())
}

/// The types that a client accepts, in its order, parameters taken off; those with `q=0` it does not accept.
pub(super) fn accept(headers: &HeaderMap) -> Accept {
    let mut types: Vec<String> = Vec::new();
    for part in listed(headers, &header::ACCEPT) {
        let mut fields = part.split(';').map(str::trim);
        let media_type = fields.next().unwrap_or_default().to_ascii_lowercase();
        let refused = fields.any(|field| {
            field.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|weight| weight <= 0.0))
        });
        let known = media_type.contains('/') && media_type.len() <= MAX_MEDIA_TYPE;
        if known && !refused && !types.contains(&media_type) && types.len() < MAX_ACCEPTED {
            types.push(media_type);
        }
    }
    Accept(types)
}

/// The entity tag of content: its digest never means other bytes.
pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether `If-None-Match` says that the client has this already (RFC 9110, section 13.1.2: weak comparison).
pub(super) fn client_has(headers: &HeaderMap, digest: &Digest) -> bool {
    let tag = etag(digest);
    listed(headers, &header::IF_NONE_MATCH)
        .any(|given| given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag)
}

/// The ranges wanted, in their order, if they are to be honoured: there is one such line, and `If-Range`, where given,
/// names this very content (RFC 9110, section 13.1.5: strong comparison; dates never match, as nothing here has one).
/// Empty for the whole.
pub(super) fn ranges(headers: &HeaderMap, digest: &Digest) -> Vec<RangeRequest> {
    let mut lines = headers.get_all(header::RANGE).into_iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Vec::new() };
    if headers.get(header::IF_RANGE).is_some_and(|given| given.as_bytes() != etag(digest).as_bytes()) {
        return Vec::new();
    }
    line.to_str().ok().and_then(RangeRequest::parse_all).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn accept_from_all_lines() {
        let given = headers(&[
            ("accept", "application/A+json;q=0.9, b/c ; q=0.5"),
            ("accept", "*/*, b/c,, d/e;q=0, nonsense"),
        ]);
        assert_eq!(accept(&given).0, ["application/a+json", "b/c", "*/*"]);
        assert_eq!(accept(&HeaderMap::new()), Accept::default());
        let flood = (0..1000).map(|n| format!("a/{n}")).collect::<Vec<_>>().join(",");
        assert_eq!(accept(&headers(&[("accept", &flood)])).0.len(), MAX_ACCEPTED);
    }

    #[test]
    fn conditions() {
        let digest = Digest::sha256_of(b"x");
        let tag = etag(&digest);
        for (given, has) in [
            (tag.as_str(), true),
            (&format!("\"a\", W/{tag}"), true),
            ("*", true),
            ("\"a\"", false),
            (&digest.to_string(), false),
        ] {
            assert_eq!(client_has(&headers(&[("if-none-match", given)]), &digest), has, "{given}");
        }
        let from = |first, last| RangeRequest::From { first, last };
        let wanted = vec![from(3, None)];
        for (given, expected) in [
            (&[("range", "bytes=3-")][..], wanted.clone()),
            (&[("range", "bytes=3-"), ("if-range", &tag)], wanted),
            (&[("range", "bytes=3-"), ("if-range", &format!("W/{tag}"))], Vec::new()),
            (&[("range", "bytes=3-"), ("if-range", "Tue, 01 Jan 2030 00:00:00 GMT")], Vec::new()),
            (&[("range", "bytes=3-"), ("range", "bytes=4-")], Vec::new()),
            (&[("range", "bytes=3-4,6-7")], vec![from(3, Some(4)), from(6, Some(7))]),
        ] {
            assert_eq!(ranges(&headers(given), &digest), expected, "{given:?}");
        }
    }
}
