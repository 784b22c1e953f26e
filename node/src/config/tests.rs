//! Which layer wins, what each mistake is answered with, and that nothing secret is shown.

use std::fs;
use std::path::Path;

use shoal_gateway::upstream::config::{Access, Credentials, LoginFrom};

use super::upstream::WHICH_ACCESS;
use super::*;

/// What one case says: flags, variables, and the file's text.
struct Said<'a> {
    flags: Flags,
    variables: &'a [(&'a str, &'a str)],
    file: &'a str,
}

/// Loads a configuration whose file is `shoal.toml` in a folder of its own; paths in texts lose that folder.
fn load_from(said: Said<'_>) -> Result<Loaded, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    load_in(folder.path(), said)
}

fn load_in(folder: &Path, mut said: Said<'_>) -> Result<Loaded, Vec<String>> {
    let path = folder.join("shoal.toml");
    fs::write(&path, said.file).unwrap();
    said.flags.config = Some(path.to_str().unwrap().to_owned());
    let variables = [&[("HOME", "/home/ann")], said.variables].concat();
    let prefix = format!("{}/", folder.display());
    load(&said.flags, &Environment::with(&variables))
        .map_err(|error| error.0.iter().map(|problem| problem.to_string().replace(&prefix, "")).collect())
}

fn errors_of_file(file: &str) -> Vec<String> {
    load_from(Said { flags: Flags::default(), variables: &[], file }).expect_err(file)
}

fn config_of_file(file: &str) -> Config {
    load_from(Said { flags: Flags::default(), variables: &[], file }).expect(file).config
}

#[test]
fn defaults_need_nothing() {
    let loaded = load(&Flags::default(), &Environment::with(&[("HOME", "/home/ann")])).unwrap();
    let expected = Config {
        data_dir: "/home/ann/.local/share/shoal".into(),
        gateway_addr: "127.0.0.1:5055".parse().unwrap(),
        peer_addr: "127.0.0.1:5056".parse().unwrap(),
        admin_addr: "127.0.0.1:5057".parse().unwrap(),
        bootstrap: Vec::new(),
        cluster_key_file: None,
        zone: None,
        upload_rate: None,
        download_rate: None,
        upstream_rate: None,
        stream: Stream::Early,
        tags: Rules::default(),
        access: Times::default(),
        upstreams: Settings::default(),
        exit_with_stdin: false,
    };
    assert_eq!(loaded.config, expected);
    assert!(loaded.origins.values().all(|origin| *origin == Source::Default), "{:?}", loaded.origins);
    assert!(loaded.config.warnings().is_empty());
}

#[test]
fn the_data_folder_follows_the_user() {
    let folder = |environment: &Environment| load(&Flags::default(), environment).unwrap().config.data_dir;
    let xdg = &[("HOME", "/home/ann"), ("XDG_DATA_HOME", "/data")];
    assert_eq!(folder(&Environment::with(xdg)), Path::new("/data/shoal"));
    assert_eq!(folder(&Environment::with(xdg).of_root()), Path::new("/var/lib/shoal"));
    // The XDG specification: a relative path there is to be ignored.
    let relative = &[("HOME", "/home/ann"), ("XDG_DATA_HOME", "data")];
    assert_eq!(folder(&Environment::with(relative)), Path::new("/home/ann/.local/share/shoal"));
    let nowhere = load(&Flags::default(), &Environment::default()).unwrap_err().to_string();
    assert_eq!(
        nowhere,
        "the configuration cannot be used:\n  default: data_dir has no default here: neither XDG_DATA_HOME nor HOME \
         is an absolute path (name a folder with --data-dir, SHOAL_DATA_DIR or data_dir in the file)"
    );
}

#[test]
fn with_a_key_peers_are_listened_for_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cluster.key"), crate::key::new()).unwrap();
    let file = "cluster_key_file = \"cluster.key\"";
    let config =
        load_in(folder.path(), Said { flags: Flags::default(), variables: &[], file }).unwrap().config;
    assert_eq!(config.peer_addr, PEER_ADDR);
    assert_eq!(config.cluster_key_file, Some(folder.path().join("cluster.key")));
    assert!(config.warnings().is_empty());

    let config = config_of_file("peer_addr = \"0.0.0.0:5056\"");
    assert!(config.warnings()[0].contains("without a cluster key"), "{:?}", config.warnings());
}

/// A key, its flag's field, and how to see its value.
type Row = (&'static str, fn(&mut Flags, String), fn(&Config) -> String, [&'static str; 3]);

/// A rate in whole MiB a second, as it was written.
fn mib(rate: Option<u64>) -> String {
    format!("{}MiB", rate.unwrap_or(0) >> 20)
}

/// Every key that holds one text: flag over variable over file, and what each said is where it came from.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn flag_over_environment_over_file() {
    let rows: [Row; 8] = [
        (
            "data_dir",
            |flags, value| flags.data_dir = Some(value),
            |config| config.data_dir.display().to_string(),
            ["/a", "/b", "/c"],
        ),
        (
            "gateway_addr",
            |flags, value| flags.gateway_addr = Some(value),
            |config| config.gateway_addr.to_string(),
            ["127.0.0.1:1", "[::1]:2", "0.0.0.0:3"],
        ),
        (
            "peer_addr",
            |flags, value| flags.peer_addr = Some(value),
            |config| config.peer_addr.to_string(),
            ["127.0.0.1:1", "[::1]:2", "0.0.0.0:3"],
        ),
        (
            "admin_addr",
            |flags, value| flags.admin_addr = Some(value),
            |config| config.admin_addr.to_string(),
            ["127.0.0.1:1", "[::1]:2", "0.0.0.0:3"],
        ),
        (
            "zone",
            |flags, value| flags.zone = Some(value),
            |config| config.zone.clone().unwrap_or_default(),
            ["a", "b", "c"],
        ),
        (
            "upload_rate",
            |flags, value| flags.upload_rate = Some(value),
            |config| mib(config.upload_rate),
            ["1MiB", "2MiB", "3MiB"],
        ),
        (
            "download_rate",
            |flags, value| flags.download_rate = Some(value),
            |config| mib(config.download_rate),
            ["1MiB", "2MiB", "3MiB"],
        ),
        (
            "upstream_rate",
            |flags, value| flags.upstream_rate = Some(value),
            |config| mib(config.upstream_rate),
            ["1MiB", "2MiB", "3MiB"],
        ),
    ];
    for (key, set, see, [by_flag, by_variable, by_file]) in rows {
        let name = format!("SHOAL_{}", key.to_uppercase());
        let file = format!("\n{key} = \"{by_file}\"");
        let mut flags = Flags::default();
        set(&mut flags, by_flag.to_owned());
        let variables = [(name.as_str(), by_variable)];
        let empty = [(name.as_str(), "")];
        for (flags, variables, expected, origin) in [
            (flags, &variables[..], by_flag, format!("--{}", key.replace('_', "-"))),
            (Flags::default(), &variables[..], by_variable, format!("{name} in the environment")),
            (Flags::default(), &empty[..], by_file, "shoal.toml:2".to_owned()),
        ] {
            let loaded = load_from(Said { flags, variables, file: &file }).unwrap();
            assert_eq!(see(&loaded.config), expected, "{key}");
            assert!(loaded.origins[key].to_string().ends_with(&origin), "{key}: {:?}", loaded.origins[key]);
        }
    }
}

#[test]
fn bootstrap_is_one_layers_list() {
    let file = "bootstrap = [\"c:3\", \"c:4\"]";
    let variables = &[("SHOAL_BOOTSTRAP", "b:1 [::1]:2,, \tdns:peers.local:3")][..];
    let flags = || Flags { bootstrap: vec!["a:1".into(), "a:2,a:1".into()], ..Flags::default() };
    let bootstrap =
        |flags, variables, file| load_from(Said { flags, variables, file }).unwrap().config.bootstrap;
    assert_eq!(bootstrap(flags(), variables, file), ["a:1", "a:2"]);
    assert_eq!(bootstrap(Flags::default(), variables, file), ["b:1", "[::1]:2", "dns:peers.local:3"]);
    assert_eq!(bootstrap(Flags::default(), &[], file), ["c:3", "c:4"]);
    assert_eq!(bootstrap(Flags::default(), &[], "bootstrap = \"c:3\""), ["c:3"]);
    let none = Flags { bootstrap: vec![String::new()], ..Flags::default() };
    assert!(bootstrap(none, variables, file).is_empty());
}

#[test]
fn forms_of_bootstrap_addresses() {
    let id = "12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf";
    for good in [
        "node-1:5056",
        "10.0.0.7:5056",
        "[fd00::1]:5056",
        "a.b.example.com.:1",
        "dns:peers.default.svc.cluster.local:65535",
        "/ip4/10.0.0.7/tcp/5056",
        "/ip6/::1/tcp/5056",
        "/dns/node-1/tcp/5056",
        &format!("/dns4/node-1/tcp/5056/p2p/{id}"),
    ] {
        assert_eq!(bootstrap::address(good).as_deref(), Ok(good));
    }
    for bad in [
        "",
        ":",
        "node-1",
        "node-1:",
        "node-1:0",
        "node-1:65536",
        "node-1:+1",
        ":5056",
        "::1:5056",
        "[::1]",
        "[::1:5056",
        "[node]:1",
        "1.2.3:5056",
        "999.1.1.1:1",
        "http://node:1",
        "a b:1",
        "-a:1",
        "dns:peers",
        "dns::1",
        "/",
        "/ip4/10.0.0.7",
        "/ip4/10.0.0.7/udp/5056",
        "/ip4/::1/tcp/1",
        "/ip6/10.0.0.7/tcp/1",
        "/ip4/10.0.0.7/tcp/5056/p2p/x",
        "/ip4/10.0.0.7/tcp/5056/ws",
        "/unix/a/tcp/1",
    ] {
        assert!(bootstrap::address(bad).is_err(), "{bad}");
    }
}

#[test]
fn upstreams_merge_by_name() {
    let file = r#"
        [policy]
        allow = ["docker.io", "*.Example.com", "GHCR.io"]
        deny = "*"
        [upstream]
        "quay.io" = "https://quay-mirror.example.com"
        [upstream."index.docker.io"]
        url = "https://file.example.com/v"
        insecure = true
        token_realms = ["Registry-1.docker.io"]
        [upstream."docker.io".credentials]
        username = "robot"
        password = "hunter2"
        access = "cluster"
    "#;
    // Two names for one registry are one registry, and one of the two tables is too many.
    let errors = errors_of_file(file);
    assert_eq!(
        errors,
        [
            "shoal.toml:11: upstream.\"docker.io\" = \"docker.io\" is docker.io, which another table is for already \
          (allowed: one table a registry)"
        ]
    );

    let file = file.replace("index.docker.io", "docker.io");
    let flags = Flags { upstream: vec!["docker.io=http://10.0.0.1:5000".into()], ..Flags::default() };
    let variables =
        &[("SHOAL_UPSTREAM", "docker.io=https://variable.example.com reg.local:5000=http://reg.local:5000")];
    let loaded = load_from(Said { flags, variables, file: &file }).unwrap();
    let Settings { policy, upstreams } = &loaded.config.upstreams;
    assert_eq!(policy.allow, ["docker.io", "*.example.com", "ghcr.io"]);
    assert_eq!(policy.deny, ["*"]);
    assert_eq!(upstreams.keys().collect::<Vec<_>>(), ["docker.io", "quay.io", "reg.local:5000"]);
    let hub = &upstreams["docker.io"];
    assert_eq!(hub.url.as_deref(), Some("http://10.0.0.1:5000"));
    assert!(hub.insecure);
    assert_eq!(hub.token_realms, ["registry-1.docker.io"]);
    let credentials = hub.credentials.as_ref().unwrap();
    let from = LoginFrom::Password { username: "robot".to_owned(), password: "hunter2".to_owned() };
    assert_eq!((credentials.from.as_ref(), credentials.access), (Some(&from), Some(Access::Cluster)));
    assert_eq!(upstreams["quay.io"].url.as_deref(), Some("https://quay-mirror.example.com"));
    assert_eq!(upstreams["reg.local:5000"].url.as_deref(), Some("http://reg.local:5000"));
    assert!(loaded.config.warnings()[0].contains("docker.io is not checked"));

    let shown = show::effective(&loaded);
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("# password: set, not shown"), "{shown}");
}

/// Every kind of mistake in a file, and its whole text: place, key, value, what is wrong, what is allowed.
const MISTAKES: &[(&str, &str)] = &[
    (
        "gateway_addr = \"localhost:5055\"",
        "shoal.toml:1: gateway_addr = \"localhost:5055\" is not an address to listen on (allowed: IP:PORT, as in \
             127.0.0.1:5055, 0.0.0.0:5055 or [::]:5055; port 0 takes a free one)",
    ),
    (
        "# one\n\npeer_addr = \":5056\"",
        "shoal.toml:3: peer_addr = \":5056\" is not an address to listen on (allowed: IP:PORT, as in \
             127.0.0.1:5055, 0.0.0.0:5055 or [::]:5055; port 0 takes a free one)",
    ),
    (
        "admin_addr = 5057",
        "shoal.toml:1: admin_addr is 5057, of the kind integer (allowed: a text in quotes)",
    ),
    (
        "upload_rate = \"512KiB\"",
        "shoal.toml:1: upload_rate = \"512KiB\" is not a rate (allowed: bytes a second, 1MiB or more, as in 50MiB or \
             1GiB; leave it out for no cap)",
    ),
    (
        "zone = \"eu west\"",
        "shoal.toml:1: zone = \"eu west\" is not a zone name (allowed: 1 to 63 letters, digits, dots, dashes and \
             underscores, as in eu-west-1a)",
    ),
    (
        "stream = \"late\"",
        "shoal.toml:1: stream = \"late\" is not a way to stream (allowed: early, a body starts while its chunks \
             still arrive; proven, when its digest is proven)",
    ),
    (
        "tags = \"mine\"",
        "shoal.toml:1: tags = \"mine\" is not a way to resolve tags (allowed: fleet, one node asks the registry and the \
         others take its signed word; own, this node asks itself)",
    ),
    (
        "tag_ttl = \"2\"",
        "shoal.toml:1: tag_ttl = \"2\" is not a time (allowed: a number and its unit, as in 0s, 30s, 10m, 24h or 7d)",
    ),
    ("[[tag]]\nmatch = \"a/*\"", "shoal.toml:1: tag is not complete (allowed: match and ttl, both texts)"),
    (
        "[[tag]]\nmatch = \"latest\"\nttl = \"1s\"",
        "shoal.toml:2: tag.match = \"latest\" matches no tag (allowed: registry/repository:tag with * for any \
         characters, as in docker.io/library/*:latest)",
    ),
    (
        "[tag]\nmatch = \"a/*\"\nttl = \"1s\"",
        "shoal.toml:1: tag is of the kind table (allowed: tables, each [[tag]] with match and ttl)",
    ),
    (
        "data_dir = \"\"",
        "shoal.toml:1: data_dir = \"\" is not a path (allowed: the path of a file or folder)",
    ),
    (
        "bootstrap = [\n\"a:1\",\n\"nobody\"]",
        "shoal.toml:3: bootstrap = \"nobody\" is not a peer's address (allowed: host:port, IP:port, [IPv6]:port, a \
             multiaddr as in /ip4/10.0.0.7/tcp/5056 or /dns/node-1/tcp/5056, or dns:name:port for a name that stands \
             for many peers)",
    ),
    (
        "bootstrap = { a = 1 }",
        "shoal.toml:1: bootstrap is of the kind table (allowed: a list of texts, as in [\"one\", \"two\"])",
    ),
    (
        "data-dir = \"/a\"",
        "shoal.toml:1: data-dir is not a known key: did you mean data_dir? (known here: data_dir, gateway_addr, \
             peer_addr, admin_addr, cluster_key_file, zone, upload_rate, download_rate, upstream_rate, stream, \
             tags, tag_ttl, tag_stale, bootstrap, policy, tag, upstream)",
    ),
    (
        "colour = \"red\"",
        "shoal.toml:1: colour is not a known key (known here: data_dir, gateway_addr, peer_addr, admin_addr, \
             cluster_key_file, zone, upload_rate, download_rate, upstream_rate, stream, tags, tag_ttl, \
             tag_stale, bootstrap, policy, tag, upstream)",
    ),
    (
        "[policy]\nallowed = []",
        "shoal.toml:2: policy.allowed is not a known key: did you mean allow? (known here: allow, deny, \
             public_for, client_for)",
    ),
    ("policy = true", "shoal.toml:1: policy is true, of the kind boolean (allowed: a table, [policy])"),
    (
        "[policy]\ndeny = [\"*.\"]",
        "shoal.toml:2: policy.deny = \"*.\" is not a registry pattern (allowed: a registry's name (ghcr.io, \
             reg.local:5000), *. and a domain for all names below it (*.example.com), or * for all)",
    ),
    (
        "[upstream.\"https://docker.io\"]",
        "shoal.toml:1: upstream.\"https://docker.io\" = \"https://docker.io\" is not a registry's name (allowed: \
             host or host:port as clients name it, as in docker.io or registry.example.com:5000)",
    ),
    (
        "[upstream]\na = 1",
        "shoal.toml:2: upstream.\"a\" is 1, of the kind integer (allowed: a table with url, ca, \
             client_cert, client_key, insecure, mirrors, token_realms, credentials, or a URL alone)",
    ),
    (
        "[upstream.a]\nurl = \"ftp://a\"",
        "shoal.toml:2: upstream.\"a\".url = \"ftp://a\" has the scheme ftp (allowed: https://host[:port][/path], \
             or http://… for a registry without TLS)",
    ),
    (
        "[upstream.a]\ninsecure = \"no\"",
        "shoal.toml:2: upstream.\"a\".insecure is of the kind string (allowed: true or false, without quotes)",
    ),
    (
        "[upstream.a]\nuri = \"http://a\"",
        "shoal.toml:2: upstream.\"a\".uri is not a known key: did you mean url? (known here: url, ca, \
             client_cert, client_key, insecure, mirrors, token_realms, credentials)",
    ),
    (
        "[upstream.a]\nmirrors = [\"ftp://a\"]",
        "shoal.toml:2: upstream.\"a\".mirrors = \"ftp://a\" has the scheme ftp (allowed: https://host[:port][/path], \
             or http://… for a registry without TLS)",
    ),
    (
        "[upstream.a]\nmirrors = [1]",
        "shoal.toml:2: upstream.\"a\".mirrors is 1, of the kind integer (allowed: a list of URLs, and of tables { \
             url, ca, insecure, credentials })",
    ),
    (
        "[upstream.a]\nmirrors = [\"http://b\", { insecure = true }]",
        "shoal.toml:2: upstream.\"a\".mirrors has an entry without url (allowed: https://host[:port][/path], or \
             http://… for a mirror without TLS)",
    ),
    (
        "[upstream.a]\nmirrors = [{ url = \"https://b\", credentials = true }]",
        "shoal.toml:2: upstream.\"a\".mirrors.url = \"https://b\" is to be sent credentials, and the registry has \
             no login (allowed: credentials = true in a mirror where the registry's own credentials have a login; a \
             client certificate is shown to no mirror)",
    ),
    (
        "[upstream.a]\nclient_key = \"shoal.toml\"",
        "shoal.toml:2: upstream.\"a\".client_key = \"shoal.toml\" is there without client_cert (allowed: client_cert \
             beside it, the file with the certificate)",
    ),
    (
        "[upstream.a]\ntoken_realms = [\"https://a\"]",
        "shoal.toml:2: upstream.\"a\".token_realms = \"https://a\" is not a host (allowed: host or host:port, as in \
         auth.example.com)",
    ),
];

#[test]
fn every_mistake_in_a_file_is_named() {
    for (file, expected) in MISTAKES {
        assert_eq!(errors_of_file(file), [*expected]);
    }
    // All of them at once: none hides another.
    let together = "zone = \"a b\"\nstream = \"late\"\n[policy]\nallowed = []\ndeny = 3";
    let lines: Vec<_> = errors_of_file(together).iter().map(|error| error[..13].to_owned()).collect();
    assert_eq!(lines, ["shoal.toml:4:", "shoal.toml:5:", "shoal.toml:1:", "shoal.toml:2:"]);
}

#[test]
fn what_is_not_toml_is_said_by_the_parser_with_its_line() {
    for file in [
        "\nzone = ",
        "\nzone = \"a\" b",
        "\n[upstream",
        "\n[policy]\n[policy]",
        "\n= 1",
        "\nzone = \"\u{1}\"",
    ] {
        let errors = errors_of_file(file);
        assert!(errors[0].contains(": the file is not TOML: "), "{errors:?}");
        assert!(!errors[0].starts_with("shoal.toml:1:"), "{errors:?}");
        assert!(errors[0].ends_with("(allowed: TOML, see https://toml.io)"), "{errors:?}");
    }
}

#[test]
fn a_login_of_two_kinds_is_none() {
    for other in ["helper = \"x\"", "docker_config = \"shoal.toml\""] {
        let said = format!("username = \"u\"\npassword = \"hunter2\"\n{other}\naccess = \"cluster\"");
        assert_eq!(
            errors_of_file(&format!("[upstream.a.credentials]\n{said}")),
            [
                "shoal.toml:1: upstream.\"a\".credentials has logins of several kinds (allowed: username with password \
                 or password_file; or docker_config; or helper)"
            ]
        );
    }
}

#[test]
fn every_mistake_in_credentials_is_named_and_no_secret_shown() {
    let table = "shoal.toml:1: upstream.\"a\".credentials";
    for (said, expected) in [
        (
            "username = \"u\"\npassword = \"hunter2\"",
            &*format!("does not say who may use them ({WHICH_ACCESS})"),
        ),
        (
            "password = \"hunter2\"\naccess = \"cluster\"",
            "names no user (allowed: username, and password or password_file; or docker_config, or helper)",
        ),
        (
            "username = \"u:v\"\npassword = \"hunter2\"\naccess = \"cluster\"",
            "has a username with a colon (allowed: a username without colons)",
        ),
        (
            "username = \"u\"\npassword = \"\"\naccess = \"cluster\"",
            "has an empty password (allowed: the password, or password_file)",
        ),
        (
            "username = \"u\"\npassword = \"hunter2\"\npassword_file = \"shoal.toml\"\naccess = \"cluster\"",
            "has two passwords (allowed: one of password and password_file, not both)",
        ),
        (
            "username = \"u\"\naccess = \"cluster\"",
            "has no password (allowed: one of password and password_file beside username)",
        ),
    ] {
        let errors = errors_of_file(&format!("[upstream.a.credentials]\n{said}"));
        assert_eq!(errors, [format!("{table} {expected}")]);
    }
    let errors = errors_of_file(
        "[upstream.a.credentials]\nusername = \"u\"\npassword = 1234567\naccess = \"everyone\"\nuser = \"x\"",
    );
    assert_eq!(
        errors,
        [
            "shoal.toml:3: upstream.\"a\".credentials.password is of the kind integer (allowed: a text in quotes)",
            "shoal.toml:5: upstream.\"a\".credentials.user is not a known key: did you mean username? (known here: \
             username, password, password_file, docker_config, helper, access)",
            "shoal.toml:1: upstream.\"a\".credentials has no password (allowed: one of password and password_file \
             beside username)",
            &format!(
                "shoal.toml:4: upstream.\"a\".credentials.access = \"everyone\" is not a kind of access ({WHICH_ACCESS})"
            ),
        ]
    );
    let url = errors_of_file("[upstream]\na = \"https://robot:hunter2@a\"");
    assert_eq!(
        url,
        [
            "shoal.toml:2: upstream.\"a\" carries a user or password (allowed: a URL without them; they belong into \
          the table's credentials)"
        ]
    );
    let secret = "shoal-key-1:00ff";
    let key = errors_of_file(&format!("cluster_key_file = \"{secret}\""));
    assert!(key[0].contains("is the key itself") && !key[0].contains(secret), "{key:?}");
}

#[test]
fn mistakes_of_flags_and_variables_name_them() {
    let flags = Flags {
        zone: Some("a b".into()),
        upstream: vec![
            "docker.io".into(),
            "a=https://a".into(),
            "a=https://b".into(),
            "b=https://u:hunter2@b".into(),
        ],
        ..Flags::default()
    };
    let variables = &[("SHOAL_ADMIN_ADDR", "5057"), ("SHOAL_UPSTREAM", "c=nowhere")];
    let errors = load_from(Said { flags, variables, file: "" }).unwrap_err();
    assert_eq!(
        errors,
        [
            "SHOAL_ADMIN_ADDR in the environment: admin_addr = \"5057\" is not an address to listen on (allowed: \
             IP:PORT, as in 127.0.0.1:5055, 0.0.0.0:5055 or [::]:5055; port 0 takes a free one)",
            "--zone: zone = \"a b\" is not a zone name (allowed: 1 to 63 letters, digits, dots, dashes and \
             underscores, as in eu-west-1a)",
            "SHOAL_UPSTREAM in the environment: upstream = \"nowhere\" is not a URL: relative URL without a base \
             (allowed: https://host[:port][/path], or http://… for a registry without TLS)",
            "--upstream: upstream = \"docker.io\" is not NAME=URL (allowed: a registry's name, = and its URL, as in \
             docker.io=https://mirror.example.com)",
            "--upstream: upstream = \"a=https://b\" names a twice (allowed: one URL a registry)",
            "--upstream: upstream carries a user or password (allowed: a URL without them; they belong into the \
             table's credentials)",
        ]
    );
}

#[test]
fn a_variable_that_is_not_utf8() {
    use std::os::unix::ffi::OsStringExt as _;
    let odd = std::ffi::OsString::from_vec(vec![b'/', 0xff]);
    let environment = Environment::with(&[("HOME", "/home/ann")]).and("SHOAL_DATA_DIR", odd);
    let error = load(&Flags::default(), &environment).unwrap_err().to_string();
    assert!(
        error.contains("SHOAL_DATA_DIR in the environment: data_dir = \"/\u{fffd}\" is not UTF-8"),
        "{error}"
    );
}

#[test]
fn urls() {
    for good in ["https://a", "http://10.0.0.1:5000", "https://[::1]:5000/path/", "https://a/b/c"] {
        assert_eq!(value::upstream_url(good).as_deref(), Ok(good));
    }
    for bad in [
        "",
        "a",
        "a:5000",
        "//a",
        "https:a",
        "https:///a",
        "https://",
        "https://a?b",
        "https://a#b",
        "https://a/v2/",
        "file:///a",
    ] {
        assert!(value::upstream_url(bad).is_err(), "{bad}");
    }
}

#[test]
fn files_that_are_named_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("empty"), "\n").unwrap();
    fs::write(folder.path().join("odd.pem"), "-----BEGIN CERTIFICATE-----\n%\n-----END CERTIFICATE-----\n")
        .unwrap();
    let file = r#"
        cluster_key_file = "empty"
        [upstream.a]
        ca = "empty"
        [upstream.b]
        ca = "odd.pem"
        [upstream.c]
        ca = "missing"
        [upstream.c.credentials]
        username = "u"
        password_file = "empty"
        access = "cluster"
    "#;
    let errors = load_in(folder.path(), Said { flags: Flags::default(), variables: &[], file }).unwrap_err();
    let starts = [
        "shoal.toml:2: cluster_key_file = \"empty\" holds no cluster key (allowed: a file that this user",
        "shoal.toml:4: upstream.\"a\".ca = \"empty\" holds no certificate (allowed: a PEM file that this user may read",
        "shoal.toml:6: upstream.\"b\".ca = \"odd.pem\" holds a broken certificate: ",
        "shoal.toml:8: upstream.\"c\".ca = \"missing\" cannot be read: No such file or directory",
        "shoal.toml:11: upstream.\"c\".credentials.password_file = \"empty\" is empty (allowed: a file that this user",
    ];
    assert_eq!(errors.len(), starts.len(), "{errors:#?}");
    for (error, start) in errors.iter().zip(starts) {
        assert!(error.starts_with(start), "{error}\n{start}");
    }
}

#[test]
fn a_client_certificate_is_tried_and_somebody_says_who_may_use_it() {
    let folder = tempfile::tempdir().unwrap();
    let (old, good) = (include_str!("tests/client-v1.pem"), include_str!("tests/client-v3.pem"));
    let (certificate, key) = good.split_once("-----BEGIN PRIVATE KEY-----").unwrap();
    for (name, text) in [
        ("good.pem", good),
        ("old.pem", old),
        ("cert.pem", certificate),
        ("key.pem", &format!("-----BEGIN PRIVATE KEY-----{key}")),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let load = |table: &str| {
        let file = format!("[upstream.a]\n{table}");
        load_in(folder.path(), Said { flags: Flags::default(), variables: &[], file: &file })
    };
    let access = "credentials = { access = \"cluster\" }";
    for table in ["client_cert = \"good.pem\"", "client_cert = \"cert.pem\"\nclient_key = \"key.pem\""] {
        let loaded = load(&format!("{table}\n{access}")).unwrap();
        let alone = Credentials { from: None, access: Some(Access::Cluster) };
        assert_eq!(loaded.config.upstreams.upstreams["a"].credentials, Some(alone));
        let again = load_in(
            folder.path(),
            Said { flags: Flags::default(), variables: &[], file: &show::effective(&loaded) },
        );
        assert_eq!(again.unwrap().config, loaded.config);
        assert_eq!(
            load(table).unwrap_err()[0].split_once("\" is a credential, ").unwrap().1,
            format!(
                "and no credentials = {{ access = … }} beside it, with a login or without, says who may use it \
                 ({WHICH_ACCESS})"
            )
        );
    }
    for (table, problem) in [
        ("client_cert = \"old.pem\"", "UnsupportedCertVersion"),
        ("client_cert = \"cert.pem\"", "private key or certificate not found (allowed: a PEM file that"),
        ("client_cert = \"old.pem\"\nclient_key = \"key.pem\"", "(allowed: a PEM file that"),
    ] {
        let errors = load(&format!("{table}\n{access}")).unwrap_err();
        assert!(
            errors[0].contains("\" cannot be shown to a registry: ") && errors[0].contains(problem),
            "{errors:?}"
        );
        assert_eq!(errors.len(), 1, "{errors:?}");
    }
    let nothing = load(access).unwrap_err();
    assert_eq!(
        nothing,
        [
            "shoal.toml:2: upstream.\"a\".credentials has no login (allowed: username with password or password_file; \
             or docker_config; or helper; or none of them where client_cert is beside the table)"
        ]
    );
    let key = load(&format!("client_cert = \"cert.pem\"\nclient_key = \"cert.pem\"\n{access}")).unwrap_err();
    assert!(key.len() == 1 && key[0].contains("client_key = \"cert.pem\" holds no private key"), "{key:?}");
}

#[test]
fn a_data_folder_that_is_a_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("data"), "").unwrap();
    let said = Said { flags: Flags::default(), variables: &[], file: "data_dir = \"data\"" };
    let errors = load_in(folder.path(), said).unwrap_err();
    let expected = "shoal.toml:1: data_dir = \"data\" is not a folder (allowed: a folder, or a path where one can be made)";
    assert_eq!(errors, [expected]);
}

#[test]
fn a_configuration_file_that_cannot_be_read() {
    let flags = Flags { config: Some("/nowhere/shoal.toml".into()), ..Flags::default() };
    let error = load(&flags, &Environment::with(&[("HOME", "/h")])).unwrap_err().to_string();
    assert!(
        error.contains("--config: config = \"/nowhere/shoal.toml\" cannot be read: No such file"),
        "{error}"
    );
    let environment = Environment::with(&[("HOME", "/h"), ("SHOAL_CONFIG", "/")]);
    let error = load(&Flags::default(), &environment).unwrap_err().to_string();
    assert!(error.contains("SHOAL_CONFIG in the environment: config = \"/\" is a folder"), "{error}");
    let environment = Environment::with(&[("HOME", "/h"), ("SHOAL_CONFIG", "/dev/zero")]);
    let error = load(&Flags::default(), &environment).unwrap_err().to_string();
    assert!(error.contains("config = \"/dev/zero\" is not a regular file"), "{error}");
}

#[test]
fn listeners_need_ports_of_their_own() {
    let errors = errors_of_file("gateway_addr = \"0.0.0.0:7000\"\nadmin_addr = \"127.0.0.1:7000\"");
    assert_eq!(
        errors,
        [
            "shoal.toml:2: admin_addr = \"127.0.0.1:7000\" is taken by gateway_addr (allowed: another port for each of \
          gateway_addr, peer_addr and admin_addr)"
        ]
    );
    let errors = errors_of_file("gateway_addr = \"[::]:7055\"\nadmin_addr = \"127.0.0.1:7055\"");
    assert!(errors[0].contains("is taken by gateway_addr"), "{errors:?}");
    config_of_file(
        "gateway_addr = \"127.0.0.1:0\"\nadmin_addr = \"127.0.0.1:0\"\npeer_addr = \"127.0.0.2:0\"",
    );
    config_of_file("gateway_addr = \"127.0.0.1:7000\"\nadmin_addr = \"127.0.0.2:7000\"");
}

#[test]
fn hostile_values_are_cut_in_messages() {
    let errors = errors_of_file(&format!("zone = \"{}\"\n{} = 1", "z".repeat(100_000), "k".repeat(100_000)));
    assert!(
        errors.iter().all(|error| error.len() < 600),
        "{}",
        errors.iter().map(String::len).max().unwrap()
    );
}

#[test]
fn the_effective_configuration_means_itself() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cluster.key"), crate::key::new()).unwrap();
    fs::write(folder.path().join("pw"), "hunter2\n").unwrap();
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    let file = r#"
        cluster_key_file = "cluster.key"
        zone = "z"
        upload_rate = "50MiB"
        upstream_rate = "1GiB"
        stream = "proven"
        bootstrap = ["dns:a:1", "[::1]:2"]
        tags = "own"
        tag_ttl = "1m 30s"
        tag_stale = "0s"
        [[tag]]
        match = "a:5000/releases/*:v*"
        ttl = "forever"
        [[tag]]
        match = "*:main"
        ttl = "0s"
        [policy]
        public_for = "1h"
        client_for = "5s"
        allow = ["*.example.com"]
        deny = ["docker.io"]
        [upstream."a:5000"]
        url = "http://a:5000"
        insecure = true
        token_realms = ["b"]
        mirrors = ["http://b/v2/a", { url = "https://c", insecure = true, credentials = true }]
        [upstream."b"]
        credentials = { helper = "ecr-login", access = "cluster" }
        [upstream."c"]
        credentials = { docker_config = "config.json", access = "cluster" }
        [upstream."a:5000".credentials]
        username = "quoted \" \\ name"
        password_file = "pw"
        access = "cluster"
    "#;
    let first = load_in(folder.path(), Said { flags: Flags::default(), variables: &[], file }).unwrap();
    let shown = show::effective(&first);
    let again =
        load_in(folder.path(), Said { flags: Flags::default(), variables: &[], file: &shown }).unwrap();
    assert_eq!(first.config, again.config, "{shown}");
    assert!(shown.contains("gateway_addr = \"127.0.0.1:5055\"  # default\n"), "{shown}");
    assert!(shown.contains("shoal.toml:3\n"), "{shown}");
    assert_eq!((first.config.tags.rules.len(), first.config.access.client.as_secs()), (2, 5));
}

#[test]
fn the_example_says_the_defaults_and_its_comments_are_true() {
    let defaults = load(&Flags::default(), &Environment::with(&[("HOME", "/home/ann")])).unwrap().config;
    assert_eq!(config_of_file(show::EXAMPLE), defaults);

    // Every line that is commented out is a key or table that exists.
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cluster.key"), crate::key::new()).unwrap();
    fs::write(folder.path().join("mirror.password"), "hunter2").unwrap();
    let file = show::EXAMPLE
        .replace("\n#", "\n")
        .replace("\n ", "\n# ")
        .replace("ca = ", "# ca = ")
        .replace("client_cert = ", "# ");
    let config =
        load_in(folder.path(), Said { flags: Flags::default(), variables: &[], file: &file }).unwrap().config;
    assert_eq!(config.zone.as_deref(), Some("eu-west-1a"));
    assert!(config.upstreams.upstreams["docker.io"].credentials.is_some());
}

/// However a file is cut or garbled, reading it ends with values or with problems.
#[test]
fn no_file_makes_reading_panic() {
    let whole = show::EXAMPLE.replace("\n#", "\n");
    let mut read = 0;
    for (at, letter) in whole.char_indices() {
        let (before, after) = (&whole[..at], &whole[at + letter.len_utf8()..]);
        for text in
            [before.to_owned(), format!("{before}{after}"), format!("{before}[{after}"), after.to_owned()]
        {
            let mut problems = Vec::new();
            file::parse(Path::new("shoal.toml"), &text, &mut problems);
            read += usize::from(problems.is_empty());
        }
    }
    assert!(read > 0, "nothing was ever readable");
}

#[test]
fn commands_find_the_node_where_it_was_told_to_listen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shoal.toml");
    // The key's file is not there: asking for a status needs none.
    fs::write(&path, "admin_addr = \"[::]:1\"\ncluster_key_file = \"missing\"").unwrap();
    let file = ("SHOAL_CONFIG", path.to_str().unwrap());
    let admin = |flag: Option<&str>, variables: &[(&str, &str)]| {
        address_of(Listener::Admin, flag, &Environment::with(variables)).map(|address| address.to_string())
    };
    assert_eq!(admin(None, &[]).unwrap(), "127.0.0.1:5057");
    assert_eq!(admin(None, &[file]).unwrap(), "[::1]:1");
    assert_eq!(admin(None, &[file, ("SHOAL_ADMIN_ADDR", "0.0.0.0:2")]).unwrap(), "127.0.0.1:2");
    assert_eq!(admin(Some("10.0.0.1:3"), &[("SHOAL_CONFIG", "/nowhere")]).unwrap(), "10.0.0.1:3");
    assert!(
        admin(Some("3"), &[]).unwrap_err().to_string().contains("--admin-addr: admin_addr = \"3\" is not")
    );
    let gateway = address_of(Listener::Gateway, None, &Environment::default()).unwrap();
    assert_eq!(gateway, GATEWAY_ADDR);
}
