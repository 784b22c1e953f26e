//! What a registry's 401 asks for.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// The way to be let in, of those a registry offers, that this node takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from somewhere (the distribution project's token authentication).
    Bearer {
        /// The URL that gives tokens.
        realm: String,
        /// Who the token is for.
        service: Option<String>,
        /// What it is to allow.
        scope: Option<String>,
    },
    /// User and password.
    Basic,
}

/// Reads every `WWW-Authenticate`; a token is preferred. `None` if nothing there is understood.
pub(super) fn read(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        let Ok(challenges) = http_auth::parse_challenges(text) else { continue };
        for challenge in challenges {
            let param = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = param("realm")
            {
                return Some(Challenge::Bearer { realm, service: param("service"), scope: param("scope") });
            }
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        read(&headers)
    }

    #[test]
    fn forms() {
        let bearer = |service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: "https://auth.docker.io/token".to_owned(),
                service: service.map(str::to_owned),
                scope: scope.map(str::to_owned),
            })
        };
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/a:pull""#;
        assert_eq!(challenge(&[hub]), bearer(Some("registry.docker.io"), Some("repository:library/a:pull")));
        assert_eq!(challenge(&[r#"bearer REALM="https://auth.docker.io/token""#]), bearer(None, None));
        assert_eq!(
            challenge(&["Basic realm=\"x\"", "Bearer realm=\"https://auth.docker.io/token\""]),
            bearer(None, None)
        );
        assert_eq!(challenge(&["Basic realm=\"Registry Realm\""]), Some(Challenge::Basic));
        for nothing in [&[][..], &["Negotiate"], &["Bearer service=\"x\""], &["\"\"\",,="], &[""]] {
            assert_eq!(challenge(nothing), None, "{nothing:?}");
        }
    }
}
