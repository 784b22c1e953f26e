//! What README.md and `deploy/` say is true: configurations are accepted, options exist, the manifest is well formed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};
use shoal_tests::tool;

/// A certificate that nobody uses, so that a configuration which names one can be checked.
const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIBejCCASGgAwIBAgIUC7h3MgiMVlAIFDUe9tCpuJo9c2QwCgYIKoZIzj0EAwIw\n\
EjEQMA4GA1UEAwwHZXhhbXBsZTAgFw0yNjExMjUwMTMzNDlaGA8yMTI2MTEwMTAx\n\
MzM0OVowEjEQMA4GA1UEAwwHZXhhbXBsZTBZMBMGByqGSM49AgEGCCqGSM49AwEH\n\
A0IABHZu9OE3wibbS3AuPVOVVoGkcuTe6DRuQUPnrDvV/EuUyxsJ51m4FZwZvLKq\n\
Sfa2m/cjwQ0jIiusP+YTnhnsORSjUzBRMB0GA1UdDgQWBBT+3MX19FPvdJWFQboD\n\
zO8AqImeuzAfBgNVHSMEGDAWgBT+3MX19FPvdJWFQboDzO8AqImeuzAPBgNVHRMB\n\
Af8EBTADAQH/MAoGCCqGSM49BAMCA0cAMEQCIBzq+2lSblUnSRXLSQNpsqayWtUB\n\
sX3QVF2IhdtqJc67AiBD5c3hIgEXAhJDvTkhrsGorYO+TTdQNmA5CYk+AWnbFA==\n\
-----END CERTIFICATE-----\n\
";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(file: &str) -> String {
    fs::read_to_string(repository().join(file)).unwrap()
}

/// Runs `shoal` with nothing of this machine's own configuration; gives what it printed.
fn shoal(args: &[&str], variables: &[(String, String)]) -> String {
    let mut command = Command::new(tool::shoal().unwrap());
    command.args(args).env_clear().env("HOME", "/home/nobody").stdin(Stdio::null());
    let done = command.envs(variables.iter().cloned()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{args:?} {variables:?}: {said}");
    String::from_utf8(done.stdout).unwrap()
}

/// A folder that stands for /etc/shoal, with the files in it that README.md names.
fn etc_shoal() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cluster.key"), shoal(&["key", "new"], &[])).unwrap();
    fs::write(folder.path().join("password"), "secret\n").unwrap();
    fs::write(folder.path().join("example-ca.pem"), CERTIFICATE).unwrap();
    folder
}

/// The TOML blocks of README.md that are Shoal's own: their first line names the file.
fn configurations(readme: &str) -> Vec<&str> {
    let blocks = readme.split("```toml\n").skip(1).filter_map(|rest| rest.split_once("```"));
    blocks.map(|(block, _)| block).filter(|block| block.starts_with("# /etc/shoal/shoal.toml\n")).collect()
}

#[test]
fn every_configuration_in_the_readme_is_accepted() {
    let folder = etc_shoal();
    let readme = read("README.md");
    let configurations = configurations(&readme);
    assert!(configurations.len() >= 2, "README.md marks no configuration as Shoal's");
    for text in configurations {
        let here = format!("{}/", folder.path().display());
        let file = folder.path().join("shoal.toml");
        fs::write(&file, text.replace("/etc/shoal/", &here)).unwrap();
        let effective = shoal(&["config", "check", "--config", file.to_str().unwrap()], &[]);
        // Each key that it sets arrives.
        for key in text.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key) {
            let key = key.trim_matches('"');
            assert!(effective.contains(key), "{key} of README.md is not in\n{effective}");
        }
    }
}

#[test]
fn the_readme_has_each_option_of_run_with_its_twins() {
    let readme = read("README.md");
    let row = |start: &str| readme.lines().find(|line| line.starts_with(start));
    let help = shoal(&["run", "--help"], &[]);
    let flags = help.lines().filter_map(|line| line.trim_start().strip_prefix("--")?.split(' ').next());
    let mut count = 0;
    for flag in flags.map(|flag| flag.trim_end_matches(',')) {
        let row = row(&format!("| `--{flag} "))
            .unwrap_or_else(|| panic!("README.md says nothing of --{flag}, which run has"));
        let variable = format!("`SHOAL_{}`", flag.to_uppercase().replace('-', "_"));
        assert!(row.contains(&variable), "no {variable} in {row}");
        count += 1;
    }
    assert!(count >= 10, "only {count} flags were found in\n{help}");
    for flag in readme.lines().filter_map(|line| line.strip_prefix("| `--")?.split([' ', '`']).next()) {
        assert!(help.contains(&format!("--{flag} ")), "README.md has --{flag}, which run has not");
    }
    // The keys that no flag has.
    for line in shoal(&["config", "example"], &[]).lines() {
        let Some((key, _)) = line.trim_start_matches('#').split_once(" = ") else { continue };
        assert!(
            readme.contains(&format!("{key}`")) || readme.contains(&format!("{key} =")),
            "nothing of {key}"
        );
    }
}

#[test]
fn the_manifest_is_well_formed_and_its_parts_agree() {
    let documents = manifest();
    let kinds: Vec<&str> = documents.iter().map(|document| document["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Namespace", "Service", "DaemonSet"]);
    let [namespace, service, daemons] = &documents[..] else { unreachable!() };
    for document in [service, daemons] {
        assert_eq!(document["metadata"]["namespace"], namespace["metadata"]["name"]);
    }
    let pod = &daemons["spec"]["template"];
    let labels = &pod["metadata"]["labels"];
    assert_eq!(&service["spec"]["selector"], labels);
    assert_eq!(&daemons["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(service["spec"]["clusterIP"], "None");
    let container = &pod["spec"]["containers"][0];
    assert_eq!(service["spec"]["ports"][0]["port"], container["ports"][0]["containerPort"]);
    // What is mounted is there, and only the container that gives the folder away is root.
    let names = |list: &Value| -> Vec<Value> {
        list.as_array().unwrap().iter().map(|one| one["name"].clone()).collect()
    };
    let (mounts, volumes) = (names(&container["volumeMounts"]), names(&pod["spec"]["volumes"]));
    assert_eq!(mounts, volumes);
    assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
    assert!(container["securityContext"]["runAsUser"].is_null());
    for container in [container, &pod["spec"]["initContainers"][0]] {
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        assert!(container["resources"]["limits"]["memory"].is_string());
    }
}

#[test]
fn the_manifest_configures_a_node_as_its_probes_and_its_service_expect() {
    let documents = manifest();
    let (service, pod) = (&documents[1], &documents[2]["spec"]["template"]["spec"]);
    let container = &pod["containers"][0];
    let folder = etc_shoal();
    let key = folder.path().join("cluster.key");
    let mut variables = Vec::new();
    for variable in container["env"].as_array().unwrap() {
        let [name, value] = ["name", "value"].map(|field| variable[field].as_str().unwrap().to_owned());
        let value = if name == "SHOAL_CLUSTER_KEY_FILE" {
            assert!(value.starts_with(container["volumeMounts"][1]["mountPath"].as_str().unwrap()));
            key.to_str().unwrap().to_owned()
        } else {
            value
        };
        variables.push((name, value));
    }
    let effective = shoal(&["config", "check"], &variables);
    let said = |key: &str| {
        let line = effective.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
        line.unwrap().split("  #").next().unwrap().trim_matches('"').to_owned()
    };
    for (name, path) in
        [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
    {
        let probe = &container[name]["httpGet"];
        let asked = format!("{}:{}", probe["host"].as_str().unwrap(), probe["port"]);
        assert_eq!((asked, probe["path"].as_str()), (said("admin_addr"), Some(path)), "{name}");
    }
    // On the host's network the gateway must not be open to others.
    assert_eq!((said("gateway_addr").as_str(), &pod["hostNetwork"]), ("127.0.0.1:5055", &json!(true)));
    let data =
        (container["volumeMounts"][0]["mountPath"].as_str(), pod["volumes"][0]["hostPath"]["path"].as_str());
    assert_eq!(data, (Some(said("data_dir").as_str()), Some("/var/lib/shoal")));
    let port = &service["spec"]["ports"][0]["port"];
    let name = |field: &str| service["metadata"][field].as_str().unwrap();
    let all = format!("[\"dns:{}.{}.svc.cluster.local:{port}\"]", name("name"), name("namespace"));
    assert_eq!(said("bootstrap"), all);
    assert!(said("peer_addr").ends_with(&format!(":{port}")));
}

/// What Debian's containerd comes with.
const DEBIAN_CONTAINERD: &str = "version = 2

[plugins]
  [plugins.\"io.containerd.grpc.v1.cri\"]
    [plugins.\"io.containerd.grpc.v1.cri\".cni]
      bin_dir = \"/usr/lib/cni\"
      conf_dir = \"/etc/cni/net.d\"
  [plugins.\"io.containerd.internal.v1.opt\"]
    path = \"/var/lib/containerd/opt\"
";

#[test]
fn setup_shows_the_diff_that_the_readme_has() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("etc/containerd");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), DEBIAN_CONTAINERD).unwrap();
    let shown = shoal(&["setup", "containerd", "--dry-run", "--root", root.path().to_str().unwrap()], &[]);
    let readme = read("README.md");
    let diff = readme.split("```diff\n").nth(1).and_then(|rest| rest.split_once("```")).unwrap().0;
    assert!(shown.starts_with(diff), "README.md shows\n{diff}\nand the command\n{shown}");
}

/// The init container that is in comments, once they are taken away.
#[test]
fn the_init_container_in_comments_sets_containerd_up() {
    let text = read("deploy/kubernetes.yaml");
    let mut taken = false;
    let lines = text.lines().map(|line| {
        // A block in comments begins with its name and ends with the first line that is none.
        let comment = line.strip_prefix("        # ");
        taken = comment.is_some_and(|comment| taken || comment.starts_with("- name: "));
        comment.filter(|_| taken).map_or_else(|| line.to_owned(), |comment| format!("        {comment}"))
    });
    let lines: Vec<String> = lines.collect();
    let documents: Vec<Value> =
        lines.join("\n").split("\n---\n").map(|document| Yaml::new(document).whole()).collect();
    let pod = &documents[2]["spec"]["template"]["spec"];
    let setup = &pod["initContainers"][1];
    assert_eq!(setup["image"], pod["containers"][0]["image"]);
    let volumes: Vec<&Value> = pod["volumes"].as_array().unwrap().iter().collect();
    let root = tempfile::tempdir().unwrap();
    for mount in setup["volumeMounts"].as_array().unwrap() {
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        let there = volume["hostPath"]["path"].as_str().unwrap();
        assert_eq!(mount["mountPath"].as_str(), Some(format!("/host{there}").as_str()));
        fs::create_dir_all(root.path().join(there.trim_start_matches('/'))).unwrap();
    }
    let args = setup["args"].as_array().unwrap().iter().map(|arg| match arg.as_str().unwrap() {
        "/host" => root.path().to_str().unwrap(),
        arg => arg,
    });
    let done = shoal(&args.collect::<Vec<_>>(), &[]);
    // All that it made lies where something is mounted.
    assert!(done.contains("made /etc/containerd/certs.d/_default/hosts.toml"), "{done}");
    assert!(root.path().join("var/lib/shoal/setup/containerd.json").is_file());
    let tops: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(tops.len() == 2 && tops.iter().all(|top| top == "etc" || top == "var"), "{tops:?}");
}

fn manifest() -> Vec<Value> {
    read("deploy/kubernetes.yaml").split("\n---\n").map(|document| Yaml::new(document).whole()).collect()
}

/// Reads the part of YAML that manifests are written in here: block mappings and sequences, lists of quoted texts, and
/// scalars on one line. Anything else is a mistake.
struct Yaml<'a> {
    /// Indent and text, without comments.
    lines: Vec<(usize, &'a str)>,
    at: usize,
}

impl<'a> Yaml<'a> {
    fn new(document: &'a str) -> Self {
        let mut lines = Vec::new();
        for line in document.lines() {
            let text = line.trim_start();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            assert!(!line.contains('\t') && !line.contains(" #") && line == line.trim_end(), "{line:?}");
            lines.push((line.len() - text.len(), text));
        }
        Self { lines, at: 0 }
    }

    fn whole(mut self) -> Value {
        let value = self.block(0);
        assert_eq!(self.lines.get(self.at), None, "what is indented like this belongs to nothing");
        value
    }

    /// The next line's text, if it is of this block.
    fn next(&self, indent: usize) -> Option<&'a str> {
        self.lines.get(self.at).filter(|(at, _)| *at == indent).map(|(_, text)| *text)
    }

    fn block(&mut self, indent: usize) -> Value {
        let mut items = Vec::new();
        while let Some(item) = self.next(indent).and_then(|text| text.strip_prefix("- ")) {
            // What follows the dash is a block of its own, two further in.
            self.lines[self.at] = (indent + 2, item);
            items.push(self.block(indent + 2));
        }
        if !items.is_empty() {
            return Value::Array(items);
        }
        let mut entries = Map::new();
        while let Some(text) = self.next(indent) {
            let (key, value) = text.split_once(": ").or_else(|| Some((text.strip_suffix(':')?, ""))).unwrap();
            self.at += 1;
            let value = if value.is_empty() {
                let inner = self.lines.get(self.at).map_or(0, |(inner, _)| *inner);
                assert_eq!(inner, indent + 2, "{key} holds nothing, or is indented otherwise than by two");
                self.block(inner)
            } else {
                scalar(value)
            };
            assert!(entries.insert(key.to_owned(), value).is_none(), "{key} twice");
        }
        Value::Object(entries)
    }
}

fn scalar(text: &str) -> Value {
    if text.starts_with(['"', '[']) {
        // What is quoted here is JSON as well.
        return serde_json::from_str(text).unwrap();
    }
    assert!(!text.starts_with(|c: char| "&*!|>{%@`'".contains(c)), "{text}");
    // As in 0440, which YAML 1.1 reads as octal.
    let plain = !text.starts_with('0') || text.len() == 1;
    match serde_json::from_str(text) {
        Ok(value @ (Value::Bool(_) | Value::Number(_))) if plain => value,
        _ => Value::String(text.to_owned()),
    }
}
