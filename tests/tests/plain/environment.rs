//! Each flag of `shoal run` has a twin in the environment, and a node can be started by the environment alone.

use std::fs;
use std::path::Path;
use std::process::Command;

use shoal_tests::client::Client;
use shoal_tests::fleet::{Fleet, REGISTRY, new_key};
use shoal_tests::image::synthetic;
use shoal_tests::node::{START, Status, serve};
use shoal_tests::process::{Spec, output, until};
use shoal_tests::tool;

/// What `config check` prints with this environment and these flags.
fn effective(variables: &[(&str, &str)], flags: &[&str]) -> String {
    let mut command = Command::new(tool::shoal().unwrap());
    command.args(["config", "check"]).args(flags);
    command.env_clear().env("HOME", "/home/nobody").envs(variables.iter().copied());
    String::from_utf8(output(&mut command).unwrap()).unwrap()
}

/// A variable, a value, the same flag with another value, and what the effective configuration says for each.
type Twin<'a> = (&'a str, &'a str, [&'a str; 2], &'a str, &'a str);

fn counts((name, value, flag, by_variable, by_flag): Twin<'_>) {
    let said = effective(&[(name, value)], &[]);
    assert!(said.contains(by_variable), "{name}: no {by_variable:?} in\n{said}");
    let said = effective(&[(name, value)], &flag);
    assert!(said.contains(by_flag), "{name} and {flag:?}: no {by_flag:?} in\n{said}");
    // As `SHOAL_X=${X:-}` in a compose file: not set.
    assert_eq!(effective(&[(name, "")], &[]), effective(&[], &[]), "{name} set to nothing");
}

#[test]
fn each_variable_counts_and_its_flag_counts_more() {
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = home.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (one, two) = (file("one.toml", "stream = \"proven\""), file("two.toml", "stream = \"early\""));
    let key = |name| new_key(home.path(), name).unwrap().to_str().unwrap().to_owned();
    let (key_one, key_two) = (key("one.key"), key("two.key"));
    let line = |path: &str| format!("cluster_key_file = {path:?}");
    let (key_line_one, key_line_two) = (line(&key_one), line(&key_two));
    let twins: [Twin<'_>; 9] = [
        ("SHOAL_CONFIG", &one, ["--config", &two], "stream = \"proven\"", "stream = \"early\""),
        ("SHOAL_DATA_DIR", "/a", ["--data-dir", "/b"], "data_dir = \"/a\"", "data_dir = \"/b\""),
        (
            "SHOAL_GATEWAY_ADDR",
            "127.0.0.1:1",
            ["--gateway-addr", "127.0.0.1:2"],
            "gateway_addr = \"127.0.0.1:1\"",
            "gateway_addr = \"127.0.0.1:2\"",
        ),
        (
            "SHOAL_PEER_ADDR",
            "127.0.0.1:1",
            ["--peer-addr", "127.0.0.1:2"],
            "peer_addr = \"127.0.0.1:1\"",
            "peer_addr = \"127.0.0.1:2\"",
        ),
        (
            "SHOAL_ADMIN_ADDR",
            "127.0.0.1:1",
            ["--admin-addr", "127.0.0.1:2"],
            "admin_addr = \"127.0.0.1:1\"",
            "admin_addr = \"127.0.0.1:2\"",
        ),
        (
            "SHOAL_BOOTSTRAP",
            "a.test:1,b.test:2",
            ["--bootstrap", "c.test:3"],
            "bootstrap = [\"a.test:1\", \"b.test:2\"]",
            "bootstrap = [\"c.test:3\"]",
        ),
        ("SHOAL_CLUSTER_KEY_FILE", &key_one, ["--cluster-key-file", &key_two], &key_line_one, &key_line_two),
        (
            "SHOAL_UPSTREAM",
            "reg.test=https://a.test",
            ["--upstream", "reg.test=https://b.test"],
            "url = \"https://a.test\"",
            "url = \"https://b.test\"",
        ),
        ("SHOAL_ZONE", "a", ["--zone", "b"], "zone = \"a\"", "zone = \"b\""),
    ];
    for twin in twins {
        counts(twin);
    }
    // Kubernetes sets such for a service called `shoal`.
    let foreign = [("SHOAL_PORT", "tcp://10.0.0.1:5055"), ("SHOAL_SERVICE_HOST", "10.0.0.1")];
    assert_eq!(effective(&foreign, &[]), effective(&[], &[]));
}

#[tokio::test]
async fn a_node_starts_by_the_environment_alone() {
    let fleet = Fleet::with_faulty_upstream(1).await.unwrap();
    let image = synthetic::image(fleet.home(), 1, &[600_000, 10]).unwrap();
    fleet.registry.hold("1", &image).unwrap();
    let home = fleet.home();
    let (config, data) = (home.join("by-environment.toml"), home.join("by-environment"));
    fs::write(&config, "[policy]\ndeny = [\"denied.test\"]\n").unwrap();
    let mut spec = Spec::new(&tool::shoal().unwrap(), "by-environment", home);
    let command = spec.command().arg("run").env_clear();
    let any = "127.0.0.1:0";
    for name in ["SHOAL_GATEWAY_ADDR", "SHOAL_PEER_ADDR", "SHOAL_ADMIN_ADDR"] {
        command.env(name, any);
    }
    command.env("SHOAL_CONFIG", &config).env("SHOAL_DATA_DIR", &data);
    command.env("SHOAL_BOOTSTRAP", fleet.nodes[0].serving.peer.to_string());
    command.env("SHOAL_CLUSTER_KEY_FILE", home.join("cluster.key"));
    command.env("SHOAL_UPSTREAM", format!("{REGISTRY}={}", fleet.registry.url()));
    command.env("SHOAL_ZONE", "zone-1").env("SHOAL_LOG", "info").env("SHOAL_LOG_FORMAT", "json");
    let (mut process, _output, serving) = serve(spec).await.unwrap();

    // Bootstrap and cluster key: it finds the other node. Zone: it says so.
    let admin = Client::new(&format!("http://{}", serving.admin)).unwrap();
    let joined = until("the node has joined", START, async || {
        let body = admin.get("/status").await.ok()?.body;
        let status: Status = serde_json::from_slice(&body).ok()?;
        (status.peers.len() == 1 && body_has(&body, "zone-1")).then_some(())
    });
    joined.await.unwrap();
    // Upstream: it pulls. Configuration file: it denies.
    let client = Client::new(&format!("http://{}", serving.gateway)).unwrap();
    client.pull(&format!("{REGISTRY}/some/image"), "1", &image).await.unwrap();
    let denied = client.get("/v2/a/b/manifests/latest?ns=denied.test").await.unwrap();
    assert!(body_has(&denied.body, "policy.deny"), "{denied:?}");
    assert_folder(&data);
    process.stop(START).unwrap();
    for line in process.log().unwrap().lines() {
        let line: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(line.as_ref().is_ok_and(serde_json::Value::is_object), "not a line of JSON: {line:?}");
    }
}

fn body_has(body: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(body).contains(text)
}

fn assert_folder(data: &Path) {
    assert!(data.join("identity.key").is_file(), "the data is elsewhere");
}
