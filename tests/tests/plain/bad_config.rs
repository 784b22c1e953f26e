//! Configuration that cannot be right: the node does not start, and says which key, which value, what is allowed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use shoal_tests::tool;

/// Starts a node that must not start, and gives what it says on standard error.
fn refused(home: &Path, config: &str, flags: &[&str]) -> String {
    let file = home.join("shoal.toml");
    fs::write(&file, config).unwrap();
    let begun = Instant::now();
    let done = Command::new(tool::shoal().unwrap())
        .arg("run")
        .arg("--config")
        .arg(&file)
        .arg("--data-dir")
        .arg(home.join("data"))
        // Should one be accepted, the node ends at once, with 0.
        .arg("--exit-with-stdin")
        .args(["--gateway-addr", "127.0.0.1:0", "--peer-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"])
        .args(flags)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success(), "accepted: {config:?} {flags:?}\n{said}");
    assert!(begun.elapsed() < Duration::from_secs(10), "refusing took {:?}", begun.elapsed());
    assert!(!said.contains("panicked"), "{said}");
    assert!(done.stdout.is_empty(), "{:?}", String::from_utf8_lossy(&done.stdout));
    said
}

#[test]
fn each_wrong_value_is_named_with_its_key_and_what_is_allowed() {
    let cases: [(&str, &[&str]); 14] = [
        ("zone = 5", &["zone", "5"]),
        ("stream = \"sometimes\"", &["stream", "sometimes", "early", "proven"]),
        ("streem = \"early\"", &["streem", "stream"]),
        ("bootstrap = [\"no port\"]", &["bootstrap", "no port", "host:port"]),
        ("bootstrap = [\"host:99999\"]", &["bootstrap", "99999"]),
        ("bootstrap = 5056", &["bootstrap", "5056", "a list of texts"]),
        ("[upstream.\"reg.test\"]\nurl = \"ftp://reg.test\"", &["url", "ftp://reg.test", "https://"]),
        ("[upstream.\"reg.test\"]\nurl = \"https://\"", &["url", "https://"]),
        ("[upstream.\"not a host\"]\nurl = \"https://a.test\"", &["not a host"]),
        ("[upstream.\"reg.test\"]\nurll = \"https://reg.test\"", &["urll", "url"]),
        ("[upstream.\"reg.test\"]\nca = \"/no/such/file.pem\"", &["ca", "/no/such/file.pem"]),
        (
            "[upstream.\"reg.test\"]\ncredentials = { username = \"u\", password = \"hidden\" }",
            &["access", "cluster"],
        ),
        (
            "[upstream.\"reg.test\"]\ncredentials = { username = \"u\", password = \"hidden\", access = \"all\" }",
            &["access", "all", "cluster"],
        ),
        ("this is not TOML", &["shoal.toml"]),
    ];
    let home = tempfile::tempdir().unwrap();
    for (config, expected) in cases {
        let said = refused(home.path(), config, &[]);
        for part in expected {
            assert!(said.contains(part), "{config:?}: nothing about {part:?} in\n{said}");
        }
        assert!(!said.contains("hidden"), "a password is shown:\n{said}");
    }
}

#[test]
fn each_wrong_flag_is_named_with_what_is_allowed() {
    let home = tempfile::tempdir().unwrap();
    let not_a_key = home.path().join("not-a.key");
    fs::write(&not_a_key, "secret-but-short\n").unwrap();
    let not_a_key = not_a_key.to_str().unwrap();
    let a_file = home.path().join("shoal.toml");
    let a_file = a_file.to_str().unwrap();
    let cases: [(&[&str], &[&str]); 6] = [
        (&["--upstream", "no-url"], &["upstream", "no-url", "NAME=URL"]),
        (&["--upstream", "reg.test=gopher://x"], &["upstream", "gopher://x", "https://"]),
        (&["--bootstrap", "::1"], &["bootstrap", "::1"]),
        (&["--cluster-key-file", "/no/such/key"], &["cluster", "/no/such/key"]),
        (&["--cluster-key-file", not_a_key], &["cluster", "not-a.key", "shoal key new"]),
        (&["--zone", ""], &["zone"]),
    ];
    for (flags, expected) in cases {
        let said = refused(home.path(), "", flags);
        for part in expected {
            assert!(said.contains(part), "{flags:?}: nothing about {part:?} in\n{said}");
        }
        assert!(!said.contains("secret-but-short"), "a key is shown:\n{said}");
    }
    // Given twice on a command line, so by itself.
    let output = Command::new(tool::shoal().unwrap()).args(["run", "--data-dir", a_file]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("data") && said.contains("shoal.toml"), "{said}");
    let output =
        Command::new(tool::shoal().unwrap()).args(["run", "--gateway-addr", "here"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("gateway-addr") && said.contains("here"), "{said}");
}
