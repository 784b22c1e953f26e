//! `config.toml`: containerd's Kubernetes plugin reads `hosts.toml` files only if `config_path` says where they are.

use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table, TableLike, Value};

use crate::setup::problem::Problem;
use crate::setup::tables;

/// The file as it is to be, and what it says.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) text: String,
    /// The roots of folders with `hosts.toml` files, in the order in which they are looked into; at least one.
    pub(super) roots: Vec<PathBuf>,
    /// Whether the file had none until now.
    pub(super) is_new: bool,
    pub(super) notes: Vec<String>,
}

/// What containerd takes a `config_path` for, in a file that has nothing else. Both containerd 1.x and 2.x read
/// version 2.
const NEW: &str =
    "# Written by `shoal setup`: where containerd finds its registries' mirrors.\nversion = 2\n";

/// The file with a `config_path`: the one that it has, or else `certs`.
pub(super) fn edit(path: &Path, text: Option<&str>, certs: &Path) -> Result<Config, Problem> {
    let mut document = tables::parse(path, text)?;
    if tables::is_blank(text) {
        document = tables::parse(path, Some(&format!("{NEW}{}", text.unwrap_or_default())))?;
    }
    let version = document.get("version").map_or(Some(1), Item::as_integer);
    let version =
        version.ok_or_else(|| Problem::file(path, "has a version that is no number", "correct it"))?;
    let plugin = match version {
        ..=1 => "cri",
        2 => "io.containerd.grpc.v1.cri",
        _ => "io.containerd.cri.v1.images",
    };
    let notes = notes(&document);
    refuse_what_excludes_it(path, &document, plugin, version)?;
    let roots = configured(path, &document, plugin)?;
    if !roots.is_empty() {
        return Ok(Config { text: tables::written(&document, text), roots, is_new: false, notes });
    }
    let plugins = tables::table(path, document.as_table_mut(), "plugins")?;
    let plugin = tables::table(path, plugins, plugin)?;
    let lead = lead(plugin);
    let is_new = plugin.get("registry").is_none();
    let registry = tables::table(path, plugin, "registry")?;
    tables::set(registry, "config_path", certs.display().to_string());
    if is_new && let Some(Item::Table(registry)) = plugin.get_mut("registry") {
        registry.decor_mut().set_prefix(&lead);
        let inner = lead.trim_start_matches('\n').to_owned() + "  ";
        if let Some(mut key) = registry.key_mut("config_path") {
            key.leaf_decor_mut().set_prefix(inner);
        }
    }
    let text = tables::written(&document, text);
    Ok(Config { text, roots: vec![certs.to_owned()], is_new: true, notes })
}

/// What stands before the header of a new table in this one: as its other tables have it.
fn lead(plugin: &dyn TableLike) -> String {
    let tables: Vec<&Table> = plugin.iter().filter_map(|(_, item)| item.as_table()).collect();
    match tables.last() {
        Some(sibling) => tables::indent(sibling),
        None => "\n".to_owned(),
    }
}

fn registry<'a>(document: &'a DocumentMut, plugin: &str) -> Option<&'a dyn TableLike> {
    document.get("plugins")?.get(plugin)?.get("registry")?.as_table_like()
}

/// The roots that the file names already.
fn configured(path: &Path, document: &DocumentMut, plugin: &str) -> Result<Vec<PathBuf>, Problem> {
    let Some(value) = registry(document, plugin).and_then(|registry| registry.get("config_path")) else {
        return Ok(Vec::new());
    };
    let wrong = |what: &str| Problem::file(path, format!("has a config_path that {what}"), "correct it");
    let text = value.as_str().ok_or_else(|| wrong("is no text"))?;
    let roots: Vec<PathBuf> = text.split(':').filter(|root| !root.is_empty()).map(PathBuf::from).collect();
    if roots.iter().any(|root| !root.is_absolute()) {
        return Err(wrong("is no absolute path"));
    }
    Ok(roots)
}

/// With these beside a `config_path`, containerd does not start its Kubernetes plugin. containerd 2, whose own forms of
/// the file are 3 and later, knows no `tls` there and passes over it.
fn refuse_what_excludes_it(
    path: &Path,
    document: &DocumentMut,
    plugin: &str,
    version: i64,
) -> Result<(), Problem> {
    let Some(registry) = registry(document, plugin) else { return Ok(()) };
    let of = |name| registry.get(name).and_then(Item::as_table_like);
    let has_mirrors = of("mirrors").is_some_and(|mirrors| !mirrors.is_empty());
    let has_tls = of("configs").is_some_and(|configs| {
        configs.iter().any(|(_, host)| host.as_table_like().is_some_and(|host| host.contains_key("tls")))
    });
    for (name, there) in
        [("registry.mirrors", has_mirrors), ("registry.configs.….tls", has_tls && version <= 2)]
    {
        if there {
            return Err(Problem::file(
                path,
                format!(
                    "has {name}, the old way, and containerd does not take that together with config_path"
                ),
                "move what it says into certs.d/HOST/hosts.toml files, take it out, and run this again",
            ));
        }
    }
    Ok(())
}

/// What else the file says that a person should know here.
fn notes(document: &DocumentMut) -> Vec<String> {
    let texts = |name: &str| -> Vec<String> {
        let list = document.get(name).and_then(Item::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut notes = Vec::new();
    let names = ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images"];
    if texts("disabled_plugins").iter().any(|plugin| names.contains(&plugin.as_str())) {
        notes.push(
            "config.toml disables containerd's Kubernetes plugin (disabled_plugins): only clients that read certs.d \
             themselves, as nerdctl and `ctr images pull --hosts-dir`, will use the mirror"
                .to_owned(),
        );
    }
    let imports = texts("imports");
    if !imports.is_empty() {
        let imports = imports.join(", ");
        notes.push(format!(
            "config.toml imports {imports}: a config_path there would win, and was not looked for"
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: Option<&str>) -> Result<Config, Problem> {
        edit(Path::new("/etc/containerd/config.toml"), text, Path::new("/etc/containerd/certs.d"))
    }

    /// Edits twice; gives what it reads as.
    fn read(text: Option<&str>) -> (String, toml::Table) {
        let once = edited(text).unwrap().text;
        let twice = edited(Some(&once)).unwrap();
        assert_eq!(twice.text, once);
        assert_eq!(twice.roots, [Path::new("/etc/containerd/certs.d")]);
        let is_kept = |line: &&str| !line.contains("config_path") && !line.contains("{}");
        for line in text.unwrap_or_default().lines().filter(is_kept) {
            assert!(once.contains(line), "{line:?} was lost:\n{once}");
        }
        let table = once.parse().unwrap();
        (once, table)
    }

    #[test]
    fn each_version_has_its_own_place() {
        for (text, plugin, version) in [
            (None, "io.containerd.grpc.v1.cri", Some(2)),
            (Some("# nothing\n"), "io.containerd.grpc.v1.cri", Some(2)),
            (Some("disabled_plugins = [\"x\"]\n"), "cri", None),
            (Some("version = 1\n"), "cri", Some(1)),
            (Some("version = 2\n"), "io.containerd.grpc.v1.cri", Some(2)),
            (Some("version = 3\n"), "io.containerd.cri.v1.images", Some(3)),
            (Some("version = 4\nplugins = {}\n"), "io.containerd.cri.v1.images", Some(4)),
        ] {
            let (written, table) = read(text);
            let registry = &table["plugins"][plugin]["registry"];
            assert_eq!(registry["config_path"].as_str(), Some("/etc/containerd/certs.d"), "{written}");
            assert_eq!(table.get("version").and_then(toml::Value::as_integer), version);
        }
    }

    #[test]
    fn debians_file_keeps_its_looks() {
        let (written, _) = read(Some(DEBIAN));
        let expected = DEBIAN.replace(
            "\"/etc/cni/net.d\"\n",
            "\"/etc/cni/net.d\"\n    [plugins.\"io.containerd.grpc.v1.cri\".registry]\n      config_path = \
             \"/etc/containerd/certs.d\"\n",
        );
        assert_eq!(written, expected);
    }

    const DEBIAN: &str = "version = 2

[plugins]
  [plugins.\"io.containerd.grpc.v1.cri\"]
    [plugins.\"io.containerd.grpc.v1.cri\".cni]
      bin_dir = \"/usr/lib/cni\"
      conf_dir = \"/etc/cni/net.d\"
  [plugins.\"io.containerd.internal.v1.opt\"]
    path = \"/var/lib/containerd/opt\"
";

    #[test]
    fn an_empty_path_is_filled_and_another_is_kept() {
        let head = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n";
        let (written, _) = read(Some(&format!(
            "{head}  config_path = \"\" # here\n  [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors]\n"
        )));
        assert!(written.contains("  config_path = \"/etc/containerd/certs.d\" # here\n"), "{written}");
        let own = format!("{head}config_path = \"/opt/certs:/etc/docker/certs.d\"\n");
        let config = edited(Some(&own)).unwrap();
        assert_eq!(config.text, own);
        assert_eq!(config.roots, [Path::new("/opt/certs"), Path::new("/etc/docker/certs.d")]);
    }

    #[test]
    fn what_would_stop_the_plugin_is_refused() {
        let head = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry";
        for (text, said) in [
            (format!("{head}.mirrors.\"docker.io\"]\nendpoint = [\"https://m\"]\n"), "registry.mirrors"),
            (format!("{head}.configs.\"reg.test\".tls]\nca_file = \"x\"\n"), "tls"),
            (format!("{head}]\nconfig_path = 7\n"), "config_path"),
            (format!("{head}]\nconfig_path = \"certs.d\"\n"), "absolute"),
            ("version = \"2\"\n".to_owned(), "version"),
            ("version = 2\nplugins = 3\n".to_owned(), "no table"),
            ("version = = 2\n".to_owned(), "not TOML, line 1"),
        ] {
            let error = edited(Some(&text)).unwrap_err().to_string();
            assert!(error.starts_with("/etc/containerd/config.toml ") && error.contains(said), "{error}");
        }
        let text =
            "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry.configs.\"reg.test\".tls]\n";
        edited(Some(text)).unwrap();
    }

    #[test]
    fn what_makes_it_of_no_use_is_said() {
        let notes = edited(Some("version = 2\ndisabled_plugins = [\"cri\"]\nimports = [\"/a/*.toml\"]\n"))
            .unwrap()
            .notes;
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].contains("--hosts-dir") && notes[1].contains("/a/*.toml"), "{notes:?}");
    }
}
