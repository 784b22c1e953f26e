//! Private images stay private: whoever asks a warm cache gets what upstream would have given it, and nothing else.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;
use shoal_tests::client::Answer;
use shoal_tests::faulty::Faulty;
use shoal_tests::fleet::new_key;
use shoal_tests::guarded::{Guarded, basic};
use shoal_tests::image::{Image, OCI_MANIFEST, synthetic};
use shoal_tests::node::{Node, Settings};
use shoal_tests::process::output;
use shoal_tests::registry::{Kind, Registry};
use shoal_tests::tool::shoal;

const REGISTRY: &str = "registry.test";
const LIAR: &str = "liar.test";

/// A guarded registry and nodes that know it, with the operator's credentials or without.
struct World {
    // Before the directory, so that they are dead when it is removed.
    nodes: Vec<Node>,
    guard: Guarded,
    /// Another registry, that anybody can run.
    liar: Faulty,
    registry: Registry,
    key: PathBuf,
    home: tempfile::TempDir,
}

/// The operator, and two clients.
fn operator() -> String {
    basic("operator", "secret-of-the-operator")
}
fn alice() -> String {
    basic("alice", "secret-of-alice")
}
fn mallory() -> String {
    basic("mallory", "guess")
}

/// A registry, and the operator's credentials for it.
fn operators(url: &str) -> String {
    format!(
        "[upstream.\"{REGISTRY}\"]\nurl = \"{url}\"\ncredentials = {{ username = \"operator\", password = \
         \"secret-of-the-operator\", access = \"verify\" }}\n"
    )
}

impl World {
    /// Nodes whose operator gave credentials with this `access`, or none.
    async fn start(access: Option<&str>, count: usize) -> Self {
        let home = tempfile::Builder::new().prefix("shoal-tests-").tempdir().unwrap();
        let registry = Registry::start(Kind::Distribution, home.path(), "registry").await.unwrap();
        let guard = Guarded::start(&registry.url()).await.unwrap();
        let key = new_key(home.path(), "cluster.key").unwrap();
        let liar = Faulty::start().await.unwrap();
        let mut world = Self { nodes: Vec::new(), guard, liar, registry, key, home };
        for _ in 0..count {
            world.grow(access).await;
        }
        for node in &world.nodes {
            node.joined(count - 1).await.unwrap();
        }
        world
    }

    async fn grow(&mut self, access: Option<&str>) {
        let mut config = format!("[upstream.\"{REGISTRY}\"]\nurl = \"{}\"\n", self.guard.url());
        if let Some(access) = access {
            writeln!(
                config,
                "credentials = {{ username = \"operator\", password = \"secret-of-the-operator\", access = \"{access}\" }}"
            )
            .unwrap();
        }
        write!(config, "[upstream.\"{LIAR}\"]\nurl = \"{}\"\n", self.liar.url()).unwrap();
        let settings = Settings {
            bootstrap: self.nodes.first().map(|node| node.serving.peer.to_string()).into_iter().collect(),
            cluster_key: Some(self.key.clone()),
            config,
            ..Settings::default()
        };
        let name = format!("node-{}", self.nodes.len());
        self.nodes.push(Node::start(self.home.path(), &name, settings).await.unwrap());
    }

    /// An image of this seed, pushed.
    async fn image(&self, repository: &str, seed: u64) -> Image {
        let image = synthetic::image(self.home.path(), seed, &[9_000, 3 << 20]).unwrap();
        self.registry.push(repository, "v1", &image).await.unwrap();
        image
    }

    /// The liar has the image's manifest, and says of its blobs that it has them.
    fn liar_claims(&self, image: &Image) {
        self.liar.hold_manifest(&image.manifest.digest, OCI_MANIFEST, image.manifest.bytes.clone());
        for blob in image.blobs() {
            let size = usize::try_from(blob.size).unwrap();
            self.liar.hold_blob_as(&blob.digest, Bytes::from(vec![7; size]));
        }
    }

    /// The same as `team/app`, for the operator and alice alone.
    async fn private_image(&self, seed: u64) -> Image {
        self.guard.allow("team/app", &operator());
        self.guard.allow("team/app", &alice());
        self.image("team/app", seed).await
    }

    /// One GET, with or without credentials.
    async fn get(&self, node: usize, path: &str, authorization: Option<&str>) -> Answer {
        let mut headers = vec![("accept", OCI_MANIFEST)];
        headers.extend(authorization.map(|value| ("authorization", value)));
        let client = self.nodes[node].client().unwrap();
        client.send(Method::GET, &format!("/v2/{REGISTRY}/{path}"), &headers).await.unwrap()
    }

    /// The paths of all that an image consists of.
    fn paths(repository: &str, image: &Image) -> Vec<String> {
        let manifest = shoal_tests::image::digest(&image.manifest.bytes);
        let mut paths =
            vec![format!("{repository}/manifests/v1"), format!("{repository}/manifests/{manifest}")];
        paths.extend(image.blobs().map(|blob| format!("{repository}/blobs/{}", blob.digest)));
        paths
    }

    /// Every part of the image is given.
    async fn gets(&self, node: usize, repository: &str, image: &Image, authorization: Option<&str>) {
        for path in Self::paths(repository, image) {
            let answer = self.get(node, &path, authorization).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}: {:?}", answer.body);
            assert!(!answer.body.is_empty());
        }
    }

    /// No part of the image is given, and what is said instead has this status.
    async fn gets_nothing(
        &self,
        node: usize,
        repository: &str,
        image: &Image,
        authorization: Option<&str>,
        status: StatusCode,
    ) {
        for path in Self::paths(repository, image) {
            let answer = self.get(node, &path, authorization).await;
            assert_eq!(answer.status, status, "{path}: {:?}", answer.body);
            let code = answer.error_code().unwrap();
            let expected = if status == StatusCode::UNAUTHORIZED { "UNAUTHORIZED" } else { "UNKNOWN" };
            assert!(code.ends_with(expected), "{path}: {code}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_cache_gives_a_private_image_to_whom_upstream_gives_it() {
    let world = World::start(Some("verify"), 2).await;
    let image = world.private_image(1).await;

    // Cold, then warm, then the other node, which gets it from its peer.
    world.gets_nothing(0, "team/app", &image, None, StatusCode::NOT_FOUND).await;
    world.gets(0, "team/app", &image, Some(&alice())).await;
    for node in [0, 1] {
        world.gets_nothing(node, "team/app", &image, None, StatusCode::NOT_FOUND).await;
        world.gets_nothing(node, "team/app", &image, Some(&mallory()), StatusCode::NOT_FOUND).await;
        world.gets_nothing(node, "team/app", &image, Some("Bearer forged"), StatusCode::NOT_FOUND).await;
        world.gets_nothing(node, "team/app", &image, Some("nonsense"), StatusCode::NOT_FOUND).await;
    }
    world.gets(1, "team/app", &image, Some(&alice())).await;
    let blobs: Vec<_> = world
        .guard
        .take_asked()
        .into_iter()
        .filter(|one| one.method == "GET" && one.path.contains("/blobs/"))
        .collect();
    assert!(blobs.iter().all(|one| one.authorization == Some(operator())), "{blobs:?}");

    // Through a repository that everyone may read, and that does not have it.
    let public = world.image("library/tool", 2).await;
    world.guard.publish("library/tool");
    world.gets(0, "library/tool", &public, None).await;
    for path in World::paths("team/app", &image).into_iter().skip(1) {
        let path = path.replace("team/app", "library/tool");
        for node in [0, 1] {
            for login in [None, Some(alice())] {
                let answer = world.get(node, &path, login.as_deref()).await;
                assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_revokes_ends_and_what_it_gave_everyone_outlives_it() {
    let mut world = World::start(Some("verify"), 2).await;
    let (private, public) = (world.image("team/app", 3).await, world.image("library/tool", 4).await);
    world.guard.allow("team/app", &operator());
    world.guard.allow("team/app", &alice());
    world.guard.publish("library/tool");
    world.gets(0, "team/app", &private, Some(&alice())).await;
    world.gets(0, "library/tool", &public, None).await;

    // Upstream is down: whom it let read a moment ago, everyone where it let everyone, and nobody else.
    world.guard.set_down(true);
    world.gets(0, "library/tool", &public, None).await;
    world.gets(1, "library/tool", &public, None).await;
    world.gets(0, "team/app", &private, Some(&alice())).await;
    for path in World::paths("team/app", &private) {
        for login in [None, Some(mallory())] {
            let answer = world.get(0, &path, login.as_deref()).await;
            assert!(!answer.status.is_success(), "{path} {login:?}");
        }
    }
    world.nodes[0].restart().await.unwrap();
    world.nodes[0].joined(1).await.unwrap();
    world.gets(0, "library/tool", &public, None).await;
    let manifest = &World::paths("team/app", &private)[1];
    assert!(!world.get(0, manifest, Some(&mallory())).await.status.is_success());

    // What everyone could read is withdrawn: that holds, too, while upstream is down again.
    world.guard.set_down(false);
    world.guard.withdraw("library/tool");
    world.nodes[0].restart().await.unwrap();
    world.nodes[0].joined(1).await.unwrap();
    world.gets_nothing(0, "library/tool", &public, None, StatusCode::NOT_FOUND).await;
    world.guard.set_down(true);
    for restarted in [false, true] {
        if restarted {
            world.nodes[0].restart().await.unwrap();
            world.nodes[0].joined(1).await.unwrap();
        }
        for path in World::paths("library/tool", &public) {
            assert!(!world.get(0, &path, None).await.status.is_success(), "{path} {restarted}");
        }
    }

    // It is back, and has changed its mind. A restarted node has forgotten what clients may.
    world.guard.set_down(false);
    world.guard.revoke("team/app", &alice());
    world.nodes[0].restart().await.unwrap();
    world.nodes[1].kill();
    world.gets_nothing(0, "team/app", &private, Some(&alice()), StatusCode::NOT_FOUND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_challenged_where_the_operator_says_so() {
    let world = World::start(Some("challenge"), 1).await;
    let image = world.private_image(5).await;
    world.gets(0, "team/app", &image, Some(&alice())).await;
    world.gets_nothing(0, "team/app", &image, None, StatusCode::UNAUTHORIZED).await;
    let answer = world.get(0, &World::paths("team/app", &image)[0], None).await;
    assert_eq!(answer.header("www-authenticate"), format!("Basic realm=\"{REGISTRY}\""));
    // Wrong ones are not asked for again.
    world.gets_nothing(0, "team/app", &image, Some(&mallory()), StatusCode::NOT_FOUND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clusters_credentials_are_everyones() {
    let world = World::start(Some("cluster"), 2).await;
    let (image, other) = (world.image("team/app", 6).await, world.image("team/other", 7).await);
    world.guard.allow("team/app", &operator());
    world.gets(0, "team/app", &image, None).await;
    world.gets(1, "team/app", &image, None).await;
    // Only what the credentials can read.
    world.gets_nothing(0, "team/other", &other, None, StatusCode::NOT_FOUND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_own_credentials_do_where_the_operator_gave_none() {
    let world = World::start(None, 2).await;
    let image = world.image("team/app", 8).await;
    world.guard.allow("team/app", &alice());
    world.gets_nothing(0, "team/app", &image, None, StatusCode::NOT_FOUND).await;
    world.gets(0, "team/app", &image, Some(&alice())).await;
    let asked = world.guard.take_asked();
    assert!(
        asked.iter().any(|one| one.authorization == Some(alice()) && one.path.contains("/blobs/")),
        "{asked:?}"
    );
    for node in [0, 1] {
        world.gets_nothing(node, "team/app", &image, None, StatusCode::NOT_FOUND).await;
        world.gets_nothing(node, "team/app", &image, Some(&mallory()), StatusCode::NOT_FOUND).await;
    }
    // The other node has the bytes of its peer.
    world.guard.take_asked();
    world.gets(1, "team/app", &image, Some(&alice())).await;
    let asked = world.guard.take_asked();
    assert!(asked.iter().all(|one| one.method == "HEAD"), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_says_who_may_and_where_it_came_from() {
    let world = World::start(Some("verify"), 2).await;
    let image = world.private_image(9).await;
    world.gets(0, "team/app", &image, Some(&alice())).await;
    world.gets(1, "team/app", &image, Some(&alice())).await;
    let refused = world.get(1, &World::paths("team/app", &image)[0], None).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);

    let admin = world.nodes[1].serving.admin.to_string();
    let why = |more: &[&str]| {
        let name = format!("{REGISTRY}/team/app:v1");
        let mut command = Command::new(shoal().unwrap());
        output(command.args(["why", &name, "--admin-addr", &admin]).args(more)).unwrap()
    };
    let said = String::from_utf8(why(&[])).unwrap();
    for text in [
        "registry.test/team/app:v1",
        "not everyone may read it: upstream refused it lately",
        "access = verify",
        "with 404: registry.test does not give this to everyone, and this client sent no credentials",
        "3.00 MiB, held",
        "fetched",
    ] {
        assert!(said.contains(text), "{text:?} is not in\n{said}");
    }
    // The layer came from the peer, all of it.
    let json: serde_json::Value = serde_json::from_slice(&why(&["--json"])).unwrap();
    let layer = json["parts"].as_array().unwrap().iter().find(|part| part["size"] == 3 << 20).unwrap();
    assert_eq!(
        (&layer["fetched"]["from_peers"], &layer["fetched"]["from_upstream"]),
        (&json!(3 << 20), &json!(0))
    );
    let status = world.nodes[1].admin().unwrap().get("/status").await.unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!(status["sent_past"]["no_credentials"], 1);
}

/// A manifest that lists a digest is no ticket: registries take manifests that name what is in other repositories, in
/// fields that they do not read themselves.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_names_anothers_blobs_admits_nobody_to_them() {
    let world = World::start(Some("verify"), 2).await;
    let (private, mine) = (world.private_image(1).await, world.image("pub/evil", 2).await);
    world.guard.publish("pub/evil");
    world.gets(0, "team/app", &private, Some(&alice())).await;

    let described = |digest: &str, size: u64| json!({ "mediaType": "application/octet-stream", "digest": digest, "size": size });
    let mut named: Vec<_> = private.blobs().map(|blob| described(&blob.digest, blob.size)).collect();
    named.push(described(&private.manifest.digest, private.manifest.bytes.len() as u64));
    let evil = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described(&mine.config.digest, mine.config.size),
        "layers": [],
        "blobs": named,
    });
    let url = format!("{}/v2/pub/evil/manifests/evil", world.registry.url());
    let put = reqwest::Client::new().put(url).header("content-type", OCI_MANIFEST).body(evil.to_string());
    assert_eq!(put.send().await.unwrap().status(), 201, "the registry takes it");
    for node in [0, 1] {
        let named = world.get(node, "pub/evil/manifests/evil", None).await;
        assert_eq!((named.status, &named.body), (StatusCode::OK, &Bytes::from(evil.to_string())));
        for path in World::paths("pub/evil", &private).into_iter().skip(1) {
            for login in [None, Some(mallory())] {
                let answer = world.get(node, &path, login.as_deref()).await;
                assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
            }
        }
    }
    // Its own it gets, of which upstream says so once for the fleet.
    world.guard.take_asked();
    world.gets(0, "pub/evil", &mine, None).await;
    world.gets(1, "pub/evil", &mine, None).await;
    let asked = world.guard.take_asked();
    for blob in mine.blobs() {
        let heads = asked.iter().filter(|one| one.method == "HEAD" && one.path.ends_with(&blob.digest));
        assert_eq!(heads.count(), 1, "{asked:?}");
    }
}

/// What was cleaned away before a repository became public is not given to everyone.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_repository_had_while_it_was_private_is_not_public_with_it() {
    let mut world = World::start(Some("verify"), 0).await;
    let config = format!("{}[policy]\nclient_for = \"1s\"\n", operators(&world.guard.url()));
    let settings = Settings { config, ..Settings::default() };
    world.nodes.push(Node::start(world.home.path(), "node", settings).await.unwrap());
    let (old, new) =
        (world.private_image(1).await, synthetic::image(world.home.path(), 2, &[5_000]).unwrap());
    world.gets(0, "team/app", &old, Some(&alice())).await;
    world.registry.push("team/app", "v1", &new).await.unwrap();
    for path in World::paths("team/app", &old).into_iter().skip(1) {
        let url = format!("{}/v2/{path}", world.registry.url());
        let deleted = reqwest::Client::new().delete(url).send().await.unwrap().status();
        assert_eq!(deleted, 202, "{path}");
    }
    world.guard.publish("team/app");
    // That it is private holds for a second.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    world.gets(0, "team/app", &new, None).await;
    for path in World::paths("team/app", &old).into_iter().skip(1) {
        let answer = world.get(0, &path, None).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
}

/// A registry that gives everyone what is asked for is not shown the login of a client that has one for this gateway.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_not_shown_where_none_is_needed() {
    let world = World::start(None, 1).await;
    let image = synthetic::image(world.home.path(), 3, &[5_000]).unwrap();
    world.liar.hold("v1", &image).unwrap();
    let client = world.nodes[0].client().unwrap();
    let login = alice();
    for path in World::paths("some/thing", &image) {
        let headers = [("accept", OCI_MANIFEST), ("authorization", login.as_str())];
        let answer = client.send(Method::GET, &format!("/v2/{LIAR}/{path}"), &headers).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{path}");
    }
    let seen = world.liar.seen();
    assert!(
        !seen.is_empty() && seen.iter().all(|one| !one.headers.contains_key("authorization")),
        "{seen:?}"
    );
}

/// Without a cluster whatever runs on the machine can be a peer, and gets only what everyone may read.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_no_cluster_gets_nothing_private() {
    let mut world = World::start(Some("verify"), 0).await;
    let image = world.private_image(1).await;
    let public = world.image("library/tool", 2).await;
    world.guard.publish("library/tool");
    let settings = Settings { config: operators(&world.guard.url()), ..Settings::default() };
    world.nodes.push(Node::start(world.home.path(), "mine", settings).await.unwrap());
    world.gets(0, "team/app", &image, Some(&alice())).await;
    world.gets(0, "library/tool", &public, None).await;
    // One whose registry says yes to all, and gives nothing.
    for (of, is_given) in [(&image, false), (&public, true)] {
        world.liar_claims(of);
        let settings = Settings {
            bootstrap: vec![world.nodes[0].serving.peer.to_string()],
            config: operators(&world.liar.url()),
            ..Settings::default()
        };
        world
            .nodes
            .push(Node::start(world.home.path(), &format!("theirs-{is_given}"), settings).await.unwrap());
        let theirs = world.nodes.len() - 1;
        world.nodes[theirs].joined(1).await.unwrap();
        for blob in of.blobs() {
            let path = format!("/v2/{REGISTRY}/team/app/blobs/{}", blob.digest);
            let answer = world.nodes[theirs].client().unwrap().get(&path).await;
            let got = answer.is_ok_and(|answer| answer.body == blob.bytes().unwrap());
            assert_eq!(got, is_given, "{path}");
        }
    }
}

/// A digest is no ticket: who runs a registry can have it say yes to any.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_says_it_has_a_digest_is_not_given_what_others_sent() {
    let world = World::start(Some("verify"), 2).await;
    let (private, public) = (world.private_image(1).await, world.image("library/tool", 2).await);
    world.guard.publish("library/tool");
    world.gets(0, "team/app", &private, Some(&alice())).await;
    world.gets(0, "library/tool", &public, None).await;

    // It knows the manifests, by which its repository lists the blobs, but not these.
    for image in [&private, &public] {
        world.liar_claims(image);
    }
    let ask = async |node: usize, path: String| {
        let client = world.nodes[node].client().unwrap();
        let headers = [("accept", OCI_MANIFEST)];
        client.send(Method::GET, &format!("/v2/{LIAR}/some/thing/{path}"), &headers).await
    };
    for node in 0..2 {
        ask(node, format!("manifests/{}", private.manifest.digest)).await.unwrap();
        for blob in private.blobs() {
            // A body that breaks off is an error.
            let answer = ask(node, format!("blobs/{}", blob.digest)).await;
            let secret = blob.bytes().unwrap();
            assert!(
                answer.is_err() || answer.is_ok_and(|answer| answer.body != secret),
                "node {node} gave it"
            );
        }
    }
    // What everyone can read where it came from is nobody's secret.
    for blob in public.blobs() {
        let answer = ask(0, format!("blobs/{}", blob.digest)).await.unwrap();
        assert!(answer.status == StatusCode::OK && answer.body == blob.bytes().unwrap(), "{}", answer.status);
    }
    world.gets(1, "team/app", &private, Some(&alice())).await;
}

/// What another registry proves to have, it has: its clients get it, and it is asked once.
#[tokio::test(flavor = "multi_thread")]
async fn what_two_registries_have_is_asked_of_the_second_once() {
    let world = World::start(Some("verify"), 2).await;
    let private = world.private_image(1).await;
    world.gets(0, "team/app", &private, Some(&alice())).await;
    world.liar.hold("v1", &private).unwrap();

    let ask = async |node: usize, digest: &str, range: Option<&str>| {
        let client = world.nodes[node].client().unwrap();
        let headers: Vec<_> = range.map(|range| ("range", range)).into_iter().collect();
        client.send(Method::GET, &format!("/v2/{LIAR}/some/thing/blobs/{digest}"), &headers).await.unwrap()
    };
    for (number, blob) in private.blobs().enumerate() {
        let expected = blob.bytes().unwrap();
        // A part, and the whole, come after the whole was proven.
        let range = number.is_multiple_of(2).then_some("bytes=1-9");
        let answer = ask(0, &blob.digest, range).await;
        let (status, body) = match range {
            Some(_) => (StatusCode::PARTIAL_CONTENT, &expected[1..10]),
            None => (StatusCode::OK, &expected[..]),
        };
        assert!(answer.status == status && answer.body == body, "{}", answer.status);
        // From here on it is of both. A peer believes this node.
        for node in [0, 1] {
            let answer = ask(node, &blob.digest, None).await;
            assert!(answer.status == StatusCode::OK && answer.body == expected, "{node}: {}", answer.status);
        }
        let gets = world
            .liar
            .seen()
            .into_iter()
            .filter(|seen| seen.method == Method::GET && seen.target.ends_with(&blob.digest));
        assert_eq!(gets.count(), 1, "{number}");
    }
}
