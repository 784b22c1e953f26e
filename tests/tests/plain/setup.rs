//! `shoal setup`: what it writes on a host's disk, what it leaves alone, and that `--undo` takes all of it back.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use shoal_tests::tool;

mod containerd;

/// What a command came to.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs `shoal setup` on a root.
fn setup(root: &Path, args: &[&str]) -> Done {
    let mut command = Command::new(tool::shoal().unwrap());
    command.arg("setup").args(args).arg("--root").arg(root).env_clear().stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let done = Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
    assert!(!done.err.contains("panicked"), "{done:?}");
    done
}

fn must(root: &Path, args: &[&str]) -> Done {
    let done = setup(root, args);
    assert_eq!(done.code, Some(0), "{args:?}: {done:?}");
    done
}

/// Everything below a folder: modes, and what each thing is.
fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, String)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let what = if metadata.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if metadata.is_dir() {
                folders.push(path.clone());
                String::new()
            } else {
                hex::encode(fs::read(&path).unwrap())
            };
            all.insert(path, (metadata.permissions().mode(), what));
        }
    }
    all
}

/// A client, the file that it reads, and texts that the file may hold.
struct Case {
    client: &'static str,
    file: &'static str,
    originals: &'static [&'static str],
}

const CASES: [Case; 6] = [
    Case {
        client: "containerd",
        file: "etc/containerd/config.toml",
        originals: &[
            "",
            "# nothing",
            "version = 2\n",
            "version = 3\n[plugins]\n\t[plugins.'io.containerd.cri.v1.images'] # tab\n\t\tsnapshotter = \"overlayfs\"\n",
            "disabled_plugins = [\"cri\"]\n\n#   root = \"/var/lib/containerd\"\n",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/certs.d\"\n",
        ],
    },
    Case {
        client: "docker",
        file: "etc/docker/daemon.json",
        originals: &[
            "",
            "{}",
            "{\"z\":1,\"a\":[ ],\n\n\"n\":1e3}",
            "\u{feff}{\n  \"registry-mirrors\": null\n}\n",
            "{\n\t\"registry-mirrors\": [ \"https://m.test\" ] ,\n\t\"ü\": \"\\u00fc\"\n}\n\n\n",
        ],
    },
    Case {
        client: "podman",
        file: "etc/containers/registries.conf",
        originals: &[
            "",
            "unqualified-search-registries = [\"docker.io\"]  # why not",
            "[[registry]]\n  location=\"docker.io\"\n  [[registry.mirror]]\n  location = \"m.test\"\n\n# end",
        ],
    },
    Case {
        client: "crio",
        file: "etc/containers/registries.conf.d/99-mine.conf",
        originals: &[
            "[[registry]]\nprefix = \"docker.io\"\nlocation = \"registry-1.docker.io\"\nblocked = false\n",
        ],
    },
    Case {
        client: "k3s",
        file: "etc/rancher/k3s/registries.yaml",
        originals: &[
            "",
            "# nothing\n",
            "configs:\n  \"r.test\":\n    auth: {username: \"a\", password: 'b'} # secret",
            "mirrors:\n    docker.io:   # hub\n        endpoint:\n        - \"https://m.test\"\n",
            "---\nmirrors:\n  \"*\":\n    endpoint:\n      - \"https://m.test\"\n",
        ],
    },
    Case {
        client: "buildkit",
        file: "etc/buildkit/buildkitd.toml",
        originals: &[
            "",
            "debug=true",
            "[registry.\"docker.io\"]\n  mirrors = [\n    \"m.test\", # one\n  ]\n",
        ],
    },
];

/// The same text as other editors and tools save it.
fn spelled(text: &str) -> [String; 3] {
    [text.to_owned(), text.replace('\n', "\r\n"), format!("{text}\n")]
}

/// What a file says now names the mirror where the client looks for it.
fn assert_mirrored(client: &str, root: &Path) {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let toml = |text: &str| text.trim_start_matches('\u{feff}').parse::<toml::Table>().unwrap();
    let url = "http://127.0.0.1:5055";
    match client {
        "containerd" => {
            let config = read("etc/containerd/config.toml");
            let plugins = toml(&config)["plugins"].clone();
            let registry =
                plugins.as_table().unwrap().values().find_map(|plugin| plugin.get("registry")).unwrap();
            let certs = registry["config_path"].as_str().unwrap().trim_start_matches('/');
            let hosts = toml(&read(&format!("{certs}/_default/hosts.toml")));
            assert_eq!(hosts["host"][url]["capabilities"].as_array().unwrap().len(), 2);
        }
        "docker" => {
            let config = read("etc/docker/daemon.json");
            let config: Value = serde_json::from_str(config.trim_start_matches('\u{feff}')).unwrap();
            assert_eq!(config["registry-mirrors"][0], url);
        }
        "podman" | "crio" => {
            let files = ["registries.conf", "registries.conf.d/99-mine.conf", "registries.conf.d/shoal.conf"];
            let files = files.map(|file| root.join("etc/containers").join(file));
            let mut last = files.iter().filter_map(|file| fs::read_to_string(file).ok()).filter_map(|text| {
                let registries = toml(&text).get("registry")?.as_array()?.clone();
                registries.into_iter().find(|registry| {
                    registry.get("prefix").or_else(|| registry.get("location")).unwrap().as_str()
                        == Some("docker.io")
                })
            });
            let mirror = last.next_back().unwrap()["mirror"][0].clone();
            assert_eq!(mirror["location"].as_str(), Some("127.0.0.1:5055/docker.io"));
            assert_eq!(mirror["insecure"].as_bool(), Some(true));
        }
        "k3s" => {
            let text = read("etc/rancher/k3s/registries.yaml").replace("\r\n", "\n");
            let after = text.split("\"*\":\n").nth(1).unwrap_or_else(|| panic!("{text}"));
            let mut lines = after.lines().map(str::trim);
            assert_eq!(
                (lines.next(), lines.next()),
                (Some("endpoint:"), Some("- \"http://127.0.0.1:5055\""))
            );
        }
        _ => {
            let config = toml(&read("etc/buildkit/buildkitd.toml"));
            assert_eq!(config["registry"]["docker.io"]["mirrors"][0].as_str(), Some("127.0.0.1:5055"));
            assert_eq!(config["registry"]["127.0.0.1:5055"]["http"].as_bool(), Some(true));
        }
    }
}

/// Dry, twice, and back: the tree of files is as it was.
fn there_and_back(client: &str, root: &Path) {
    let before = tree(root);
    let dry = must(root, &[client, "--dry-run"]);
    assert_eq!(tree(root), before, "a dry run wrote something");
    assert!(dry.out.contains("\n+++ /etc/") && dry.out.contains("--dry-run"), "{dry:?}");
    let done = must(root, &[client]);
    let last = |done: &Done| done.out.lines().last().unwrap().to_owned();
    assert_eq!(last(&done), last(&dry), "the dry run said something else of reload and restart");
    assert_mirrored(client, root);
    let after = tree(root);
    assert_ne!(after, before);
    let again = must(root, &[client]);
    assert!(again.out.starts_with("nothing to change"), "{again:?}");
    assert_eq!(tree(root), after, "the second run wrote something");
    let dry = must(root, &[client, "--undo", "--dry-run"]);
    assert!(dry.out.contains("\n--- /etc/") || dry.out.starts_with("--- /etc/"), "{dry:?}");
    assert_eq!(tree(root), after, "a dry run wrote something");
    must(root, &[client, "--undo"]);
    assert_eq!(tree(root), before, "{client} was not taken back");
    assert!(must(root, &[client, "--undo"]).out.starts_with("nothing to undo"));
    assert_eq!(tree(root), before);
}

#[test]
fn on_an_empty_host_and_back() {
    for case in &CASES {
        let root = tempfile::tempdir().unwrap();
        there_and_back(case.client, root.path());
    }
}

#[test]
fn whatever_was_there_comes_back_byte_for_byte() {
    for case in &CASES {
        let texts = case.originals.iter().flat_map(|text| spelled(text));
        for (text, mode) in texts.zip([0o644, 0o600, 0o440, 0o755].into_iter().cycle()) {
            let root = tempfile::tempdir().unwrap();
            let file = root.path().join(case.file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            there_and_back(case.client, root.path());
        }
    }
}

#[test]
fn the_first_original_is_kept_whatever_is_set_up_later() {
    let root = tempfile::tempdir().unwrap();
    let before = tree(root.path());
    for args in [
        vec!["podman"],
        vec!["podman", "--registry", "ghcr.io"],
        vec!["podman", "--registry", "quay.io", "--gateway", "http://127.0.0.1:6000"],
    ] {
        must(root.path(), &args);
    }
    let text = fs::read_to_string(root.path().join("etc/containers/registries.conf.d/shoal.conf")).unwrap();
    for registry in ["docker.io", "ghcr.io", "quay.io"] {
        assert_eq!(text.matches(&format!("\"127.0.0.1:6000/{registry}\"")).count(), 1, "{text}");
    }
    assert!(!text.contains("5055"), "the former gateway is still there:\n{text}");
    must(root.path(), &["podman", "--undo"]);
    assert_eq!(tree(root.path()), before);
}

#[test]
fn what_somebody_changed_since_is_never_lost_silently() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("etc/docker/daemon.json");
    must(root.path(), &["docker"]);
    fs::write(&file, "{ \"debug\": true }").unwrap();
    let edited = tree(root.path());
    let refused = |args: &[&str], said: &str| {
        let done = setup(root.path(), args);
        assert_eq!(done.code, Some(1), "{args:?}: {done:?}");
        assert!(done.err.contains("/etc/docker/daemon.json") && done.err.contains(said), "{done:?}");
    };
    refused(&["docker", "--undo"], "--force");
    refused(&["docker", "--gateway", "http://127.0.0.1:6000"], "changed it since");
    assert_eq!(tree(root.path()), edited);
    // Set up again it keeps the change, and is still not ours to take back.
    must(root.path(), &["docker"]);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("\"debug\": true") && text.contains("5055"), "{text}");
    refused(&["docker", "--undo"], "--force");
    let shown = must(root.path(), &["docker", "--undo", "--force", "--dry-run"]);
    assert!(shown.out.contains("\"debug\": true"), "{shown:?}");
    must(root.path(), &["docker", "--undo", "--force"]);
    assert!(!file.exists());
    assert_eq!(tree(root.path()), BTreeMap::new());
}

/// A process that ends between the record and the last file leaves some files as they were.
#[test]
fn what_was_interrupted_is_gone_on_with_or_taken_back() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("etc/containerd");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), "version = 2\n").unwrap();
    let before = tree(root.path());
    must(root.path(), &["containerd"]);
    let after = tree(root.path());
    for interrupted in ["config.toml", "certs.d/_default/hosts.toml"] {
        let file = folder.join(interrupted);
        let interrupt = || match interrupted {
            "config.toml" => fs::write(&file, "version = 2\n").unwrap(),
            _ => fs::remove_file(&file).unwrap(),
        };
        interrupt();
        must(root.path(), &["containerd"]);
        assert_eq!(tree(root.path()), after, "it was not gone on with");
        interrupt();
        must(root.path(), &["containerd", "--undo"]);
        assert_eq!(tree(root.path()), before, "it was not taken back");
        must(root.path(), &["containerd"]);
    }
}

#[test]
fn what_cannot_be_used_is_named_and_nothing_is_written() {
    let broken: [(&str, &[u8], &str); 8] = [
        ("etc/containerd/config.toml", b"version = = 2\n", "line 1"),
        ("etc/containerd/certs.d/_default/hosts.toml", b"[host", "not TOML"),
        ("etc/containerd/certs.d/_default/hosts.toml", b"server = \"https://m.test\"\n", "has server = "),
        ("etc/docker/daemon.json", b"{ \"a\": 1, }", "not JSON"),
        ("etc/containers/registries.conf", b"\xff\xfe", "UTF-8"),
        (
            "etc/containers/registries.conf",
            b"[[registry]]\nprefix = \"docker.io\"\nlocation = \"harbor.test/hub\"\n",
            "has location = \"harbor.test/hub\" for docker.io",
        ),
        ("etc/rancher/k3s/registries.yaml", b"mirrors: {}\n", "endpoint: [\"http://127.0.0.1:5055\"]"),
        ("etc/buildkit/buildkitd.toml", b"registry = 1\n", "no table"),
    ];
    for (file, bytes, said) in broken {
        let client = CASES.iter().find(|case| {
            let folder = Path::new(case.file).parent().unwrap();
            Path::new(file).starts_with(folder)
        });
        let client = client.unwrap().client;
        for folder in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if folder {
                fs::create_dir(&path).unwrap();
            } else {
                fs::write(&path, bytes).unwrap();
            }
            let before = tree(root.path());
            for args in [&[client][..], &[client, "--dry-run"]] {
                let done = setup(root.path(), args);
                assert_eq!((done.code, done.out.as_str()), (Some(1), ""), "{args:?}: {done:?}");
                let said = if folder { "is a folder" } else { said };
                assert!(done.err.contains(&format!("/{file} ")) && done.err.contains(said), "{done:?}");
            }
            assert_eq!(tree(root.path()), before, "something was written");
        }
    }
}

/// As a host that keeps its configuration elsewhere has it, and as one that wants to lead us astray.
#[test]
fn symlinks_are_followed_inside_the_root_and_never_out_of_it() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("host");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir_all(root.join("data/docker")).unwrap();
    fs::write(root.join("data/docker/d.json"), "{}\n").unwrap();
    symlink("/data/docker", root.join("etc/docker")).unwrap();
    symlink("d.json", root.join("data/docker/daemon.json")).unwrap();
    symlink("../../../../..", root.join("etc/buildkit")).unwrap();
    symlink(outer.path(), root.join("etc/rancher")).unwrap();
    symlink("/loop", root.join("loop")).unwrap();
    symlink("/loop/x", root.join("etc/containerd")).unwrap();
    let before = tree(outer.path());
    for client in ["docker", "buildkit", "k3s"] {
        must(&root, &[client]);
    }
    let text = fs::read_to_string(root.join("data/docker/d.json")).unwrap();
    assert!(text.contains("registry-mirrors"), "{text}");
    assert!(root.join("data/docker/daemon.json").is_symlink());
    assert!(root.join("buildkitd.toml").is_file(), "the root's parent is the root");
    let outside: Vec<_> =
        fs::read_dir(outer.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(outside, ["host"], "something was written outside the root");
    let circle = setup(&root, &["containerd"]);
    assert!(circle.code == Some(1) && circle.err.contains("circle"), "{circle:?}");
    for client in ["docker", "buildkit", "k3s"] {
        must(&root, &[client, "--undo"]);
    }
    // What the first run made of the record's own folders may stay where others needed it.
    let mut after = tree(outer.path());
    after.retain(|path, _| !path.starts_with(root.join("var")));
    assert_eq!(after, before);
}

#[test]
fn another_folder_has_a_record_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let before = tree(root.path());
    let rke2 = ["k3s", "--config-dir", "/etc/rancher/rke2"];
    must(root.path(), &["k3s"]);
    must(root.path(), &rke2);
    must(root.path(), &["k3s", "--undo"]);
    assert!(root.path().join("etc/rancher/rke2/registries.yaml").is_file());
    let hint = must(root.path(), &["k3s", "--undo"]).out;
    assert!(hint.starts_with("nothing to undo") && hint.contains("for /etc/rancher/rke2: "), "{hint}");
    assert!(hint.contains("--config-dir"), "{hint}");
    assert!(!must(root.path(), &["docker", "--undo"]).out.contains("--config-dir"));
    must(root.path(), &[&rke2[..], &["--undo"]].concat());
    let files = tree(root.path()).into_values().filter(|(_, what)| !what.is_empty()).count();
    assert_eq!((files, before.len()), (0, 0));
    let relative = setup(root.path(), &["k3s", "--config-dir", "etc"]);
    assert!(relative.code == Some(1) && relative.err.contains("absolute"), "{relative:?}");
}

#[test]
fn what_a_client_cannot_do_is_said_plainly() {
    let root = tempfile::tempdir().unwrap();
    for (args, said) in [
        (&["docker", "--registry", "ghcr.io"][..], "Docker Hub alone"),
        (&["podman", "--registry", "reg.test:5000"], "port"),
    ] {
        let done = setup(root.path(), args);
        assert!(done.code == Some(1) && done.err.contains(said), "{done:?}");
    }
    for args in [
        &["docker", "--gateway", "127.0.0.1:5055"][..],
        &["docker", "--gateway", "http://0.0.0.0:5055"],
        &["docker", "--undo", "--registry", "docker.io"],
        &["docker", "--force"],
        &["lxc"],
        &[],
    ] {
        assert_eq!(setup(root.path(), args).code, Some(2), "{args:?}");
    }
    assert_eq!(tree(root.path()), BTreeMap::new());
}

/// Its engine is in a virtual machine, which no file here reaches.
#[test]
fn docker_desktop_is_refused_and_an_engine_beside_it_is_not() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("home/me/.docker");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.json"), r#"{"currentContext": "desktop-linux"}"#).unwrap();
    let before = tree(root.path());
    let done = setup(root.path(), &["docker"]);
    assert!(done.code == Some(1) && done.err.contains("/home/me/.docker/config.json"), "{done:?}");
    assert!(
        done.err.contains("virtual machine") && done.err.contains("--config-dir /etc/docker"),
        "{done:?}"
    );
    assert_eq!(tree(root.path()), before);
    // Other clients have nothing to do with it, and who names the folder knows what he means.
    must(root.path(), &["podman"]);
    must(root.path(), &["docker", "--config-dir", "/etc/docker"]);
    must(root.path(), &["docker", "--undo"]);
    must(root.path(), &["podman", "--undo"]);
    assert_eq!(tree(root.path()), before);
}

/// A client on the node's own machine is sent to where that node listens.
#[test]
fn the_gateway_is_the_one_that_this_machines_node_has() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("docker");
    let run = |variable: Option<&str>| {
        let mut command = Command::new(tool::shoal().unwrap());
        command.args(["setup", "docker", "--dry-run", "--config-dir"]).arg(&folder).env_clear();
        command.env("HOME", home.path()).envs(variable.map(|address| ("SHOAL_GATEWAY_ADDR", address)));
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (ok, out) = run(Some("0.0.0.0:6055"));
    assert!(ok && out.contains("http://127.0.0.1:6055"), "{out}");
    let (ok, out) = run(None);
    assert!(ok && out.contains("http://127.0.0.1:5055"), "{out}");
    assert!(!folder.exists());
}
