//! Whose certificates are trusted: the system's store, or Mozilla's list where the system has none.
//!
//! A minimal container image comes without CA certificates. A mirror there would fail every public registry, so the
//! binary brings a list of its own for that case alone: where there is a store, what its administrator removed or
//! added holds.

use reqwest::{Certificate, Client, ClientBuilder};

use super::client::chain;

/// Where the trusted roots come from.
#[derive(Debug, Clone)]
pub(super) enum Roots {
    /// The system's store.
    System,
    /// Mozilla's, as of when this was compiled.
    BuiltIn(Vec<Certificate>),
}

impl Roots {
    /// Looks whether this machine has roots.
    pub(super) fn of_this_machine() -> Self {
        // A client that trusts nothing cannot be built, and nothing else is wrong with this one.
        match Client::builder().no_proxy().build() {
            Ok(_) => Self::System,
            Err(problem) => {
                tracing::warn!(
                    problem = chain(&problem),
                    "this machine has no CA certificates: Mozilla's list, as of this build, is used instead; \
                     install ca-certificates to choose for yourself"
                );
                Self::built_in()
            }
        }
    }

    fn built_in() -> Self {
        let all = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
        Self::BuiltIn(all.filter_map(|der| Certificate::from_der(der).ok()).collect())
    }

    /// Lets a client trust these, and `more`.
    pub(super) fn trusted_by(&self, client: ClientBuilder, more: Vec<Certificate>) -> ClientBuilder {
        match self {
            Self::System => client.tls_certs_merge(more),
            Self::BuiltIn(roots) => client.tls_certs_only(roots.iter().cloned().chain(more)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_built_in_list_can_be_used() {
        let roots = Roots::built_in();
        let Roots::BuiltIn(list) = &roots else { panic!("{roots:?}") };
        assert!(list.len() > 100, "{}", list.len());
        roots.trusted_by(Client::builder(), Vec::new()).build().unwrap();
    }

    /// Run by the test below in a process whose system store is empty.
    #[test]
    #[ignore = "needs an environment of its own"]
    fn without_a_system_store() {
        assert!(matches!(Roots::of_this_machine(), Roots::BuiltIn(list) if !list.is_empty()));
    }

    #[test]
    fn a_machine_without_certificates_gets_the_built_in_list() {
        let nothing = tempfile::tempdir().unwrap();
        let name = "upstream::roots::tests::without_a_system_store";
        let done = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored"])
            .env("SSL_CERT_FILE", nothing.path().join("none.pem"))
            .env("SSL_CERT_DIR", nothing.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && said.contains("1 passed"), "{said}");
    }
}
