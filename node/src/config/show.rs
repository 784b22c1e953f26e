//! The effective configuration as TOML, for people: every key, where it came from, and no secrets.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use shoal_gateway::upstream::config::{LoginFrom, MirrorSettings, Settings, UpstreamSettings};

use super::file::quoted;
use super::{Loaded, Stream};
use crate::access::Times;
use crate::tags::{Trust, Ttl};

/// Renders a configuration. Read as a file it means the same again, but for passwords, which are left out.
pub fn effective(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let mut out = String::new();
    let mut key = |key: &str, value: Option<String>| {
        let origin = loaded.origins.get(key).map(ToString::to_string).unwrap_or_default();
        match value {
            Some(value) => line(&mut out, &format!("{key} = {value}  # {origin}")),
            None => line(&mut out, &format!("# {key}: not set")),
        }
    };
    key("data_dir", Some(path(&config.data_dir)));
    key("gateway_addr", Some(quoted(&config.gateway_addr.to_string())));
    key("peer_addr", Some(quoted(&config.peer_addr.to_string())));
    key("admin_addr", Some(quoted(&config.admin_addr.to_string())));
    key("bootstrap", Some(list(&config.bootstrap)));
    key("cluster_key_file", config.cluster_key_file.as_deref().map(path));
    key("zone", config.zone.as_deref().map(quoted));
    let rate = |rate: Option<u64>| rate.map(|rate| quoted(&format!("{rate}B")));
    key("upload_rate", rate(config.upload_rate));
    key("download_rate", rate(config.download_rate));
    key("upstream_rate", rate(config.upstream_rate));
    key("stream", Some(quoted(stream(config.stream))));
    key("tags", Some(quoted(trust(config.tags.trust))));
    key("tag_ttl", Some(quoted(&time(config.tags.ttl))));
    key("tag_stale", Some(quoted(&time(config.tags.stale))));
    for rule in &config.tags.rules {
        let ttl = match rule.ttl {
            Ttl::For(ttl) => time(ttl),
            Ttl::Forever => "forever".to_owned(),
        };
        line(
            &mut out,
            &format!("\n[[tag]]\nmatch = {}\nttl = {}", quoted(&rule.matching.to_string()), quoted(&ttl)),
        );
    }
    upstreams(&mut out, &config.upstreams, config.access);
    out
}

fn time(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

const fn trust(trust: Trust) -> &'static str {
    match trust {
        Trust::Fleet => "fleet",
        Trust::Own => "own",
    }
}

fn upstreams(out: &mut String, settings: &Settings, times: Times) {
    line(out, "\n[policy]");
    line(out, &format!("allow = {}", list(&settings.policy.allow)));
    line(out, &format!("deny = {}", list(&settings.policy.deny)));
    line(out, &format!("public_for = {}", quoted(&time(times.everyone))));
    line(out, &format!("client_for = {}", quoted(&time(times.client))));
    for (name, upstream) in &settings.upstreams {
        one_upstream(out, name, upstream);
    }
}

fn one_upstream(out: &mut String, name: &str, upstream: &UpstreamSettings) {
    // Taken apart whole, so that a new setting cannot be forgotten here.
    let UpstreamSettings { url, ca, client_cert, client_key, insecure, mirrors, token_realms, credentials } =
        upstream;
    line(out, &format!("\n[upstream.{}]", quoted(name)));
    if let Some(url) = url {
        line(out, &format!("url = {}", quoted(url)));
    }
    if let Some(ca) = ca {
        line(out, &format!("ca = {}", path(ca)));
    }
    if let Some(cert) = client_cert {
        line(out, &format!("client_cert = {}", path(cert)));
    }
    if let Some(key) = client_key {
        line(out, &format!("client_key = {}", path(key)));
    }
    if *insecure {
        line(out, "insecure = true");
    }
    if !mirrors.is_empty() {
        let mirrors: Vec<String> = mirrors.iter().map(mirror).collect();
        line(out, &format!("mirrors = [{}]", mirrors.join(", ")));
    }
    if !token_realms.is_empty() {
        line(out, &format!("token_realms = {}", list(token_realms)));
    }
    let Some(credentials) = credentials else { return };
    line(out, &format!("[upstream.{}.credentials]", quoted(name)));
    match &credentials.from {
        None => {}
        Some(LoginFrom::Password { username, .. }) => {
            line(out, &format!("username = {}", quoted(username)));
            line(out, "# password: set, not shown");
        }
        Some(LoginFrom::PasswordFile { username, file }) => {
            line(out, &format!("username = {}", quoted(username)));
            line(out, &format!("password_file = {}", path(file)));
        }
        Some(LoginFrom::DockerConfig(file)) => line(out, &format!("docker_config = {}", path(file))),
        Some(LoginFrom::Helper(name)) => line(out, &format!("helper = {}", quoted(name))),
    }
    if let Some(access) = credentials.access {
        line(out, &format!("access = {}", quoted(access.name())));
    }
}

fn mirror(mirror: &MirrorSettings) -> String {
    let MirrorSettings { url, ca, insecure, credentials } = mirror;
    if ca.is_none() && !insecure && !credentials {
        return quoted(url);
    }
    let mut keys = vec![format!("url = {}", quoted(url))];
    keys.extend(ca.as_deref().map(|ca| format!("ca = {}", path(ca))));
    keys.extend(insecure.then(|| "insecure = true".to_owned()));
    keys.extend(credentials.then(|| "credentials = true".to_owned()));
    format!("{{ {} }}", keys.join(", "))
}

fn line(out: &mut String, text: &str) {
    // Writing into a string cannot fail.
    let _ = writeln!(out, "{text}");
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}

const fn stream(stream: Stream) -> &'static str {
    match stream {
        Stream::Early => "early",
        Stream::Proven => "proven",
    }
}

/// A configuration file that explains every key and says what the defaults say.
pub const EXAMPLE: &str = include_str!("example.toml");
