//! The allow and deny lists, compiled.

use shoal_proto::name::Registry;

use super::config::Policy;
use super::settings::ConfigError;

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// `*`
    Any,
    /// `*.example.com`, kept as `.example.com`.
    Below(String),
    /// A registry's name.
    Name(String),
}

impl Pattern {
    fn parse(key: &'static str, text: &str) -> Result<Self, ConfigError> {
        let error = || ConfigError::Pattern { key, value: text.to_owned() };
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(domain) = text.strip_prefix("*.") {
            let domain: Registry = domain.parse().map_err(|_| error())?;
            // A port in a pattern for many names is more likely a mistake than a wish.
            if domain.as_str().contains(':') {
                return Err(error());
            }
            return Ok(Self::Below(format!(".{domain}")));
        }
        let name: Registry = text.parse().map_err(|_| error())?;
        Ok(Self::Name(name.as_str().to_owned()))
    }

    /// `any_port` is for the deny list: a port must not be a way around it.
    fn matches(&self, registry: &Registry, any_port: bool) -> bool {
        let (host, port) = split_port(registry.as_str());
        match self {
            Self::Any => true,
            Self::Below(suffix) => host.ends_with(suffix.as_str()),
            Self::Name(name) => {
                name == registry.as_str() || (name == host && (any_port || port == Some("443")))
            }
        }
    }
}

/// Host and port of a registry's name; an IPv6 literal keeps its brackets.
pub(super) fn split_port(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (name, None),
    }
}

/// Which registries may be asked at all.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    allow: Vec<Pattern>,
    deny: Vec<Pattern>,
}

impl Rules {
    pub(super) fn compile(policy: &Policy) -> Result<Self, ConfigError> {
        let list = |key, texts: &[String]| -> Result<Vec<Pattern>, ConfigError> {
            texts.iter().map(|text| Pattern::parse(key, text)).collect()
        };
        Ok(Self { allow: list("policy.allow", &policy.allow)?, deny: list("policy.deny", &policy.deny)? })
    }

    /// Why not, if this registry may not be asked.
    pub(super) fn check(&self, registry: &Registry) -> Result<(), String> {
        if self.deny.iter().any(|pattern| pattern.matches(registry, true)) {
            return Err(format!("{registry} is denied by this node's policy.deny"));
        }
        if !self.allow.is_empty() && !self.allow.iter().any(|pattern| pattern.matches(registry, false)) {
            return Err(format!("{registry} is not among the registries of this node's policy.allow"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], deny: &[&str]) -> Rules {
        let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Rules::compile(&Policy { allow: list(allow), deny: list(deny) }).unwrap()
    }

    #[test]
    fn allow_and_deny() {
        let nothing_said = rules(&[], &[]);
        let listed = rules(&["docker.io", "*.example.com", "reg.local:5000"], &["bad.example.com"]);
        let none = rules(&[], &["*"]);
        for (registry, by_list) in [
            ("docker.io", true),
            ("registry-1.docker.io", true),
            ("docker.io:443", true),
            ("docker.io:8443", false),
            ("a.example.com", true),
            ("a.b.example.com:5000", true),
            ("example.com", false),
            ("badexample.com", false),
            ("bad.example.com", false),
            ("bad.example.com:5000", false),
            ("BAD.example.com:443", false),
            ("reg.local:5000", true),
            ("reg.local", false),
            ("ghcr.io", false),
            ("[::1]:5000", false),
        ] {
            let name = registry.parse().unwrap();
            assert_eq!(listed.check(&name).is_ok(), by_list, "{registry}");
            assert!(nothing_said.check(&name).is_ok());
            assert!(none.check(&name).is_err());
        }
    }

    #[test]
    fn malformed_patterns_name_their_list() {
        for (allow, deny, key) in
            [("", "a", "policy.allow"), ("a", "*x", "policy.deny"), ("a", "*.a:5", "policy.deny")]
        {
            let policy = Policy { allow: vec![allow.to_owned()], deny: vec![deny.to_owned()] };
            let error = Rules::compile(&policy).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
