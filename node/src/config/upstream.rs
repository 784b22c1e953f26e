//! The registries of a configuration: the file's tables, and `NAME=URL` from flags and environment over them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use shoal_gateway::upstream::config::{
    Access, Credentials, LoginFrom, MirrorSettings, Policy, Settings, UpstreamSettings,
};

use super::file::{self, File};
use super::open::{Kind, ToOpen};
use super::problem::{Given, Problem, Wrong};
use super::value::{self, Parse};

/// Reads what was said of upstreams: the file's tables first, then each list of `NAME=URL` over them.
pub(super) fn settings(
    file: &File,
    lists: [Vec<Given>; 2],
    open: &mut Vec<ToOpen>,
    problems: &mut Vec<Problem>,
) -> Settings {
    let mut reading = Reading { open, problems };
    let policy = Policy {
        allow: reading.all(&file.allow, value::pattern),
        deny: reading.all(&file.deny, value::pattern),
    };
    let mut upstreams = BTreeMap::new();
    for table in &file.upstreams {
        let Some(name) = reading.name(&table.name) else { continue };
        let settings = reading.table(table);
        if upstreams.insert(name.clone(), settings).is_some() {
            reading.problems.push(table.name.problem(Wrong::new(
                format!("is {name}, which another table is for already"),
                "allowed: one table a registry",
            )));
        }
    }
    for list in lists {
        for (name, url) in reading.list(&list) {
            upstreams.entry(name).or_default().url = Some(url);
        }
    }
    Settings { policy, upstreams }
}

struct Reading<'a> {
    open: &'a mut Vec<ToOpen>,
    problems: &'a mut Vec<Problem>,
}

impl Reading<'_> {
    fn name(&mut self, given: &Given) -> Option<String> {
        self.one(given, value::registry).map(|registry| registry.to_string())
    }

    fn one<T>(&mut self, given: &Given, parse: Parse<T>) -> Option<T> {
        parse(&given.text).map_err(|wrong| self.problems.push(given.problem(wrong))).ok()
    }

    fn all<T>(&mut self, given: &[Given], parse: Parse<T>) -> Vec<T> {
        given.iter().filter_map(|given| self.one(given, parse)).collect()
    }

    fn url(&mut self, given: &Given) -> Option<String> {
        match value::upstream_url(&given.text) {
            Ok(url) => Some(url),
            Err(wrong) if value::has_userinfo(&given.text) => {
                self.problems.push(given.problem_with_secret(wrong));
                None
            }
            Err(wrong) => {
                self.problems.push(given.problem(wrong));
                None
            }
        }
    }

    /// A file that the node will open, noted to be tried.
    fn file(&mut self, given: Option<&Given>, kind: Kind) -> Option<PathBuf> {
        let given = given?;
        let path = self.one(given, value::path)?;
        self.open.push(ToOpen { kind, given: given.clone(), path: path.clone() });
        Some(path)
    }

    fn table(&mut self, table: &file::Upstream) -> UpstreamSettings {
        let token_realms = self.all(&table.token_realms, value::token_realm);
        if let (Some(key), None) = (&table.client_key, &table.client_cert) {
            self.problems.push(key.problem(Wrong::new(
                "is there without client_cert",
                "allowed: client_cert beside it, the file with the certificate",
            )));
        }
        if let (Some(cert), None) = (&table.client_cert, &table.credentials) {
            let wrong = "is a credential, and no credentials = { access = … } beside it, with a login or without, says \
                         who may use it";
            self.problems.push(cert.problem(Wrong::new(wrong, WHICH_ACCESS)));
        }
        let client_key = table.client_key.as_ref().filter(|_| table.client_cert.is_some());
        let client_key = self.file(client_key, Kind::PrivateKey);
        UpstreamSettings {
            url: table.url.as_ref().and_then(|given| self.url(given)),
            ca: self.file(table.ca.as_ref(), Kind::Certificates),
            client_cert: self.file(table.client_cert.as_ref(), Kind::ClientCertificate(client_key.clone())),
            client_key,
            insecure: table.insecure,
            mirrors: table.mirrors.iter().filter_map(|mirror| self.mirror(table, mirror)).collect(),
            token_realms,
            credentials: table.credentials.as_ref().and_then(|said| self.credentials(table, said)),
        }
    }

    fn mirror(&mut self, table: &file::Upstream, said: &file::Mirror) -> Option<MirrorSettings> {
        let Some(url) = &said.url else {
            let allowed = "allowed: https://host[:port][/path], or http://… for a mirror without TLS";
            self.problems
                .push(said.entry.problem_with_secret(Wrong::new("has an entry without url", allowed)));
            return None;
        };
        if said.credentials && !table.credentials.as_ref().is_some_and(file::Credentials::has_login) {
            self.problems.push(url.problem(Wrong::new(
                "is to be sent credentials, and the registry has no login",
                "allowed: credentials = true in a mirror where the registry's own credentials have a login; a client \
                 certificate is shown to no mirror",
            )));
        }
        Some(MirrorSettings {
            url: self.url(url)?,
            ca: self.file(said.ca.as_ref(), Kind::Certificates),
            insecure: said.insecure,
            credentials: said.credentials,
        })
    }

    fn credentials(&mut self, table: &file::Upstream, said: &file::Credentials) -> Option<Credentials> {
        let before = self.problems.len();
        let certificate_alone = table.client_cert.is_some() && !said.has_login();
        let from = if certificate_alone { None } else { self.login(said) };
        let access = said.access.as_ref().and_then(|given| self.one(given, access));
        if said.access.is_none() {
            let wrong = Wrong::new("does not say who may use them", WHICH_ACCESS);
            self.problems.push(said.table.problem_with_secret(wrong));
        }
        (self.problems.len() == before).then_some(Credentials { from, access })
    }

    /// Where the login comes from: one of three, and nothing beside it that would be ignored.
    fn login(&mut self, said: &file::Credentials) -> Option<LoginFrom> {
        let table = |wrong: &str, allowed: &str| said.table.problem_with_secret(Wrong::new(wrong, allowed));
        if !said.has_login() {
            self.problems.push(table(
                "has no login",
                "allowed: username with password or password_file; or docker_config; or helper; or none of them where \
                 client_cert is beside the table",
            ));
            return None;
        }
        let own = said.username.is_some() || said.password.is_some() || said.password_file.is_some();
        let kinds = [own, said.docker_config.is_some(), said.helper.is_some()];
        if kinds.iter().filter(|kind| **kind).count() > 1 {
            self.problems.push(table(
                "has logins of several kinds",
                "allowed: username with password or password_file; or docker_config; or helper",
            ));
            return None;
        }
        if let Some(given) = &said.helper {
            return self.one(given, value::helper).map(LoginFrom::Helper);
        }
        if said.docker_config.is_some() {
            return self.file(said.docker_config.as_ref(), Kind::DockerConfig).map(LoginFrom::DockerConfig);
        }
        let username = said.username.as_ref().map(|given| given.text.clone()).unwrap_or_default();
        if username.is_empty() {
            self.problems.push(table(
                "names no user",
                "allowed: username, and password or password_file; or docker_config, or helper",
            ));
        } else if username.contains(':') {
            // RFC 7617: basic authentication cannot carry one.
            self.problems.push(table("has a username with a colon", "allowed: a username without colons"));
        }
        match (&said.password, &said.password_file) {
            (None, None) => self
                .problems
                .push(table("has no password", "allowed: one of password and password_file beside username")),
            (Some(_), Some(_)) => self
                .problems
                .push(table("has two passwords", "allowed: one of password and password_file, not both")),
            (Some(password), None) if password.text.is_empty() => {
                self.problems.push(table("has an empty password", "allowed: the password, or password_file"));
            }
            _ => {}
        }
        let file = self.file(said.password_file.as_ref(), Kind::Password);
        match (&said.password, file) {
            (Some(password), None) => Some(LoginFrom::Password { username, password: password.text.clone() }),
            (None, Some(file)) => Some(LoginFrom::PasswordFile { username, file }),
            _ => None,
        }
    }

    /// `NAME=URL`, each name once.
    fn list(&mut self, list: &[Given]) -> Vec<(String, String)> {
        let mut seen: Vec<(String, String)> = Vec::new();
        for given in list {
            let Some((name, url)) = given.text.split_once('=') else {
                self.problems.push(given.problem(Wrong::new(
                    "is not NAME=URL",
                    "allowed: a registry's name, = and its URL, as in docker.io=https://mirror.example.com",
                )));
                continue;
            };
            let part = |text: &str| Given { text: text.trim().to_owned(), ..given.clone() };
            let (Some(name), Some(url)) = (self.name(&part(name)), self.url(&part(url))) else { continue };
            if seen.iter().any(|(seen, _)| *seen == name) {
                self.problems.push(
                    given.problem(Wrong::new(format!("names {name} twice"), "allowed: one URL a registry")),
                );
                continue;
            }
            seen.push((name, url));
        }
        seen
    }
}

/// What `access` may be, and what each means for pods.
pub(super) const WHICH_ACCESS: &str = "allowed: access = \"cluster\", whoever reaches this gateway, every pod too, may pull what only \
     these credentials can read; access = \"verify\", only clients whose own credentials the registry accepts, and others \
     get a 404 and ask the registry themselves; access = \"challenge\", as verify, but a client without credentials is asked \
     for them with a 401; there is no default, because that opens private images to others";

fn access(text: &str) -> Result<Access, Wrong> {
    match text {
        "cluster" => Ok(Access::Cluster),
        "verify" => Ok(Access::Verify),
        "challenge" => Ok(Access::Challenge),
        _ => Err(Wrong::new("is not a kind of access", WHICH_ACCESS)),
    }
}
