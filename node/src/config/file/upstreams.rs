//! The `[upstream."name"]` tables of a file.

use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::{Entry, Walk, quoted};
use crate::config::problem::Given;

/// The keys of a table.
const KEYS: [&str; 8] =
    ["url", "ca", "client_cert", "client_key", "insecure", "mirrors", "token_realms", "credentials"];
/// The keys of `credentials`.
const CREDENTIALS: [&str; 6] = ["username", "password", "password_file", "docker_config", "helper", "access"];
/// The keys of a mirror that is a table.
const MIRROR: [&str; 4] = ["url", "ca", "insecure", "credentials"];

/// One `[upstream."name"]` table.
#[derive(Debug)]
pub(in crate::config) struct Upstream {
    /// The name, and where the table stands.
    pub(in crate::config) name: Given,
    pub(in crate::config) url: Option<Given>,
    pub(in crate::config) ca: Option<Given>,
    pub(in crate::config) client_cert: Option<Given>,
    pub(in crate::config) client_key: Option<Given>,
    pub(in crate::config) insecure: bool,
    pub(in crate::config) mirrors: Vec<Mirror>,
    pub(in crate::config) token_realms: Vec<Given>,
    pub(in crate::config) credentials: Option<Credentials>,
}

/// One of `mirrors`: a table, or a URL alone.
#[derive(Debug)]
pub(in crate::config) struct Mirror {
    /// The entry itself: where it stands.
    pub(in crate::config) entry: Given,
    pub(in crate::config) url: Option<Given>,
    pub(in crate::config) ca: Option<Given>,
    pub(in crate::config) insecure: bool,
    pub(in crate::config) credentials: bool,
}

/// `credentials` of an upstream.
#[derive(Debug)]
pub(in crate::config) struct Credentials {
    /// The table itself: its key and where it stands.
    pub(in crate::config) table: Given,
    pub(in crate::config) username: Option<Given>,
    pub(in crate::config) password: Option<Given>,
    pub(in crate::config) password_file: Option<Given>,
    pub(in crate::config) docker_config: Option<Given>,
    pub(in crate::config) helper: Option<Given>,
    pub(in crate::config) access: Option<Given>,
}

impl Credentials {
    /// Whether there is a login in them, or a part of one.
    pub(in crate::config) const fn has_login(&self) -> bool {
        self.username.is_some()
            || self.password.is_some()
            || self.password_file.is_some()
            || self.docker_config.is_some()
            || self.helper.is_some()
    }
}

impl Walk<'_> {
    pub(super) fn upstream(&mut self, (name, value): Entry<'_, '_>) -> Option<Upstream> {
        let table = format!("upstream.{}", quoted(name.get_ref()));
        let mut upstream = Upstream {
            name: self.given(&table, name.get_ref(), name.span()),
            url: None,
            ca: None,
            client_cert: None,
            client_key: None,
            insecure: false,
            mirrors: Vec::new(),
            token_realms: Vec::new(),
            credentials: None,
        };
        // The short form: `"docker.io" = "https://mirror.example.com"` under [upstream].
        if let Some(url) = value.get_ref().as_str() {
            upstream.url = Some(self.given(&table, url, value.span()));
            return Some(upstream);
        }
        if !value.get_ref().is_table() {
            let allowed = format!("allowed: a table with {}, or a URL alone", KEYS.join(", "));
            self.kind(&table, value, &allowed);
            return None;
        }
        for (name, value) in self.table(&table, value) {
            let key = format!("{table}.{}", name.get_ref());
            match name.get_ref().as_ref() {
                "url" => upstream.url = self.text(&key, value),
                "ca" => upstream.ca = self.file_name(&key, value),
                "client_cert" => upstream.client_cert = self.file_name(&key, value),
                "client_key" => upstream.client_key = self.file_name(&key, value),
                "insecure" => upstream.insecure = self.truth(&key, value),
                "mirrors" => upstream.mirrors = self.mirrors(&key, value),
                "token_realms" => upstream.token_realms = self.texts(&key, value),
                "credentials" => upstream.credentials = Some(self.credentials(&key, name.span(), value)),
                _ => self.unknown(&format!("{table}."), name, &KEYS),
            }
        }
        Some(upstream)
    }

    fn mirrors(&mut self, list: &str, value: &Spanned<DeValue<'_>>) -> Vec<Mirror> {
        let allowed = "allowed: a list of URLs, and of tables { url, ca, insecure, credentials }";
        let Some(entries) = value.get_ref().as_array() else {
            self.kind(list, value, allowed);
            return Vec::new();
        };
        let mut mirrors = Vec::new();
        for value in entries {
            let entry = self.given(list, "", value.span());
            let mut mirror = Mirror { entry, url: None, ca: None, insecure: false, credentials: false };
            match value.get_ref() {
                DeValue::String(_) => mirror.url = self.text(list, value),
                DeValue::Table(_) => {
                    for (name, value) in self.table(list, value) {
                        let key = format!("{list}.{}", name.get_ref());
                        match name.get_ref().as_ref() {
                            "url" => mirror.url = self.text(&key, value),
                            "ca" => mirror.ca = self.file_name(&key, value),
                            "insecure" => mirror.insecure = self.truth(&key, value),
                            "credentials" => mirror.credentials = self.truth(&key, value),
                            _ => self.unknown(&format!("{list}."), name, &MIRROR),
                        }
                    }
                }
                _ => {
                    self.kind(list, value, allowed);
                    continue;
                }
            }
            mirrors.push(mirror);
        }
        mirrors
    }

    fn credentials(&mut self, table: &str, at: Range<usize>, value: &Spanned<DeValue<'_>>) -> Credentials {
        let mut credentials = Credentials {
            table: self.given(table, "", at),
            username: None,
            password: None,
            password_file: None,
            docker_config: None,
            helper: None,
            access: None,
        };
        for (name, value) in self.table(table, value) {
            let key = format!("{table}.{}", name.get_ref());
            match name.get_ref().as_ref() {
                "username" => credentials.username = self.text(&key, value),
                "password" => credentials.password = self.text(&key, value),
                "password_file" => credentials.password_file = self.file_name(&key, value),
                "docker_config" => credentials.docker_config = self.file_name(&key, value),
                "helper" => credentials.helper = self.text(&key, value),
                "access" => credentials.access = self.text(&key, value),
                _ => self.unknown(&format!("{table}."), name, &CREDENTIALS),
            }
        }
        credentials
    }

    fn file_name(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Given> {
        self.text(key, value).map(|given| self.beside(given))
    }
}
