//! `Link: <…>; rel="next"`, turned so that the client comes back here.
//!
//! Upstream's link names upstream's own path. The client asked under another: with a registry in front,
//! without `library/`, or with an `ns` that upstream never saw. Only the query of the link means anything.

use http::HeaderValue;

/// The longest link passed on, in bytes.
const MAX_LINK: usize = 4096;

/// The next page's link for a client that asked for `path` and named its registry by `ns`. `None` if upstream's
/// link is none to a next page.
pub(super) fn next(upstream: &HeaderValue, path: &str, ns: Option<&str>) -> Option<HeaderValue> {
    let text = upstream.to_str().ok().filter(|text| text.len() <= MAX_LINK)?;
    let (target, parameters) = text.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.split([';', ',']).any(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
    });
    if !is_next {
        return None;
    }
    let (_, query) = target.split_once('?')?;
    let query = query.split('#').next().unwrap_or_default();
    let mut pairs: Vec<String> = query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.starts_with("ns="))
        .map(str::to_owned)
        .collect();
    if let Some(ns) = ns {
        pairs.push(format!("ns={ns}"));
    }
    HeaderValue::from_str(&format!("<{path}?{}>; rel=\"next\"", pairs.join("&"))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_here() {
        let turned = |link: &'static str, ns| {
            let next = next(&HeaderValue::from_static(link), "/v2/a/tags/list", ns);
            next.map(|value| value.to_str().unwrap().to_owned())
        };
        let here = Some("</v2/a/tags/list?last=b&n=2>; rel=\"next\"".to_owned());
        assert_eq!(turned("</v2/library/a/tags/list?last=b&n=2>; rel=\"next\"", None), here);
        assert_eq!(turned("<https://other/v2/x/tags/list?last=b&n=2#f> ; REL=next", None), here);
        let with_ns = Some("</v2/a/tags/list?last=b&ns=ghcr.io>; rel=\"next\"".to_owned());
        assert_eq!(turned("</v2/a/tags/list?ns=evil&last=b>; rel=\"next\"", Some("ghcr.io")), with_ns);
        for none in ["", "/v2/a", "</v2/a?n=1>", "</v2/a?n=1>; rel=\"prev\"", "</v2/a>; rel=\"next\"", "<?"] {
            assert_eq!(turned(none, None), None, "{none}");
        }
    }
}
