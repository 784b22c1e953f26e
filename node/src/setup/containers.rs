//! podman, CRI-O, skopeo and buildah: they read the same `registries.conf` and the files in `registries.conf.d`.
//!
//! A registry that is in several of these files is read as the last one has it, whole. So a mirror is added where its
//! registry is already, and only one that is nowhere gets into a file of our own. These clients do not tell a mirror
//! which registry they want: its name is the first part of the mirror's path. A registry that is said to be somewhere
//! else gets no mirror, which would have other images.

use std::path::{Path, PathBuf};

use shoal_proto::name::{DOCKER_HUB, Registry};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, value};

use super::gateway::Gateway;
use super::mirror::{Files, Mirror, Plan};
use super::problem::Problem;
use super::tables;

/// The table of registries.
const REGISTRY: &str = "registry";
/// The tables of mirrors in a registry.
const MIRROR: &str = "mirror";

/// A file that may have registries.
struct Read {
    path: PathBuf,
    before: Option<String>,
    document: DocumentMut,
}

/// What the file that has each registry is to become.
pub(super) fn plan(folder: &Path, mirror: &Mirror, files: &dyn Files) -> Result<Plan, Problem> {
    if let Some(port) = mirror.registries.iter().find(|registry| registry.as_str().contains(':')) {
        return Err(Problem::asked(
            format!("{port} has a port, and these clients take no mirror whose path has a colon"),
            "configure it as an upstream of the node under a name without a port, and write its mirror by hand",
        ));
    }
    let mut read = read(folder, files)?;
    let own = folder.join("registries.conf.d").join("shoal.conf");
    for name in mirror.names(DOCKER_HUB) {
        let has = |read: &&mut Read| registries(&read.document).any(|table| is_for(table, &name));
        let read = match read.iter_mut().rev().find(has) {
            Some(read) => read,
            None => of_our_own(&mut read, &own, &name)?,
        };
        add(read, &name, &mirror.gateway)?;
    }
    let mut plan = Plan::default();
    for Read { path, before, document } in read {
        let text = tables::written(&document, before.as_deref());
        if before.as_ref() != Some(&text) || path == own {
            plan.files.push((path, text));
        }
    }
    if mirror.all {
        let note = "these clients have mirrors for named registries alone: this one is for Docker Hub, --registry \
                    names others";
        plan.notes.push(note.to_owned());
    }
    Ok(plan)
}

/// The files in the order in which the clients read them.
fn read(folder: &Path, files: &dyn Files) -> Result<Vec<Read>, Problem> {
    let mut paths = vec![folder.join("registries.conf")];
    let is_conf = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "conf");
    paths.extend(files.list(&folder.join("registries.conf.d"))?.into_iter().filter(is_conf));
    let mut all = Vec::new();
    for path in paths {
        if let Some(text) = files.read(&path)? {
            let document = tables::parse(&path, Some(&text))?;
            let inline = document.get(REGISTRY).is_some_and(|item| item.as_array_of_tables().is_none());
            if inline {
                return Err(Problem::file(
                    &path,
                    "has its registries on one line, or is no registries.conf of version 2",
                    "write each as a [[registry]] of its own, and run this again",
                ));
            }
            all.push(Read { path, before: Some(text), document });
        }
    }
    Ok(all)
}

fn registries(document: &DocumentMut) -> impl Iterator<Item = &Table> {
    document.get(REGISTRY).and_then(Item::as_array_of_tables).into_iter().flatten()
}

/// What a `[[registry]]` says, as these clients read it.
fn text<'a>(table: &'a Table, key: &str) -> Option<&'a str> {
    let text = table.get(key).and_then(Item::as_str)?.trim_end_matches('/');
    (!text.is_empty()).then_some(text)
}

/// Whether a `[[registry]]` is the one for all images of this registry.
fn is_for(table: &Table, name: &str) -> bool {
    text(table, "prefix").or_else(|| text(table, "location")) == Some(name)
}

/// Where the images of this registry are, if that is not itself.
fn elsewhere<'a>(table: &'a Table, name: &str) -> Option<&'a str> {
    let is_itself = |location: &str| location.parse().is_ok_and(|at: Registry| at.as_str() == name);
    text(table, "location").filter(|location| !is_itself(location))
}

/// Our own file, with this registry in it and no mirror yet.
fn of_our_own<'a>(all: &'a mut Vec<Read>, own: &Path, name: &str) -> Result<&'a mut Read, Problem> {
    let there = all.iter().position(|read| read.path == own);
    if there.is_none() {
        let mut document = tables::parse(own, None)?;
        let why = "# Written by `shoal setup`: Shoal on this machine first, then the registry itself.\n";
        document.decor_mut().set_prefix(why);
        all.push(Read { path: own.to_owned(), before: None, document });
    }
    let place = there.unwrap_or(all.len() - 1);
    let read = &mut all[place];
    let item = read.document.entry(REGISTRY).or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    if let Some(tables) = item.as_array_of_tables_mut() {
        let mut table = Table::new();
        table.insert("prefix", value(name));
        table.insert("location", value(name));
        tables.push(table);
    }
    Ok(read)
}

/// Puts the mirror before others of the registry, unless it is among them.
fn add(read: &mut Read, name: &str, gateway: &Gateway) -> Result<(), Problem> {
    let location = format!("{}/{name}", gateway.authority());
    let tables = read.document.get_mut(REGISTRY).and_then(Item::as_array_of_tables_mut);
    for registry in tables.into_iter().flat_map(ArrayOfTables::iter_mut).filter(|table| is_for(table, name)) {
        let elsewhere = elsewhere(registry, name).map(|at| format!("location = {at:?} for {name}"));
        let mirrors = registry.entry(MIRROR).or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
        let first = tables::position(mirrors);
        let Some(mirrors) = mirrors.as_array_of_tables_mut() else {
            return Err(Problem::file(
                &read.path,
                format!("has the mirrors of {name} on one line"),
                "write each as a [[registry.mirror]] of its own, and run this again",
            ));
        };
        let is_there = |table: &Table| table.get("location").and_then(Item::as_str) == Some(&location);
        if mirrors.iter().any(is_there) {
            continue;
        }
        if let Some(whence) = elsewhere {
            return Err(Problem::elsewhere(&read.path, &whence, &format!("the mirror {location:?}")));
        }
        let mut table = Table::new();
        table.set_position(first.map(|first| first - 1));
        table.insert("location", value(&location));
        if gateway.is_plain() {
            table.insert("insecure", value(true));
        }
        mirrors.insert(0, table);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::mirror::memory::{Memory, mirror};
    use super::*;

    const ETC: &str = "/etc/containers";
    const OWN: &str = "/etc/containers/registries.conf.d/shoal.conf";

    fn made(files: &mut Memory, registries: &[&str]) -> Plan {
        let made = plan(Path::new(ETC), &mirror(registries), files).unwrap();
        files.take(&made);
        let again = plan(Path::new(ETC), &mirror(registries), files).unwrap();
        for (path, text) in again.files {
            assert_eq!(files.0[&path], text, "not the same the second time");
        }
        made
    }

    #[test]
    fn a_new_file() {
        let mut files = Memory::with(&[("/etc/containers/registries.conf", "# nothing\n")]);
        let made = made(&mut files, &[]);
        let expected = "# Written by `shoal setup`: Shoal on this machine first, then the registry itself.
[[registry]]
prefix = \"docker.io\"
location = \"docker.io\"

[[registry.mirror]]
location = \"127.0.0.1:5055/docker.io\"
insecure = true
";
        assert_eq!(made.files, [(PathBuf::from(OWN), expected.to_owned())]);
        assert!(made.notes[0].contains("--registry"));
    }

    #[test]
    fn a_mirror_is_added_where_its_registry_is() {
        let text = "# mine\n[[registry]]\nlocation = \"ghcr.io\"\nblocked = false\n\n[[registry.mirror]] # old\n\
                    location = \"m.test\"\n\n[[registry]]\nprefix = \"docker.io\"\nlocation = \"registry-1.docker.io\"\n";
        let mut files = Memory::with(&[
            ("/etc/containers/registries.conf", "[[registry]]\nlocation = \"ghcr.io\"\n"),
            ("/etc/containers/registries.conf.d/50-mine.conf", text),
            ("/etc/containers/registries.conf.d/README", "no TOML"),
        ]);
        let made = made(&mut files, &["docker.io", "ghcr.io", "quay.io"]);
        let paths: Vec<_> = made.files.iter().map(|(path, _)| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/etc/containers/registries.conf.d/50-mine.conf", OWN]);
        let written = &made.files[0].1;
        for line in text.lines() {
            assert!(written.contains(line), "{line:?} was lost:\n{written}");
        }
        let read: toml::Table = written.parse().unwrap();
        let locations = |at: usize| -> Vec<&str> {
            let mirrors = read["registry"][at]["mirror"].as_array().unwrap();
            mirrors.iter().map(|mirror| mirror["location"].as_str().unwrap()).collect()
        };
        assert_eq!(locations(0), ["127.0.0.1:5055/ghcr.io", "m.test"]);
        assert_eq!(locations(1), ["127.0.0.1:5055/docker.io"]);
        let own: toml::Table = made.files[1].1.parse().unwrap();
        assert_eq!(own["registry"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_registry_that_is_elsewhere_is_refused() {
        let whole = |at: &str, mirrors: &str| {
            let text = format!("[[registry]]\nprefix = \"ghcr.io\"\nlocation = {at:?}\n{mirrors}");
            let files = Memory::with(&[("/etc/containers/registries.conf", text.as_str())]);
            plan(Path::new(ETC), &mirror(&["ghcr.io"]), &files).map(|plan| plan.files.len())
        };
        for at in ["harbor.test/ghcr", "ghcr.test", "ghcr.io/owner"] {
            let said = whole(at, "").unwrap_err().to_string();
            let expected = format!("/etc/containers/registries.conf has location = {at:?} for ghcr.io: ");
            assert!(said.starts_with(&expected) && said.contains("\"127.0.0.1:5055/ghcr.io\""), "{said}");
            // Who put it there himself knows what the node has.
            let by_hand = "[[registry.mirror]]\nlocation = \"127.0.0.1:5055/ghcr.io\"\n";
            assert_eq!(whole(at, by_hand).unwrap(), 0);
        }
        assert_eq!(whole("ghcr.io/", "").unwrap(), 1);
    }

    #[test]
    fn what_cannot_be_edited_is_refused() {
        for text in [
            "[[registry",
            "registry = [{ location = \"docker.io\" }]",
            "[registry]\n",
            "[[registry]]\nlocation = \"docker.io\"\nmirror = [{ location = \"m\" }]\n",
        ] {
            let files = Memory::with(&[("/etc/containers/registries.conf", text)]);
            let error = plan(Path::new(ETC), &mirror(&[]), &files).unwrap_err().to_string();
            assert!(error.starts_with("/etc/containers/registries.conf "), "{error}");
        }
        let port = plan(Path::new(ETC), &mirror(&["reg.test:5000"]), &Memory::with(&[])).unwrap_err();
        assert!(port.to_string().contains("reg.test:5000"), "{port}");
    }
}
