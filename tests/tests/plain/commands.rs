//! The command line as people and scripts use it: what goes to standard output, what to standard error, how it exits.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use shoal_tests::faulty::Faulty;
use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::image::{Image, synthetic};
use shoal_tests::tool;

/// What a command came to.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs `shoal` with nothing of this machine's own configuration.
async fn shoal(args: &[&str], variables: &[(&str, &str)]) -> Done {
    let mut command = Command::new(tool::shoal().unwrap());
    command.args(args).env_clear().envs(variables.iter().copied()).stdin(Stdio::null());
    // Away from the test's own thread: the upstream answers there.
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let done = Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
    assert!(!done.err.contains("panicked"), "{done:?}");
    done
}

async fn fleet(seed: u64) -> (Fleet<Faulty>, Image) {
    let fleet = Fleet::with_faulty_upstream(1).await.unwrap();
    let image = synthetic::image(fleet.home(), seed, &[3_000_000, 70_000, 0]).unwrap();
    fleet.registry.hold("1", &image).unwrap();
    (fleet, image)
}

fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !c.is_control())
}

#[tokio::test]
async fn pull_says_a_line_a_blob_where_there_is_no_terminal() {
    let (fleet, image) = fleet(1).await;
    let gateway = fleet.nodes[0].serving.gateway.to_string();
    let name = format!("{REGISTRY}/some/image:1");
    let pull = shoal(&["pull", &name, "--gateway-addr", &gateway], &[]).await;
    assert_eq!(pull.code, Some(0), "{pull:?}");
    assert!(is_plain(&pull.out) && is_plain(&pull.err), "bars without a terminal: {pull:?}");
    for blob in image.blobs() {
        let line = pull.err.lines().find(|line| line.starts_with(&blob.digest));
        assert!(line.is_some_and(|line| line.ends_with("proven")), "{}: {}", blob.digest, pull.err);
    }
    let lines: Vec<&str> = pull.out.lines().collect();
    let [line] = lines[..] else { panic!("not one line: {pull:?}") };
    let bytes = image.size() + image.manifest.bytes.len() as u64;
    for part in [name.as_str(), &image.manifest.digest, "1 manifest", "4 blobs", &format!("({bytes} bytes)")]
    {
        assert!(line.contains(part), "nothing of {part:?} in {line:?}");
    }
    // The node holds it from then on.
    let asked = fleet.registry.seen().len();
    let by_digest = format!("{REGISTRY}/some/image@{}", image.manifest.digest);
    let again = shoal(&["pull", &by_digest], &[("SHOAL_GATEWAY_ADDR", &gateway)]).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(fleet.registry.seen().len(), asked, "upstream was asked again");
}

#[tokio::test]
async fn a_pull_that_cannot_be_says_why() {
    let (fleet, _) = fleet(2).await;
    let gateway = fleet.nodes[0].serving.gateway.to_string();
    let missing = format!("{REGISTRY}/some/image:no-such-tag");
    let nobody = "127.0.0.1:1";
    let cases: [(&[&str], i32, &[&str]); 4] = [
        (&["pull", &missing, "--gateway-addr", &gateway], 1, &["no-such-tag", "404"]),
        (&["pull", "debian", "--gateway-addr", nobody], 1, &[nobody, "shoal run", "--gateway-addr"]),
        (&["pull", "debian", "--gateway-addr", "here"], 1, &["gateway_addr", "here", "IP:PORT"]),
        (&["pull", "UPPER"], 2, &["UPPER", "repository name"]),
    ];
    for (args, code, parts) in cases {
        let done = shoal(args, &[]).await;
        assert_eq!(done.code, Some(code), "{args:?}: {done:?}");
        assert!(done.out.is_empty(), "{args:?}: {done:?}");
        for part in parts {
            assert!(done.err.contains(part), "{args:?}: nothing about {part:?} in {}", done.err);
        }
    }
}

#[tokio::test]
async fn status_shows_what_the_node_says_of_itself() {
    let (fleet, image) = fleet(3).await;
    let node = &fleet.nodes[0];
    node.client().unwrap().pull(&format!("{REGISTRY}/some/image"), "1", &image).await.unwrap();
    let admin = node.serving.admin.to_string();
    let people = shoal(&["status", "--admin-addr", &admin], &[]).await;
    assert_eq!(people.code, Some(0), "{people:?}");
    let held = node.status().await.unwrap().store;
    let parts = [
        node.serving.peer_id.clone(),
        node.serving.gateway.to_string(),
        node.serving.peer.to_string(),
        format!("{} blobs", held.blobs),
        "from upstream".to_owned(),
        "peers connected: 0".to_owned(),
    ];
    for part in parts {
        assert!(people.out.contains(&part), "nothing of {part:?} in\n{}", people.out);
    }
    assert!(is_plain(&people.out), "{:?}", people.out);

    let json = shoal(&["status", "--json"], &[("SHOAL_ADMIN_ADDR", &admin)]).await;
    assert_eq!(json.code, Some(0), "{json:?}");
    let said: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    let answer = node.admin().unwrap().get("/status").await.unwrap();
    let mut itself: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    itself["uptime_seconds"] = said["uptime_seconds"].clone();
    assert_eq!(said, itself);
}

#[tokio::test]
async fn status_of_what_is_no_node_says_so() {
    let (fleet, _) = fleet(4).await;
    let registry = fleet.registry.url().replace("http://", "");
    for address in ["127.0.0.1:1", registry.as_str()] {
        let done = shoal(&["status", "--admin-addr", address], &[]).await;
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.out.is_empty(), "{done:?}");
        assert!(done.err.starts_with("error: ") && done.err.contains(address), "{done:?}");
    }
}

#[tokio::test]
async fn each_new_key_is_another_and_can_be_used() {
    let home = tempfile::tempdir().unwrap();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let done = shoal(&["key", "new"], &[]).await;
        assert_eq!(done.code, Some(0), "{done:?}");
        assert_eq!(done.out.lines().count(), 1, "more than the key on standard output: {done:?}");
        assert!(!done.err.contains(done.out.trim()), "the key is in what people may log: {done:?}");
        let file = home.path().join(format!("key-{}", keys.len()));
        fs::write(&file, &done.out).unwrap();
        let file = file.to_str().unwrap();
        let data = home.path().to_str().unwrap();
        let check = ["config", "check", "--cluster-key-file", file, "--data-dir", data];
        let check = shoal(&check, &[]).await;
        assert_eq!(check.code, Some(0), "{check:?}");
        assert!(!check.out.contains(done.out.trim()), "the key is shown: {check:?}");
        keys.push(done.out);
    }
    assert_ne!(keys[0], keys[1]);
}

async fn check(home: &Path, config: &str) -> Done {
    let file = home.join("shoal.toml");
    fs::write(&file, config).unwrap();
    shoal(&["config", "check", "--config", file.to_str().unwrap()], &[("HOME", "/home/nobody")]).await
}

/// The keys and values of an effective configuration, without the comments that say where they came from.
fn values(effective: &str) -> Vec<String> {
    let lines = effective.lines().map(|line| line.split("  # ").next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_good_configuration_is_shown_and_means_the_same_when_read_again() {
    let home = tempfile::tempdir().unwrap();
    let config = "\
        data_dir = \"/data\"\n\
        gateway_addr = \"0.0.0.0:1234\"\n\
        bootstrap = [\"seed.example.com:5056\"]\n\
        zone = \"eu-1\"\n\
        stream = \"proven\"\n\
        [policy]\n\
        deny = [\"*.bad.example.com\"]\n\
        [upstream.\"reg.example.com\"]\n\
        url = \"https://mirror.example.com\"\n\
        credentials = { username = \"robot\", password = \"hidden\", access = \"cluster\" }\n";
    let first = check(home.path(), config).await;
    assert_eq!(first.code, Some(0), "{first:?}");
    let shown = values(&first.out);
    for line in
        ["data_dir = \"/data\"", "gateway_addr = \"0.0.0.0:1234\"", "zone = \"eu-1\"", "stream = \"proven\""]
    {
        assert!(shown.iter().any(|shown| shown == line), "no {line:?} in {shown:#?}");
    }
    assert!(first.out.contains("shoal.toml:2"), "it does not say where a value came from:\n{}", first.out);
    assert!(!first.out.contains("hidden") && !first.err.contains("hidden"), "a password is shown: {first:?}");
    // The password is left out, and needed: another way to give it is put in its place.
    let password = home.path().join("password");
    fs::write(&password, "hidden").unwrap();
    let again = first.out.replace("# password: set, not shown", &format!("password_file = {password:?}"));
    let second = check(home.path(), &again).await;
    assert_eq!(second.code, Some(0), "{second:?}");
    let mut second = values(&second.out);
    second.retain(|line| !line.starts_with("password_file"));
    assert_eq!(second, shown);
}

#[tokio::test]
async fn the_example_is_a_good_configuration_that_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let example = shoal(&["config", "example"], &[]).await;
    assert_eq!(example.code, Some(0), "{example:?}");
    let (example, nothing) = (check(home.path(), &example.out).await, check(home.path(), "").await);
    assert_eq!((example.code, nothing.code), (Some(0), Some(0)), "{example:?} {nothing:?}");
    assert_eq!(values(&example.out), values(&nothing.out));
}

#[tokio::test]
async fn every_mistake_of_a_bad_configuration_is_named_at_once() {
    let home = tempfile::tempdir().unwrap();
    let bad = "\
        gateway_addr = \"here\"\n\
        stream = \"sometimes\"\n\
        zoned = \"a\"\n\
        [upstream.\"reg.test\"]\n\
        url = \"ftp://reg.test\"\n";
    let done = check(home.path(), bad).await;
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.out.is_empty(), "{done:?}");
    for parts in [
        ["shoal.toml:1", "gateway_addr", "here", "IP:PORT"],
        ["shoal.toml:2", "stream", "sometimes", "proven"],
        ["shoal.toml:3", "zoned", "did you mean zone", "known here"],
        ["shoal.toml:5", "upstream.\"reg.test\".url", "ftp://reg.test", "https://"],
    ] {
        let line = done.err.lines().find(|line| line.contains(parts[0]));
        let line = line.unwrap_or_else(|| panic!("nothing of {} in\n{}", parts[0], done.err));
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?} are not all in {line:?}");
    }
}

#[tokio::test]
async fn a_command_line_that_is_wrong_exits_with_2() {
    let cases: [&[&str]; 4] = [&["rn"], &["run", "--gateway"], &["pull"], &["demo", "--nodes", "0"]];
    for args in cases {
        let done = shoal(args, &[]).await;
        assert_eq!(done.code, Some(2), "{args:?}: {done:?}");
        assert!(done.out.is_empty() && !done.err.is_empty(), "{args:?}: {done:?}");
    }
    let version = shoal(&["--version"], &[]).await;
    assert_eq!((version.code, version.out.starts_with("shoal ")), (Some(0), true), "{version:?}");
}
