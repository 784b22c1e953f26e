//! containerd: a `hosts.toml` for all registries or for each named one, and a `config.toml` that has it read.
//!
//! containerd goes through the hosts of a `hosts.toml` in their order, and to the registry itself in the end. A
//! registry with a folder of its own is not looked up in `_default`.

use std::path::{Path, PathBuf};

use super::mirror::{Files, Mirror, Plan};
use super::problem::Problem;

mod config;
mod hosts;

/// The folder that stands for all registries without one of their own.
const ALL: &str = "_default";

/// What `config.toml` and the `hosts.toml` files below `folder` are to become.
pub(super) fn plan(folder: &Path, mirror: &Mirror, files: &dyn Files) -> Result<Plan, Problem> {
    let path = folder.join("config.toml");
    let config = config::edit(&path, files.read(&path)?.as_deref(), &folder.join("certs.d"))?;
    let mut plan = Plan { files: vec![(path, config.text)], notes: config.notes };
    if mirror.all {
        plan.notes.extend(of_their_own(&config.certs, mirror, files)?);
    }
    for name in mirror.names(ALL) {
        let path = folder_of(&config.certs, &name, files)?.join("hosts.toml");
        let text = hosts::edit(&path, files.read(&path)?.as_deref(), &mirror.gateway)?;
        plan.files.push((path, text));
    }
    Ok(plan)
}

/// A registry's folder. For one with a port, containerd looks for `host_5000_` before it looks for `host:5000`.
fn folder_of(certs: &Path, name: &str, files: &dyn Files) -> Result<PathBuf, Problem> {
    if let Some((host, port)) = name.rsplit_once(':') {
        let folder = certs.join(format!("{host}_{port}_"));
        if !files.list(&folder)?.is_empty() {
            return Ok(folder);
        }
    }
    Ok(certs.join(name))
}

/// Registries that `_default` is not asked for, and which do not go through this mirror.
fn of_their_own(certs: &Path, mirror: &Mirror, files: &dyn Files) -> Result<Option<String>, Problem> {
    let mut names = Vec::new();
    for folder in files.list(certs)? {
        let Some(name) = folder.file_name().and_then(|name| name.to_str()) else { continue };
        if name == ALL || mirror.registries.iter().any(|named| named.as_str() == name) {
            continue;
        }
        let path = folder.join("hosts.toml");
        let Some(text) = files.read(&path)? else { continue };
        if !hosts::has(&path, &text, &mirror.gateway)? {
            names.push(name.to_owned());
        }
    }
    let say = |names: String| {
        format!(
            "containerd has hosts.toml files for {names} and reads them instead of {ALL}: name such a registry with \
             --registry to mirror it too"
        )
    };
    Ok((!names.is_empty()).then(|| say(names.join(", "))))
}

/// Whether a file is read again only when containerd starts.
pub(super) fn needs_restart(path: &Path) -> bool {
    path.ends_with("config.toml")
}

#[cfg(test)]
mod tests {
    use super::super::mirror::memory::{Memory, mirror};
    use super::*;

    const ETC: &str = "/etc/containerd";

    #[test]
    fn all_registries_or_named_ones() {
        let mut files = Memory::with(&[]);
        let made = plan(Path::new(ETC), &mirror(&[]), &files).unwrap();
        let paths: Vec<_> = made.files.iter().map(|(path, _)| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/etc/containerd/config.toml", "/etc/containerd/certs.d/_default/hosts.toml"]);
        assert!(made.notes.is_empty());
        files.take(&made);
        assert_eq!(plan(Path::new(ETC), &mirror(&[]), &files).unwrap(), made, "not the same the second time");
        let named = plan(Path::new(ETC), &mirror(&["ghcr.io", "reg.test:5000"]), &files).unwrap();
        let paths: Vec<_> = named.files[1..].iter().map(|(path, _)| path.to_str().unwrap()).collect();
        assert_eq!(
            paths,
            [
                "/etc/containerd/certs.d/ghcr.io/hosts.toml",
                "/etc/containerd/certs.d/reg.test:5000/hosts.toml"
            ]
        );
    }

    #[test]
    fn the_folder_that_is_configured_is_used_and_others_hosts_are_named() {
        let config =
            "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/a:/b\"\n";
        let files = Memory::with(&[
            ("/etc/containerd/config.toml", config),
            ("/a/ghcr.io/hosts.toml", "server = \"https://ghcr.io\"\n"),
            ("/a/quay.io/hosts.toml", "[host.\"http://127.0.0.1:5055\"]\n"),
        ]);
        let plan = plan(Path::new(ETC), &mirror(&[]), &files).unwrap();
        assert_eq!(plan.files[0].1, config);
        assert_eq!(plan.files[1].0, Path::new("/a/_default/hosts.toml"));
        let [note] = &plan.notes[..] else { panic!("{:?}", plan.notes) };
        assert!(note.contains("ghcr.io") && !note.contains("quay.io"), "{note}");
    }
}
