//! Docker's `config.json`, also podman's `auth.json` and the `.dockerconfigjson` of a Kubernetes secret.
//!
//! What is looked up, in this order: a helper for the registry (`credHelpers`), a helper for all (`credsStore`), the
//! entries (`auths`). An entry may be for a registry, as Docker writes it, or for a namespace or repository of it, as
//! podman does; the longest that fits counts.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, general_purpose};
use serde::Deserialize;
use shoal_proto::name::{Registry, Repository};

use super::{Login, helpers};

/// What Docker calls Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// Written with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    general_purpose::PAD.with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The part of the file that is about credentials.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::upstream) struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: String,
}

#[derive(Deserialize, Default)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

/// Where the login for a repository is.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Found {
    Login(Login),
    /// A helper is to be asked by this name for the registry.
    Helper {
        name: String,
        server: String,
        /// The entry that stands beside it, should the helper have none.
        otherwise: Option<Login>,
    },
    Nothing,
}

/// What Docker calls a registry, towards helpers and in its file.
pub(in crate::upstream) fn server_name(registry: &Registry) -> String {
    if registry.is_docker_hub() { DOCKER_HUB.to_owned() } else { registry.to_string() }
}

impl DockerConfig {
    /// Reads the file. The problem names what is wrong with it, without anything that it says.
    pub(in crate::upstream) fn read(file: &Path) -> Result<Self, String> {
        Self::parse(&super::read(file)?)
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        // serde's own text may repeat a value, which may be a secret: where is enough.
        serde_json::from_slice(bytes).map_err(|problem| {
            format!(
                "is not Docker's config.json: {} at line {}, column {}",
                if problem.is_data() { "a value of another kind than expected" } else { "no JSON" },
                problem.line(),
                problem.column()
            )
        })
    }

    /// Whether it may have a login for some repository of the registry; names of its entries, if not.
    pub(in crate::upstream) fn check(&self, registry: &Registry) -> Result<(), String> {
        if !self.creds_store.is_empty() {
            return helpers::check_name(&self.creds_store);
        }
        if let Some(name) = self.helper(registry) {
            return helpers::check_name(name);
        }
        if self.auths.keys().any(|key| host_of(key) == registry.as_str() || is_hub(registry, key)) {
            return Ok(());
        }
        let names: Vec<&str> =
            self.auths.keys().chain(self.cred_helpers.keys()).map(String::as_str).collect();
        Err(if names.is_empty() {
            format!("has no entries: `docker login {registry}` makes one")
        } else {
            format!("has no entry for {registry}, only for {}", names.join(", "))
        })
    }

    /// The login for a repository, or the helper that is to be asked.
    pub(in crate::upstream) fn find(
        &self,
        registry: &Registry,
        repository: &Repository,
    ) -> Result<Found, String> {
        let entry = self.entry(registry, repository);
        let entry = entry.map(|(key, entry)| login(key, entry)).transpose();
        let helper =
            self.helper(registry).or_else(|| (!self.creds_store.is_empty()).then_some(&self.creds_store));
        if let Some(name) = helper {
            helpers::check_name(name)?;
            let (name, server) = (name.clone(), server_name(registry));
            return Ok(Found::Helper { name, server, otherwise: entry.ok().flatten().flatten() });
        }
        Ok(entry?.flatten().map_or(Found::Nothing, Found::Login))
    }

    fn helper(&self, registry: &Registry) -> Option<&String> {
        let of = |(key, _): &(&String, &String)| host_of(key) == registry.as_str() || is_hub(registry, key);
        self.cred_helpers.iter().find(of).map(|(_, name)| name).filter(|name| !name.is_empty())
    }

    /// The entry with the longest name that fits.
    fn entry(&self, registry: &Registry, repository: &Repository) -> Option<(&String, &Entry)> {
        let whole = format!("{registry}/{repository}");
        let length = |key: &str| {
            let place = place_of(key);
            let below =
                whole.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            // Of two spellings of the registry itself, as Docker prefers, the exact one.
            match below {
                true if place == registry.as_str() => Some((place.len(), key == place)),
                true => Some((place.len(), true)),
                false => is_hub(registry, key).then_some((registry.as_str().len(), false)),
            }
        };
        let fitting = self.auths.iter().filter_map(|(key, entry)| Some((length(key)?, (key, entry))));
        fitting.max_by_key(|(length, _)| *length).map(|(_, found)| found)
    }
}

/// What an entry is for: `host[/path]`, without scheme and without the `/v1/` that Docker used to write.
fn place_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest).trim_end_matches('/');
    rest.strip_suffix("/v1").or_else(|| rest.strip_suffix("/v2")).unwrap_or(rest)
}

fn host_of(key: &str) -> &str {
    let place = place_of(key);
    place.split_once('/').map_or(place, |(host, _)| host)
}

/// Whether an entry is for Docker Hub by one of its older names.
fn is_hub(registry: &Registry, key: &str) -> bool {
    registry.is_docker_hub()
        && matches!(place_of(key), "index.docker.io" | "docker.io" | "registry-1.docker.io")
}

/// What an entry says; `None` if it is there and empty, as Docker leaves it beside a helper.
fn login(key: &str, entry: &Entry) -> Result<Option<Login>, String> {
    let wrong = |what: &str| Err(format!("its entry {key:?} {what}"));
    if !entry.identitytoken.is_empty() {
        return Ok(Some(Login::Identity(entry.identitytoken.clone())));
    }
    let (username, password) = if entry.auth.is_empty() {
        (entry.username.clone(), entry.password.clone())
    } else {
        let Ok(bytes) = BASE64.decode(entry.auth.trim()) else {
            return wrong("has an auth that is not base64");
        };
        let decoded = String::from_utf8(bytes).ok();
        let Some((username, password)) = decoded.as_deref().and_then(|text| text.split_once(':')) else {
            return wrong("has an auth that is not USER:PASSWORD in base64");
        };
        // Docker's own reader drops them too.
        (username.to_owned(), password.trim_matches('\0').to_owned())
    };
    if username.is_empty() && password.is_empty() {
        if !entry.registrytoken.is_empty() {
            return wrong("has a registrytoken only, which is not used: log in with a user and password");
        }
        return Ok(None);
    }
    if username == helpers::IDENTITY {
        return Ok(Some(Login::Identity(password)));
    }
    match Login::password(&username, &password) {
        Some(login) => Ok(Some(login)),
        None => wrong("has a user or password that is empty or that no header can carry"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str, registry: &str, repository: &str) -> Result<Found, String> {
        DockerConfig::parse(text.as_bytes())?.find(&registry.parse().unwrap(), &repository.parse().unwrap())
    }

    fn password(password: &str) -> Option<Login> {
        Login::password("u", password)
    }

    #[test]
    fn entries_as_docker_and_podman_write_them() {
        // u:1 with and without padding, by user and password, under Docker's old names, by namespace.
        let text = r#"{"auths": {
            "one.test": {"auth": "dTox"},
            "two.test:5000": {"username": "u", "password": "2", "email": "x@y"},
            "https://three.test/v1/": {"auth": "dTozMw=="},
            "https://four.test": {"auth": "dTo0NA"},
            "https://index.docker.io/v1/": {"auth": "dTo5"},
            "six.test": {"auth": "dTo2"},
            "six.test/team": {"username": "u", "password": "team"},
            "six.test/team/app": {"username": "u", "password": "app"},
            "seven.test": {"identitytoken": "it", "auth": "PHRva2VuPjo="},
            "eight.test": {"username": "<token>", "password": "it"}
        }, "HttpHeaders": {"a": "b"}}"#;
        for (registry, repository, expected) in [
            ("one.test", "a", password("1")),
            ("one.test:5000", "a", None),
            ("two.test:5000", "a", password("2")),
            ("three.test", "a", password("33")),
            ("four.test", "a", password("44")),
            ("docker.io", "library/a", password("9")),
            ("six.test", "other", password("6")),
            ("six.test", "teams", password("6")),
            ("six.test", "team/other", password("team")),
            ("six.test", "team/app", password("app")),
            ("seven.test", "a", Some(Login::Identity("it".to_owned()))),
            ("eight.test", "a", Some(Login::Identity("it".to_owned()))),
            ("nine.test", "a", None),
        ] {
            let expected = expected.map_or(Found::Nothing, Found::Login);
            assert_eq!(find(text, registry, repository).unwrap(), expected, "{registry}/{repository}");
        }
    }

    #[test]
    fn helpers_come_before_entries() {
        let text = r#"{"auths": {"one.test": {"auth": "dTox"}, "two.test": {}},
            "credsStore": "store", "credHelpers": {"two.test": "two", "https://index.docker.io/v1/": "hub"}}"#;
        let helper = |name: &str, server: &str, otherwise| Found::Helper {
            name: name.to_owned(),
            server: server.to_owned(),
            otherwise,
        };
        assert_eq!(find(text, "one.test", "a").unwrap(), helper("store", "one.test", password("1")));
        assert_eq!(find(text, "two.test", "a").unwrap(), helper("two", "two.test", None));
        assert_eq!(find(text, "docker.io", "a").unwrap(), helper("hub", DOCKER_HUB, None));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for (text, said) in [
            ("", "no JSON at line 1"),
            (r#"{"auths": {"a.test": {"auth": 1234567}}}"#, "another kind than expected at line 1"),
            (r#"{"auths": {"a.test": {"auth": "hunter2!"}}}"#, "\"a.test\" has an auth that is not base64"),
            (r#"{"auths": {"a.test": {"auth": "aHVudGVyMg=="}}}"#, "not USER:PASSWORD"),
            (r#"{"auths": {"a.test": {"registrytoken": "hunter2"}}}"#, "registrytoken only"),
            (r#"{"auths": {"a.test": {"username": "u:hunter2", "password": "x"}}}"#, "user or password"),
            (r#"{"credHelpers": {"a.test": "../../bin/sh"}}"#, "is not the name of a helper"),
        ] {
            let problem = find(text, "a.test", "a").unwrap_err();
            assert!(problem.contains(said), "{text}: {problem}");
            assert!(!problem.contains("hunter2") && !problem.contains("1234567"), "{problem}");
        }
    }

    #[test]
    fn a_file_without_an_entry_is_noticed_at_the_start() {
        let check = |text: &str, registry: &str| {
            DockerConfig::parse(text.as_bytes()).unwrap().check(&registry.parse().unwrap())
        };
        let text = r#"{"auths": {"a.test/team": {}, "https://index.docker.io/v1/": {}}}"#;
        assert_eq!(check(text, "a.test"), Ok(()));
        assert_eq!(check(text, "docker.io"), Ok(()));
        let problem = check(text, "b.test").unwrap_err();
        assert!(problem.contains("no entry for b.test, only for a.test/team, https://index"), "{problem}");
        assert!(check("{}", "b.test").unwrap_err().contains("`docker login b.test`"));
        assert_eq!(check(r#"{"credsStore": "pass"}"#, "b.test"), Ok(()));
    }
}
