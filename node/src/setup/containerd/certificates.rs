//! The certificates in a registry's folder. containerd goes by their names as long as there is no `hosts.toml` or an
//! empty one; from then on it takes those that the file names.

use std::ffi::OsStr;
use std::path::Path;

use toml_edit::{Array, DocumentMut, value};

use crate::setup::mirror::Files;
use crate::setup::problem::Problem;

/// Files, by their names in the folder: containerd looks for a relative one beside its `hosts.toml`.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    /// Authorities, which the registry is trusted by.
    pub(super) ca: Vec<String>,
    /// Certificates that a client shows, each with its key.
    pub(super) client: Vec<[String; 2]>,
}

impl Certificates {
    /// Those that containerd goes by the names of, beside a `hosts.toml` of this text.
    pub(super) fn read(folder: &Path, hosts: Option<&str>, files: &dyn Files) -> Result<Self, Problem> {
        let mut found = Self::default();
        if hosts.is_some_and(|text| !text.is_empty()) {
            return Ok(found);
        }
        let paths = files.list(folder)?;
        let pair = |path: &Path, extension| {
            let other = path.with_extension(extension);
            if paths.contains(&other) { Ok(other) } else { Err(alone(path, &other)) }
        };
        for path in &paths {
            match path.extension().and_then(OsStr::to_str) {
                Some("crt") if !files.is_folder(path)? => found.ca.push(name(path)),
                Some("cert") => found.client.push([name(path), name(&pair(path, "key")?)]),
                Some("key") => drop(pair(path, "cert")?),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Names them in a new file, for the registry itself.
    pub(super) fn put(&self, document: &mut DocumentMut) {
        if !self.ca.is_empty() {
            document.insert("ca", value(self.ca.iter().collect::<Array>()));
        }
        if !self.client.is_empty() {
            let pairs = self.client.iter().map(|pair| pair.iter().collect::<Array>());
            document.insert("client", value(pairs.collect::<Array>()));
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn alone(path: &Path, other: &Path) -> Problem {
    Problem::file(
        path,
        format!("is there without {}, and a client's certificate and key belong together", name(other)),
        "put that beside it, or move this one away. A certificate whose key is in the same file is named in hosts.toml: \
         write client = \"FILE\" there, and run this again",
    )
}

#[cfg(test)]
mod tests {
    use super::super::super::mirror::memory::Memory;
    use super::*;

    fn found(names: &[&str], hosts: Option<&str>) -> Result<Certificates, Problem> {
        let paths: Vec<_> = names.iter().map(|name| format!("/certs.d/x.test/{name}")).collect();
        let files: Vec<_> = paths.iter().map(|path| (path.as_str(), "")).collect();
        Certificates::read(Path::new("/certs.d/x.test"), hosts, &Memory::with(&files))
    }

    #[test]
    fn they_are_told_by_their_names() {
        let names = ["a.cert", "a.key", "b.c.cert", "b.c.key", "ca.crt", "dir.crt/x", "more.crt", "note.txt"];
        for hosts in [None, Some("")] {
            let found = found(&names, hosts).unwrap();
            assert_eq!(found.ca, ["ca.crt", "more.crt"]);
            assert_eq!(found.client, [["a.cert", "a.key"], ["b.c.cert", "b.c.key"]]);
        }
        let found = found(&names, Some("# mine\n")).unwrap();
        assert!(found.ca.is_empty() && found.client.is_empty(), "containerd does not read them: {found:?}");
    }

    #[test]
    fn a_certificate_without_its_key_is_refused_and_the_other_way_round() {
        for (there, not) in [("a.cert", "a.key"), ("a.key", "a.cert")] {
            let said = found(&[there, "b.cert", "b.key"], None).unwrap_err().to_string();
            assert!(said.starts_with(&format!("/certs.d/x.test/{there} is there without {not}")), "{said}");
        }
    }
}
