//! Where the client is told to find Shoal.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use reqwest::Url;

/// The gateway's URL, without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    url: String,
    authority: String,
    plain: bool,
}

/// A text that is no gateway's URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{wrong}: write http://IP:PORT where the client reaches the node, as in http://127.0.0.1:5055")]
pub struct NoGateway {
    wrong: String,
}

impl Gateway {
    /// The whole URL: `http://127.0.0.1:5055`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Host and port: `127.0.0.1:5055`.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether it is http, which some clients want to be told.
    pub fn is_plain(&self) -> bool {
        self.plain
    }
}

impl From<SocketAddr> for Gateway {
    fn from(address: SocketAddr) -> Self {
        Self { url: format!("http://{address}"), authority: address.to_string(), plain: true }
    }
}

impl FromStr for Gateway {
    type Err = NoGateway;

    fn from_str(text: &str) -> Result<Self, NoGateway> {
        let no = |wrong: &str| NoGateway { wrong: format!("{text:?} {wrong}") };
        let url = Url::parse(text).map_err(|_| no("is not a URL"))?;
        let plain = match url.scheme() {
            "http" => true,
            "https" => false,
            _ => return Err(no("is neither http nor https")),
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| no("names no host"))?;
        if ["0.0.0.0", "[::]"].contains(&host) {
            return Err(no("is where a node listens, not where a client reaches it"));
        }
        let more = url.query().is_some() || url.fragment().is_some() || !url.username().is_empty();
        if more || url.password().is_some() || !["", "/"].contains(&url.path()) {
            return Err(no("has more than a host and a port"));
        }
        let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Ok(Self { url: format!("{}://{authority}", url.scheme()), authority, plain })
    }
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_a_host_and_a_port() {
        for (text, url, authority, plain) in [
            ("http://127.0.0.1:5055", "http://127.0.0.1:5055", "127.0.0.1:5055", true),
            ("http://127.0.0.1:5055/", "http://127.0.0.1:5055", "127.0.0.1:5055", true),
            ("http://[::1]:5055", "http://[::1]:5055", "[::1]:5055", true),
            ("https://shoal.example.com", "https://shoal.example.com", "shoal.example.com", false),
        ] {
            let gateway: Gateway = text.parse().unwrap();
            assert_eq!((gateway.url(), gateway.authority(), gateway.is_plain()), (url, authority, plain));
        }
        assert_eq!(Gateway::from(crate::config::GATEWAY_ADDR), "http://127.0.0.1:5055".parse().unwrap());
    }

    #[test]
    fn anything_else_is_refused_with_what_to_write() {
        for text in [
            "",
            "127.0.0.1:5055",
            "ftp://127.0.0.1",
            "http://0.0.0.0:5055",
            "http://[::]:5055",
            "http://127.0.0.1:5055/v2",
            "http://127.0.0.1:5055?a=b",
            "http://user@127.0.0.1:5055",
            "http://127.0.0.1:99999",
        ] {
            let error = text.parse::<Gateway>().unwrap_err().to_string();
            assert!(error.contains("http://127.0.0.1:5055"), "{error}");
        }
    }
}
