//! `hosts.toml`: the gateway as the first host.

use std::path::Path;

use toml_edit::{Array, Item, Table, TableLike, value};

use crate::setup::gateway::Gateway;
use crate::setup::problem::Problem;
use crate::setup::tables;

/// The table of hosts.
const HOST: &str = "host";
/// What a mirror is asked for.
const CAPABILITIES: [&str; 2] = ["pull", "resolve"];

/// The file with the gateway in it. Other hosts follow it; if it is there already, wherever it stands, it stays there.
pub(super) fn edit(path: &Path, text: Option<&str>, gateway: &Gateway) -> Result<String, Problem> {
    let mut document = tables::parse(path, text)?;
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
    if text.is_none() {
        let why = "# Written by `shoal setup`: Shoal on this machine first, then the registry itself.\n";
        host.decor_mut().set_prefix(why);
    }
    host.insert("capabilities", value(Array::from_iter(CAPABILITIES)));
    if let Some(mut key) = host.key_mut("capabilities") {
        key.leaf_decor_mut().set_prefix("  ");
    }
    hosts.insert(gateway.url(), Item::Table(host));
    Ok(tables::written(&document, text))
}

/// Whether the gateway is among the hosts.
pub(super) fn has(path: &Path, text: &str, gateway: &Gateway) -> Result<bool, Problem> {
    let document = tables::parse(path, Some(text))?;
    let hosts = document.get(HOST).and_then(Item::as_table_like);
    Ok(hosts.is_some_and(|hosts: &dyn TableLike| hosts.contains_key(gateway.url())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: Option<&str>) -> Result<String, Problem> {
        let gateway = "http://127.0.0.1:5055".parse().unwrap();
        edit(Path::new("/etc/containerd/certs.d/_default/hosts.toml"), text, &gateway)
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
            assert!(error.starts_with("/etc/containerd/certs.d/_default/hosts.toml "), "{error}");
        }
    }
}
