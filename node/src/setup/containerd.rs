//! containerd: a `hosts.toml` for all registries or for each named one, and a `config.toml` that has it read.
//!
//! containerd goes through the hosts of a `hosts.toml` in their order, and to the registry itself in the end. A
//! registry with a folder of its own is not looked up in `_default`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::gateway::Gateway;
use super::mirror::{Files, Mirror, Plan};
use super::problem::Problem;

mod certificates;
mod config;
mod folders;
mod hosts;

use certificates::Certificates;
use folders::ALL;

/// The file in a registry's folder.
const HOSTS: &str = "hosts.toml";
/// Docker's own root of such folders, which containerd may be told to look into too.
const DOCKERS: &str = "/etc/docker/certs.d";

/// What `config.toml` and the `hosts.toml` files below `folder` are to become.
pub(super) fn plan(folder: &Path, mirror: &Mirror, files: &dyn Files) -> Result<Plan, Problem> {
    let path = folder.join("config.toml");
    let certs = folder.join("certs.d");
    let config = config::edit(&path, files.read(&path)?.as_deref(), &certs)?;
    let mut plan = Plan { files: vec![(path, config.text)], notes: config.notes };
    if config.is_new {
        plan.notes.extend(no_longer_dockers(&certs, files));
    }
    if mirror.all {
        plan.notes.extend(of_their_own(&config.roots, mirror, files)?);
    }
    for name in mirror.names(ALL) {
        add(&mut plan, &config.roots, &name, &mirror.gateway, files)?;
    }
    if let Some((path, _)) = plan.files.iter().find(|(path, _)| path.starts_with(DOCKERS)) {
        plan.notes.push(format!(
            "a Docker that keeps its images in containerd's store reads {} too, and then, for the same registries, no \
             registry-mirrors and insecure-registries of its daemon.json",
            path.display()
        ));
    }
    Ok(plan)
}

/// Adds what the file of a registry, or of all, is to become.
fn add(
    plan: &mut Plan,
    roots: &[PathBuf],
    name: &str,
    gateway: &Gateway,
    files: &dyn Files,
) -> Result<(), Problem> {
    let place = folders::of(roots, name, files)?;
    let path = place.folder.join(HOSTS);
    let text = files.read(&path)?;
    let certificates = Certificates::read(&place.folder, text.as_deref(), files)?;
    let text = hosts::edit(&path, text.as_deref(), name, gateway, &certificates)?;
    if let Some(all) = place.so_far {
        let others = of_all(&all, name, gateway, files)?;
        if !others.is_empty() {
            plan.notes.push(format!(
                "containerd reads {} for {name} from now on, and no longer {}, where it also has {}: what {name} needs \
                 of that has to be added by hand",
                path.display(),
                all.join(HOSTS).display(),
                others.join(", ")
            ));
        }
    }
    if !certificates.ca.is_empty() {
        let host = if name == ALL { "HOST" } else { name };
        plan.notes.push(format!(
            "{} has a CA ({}), which the node has to know too: [upstream.{host:?}] ca = \"FILE\" in its shoal.toml",
            place.folder.display(),
            certificates.ca.join(", ")
        ));
    }
    plan.files.push((path, text));
    Ok(())
}

/// What the folder for all has for a registry that is looked up there, apart from this mirror.
fn of_all(folder: &Path, name: &str, gateway: &Gateway, files: &dyn Files) -> Result<Vec<String>, Problem> {
    let path = folder.join(HOSTS);
    let text = files.read(&path)?;
    let Certificates { ca, client } = Certificates::read(folder, text.as_deref(), files)?;
    let mut others = hosts::others(&path, &text.unwrap_or_default(), name, gateway)?;
    others.extend(ca.into_iter().chain(client.into_iter().flatten()));
    Ok(others)
}

/// Registries that `_default` is not asked for, and which do not go through this mirror.
fn of_their_own(roots: &[PathBuf], mirror: &Mirror, files: &dyn Files) -> Result<Option<String>, Problem> {
    let mut names = Vec::new();
    for root in roots {
        for folder in files.list(root)? {
            let Some(name) = folder.file_name().and_then(OsStr::to_str).map(folders::registry) else {
                continue;
            };
            let is_named = mirror.registries.iter().any(|named| named.as_str() == name);
            let is_read = files.is_folder(&folder)? && folders::of(roots, &name, files)?.folder == folder;
            if name == ALL || is_named || !is_read {
                continue;
            }
            let path = folder.join(HOSTS);
            if !hosts::has(&path, &files.read(&path)?.unwrap_or_default(), &mirror.gateway)? {
                names.push(name);
            }
        }
    }
    let say = |names: String| {
        format!(
            "containerd has folders of their own for {names} and reads them instead of {ALL}: name such a registry \
             with --registry to mirror it too"
        )
    };
    Ok((!names.is_empty()).then(|| say(names.join(", "))))
}

/// Says so if a first `config_path` keeps containerd from folders that it may have read without one.
fn no_longer_dockers(certs: &Path, files: &dyn Files) -> Option<String> {
    // A folder that may not be read says nothing.
    let folders = files.list(Path::new(DOCKERS)).unwrap_or_default();
    let names: Vec<_> = folders.iter().filter_map(|folder| folder.file_name()?.to_str()).collect();
    (!names.is_empty()).then(|| {
        format!(
            "a containerd newer than 2.1 that is told no config_path reads {DOCKERS} too ({}), and from now on it does \
             not: if it should, write config_path = \"{}:{DOCKERS}\" there, and run this again",
            names.join(", "),
            certs.display()
        )
    })
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

    /// What is planned on a host with two roots, /a and /b.
    fn planned(files: &[(&str, &str)], registries: &[&str]) -> Result<Plan, Problem> {
        let config =
            "version = 3\n[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = \"/a:/b\"\n";
        let mut files = Memory::with(files);
        files.0.insert("/etc/containerd/config.toml".into(), config.to_owned());
        let made = plan(Path::new(ETC), &mirror(registries), &files)?;
        assert_eq!(made.files[0].1, config);
        Ok(made)
    }

    #[test]
    fn the_folder_that_is_configured_is_used_and_others_hosts_are_named() {
        let plan = planned(
            &[
                ("/a/ghcr.io/hosts.toml", "server = \"https://ghcr.io\"\n"),
                ("/a/quay.io/hosts.toml", "[host.\"http://127.0.0.1:5055\"]\n"),
                ("/a/reg.test_5000_/ca.crt", ""),
                ("/a/README", ""),
            ],
            &[],
        );
        let plan = plan.unwrap();
        assert_eq!(plan.files[1].0, Path::new("/a/_default/hosts.toml"));
        let [note] = &plan.notes[..] else { panic!("{:?}", plan.notes) };
        assert!(note.contains("for ghcr.io, reg.test:5000 and"), "{note}");
    }

    #[test]
    fn folders_in_a_later_root_are_not_hidden() {
        let plan = planned(&[("/b/reg.test/ca.crt", "")], &[]).unwrap();
        assert_eq!(plan.files[1].0, Path::new("/b/_default/hosts.toml"));
        assert!(plan.notes[0].contains("reg.test"), "{:?}", plan.notes);
    }

    #[test]
    fn certificates_stay_in_use() {
        let there = [("/b/reg.test/ca.crt", ""), ("/b/reg.test/me.cert", ""), ("/b/reg.test/me.key", "")];
        let plan = planned(&there, &["reg.test"]).unwrap();
        let (path, text) = &plan.files[1];
        assert_eq!(path, Path::new("/b/reg.test/hosts.toml"));
        let read: toml::Table = text.parse().unwrap();
        assert_eq!((read["ca"].to_string().as_str(), read.len()), ("[\"ca.crt\"]", 3), "{text}");
        let [note] = &plan.notes[..] else { panic!("{:?}", plan.notes) };
        assert!(note.contains("(ca.crt)") && note.contains("[upstream.\"reg.test\"] ca = "), "{note}");
    }

    #[test]
    fn what_a_named_registry_had_from_the_folder_for_all_is_said() {
        let ours = "[host.\"http://127.0.0.1:5055\"]\n";
        let all = |text: &str| planned(&[("/a/_default/hosts.toml", text)], &["docker.io"]);
        let plan = all(&format!("{ours}[host.\"https://m.test\"]\n")).unwrap();
        assert_eq!(plan.files[1].0, Path::new("/a/docker.io/hosts.toml"));
        let [note] = &plan.notes[..] else { panic!("{:?}", plan.notes) };
        assert!(
            note.contains("also has https://m.test:") && note.contains("/a/_default/hosts.toml"),
            "{note}"
        );
        assert!(all(ours).unwrap().notes.is_empty());
        let said = all("server = \"https://m.test\"\n").unwrap_err().to_string();
        assert!(said.starts_with("/a/_default/hosts.toml has server = "), "{said}");
    }

    #[test]
    fn dockers_own_folders_are_told_of() {
        let files = Memory::with(&[("/etc/docker/certs.d/reg.test/ca.crt", "")]);
        let made = plan(Path::new(ETC), &mirror(&[]), &files).unwrap();
        let [note] = &made.notes[..] else { panic!("{:?}", made.notes) };
        assert!(note.contains("config_path = \"/etc/containerd/certs.d:/etc/docker/certs.d\""), "{note}");
        let config = made.files[0].1.replace("certs.d\"", "certs.d:/etc/docker/certs.d\"");
        let mut files = files;
        files.0.insert("/etc/containerd/config.toml".into(), config);
        let made = plan(Path::new(ETC), &mirror(&[]), &files).unwrap();
        assert_eq!(made.files[1].0, Path::new("/etc/docker/certs.d/_default/hosts.toml"));
        assert!(made.notes[1].contains("insecure-registries"), "{:?}", made.notes);
    }
}
