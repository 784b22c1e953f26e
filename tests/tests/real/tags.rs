//! What a tag names: asked of the registry as often as the operator says, by one node for all, and not more often.

use std::process::Command;
use std::time::Duration;

use futures::future::join_all;
use http::{Method, StatusCode};
use shoal_proto::manifest::DOCKER_LIST;
use shoal_tests::client::Answer;
use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::guarded::Guarded;
use shoal_tests::image::{
    DOCKER_MANIFEST, Dialect, Image, Layer, OCI_INDEX, OCI_MANIFEST, digest, index, index_as, synthetic,
};
use shoal_tests::node::{Node, Settings};
use shoal_tests::process::output;
use shoal_tests::registry::push::Target;
use shoal_tests::registry::{Kind, Registry};
use shoal_tests::tool::shoal;

const NODES: usize = 3;
const REPOSITORY: &str = "team/app";

/// Nodes with these lines of configuration, before a registry whose questions are counted.
struct World {
    nodes: Vec<Node>,
    guard: Guarded,
    registry: Registry,
    fleet: Fleet,
}

impl World {
    async fn start(config: &str) -> Self {
        let mut fleet = Fleet::start(Kind::Distribution, 0).await.unwrap();
        let registry = Registry::start(Kind::Distribution, fleet.home(), "tags").await.unwrap();
        let guard = Guarded::start(&registry.url()).await.unwrap();
        guard.publish(REPOSITORY);
        for _ in 0..NODES {
            let mut settings = fleet.settings();
            settings.upstreams = vec![(REGISTRY.to_owned(), guard.url())];
            config.clone_into(&mut settings.config);
            fleet.grow_with(settings).await.unwrap();
        }
        fleet.settled().await.unwrap();
        let nodes = std::mem::take(&mut fleet.nodes);
        Self { nodes, guard, registry, fleet }
    }

    async fn push(&self, tag: &str, seed: u64) -> Image {
        let image = synthetic::image(self.fleet.home(), seed, &[2000]).unwrap();
        self.registry.push(REPOSITORY, tag, &image).await.unwrap();
        image
    }

    async fn head(&self, node: usize, tag: &str) -> Answer {
        self.head_as(node, tag, &[OCI_INDEX, OCI_MANIFEST, DOCKER_MANIFEST].join(", ")).await
    }

    async fn head_as(&self, node: usize, tag: &str, accept: &str) -> Answer {
        let path = format!("/v2/{REGISTRY}/{REPOSITORY}/manifests/{tag}");
        let client = self.nodes[node].client().unwrap();
        client.send(Method::HEAD, &path, &[("accept", accept)]).await.unwrap()
    }

    /// What each node says that a tag names, all asked at once.
    async fn all(&self, tag: &str) -> Vec<String> {
        let asks = (0..NODES).map(|node| self.head(node, tag));
        join_all(asks).await.iter().map(named).collect()
    }

    /// How often the registry was asked for a tag since this was last called.
    fn asked(&self) -> usize {
        let asked = self.guard.take_asked();
        asked.iter().filter(|one| one.method == "HEAD" && one.path.contains("/manifests/")).count()
    }

    fn refresh(&self, node: usize, tag: &str) -> String {
        let admin = self.nodes[node].serving.admin.to_string();
        let image = format!("{REGISTRY}/{REPOSITORY}:{tag}");
        let mut command = Command::new(shoal().unwrap());
        let said = output(command.args(["images", "refresh", &image, "--admin-addr", &admin])).unwrap();
        String::from_utf8(said).unwrap()
    }
}

fn named(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.header("docker-content-digest").to_owned()
}

fn of(image: &Image) -> String {
    digest(&image.manifest.bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tag_is_seen_within_its_time_on_every_node() {
    let world = World::start("tag_ttl = \"3s\"").await;
    let first = world.push("v1", 1).await;
    assert_eq!(world.all("v1").await, vec![of(&first); NODES]);
    assert_eq!(world.asked(), 1, "one HEAD for the fleet");
    let second = world.push("v1", 2).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // What upstream said first is too old on every node, wherever it was heard.
    assert_eq!(world.all("v1").await, vec![of(&second); NODES]);
    assert_eq!(world.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_is_always_fresh_and_still_not_asked_for_by_all() {
    let world = World::start("tag_ttl = \"1h\"").await;
    let mut image = world.push("latest", 1).await;
    // All have asked before the first answer comes.
    world.guard.set_delay(Duration::from_millis(800));
    for seed in 2..6 {
        assert_eq!(world.all("latest").await, vec![of(&image); NODES], "{seed}");
        let asked = world.asked();
        assert!((1..=2).contains(&asked), "{NODES} nodes at once asked {asked} times");
        image = world.push("latest", seed).await;
    }
    world.guard.set_delay(Duration::ZERO);
    // Another tag keeps for an hour what the registry said.
    let kept = world.push("v1", 9).await;
    world.all("v1").await;
    world.push("v1", 10).await;
    world.asked();
    assert_eq!(world.all("v1").await, vec![of(&kept); NODES]);
    assert_eq!(world.asked(), 0);
    // Unless somebody asks for it.
    let said = world.refresh(0, "v1");
    assert!(said.contains("and named"), "{said}");
    assert_eq!(world.asked(), 1);
    assert_ne!(named(&world.head(0, "v1").await), of(&kept));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_never_moves_is_not_told_of_a_repository_that_is_private_now() {
    let world = World::start(
        "[[tag]]\nmatch = \"*:v*\"\nttl = \"forever\"\n[policy]\npublic_for = \"2s\"\nclient_for = \"1s\"",
    )
    .await;
    let image = world.push("v1", 1).await;
    assert_eq!(named(&world.head(0, "v1").await), of(&image));
    world.guard.withdraw(REPOSITORY);
    tokio::time::sleep(Duration::from_secs(3)).await;
    for _ in 0..2 {
        assert_eq!(world.head(0, "v1").await.status, StatusCode::NOT_FOUND);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_count_in_their_order_and_what_never_moves_is_never_asked_for_again() {
    let mut world = World::start(
        "tag_ttl = \"0s\"\n[[tag]]\nmatch = \"registry.test/team/*:v*\"\nttl = \"forever\"\n\
         [[tag]]\nmatch = \"registry.test/*\"\nttl = \"1h\"",
    )
    .await;
    let image = world.push("v1", 1).await;
    let other = world.push("main", 2).await;
    assert_eq!(world.all("v1").await, vec![of(&image); NODES]);
    assert_eq!(world.all("main").await, vec![of(&other); NODES]);
    assert_eq!(world.asked(), 2);
    world.push("v1", 3).await;
    world.nodes[1].restart().await.unwrap();
    world.nodes[1].joined(NODES - 1).await.unwrap();
    assert_eq!(world.all("v1").await, vec![of(&image); NODES]);
    assert_eq!(world.asked(), 0, "not even after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_upstream_is_down_the_last_word_is_given_with_a_warning_and_not_for_ever() {
    let world = World::start("tag_ttl = \"0s\"\ntag_stale = \"8s\"").await;
    let image = world.push("v1", 1).await;
    assert_eq!(named(&world.head(0, "v1").await), of(&image));
    world.guard.set_down(true);
    for node in 0..NODES {
        // The others have heard of it only from the first.
        let answer = world.head(node, "v1").await;
        assert_eq!(named(&answer), of(&image));
        let warning = answer.header("warning");
        assert!(warning.starts_with("299 - \"stale: as it was ") && warning.contains("503"), "{warning}");
    }
    let metrics = world.nodes[0].admin().unwrap().get("/metrics").await.unwrap();
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(metrics.contains("shoal_stale_tags_total 1"), "{metrics}");
    tokio::time::sleep(Duration::from_secs(8)).await;
    let path = format!("/v2/{REGISTRY}/{REPOSITORY}/manifests/v1");
    let refused = world.nodes[0].client().unwrap().get(&path).await.unwrap();
    assert!(!refused.status.is_success(), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.body).contains("tag_stale"), "{refused:?}");
    world.guard.set_down(false);
    let answer = world.head(0, "v1").await;
    assert_eq!((named(&answer), answer.header("warning")), (of(&image), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_trusts_nobody_with_tags_asks_itself() {
    let world = World::start("tags = \"own\"\ntag_ttl = \"1h\"").await;
    let image = world.push("v1", 1).await;
    assert_eq!(world.all("v1").await, vec![of(&image); NODES]);
    assert_eq!(world.asked(), NODES);
    let other = world.push("v2", 2).await;
    assert_eq!(named(&world.head(0, "v2").await), of(&other));
    world.guard.set_down(true);
    // What others know is not taken when upstream is down, either.
    assert!(!world.head(1, "v2").await.status.is_success());
    assert_eq!(named(&world.head(0, "v2").await), of(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_accept_other_types_get_the_right_manifest() {
    let world = World::start("tag_ttl = \"1h\"").await;
    let image = world.push("v1-image", 1).await;
    let many = index(&[&image]);
    Target::new(&world.registry.url()).document(REPOSITORY, "v1", &many).await.unwrap();
    // The registry gives the index to all; what each asks for is kept apart.
    let only = |media_type: &'static str| world.head_as(0, "v1", media_type);
    assert_eq!(named(&only(OCI_INDEX).await), digest(&many.bytes));
    world.asked();
    assert_eq!(named(&world.head(0, "v1").await), digest(&many.bytes));
    assert_eq!(world.asked(), 1, "what was said to others is not what is said to this client");
    world.head(0, "v1").await;
    assert_eq!(world.asked(), 0);
}

/// docker-registry 2.8 gives the image of its default platform to who accepts no list.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_answers_by_what_is_accepted_is_understood_by_the_whole_fleet() {
    let mut fleet = Fleet::start(Kind::Debian, 0).await.unwrap();
    for _ in 0..2 {
        let settings = Settings { config: "tag_ttl = \"1h\"".to_owned(), ..fleet.settings() };
        fleet.grow_with(settings).await.unwrap();
    }
    fleet.settled().await.unwrap();
    let blob = synthetic::blob(fleet.home(), 1, 2000).unwrap();
    let layer = Layer { diff_id: blob.digest.clone(), blob };
    let image = Image::assemble(fleet.home(), "amd64", &[layer], Dialect::Docker).unwrap();
    fleet.registry.push(REPOSITORY, "image", &image).await.unwrap();
    let list = index_as(DOCKER_LIST, &[&image]);
    Target::new(&fleet.registry.url()).document(REPOSITORY, "v1", &list).await.unwrap();

    let both = [DOCKER_LIST, DOCKER_MANIFEST].join(", ");
    let questions = [(DOCKER_MANIFEST, &image.manifest), (DOCKER_LIST, &list), (both.as_str(), &list)];
    let path = format!("/v2/{REGISTRY}/{REPOSITORY}/manifests/v1");
    let each_gets_its_own = async || {
        for node in &fleet.nodes {
            for (accept, expected) in questions {
                let answer =
                    node.client().unwrap().send(Method::GET, &path, &[("accept", accept)]).await.unwrap();
                assert_eq!(answer.status, 200, "{accept}: {answer:?}");
                assert_eq!(answer.body, expected.bytes, "{accept}");
                assert_eq!(answer.header("content-type"), expected.media_type);
            }
        }
    };
    each_gets_its_own().await;
    let before = fleet.registry.access().await.unwrap();
    each_gets_its_own().await;
    let asked = fleet.registry.access().await.unwrap().since(&before);
    assert_eq!(
        (asked.manifest_requests("HEAD"), asked.manifest_requests("GET")),
        (0, 0),
        "it was asked again"
    );
}
