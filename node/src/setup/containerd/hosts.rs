//! `hosts.toml`: the gateway as the first host.

use std::path::Path;

use reqwest::Url;
use shoal_proto::name::Registry;
use toml_edit::{Array, DocumentMut, Item, Table, TableLike, value};

use super::certificates::Certificates;
use crate::setup::gateway::Gateway;
use crate::setup::problem::Problem;
use crate::setup::tables;

/// The table of hosts.
const HOST: &str = "host";
/// What stands for the registry itself, after the hosts.
const SERVER: &str = "server";
/// What a mirror is asked for.
const CAPABILITIES: [&str; 2] = ["pull", "resolve"];

/// The file with the gateway in it. Other hosts follow it; if it is there already, wherever it stands, it stays there.
/// The certificates are those of a registry whose file is a new one.
pub(super) fn edit(
    path: &Path,
    text: Option<&str>,
    name: &str,
    gateway: &Gateway,
    certificates: &Certificates,
) -> Result<String, Problem> {
    let mut document = tables::parse(path, text)?;
    refuse_another(path, &document, name, gateway)?;
    certificates.put(&mut document);
    if text.is_none() {
        let why = "# Written by `shoal setup`: Shoal on this machine first, then the registry itself.\n";
        document.decor_mut().set_prefix(why);
    }
    let first = document.get(HOST).and_then(tables::position);
    let hosts = tables::table(path, document.as_table_mut(), HOST)?;
    if hosts.get(gateway.url()).is_some() {
        let host = tables::table(path, hosts, gateway.url())?;
        // No list means all that there is.
        if host.get("capabilities").is_some() {
            let capabilities = tables::array(path, host, "capabilities")?;
            for capability in CAPABILITIES.iter().rev() {
                tables::put_first(capabilities, capability);
            }
        }
        return Ok(tables::written(&document, text));
    }
    let inline = !hosts.is_empty() && first.is_none();
    if inline {
        let todo = format!("write each host as a table of its own, as in [host.{:?}]", gateway.url());
        return Err(Problem::file(path, "has its hosts on one line", todo));
    }
    let mut host = Table::new();
    // Tables are written in the order of their positions: just before the first host.
    host.set_position(first.map(|first| first - 1));
    host.insert("capabilities", value(Array::from_iter(CAPABILITIES)));
    if let Some(mut key) = host.key_mut("capabilities") {
        key.leaf_decor_mut().set_prefix("  ");
    }
    hosts.insert(gateway.url(), Item::Table(host));
    Ok(tables::written(&document, text))
}

/// Whether the gateway is among the hosts.
pub(super) fn has(path: &Path, text: &str, gateway: &Gateway) -> Result<bool, Problem> {
    Ok(has_host(&tables::parse(path, Some(text))?, gateway))
}

fn hosts(document: &DocumentMut) -> Option<&dyn TableLike> {
    document.get(HOST)?.as_table_like()
}

fn has_host(document: &DocumentMut, gateway: &Gateway) -> bool {
    hosts(document).is_some_and(|hosts| hosts.contains_key(gateway.url()))
}

/// What a file that a registry was looked up in says, apart from the gateway: its other hosts, and other keys.
pub(super) fn others(path: &Path, text: &str, name: &str, gateway: &Gateway) -> Result<Vec<String>, Problem> {
    let document = tables::parse(path, Some(text))?;
    refuse_another(path, &document, name, gateway)?;
    let of_hosts = hosts(&document).into_iter().flat_map(TableLike::iter);
    let others = of_hosts.chain(document.iter()).map(|(key, _)| key);
    Ok(others.filter(|key| ![HOST, SERVER, gateway.url()].contains(key)).map(str::to_owned).collect())
}

/// Refuses a file by which another server stands for the registry, unless somebody has put the gateway before it.
fn refuse_another(path: &Path, document: &DocumentMut, name: &str, gateway: &Gateway) -> Result<(), Problem> {
    let server = document.get(SERVER).and_then(Item::as_str).unwrap_or_default();
    if server.is_empty() || is_itself(server, name) || has_host(document, gateway) {
        return Ok(());
    }
    let whence = format!("{SERVER} = {server:?}");
    Err(Problem::elsewhere(path, &whence, &format!("[{HOST}.{:?}]", gateway.url())))
}

/// Whether a server, as containerd reads it, is the registry of this name.
fn is_itself(server: &str, name: &str) -> bool {
    let scheme = if server.starts_with("http") { "" } else { "https://" };
    let Ok(server) = Url::parse(&format!("{scheme}{server}")) else { return false };
    let Ok(own) = Url::parse(&format!("{}://{name}", server.scheme())) else { return false };
    let place = |url: &Url| Some((url.host_str()?.parse::<Registry>().ok()?, url.port_or_known_default()?));
    let is_whole = ["", "v2"].contains(&server.path().trim_matches('/'));
    is_whole && place(&server).is_some_and(|there| place(&own) == Some(there))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: Option<&str>) -> Result<String, Problem> {
        with(text, "a", &Certificates::default())
    }

    fn with(text: Option<&str>, name: &str, certificates: &Certificates) -> Result<String, Problem> {
        let gateway = "http://127.0.0.1:5055".parse().unwrap();
        edit(Path::new("/etc/containerd/certs.d/a/hosts.toml"), text, name, &gateway, certificates)
    }

    const OURS: &str = "[host.\"http://127.0.0.1:5055\"]\n  capabilities = [\"pull\", \"resolve\"]\n";

    #[test]
    fn a_new_file() {
        let text = edited(None).unwrap();
        assert!(text.starts_with("# Written by `shoal setup`") && text.ends_with(OURS), "{text}");
        assert_eq!(edited(Some(&text)).unwrap(), text);
        assert_eq!(edited(Some("")).unwrap(), OURS);
    }

    #[test]
    fn first_of_those_that_are_there_and_once() {
        for before in [
            "server = \"https://a\"\n\n# one\n[host.\"https://b\"]\n  capabilities = [\"pull\"] # why\n\n[host.\"https://c\"]\n",
            "[host.\"https://b\".header]\n  x = \"y\"\n[host.\"https://b\"]\n",
            "[host]\n[host.\"https://b\"]\n",
            "# only a comment\nserver = \"https://a\"\n",
        ] {
            let after = edited(Some(before)).unwrap();
            assert_eq!(edited(Some(&after)).unwrap(), after, "not the same the second time");
            let ours = after.find("[host.\"http://127.0.0.1:5055\"]").unwrap();
            assert!(after.find("[host.\"https://b\"").is_none_or(|other| ours < other), "{after}");
            // Nothing else changed.
            let (mut read, old): (toml::Table, toml::Table) =
                (after.parse().unwrap(), before.parse().unwrap());
            let hosts = read["host"].as_table_mut().unwrap();
            let ours: toml::Value =
                toml::from_str::<toml::Table>("capabilities = [\"pull\", \"resolve\"]").unwrap().into();
            assert_eq!(hosts.remove("http://127.0.0.1:5055"), Some(ours));
            if hosts.is_empty() {
                read.remove("host");
            }
            assert_eq!(read, old, "{after}");
            for line in before.lines() {
                assert!(after.contains(line), "{line:?} was lost:\n{after}");
            }
        }
    }

    #[test]
    fn what_it_may_be_asked_is_completed() {
        let before = "[host.\"http://127.0.0.1:5055\"]\ncapabilities = [\"pull\"]\nskip_verify = true\n";
        let after = edited(Some(before)).unwrap();
        let read: toml::Table = after.parse().unwrap();
        let host = &read["host"]["http://127.0.0.1:5055"];
        let mut capabilities: Vec<_> =
            host["capabilities"].as_array().unwrap().iter().map(toml::Value::as_str).collect();
        capabilities.sort();
        assert_eq!(capabilities, [Some("pull"), Some("resolve")]);
        assert_eq!(host["skip_verify"].as_bool(), Some(true));
    }

    #[test]
    fn what_cannot_be_edited_is_refused() {
        for text in
            ["host = 3", "[host", "host = { \"https://b\" = {} }", "host.\"http://127.0.0.1:5055\" = 3"]
        {
            let error = edited(Some(text)).unwrap_err().to_string();
            assert!(error.starts_with("/etc/containerd/certs.d/a/hosts.toml "), "{error}");
        }
    }

    #[test]
    fn what_lay_in_its_folder_is_named_for_the_registry_itself() {
        let certificates = Certificates {
            ca: vec!["ca.crt".to_owned(), "more.crt".to_owned()],
            client: vec![["a.cert".to_owned(), "a.key".to_owned()]],
        };
        let named = "ca = [\"ca.crt\", \"more.crt\"]\nclient = [[\"a.cert\", \"a.key\"]]\n";
        assert_eq!(with(Some(""), "a", &certificates).unwrap(), format!("{named}\n{OURS}"));
        let new = with(None, "a", &certificates).unwrap();
        assert!(new.starts_with("# Written") && new.ends_with(&format!("\n{named}\n{OURS}")), "{new}");
    }

    #[test]
    fn another_server_for_the_registry_is_refused() {
        for (server, name) in [
            ("https://registry-1.docker.io", "docker.io"),
            ("https://docker.io/v2/", "docker.io"),
            ("docker.io", "docker.io"),
            ("https://reg.test:443", "reg.test"),
            ("http://reg.test:5000/", "reg.test:5000"),
            ("", "reg.test"),
        ] {
            with(Some(&format!("server = {server:?}\n")), name, &Certificates::default()).unwrap();
        }
        for (server, name) in [
            ("https://harbor.test/v2/hub-proxy", "docker.io"),
            ("https://docker.io/v2/hub-proxy", "docker.io"),
            ("https://reg.test:5000", "reg.test"),
            ("https://mirror.test", "_default"),
        ] {
            let text = format!("server = {server:?}\n");
            let said = with(Some(&text), name, &Certificates::default()).unwrap_err().to_string();
            assert!(said.contains(&format!("server = {server:?}")) && said.contains("by hand"), "{said}");
            let by_hand = format!("{text}[host.\"http://127.0.0.1:5055\"]\n");
            assert_eq!(with(Some(&by_hand), name, &Certificates::default()).unwrap(), by_hand);
        }
    }
}
