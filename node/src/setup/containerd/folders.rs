//! The folder that holds a registry's `hosts.toml`.
//!
//! containerd goes through the roots that `config_path` names. In each it looks for the registry's own folder, then for
//! the one for all, and it takes the first that is there, whatever lies in it. Nothing after that is read.

use std::path::{Path, PathBuf};

use crate::setup::mirror::Files;
use crate::setup::problem::Problem;

/// The folder that stands for all registries without one of their own.
pub(super) const ALL: &str = "_default";

/// The folder of a registry, or of all.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    /// The folder for all, if the registry has none of its own yet, and so is looked up there.
    pub(super) so_far: Option<PathBuf>,
}

/// The folder that containerd reads for this name, or else the one to be made for it. There is at least one root.
pub(super) fn of(roots: &[PathBuf], name: &str, files: &dyn Files) -> Result<Place, Problem> {
    if name == ALL {
        return Ok(Place { folder: root_for_all(roots, files)?.join(ALL), so_far: None });
    }
    for root in roots {
        for spelled in [spelled(name), name.to_owned()] {
            let folder = root.join(spelled);
            if files.is_folder(&folder)? {
                return Ok(Place { folder, so_far: None });
            }
        }
        let all = root.join(ALL);
        if files.is_folder(&all)? {
            return Ok(Place { folder: root.join(name), so_far: Some(all) });
        }
    }
    Ok(Place { folder: roots[0].join(name), so_far: None })
}

/// The first root with a folder for all. If none has one, it goes where it hides nothing: into the last root in use.
fn root_for_all<'a>(roots: &'a [PathBuf], files: &dyn Files) -> Result<&'a Path, Problem> {
    let mut found = roots[0].as_path();
    for root in roots {
        let folders = files.list(root)?;
        if !folders.is_empty() {
            found = root;
        }
        if folders.iter().any(|folder| folder.ends_with(ALL)) {
            break;
        }
    }
    Ok(found)
}

/// How containerd spells a name with a port first: `host_5000_`.
fn spelled(name: &str) -> String {
    name.rsplit_once(':').map_or_else(|| name.to_owned(), |(host, port)| format!("{host}_{port}_"))
}

/// The registry that a folder of this name is for.
pub(super) fn registry(folder: &str) -> String {
    let parts = folder.strip_suffix('_').and_then(|name| name.rsplit_once('_'));
    let parts = parts.filter(|(_, port)| port.parse::<u16>().is_ok());
    parts.map_or_else(|| folder.to_owned(), |(host, port)| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::super::super::mirror::memory::Memory;
    use super::*;

    fn place(paths: &[&str], name: &str) -> (String, Option<String>) {
        let files: Vec<_> = paths.iter().map(|path| (*path, "")).collect();
        let place = of(&["/a".into(), "/b".into()], name, &Memory::with(&files)).unwrap();
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        (text(place.folder), place.so_far.map(text))
    }

    #[test]
    fn a_registrys_folder_is_the_one_that_containerd_takes() {
        for (paths, name, folder, so_far) in [
            (&[][..], "x.test", "/a/x.test", None),
            (&["/a/x.test/ca.crt", "/b/x.test/hosts.toml"], "x.test", "/a/x.test", None),
            (&["/b/x.test/ca.crt"], "x.test", "/b/x.test", None),
            (&["/b/_default/hosts.toml"], "x.test", "/b/x.test", Some("/b/_default")),
            (&["/a/_default/hosts.toml", "/b/x.test/ca.crt"], "x.test", "/a/x.test", Some("/a/_default")),
            (&["/a/x.test:5000/ca.crt", "/a/x.test_5000_/ca.crt"], "x.test:5000", "/a/x.test_5000_", None),
            (&["/a/x.test:5000/ca.crt"], "x.test:5000", "/a/x.test:5000", None),
        ] {
            assert_eq!(place(paths, name), (folder.to_owned(), so_far.map(str::to_owned)), "{paths:?}");
        }
    }

    #[test]
    fn the_folder_for_all_hides_no_other() {
        for (paths, folder) in [
            (&[][..], "/a/_default"),
            (&["/a/x.test/ca.crt"], "/a/_default"),
            (&["/a/x.test/ca.crt", "/b/y.test/ca.crt"], "/b/_default"),
            (&["/b/_default/hosts.toml"], "/b/_default"),
            // Here it hides it already.
            (&["/a/_default/hosts.toml", "/b/y.test/ca.crt"], "/a/_default"),
        ] {
            assert_eq!(place(paths, ALL), (folder.to_owned(), None), "{paths:?}");
        }
    }

    #[test]
    fn a_folder_is_for_one_registry_in_either_spelling() {
        for (folder, name) in [("ghcr.io", "ghcr.io"), ("x.test:5000", "x.test:5000"), (ALL, ALL)] {
            assert_eq!(registry(folder), name);
        }
        assert_eq!(
            (registry(&spelled("x.test:5000")).as_str(), registry("a_b_").as_str()),
            ("x.test:5000", "a_b_")
        );
    }
}
