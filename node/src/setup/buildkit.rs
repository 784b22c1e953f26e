//! `BuildKit`: mirrors for named registries in `buildkitd.toml`. It names the registry to the mirror itself.

use std::path::Path;

use shoal_proto::name::DOCKER_HUB;

use super::mirror::{Files, Mirror, Plan};
use super::problem::Problem;
use super::tables;

/// What `buildkitd.toml` in `folder` is to become.
pub(super) fn plan(folder: &Path, mirror: &Mirror, files: &dyn Files) -> Result<Plan, Problem> {
    let path = folder.join("buildkitd.toml");
    let text = edit(&path, files.read(&path)?.as_deref(), mirror)?;
    let mut notes = vec![
        "a BuildKit in a container of its own (`docker buildx create`) reaches the gateway only on the host's network: \
         --driver-opt network=host"
            .to_owned(),
    ];
    if mirror.all {
        notes.push(
            "BuildKit has mirrors for named registries alone: this one is for Docker Hub, --registry names \
                    others"
                .to_owned(),
        );
    }
    Ok(Plan { files: vec![(path, text)], notes })
}

fn edit(path: &Path, text: Option<&str>, mirror: &Mirror) -> Result<String, Problem> {
    let mut document = tables::parse(path, text)?;
    if text.is_none() {
        document
            .decor_mut()
            .set_prefix("# Written by `shoal setup`: Shoal on this machine first, then the registry.\n");
    }
    let registries = tables::table(path, document.as_table_mut(), "registry")?;
    for name in mirror.names(DOCKER_HUB) {
        let registry = tables::table(path, registries, &name)?;
        tables::put_first(tables::array(path, registry, "mirrors")?, mirror.gateway.authority());
    }
    if mirror.gateway.is_plain() {
        let gateway = tables::table(path, registries, mirror.gateway.authority())?;
        tables::set(gateway, "http", true);
    }
    Ok(tables::written(&document, text))
}

#[cfg(test)]
mod tests {
    use super::super::mirror::memory::mirror;
    use super::*;

    fn edited(text: Option<&str>, registries: &[&str]) -> Result<String, Problem> {
        edit(Path::new("/etc/buildkit/buildkitd.toml"), text, &mirror(registries))
    }

    #[test]
    fn a_new_file() {
        let text = edited(None, &[]).unwrap();
        let expected = "# Written by `shoal setup`: Shoal on this machine first, then the registry.
[registry.\"docker.io\"]
mirrors = [\"127.0.0.1:5055\"]

[registry.\"127.0.0.1:5055\"]
http = true
";
        assert_eq!(text, expected);
        assert_eq!(edited(Some(&text), &[]).unwrap(), text);
    }

    #[test]
    fn what_is_there_stays() {
        let before = "debug = true # yes\n[registry.\"docker.io\"]\n  mirrors = [\"m.test\"]\n[worker.oci]\n  gc = false\n";
        let after = edited(Some(before), &["docker.io", "ghcr.io"]).unwrap();
        assert_eq!(edited(Some(&after), &["docker.io", "ghcr.io"]).unwrap(), after);
        let read: toml::Table = after.parse().unwrap();
        let mirrors = |name: &str| read["registry"][name]["mirrors"].to_string();
        assert_eq!(mirrors("docker.io"), "[\"127.0.0.1:5055\", \"m.test\"]");
        assert_eq!(mirrors("ghcr.io"), "[\"127.0.0.1:5055\"]");
        assert_eq!(read["registry"]["127.0.0.1:5055"]["http"].as_bool(), Some(true));
        for line in before.lines().filter(|line| !line.contains("mirrors")) {
            assert!(after.contains(line), "{line:?} was lost:\n{after}");
        }
    }

    #[test]
    fn what_cannot_be_edited_is_refused() {
        for text in ["[registry", "registry = 1", "[registry.\"docker.io\"]\nmirrors = \"x\"\n"] {
            let error = edited(Some(text), &[]).unwrap_err().to_string();
            assert!(error.starts_with("/etc/buildkit/buildkitd.toml "), "{error}");
        }
    }
}
