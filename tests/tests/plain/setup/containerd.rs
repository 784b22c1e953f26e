//! containerd's folders of registries, which hide each other.

use std::fs;

use super::{must, tree};

/// containerd goes by their names while there is no hosts.toml, and takes the first folder that it finds.
#[test]
fn a_registrys_certificates_stay_in_use() {
    let root = tempfile::tempdir().unwrap();
    let etc = root.path().join("etc");
    let config = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n\
                  config_path = \"/etc/containerd/certs.d:/etc/docker/certs.d\"\n";
    for (file, text) in [
        ("containerd/config.toml", config),
        ("containerd/certs.d/a.test/ca.crt", ""),
        ("docker/certs.d/b.test_5000_/client.cert", ""),
        ("docker/certs.d/b.test_5000_/client.key", ""),
    ] {
        fs::create_dir_all(etc.join(file).parent().unwrap()).unwrap();
        fs::write(etc.join(file), text).unwrap();
    }
    // It counts as any other.
    fs::create_dir(etc.join("docker/certs.d/empty.test")).unwrap();
    let before = tree(root.path());
    let all = must(root.path(), &["containerd"]);
    assert!(all.err.contains("for a.test, b.test:5000, empty.test and"), "{all:?}");
    assert!(etc.join("docker/certs.d/_default/hosts.toml").is_file(), "it would hide the others: {all:?}");
    let named = ["containerd", "--registry", "a.test", "--registry", "b.test:5000"];
    let said = must(root.path(), &named).err;
    assert!(said.contains("for empty.test and") && said.contains("[upstream.\"a.test\"] ca = "), "{said}");
    for (folder, key, value) in [
        ("containerd/certs.d/a.test", "ca", "[\"ca.crt\"]"),
        ("docker/certs.d/b.test_5000_", "client", "[[\"client.cert\", \"client.key\"]]"),
    ] {
        let text = fs::read_to_string(etc.join(folder).join("hosts.toml")).unwrap();
        let read: toml::Table = text.parse().unwrap();
        assert_eq!(read[key].to_string(), value, "{text}");
        assert!(read["host"].as_table().unwrap().contains_key("http://127.0.0.1:5055"), "{text}");
    }
    assert!(must(root.path(), &named).out.starts_with("nothing to change"));
    must(root.path(), &["containerd", "--undo"]);
    assert_eq!(tree(root.path()), before);
}

#[test]
fn mirrors_that_a_named_registry_no_longer_has_are_said() {
    let root = tempfile::tempdir().unwrap();
    let all = root.path().join("etc/containerd/certs.d/_default");
    fs::create_dir_all(&all).unwrap();
    fs::write(all.join("hosts.toml"), "[host.\"https://m.test\"]\n").unwrap();
    let before = tree(root.path());
    let said = must(root.path(), &["containerd", "--registry", "docker.io"]).err;
    let (file, mirror) = ("certs.d/docker.io/hosts.toml for docker.io", "it also has https://m.test: ");
    assert!(said.contains(file) && said.contains(mirror), "{said}");
    must(root.path(), &["containerd", "--undo"]);
    assert_eq!(tree(root.path()), before);
}
