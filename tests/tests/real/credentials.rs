//! Logins, certificates, mirrors and limits with a real registry behind nginx.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::future::join_all;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use shoal_tests::client::{Answer, Client};
use shoal_tests::fleet::Fleet;
use shoal_tests::image::{Image, synthetic};
use shoal_tests::nginx::{Nginx, Seen, free};
use shoal_tests::node::{self, Node, Settings};
use shoal_tests::process::Process;
use shoal_tests::registry::{Guard, Kind, Registry};

const REPOSITORY: &str = "some/image";
/// ann's password, `secret` and then `rotated`, as bcrypt hashes them.
const SECRET: &str = "ann:$2b$04$8s8qN6.WX73UFNCPcCxrDehPv2GGJv8QL17JBrY1X.yUzxCHCaPoq\n";
const ROTATED: &str = "ann:$2b$04$w1EBznB6.L6YlSCi.CmmCukZxQ8OVCOy9wUBTERNJ1XhsK/VHTMEG\n";
/// The storage host's own, which stays.
const STORAGE: &str = "bob:$2b$04$8s8qN6.WX73UFNCPcCxrDehPv2GGJv8QL17JBrY1X.yUzxCHCaPoq\n";
/// `bob:secret` in base64.
const STORAGE_AUTH: &str = "Ym9iOnNlY3JldA==";
/// `ann:secret` in base64.
const AUTH: &str = "YW5uOnNlY3JldA==";
/// `ann:rotated` in base64.
const ROTATED_AUTH: &str = "YW5uOnJvdGF0ZWQ=";

/// A registry that asks for ann's password, with two images in it.
async fn private(home: &Path) -> (Registry, [Image; 2]) {
    let mut registry = Registry::start(Kind::Distribution, home, "registry").await.unwrap();
    let images = [1, 2].map(|seed| synthetic::image(home, seed, &[100_000, 2000]).unwrap());
    for (tag, image) in ["one", "two"].iter().zip(&images) {
        registry.push(REPOSITORY, tag, image).await.unwrap();
    }
    fs::write(home.join("htpasswd"), [SECRET, STORAGE].concat()).unwrap();
    registry.guard(Guard::Passwords(home.join("htpasswd"))).await.unwrap();
    (registry, images)
}

async fn node(home: &Path, name: &str, config: &str) -> Node {
    let settings = Settings { config: config.to_owned(), ..Settings::default() };
    Node::start(home, name, settings).await.unwrap()
}

/// What a pull through a node ends with.
async fn status(client: &Client, tag: &str) -> u16 {
    client.manifest(&format!("reg.test/{REPOSITORY}"), tag).await.unwrap().status.as_u16()
}

async fn pull(client: &Client, tag: &str, image: &Image) {
    client.pull(&format!("reg.test/{REPOSITORY}"), tag, image).await.unwrap();
}

/// Writes an authority, a server's certificate for loopback and a client's, all signed by it.
fn certificates(home: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "an authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    fs::write(home.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for (name, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        // One named as its issuer is, is taken for its own issuer.
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        fs::write(home.join(format!("{name}.pem")), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
        fs::write(home.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// TLS that asks for a client certificate, and a storage host elsewhere that blobs are at.
fn front(home: &Path, front: SocketAddr, storage: SocketAddr, registry: SocketAddr) -> String {
    let home = home.display();
    format!(
        "server {{
           listen {front} ssl;
           ssl_certificate {home}/server.pem;
           ssl_certificate_key {home}/server.key;
           ssl_client_certificate {home}/ca.pem;
           ssl_verify_client on;
           location / {{ proxy_pass http://{registry}; }}
           location ~ ^/v2/.*/blobs/ {{ return 307 http://{storage}$request_uri; }}
         }}
         server {{
           listen {storage};
           location / {{
             proxy_pass http://{registry};
             proxy_set_header Authorization \"Basic {STORAGE_AUTH}\";
           }}
         }}"
    )
}

#[tokio::test]
async fn a_rotated_password_behind_tls_that_wants_a_certificate_and_redirects() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let (registry, images) = private(home).await;
    certificates(home);
    let (at, storage) = (free("127.0.0.1").unwrap(), free("127.0.0.2").unwrap());
    let nginx = Nginx::start(home, "nginx", at, &front(home, at, storage, registry.address())).await.unwrap();
    fs::write(home.join("password"), "secret\n").unwrap();
    let table = |certificate: &str| {
        format!(
            "[upstream]
             \"storage.test\" = \"http://{storage}\"
             [upstream.\"reg.test\"]
             url = \"https://{at}\"
             ca = \"../ca.pem\"
             {certificate}
             credentials = {{ username = \"ann\", password_file = \"../password\", access = \"cluster\" }}"
        )
    };
    let shown =
        node(home, "shown", &table("client_cert = \"../client.pem\"\nclient_key = \"../client.key\"")).await;
    let client = shown.client().unwrap();
    pull(&client, "one", &images[0]).await;

    let seen = nginx.seen().await.unwrap();
    let at_storage: Vec<&Seen> = seen.iter().filter(|seen| seen.port == storage.port()).collect();
    assert!(!at_storage.is_empty() && at_storage.iter().all(|seen| !seen.authorized), "{at_storage:?}");
    assert!(seen.iter().any(|seen| seen.port == at.port() && seen.authorized), "{seen:?}");

    // The node keeps running, and the file is replaced as Kubernetes does it: at once. What the node has of the old
    // password is refused now.
    fs::write(home.join("password.new"), "rotated\n").unwrap();
    fs::rename(home.join("password.new"), home.join("password")).unwrap();
    fs::write(home.join("htpasswd"), [ROTATED, STORAGE].concat()).unwrap();
    pull(&client, "two", &images[1]).await;

    let hidden = node(home, "hidden", &table("")).await;
    assert_ne!(status(&hidden.client().unwrap(), "one").await, 200, "nginx asks for no certificate");
    assert!(nginx.seen().await.unwrap().iter().any(|seen| seen.port == at.port() && seen.status == 400));
    // The certificate is the operator's: where clients are to show credentials, one without any gets nothing.
    let asking =
        table("client_cert = \"../client.pem\"\nclient_key = \"../client.key\"").replace("cluster", "verify");
    let asking = node(home, "asking", &asking).await;
    assert_eq!(status(&asking.client().unwrap(), "one").await, 404);
    for node in [&shown, &hidden, &asking] {
        let log = node.log().unwrap();
        assert!(!log.contains("rotated") && !log.contains(AUTH) && !log.contains(ROTATED_AUTH), "{log}");
    }
}

/// A node whose `PATH` has the helper `docker-credential-test`.
async fn with_helper(home: &Path, name: &str, config: &str) -> (Process, Client) {
    let bin = home.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let helper = bin.join("docker-credential-test");
    let script = "#!/bin/sh\nread -r server\necho \"$1 $server\" >>\"$(dirname \"$0\")/asked\"\n\
                  echo '{\"Username\":\"ann\",\"Secret\":\"secret\"}'\n";
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let directory = home.join(name);
    fs::create_dir_all(&directory).unwrap();
    let settings = Settings { config: config.to_owned(), ..Settings::default() };
    let mut spec = node::spec(&directory, name, &settings).unwrap();
    let path = std::env::var("PATH").unwrap();
    spec.command().env("PATH", format!("{}:{path}", bin.display()));
    let (process, output, serving) = node::serve(spec).await.unwrap();
    // Its standard output ends with this process.
    std::mem::forget(output);
    (process, Client::new(&format!("http://{}", serving.gateway)).unwrap())
}

#[tokio::test]
async fn logins_of_docker_and_of_its_helpers() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let (registry, images) = private(home).await;
    let config = home.join("config.json");
    let table = |login: &str| {
        format!(
            "[upstream.\"reg.test\"]\nurl = \"{}\"\ncredentials = {{ {login}, access = \"cluster\" }}",
            registry.url()
        )
    };
    let in_file = "docker_config = \"../config.json\"";

    fs::write(&config, format!(r#"{{"auths": {{"reg.test": {{"auth": "{AUTH}"}}}}}}"#)).unwrap();
    let (_entry, client) = with_helper(home, "entry", &table(in_file)).await;
    pull(&client, "one", &images[0]).await;

    // A file that names a helper instead.
    fs::write(&config, r#"{"credHelpers": {"reg.test": "test"}}"#).unwrap();
    let (_named, client) = with_helper(home, "named", &table(in_file)).await;
    pull(&client, "one", &images[0]).await;
    let (_helper, client) = with_helper(home, "helper", &table("helper = \"test\"")).await;
    pull(&client, "two", &images[1]).await;
    let asked = fs::read_to_string(home.join("bin/asked")).unwrap();
    assert_eq!(asked, "get reg.test\nget reg.test\n", "once a node, whatever it pulls");

    // A login that is refused gives no image, and no log shows it.
    fs::write(&config, r#"{"auths": {"reg.test": {"username": "ann", "password": "not-hers"}}}"#).unwrap();
    let (wrong, client) = with_helper(home, "wrong", &table(in_file)).await;
    assert_ne!(status(&client, "one").await, 200);
    assert!(!wrong.log().unwrap().contains("not-hers"), "{}", wrong.tail());
}

#[tokio::test]
async fn mirrors_that_are_down_empty_busy_and_well() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let upstream = Registry::start(Kind::Distribution, home, "upstream").await.unwrap();
    let cache = Registry::start(Kind::Distribution, home, "cache").await.unwrap();
    let images = [1, 2].map(|seed| synthetic::image(home, seed, &[100_000, 2000]).unwrap());
    upstream.push(REPOSITORY, "one", &images[0]).await.unwrap();
    upstream.push(REPOSITORY, "two", &images[1]).await.unwrap();
    cache.push(&format!("proxy/{REPOSITORY}"), "one", &images[0]).await.unwrap();
    let [down, empty, busy] = [(); 3].map(|()| free("127.0.0.1").unwrap());
    let servers = format!(
        "server {{ listen {empty}; location / {{ return 404; }} }}
         server {{ listen {busy}; location / {{ add_header Retry-After 120 always; return 429; }} }}"
    );
    let nginx = Nginx::start(home, "nginx", empty, &servers).await.unwrap();
    let config = format!(
        "[upstream.\"reg.test\"]
         url = \"{}\"
         mirrors = [\"http://{down}\", \"http://{empty}\", \"http://{busy}\", {{ url = \"{}/v2/proxy\" }}]",
        upstream.url(),
        cache.url()
    );
    let node = node(home, "node", &config).await;
    let client = node.client().unwrap();
    let (before, cached) = (upstream.access().await.unwrap(), cache.access().await.unwrap());
    pull(&client, "one", &images[0]).await;
    let (after, filled) = (upstream.access().await.unwrap(), cache.access().await.unwrap());
    assert_eq!(after.since(&before).all_blob_bytes(), 0, "the last mirror has it");
    assert_eq!(filled.since(&cached).all_blob_bytes(), images[0].size());

    // What no mirror has comes from the registry itself.
    pull(&client, "two", &images[1]).await;
    assert_eq!(upstream.access().await.unwrap().since(&after).all_blob_bytes(), images[1].size());

    let seen = nginx.seen().await.unwrap();
    let asked = |at: SocketAddr| seen.iter().filter(|seen| seen.port == at.port()).count();
    assert!(asked(empty) > 1, "it is well and asked each time: {seen:?}");
    assert_eq!(asked(busy), 1, "it wanted to be left alone for two minutes: {seen:?}");
    let failures = node.log().unwrap().matches("a mirror failed").count();
    assert!((1..=3).contains(&failures), "the one that is down is not asked for each blob\n{failures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_is_told_to_wait_asks_nothing_more_until_then() {
    const NODES: usize = 3;
    let mut fleet = Fleet::start(Kind::Distribution, 0).await.unwrap();
    let image = synthetic::image(fleet.home(), 1, &[3_000_000, 2000]).unwrap();
    fleet.registry.push(REPOSITORY, "one", &image).await.unwrap();
    let (at, limited) = (free("127.0.0.1").unwrap(), fleet.home().join("limited"));
    let server = format!(
        "server {{
           listen {at};
           location / {{
             if (-f {}) {{
               add_header Retry-After 8 always;
               return 429;
             }}
             proxy_pass http://{};
           }}
         }}",
        limited.display(),
        fleet.registry.address()
    );
    let nginx = Nginx::start(fleet.home(), "nginx", at, &server).await.unwrap();
    for _ in 0..NODES {
        let settings =
            Settings { upstreams: vec![("reg.test".to_owned(), format!("http://{at}"))], ..fleet.settings() };
        fleet.grow_with(settings).await.unwrap();
    }
    fleet.settled().await.unwrap();
    let everywhere = async |path: &str| {
        let path = format!("/v2/reg.test/{REPOSITORY}/{path}");
        let asks = fleet.nodes.iter().map(|node| {
            let (client, path) = (node.client().unwrap(), path.clone());
            async move { client.get(&path).await.unwrap() }
        });
        join_all(asks).await
    };

    fs::write(&limited, "").unwrap();
    let told = everywhere("manifests/one").await;
    let until = Instant::now() + Duration::from_secs(9);
    let is_told = |answer: &Answer| String::from_utf8_lossy(&answer.body).contains("retryAfterSeconds");
    assert!(told.iter().all(|answer| answer.status == 404 && is_told(answer)), "{told:?}");
    assert_eq!(nginx.seen().await.unwrap().len(), 1, "one node asks for all");
    let other = [1, 2].map(|number| format!("manifests/other-{number}"));
    let blobs = image.blobs().map(|blob| format!("blobs/{}", blob.digest));
    for path in other.into_iter().chain(blobs) {
        let told = everywhere(&path).await;
        assert!(told.iter().all(|answer| answer.status != 200), "{told:?}");
    }
    assert!(Instant::now() + Duration::from_secs(2) < until, "the machine is too slow for this test");
    assert_eq!(nginx.seen().await.unwrap().len(), 1, "nothing else is asked for either");

    fs::remove_file(&limited).unwrap();
    tokio::time::sleep_until(until.into()).await;
    let before = fleet.registry.access().await.unwrap();
    let repository = format!("reg.test/{REPOSITORY}");
    let pulls =
        fleet.nodes.iter().map(async |node| node.client().unwrap().pull(&repository, "one", &image).await);
    for pulled in join_all(pulls).await {
        pulled.unwrap();
    }
    assert_eq!(fleet.registry.access().await.unwrap().since(&before).all_blob_bytes(), image.size());
}
