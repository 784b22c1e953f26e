//! The way to upstream breaks, for all or for one, or spoils what it carries.

use std::time::Duration;

use shoal_tests::fleet::{Fleet, Linked, REGISTRY};
use shoal_tests::link::Link;
use shoal_tests::node::{Node, Settings};
use shoal_tests::registry::Kind;
use tokio::net::TcpListener;

use super::rollout::{RATE, Rollout, SIZE, at_most, closest};

const NODES: usize = 5;
/// How long upstream is away: longer than a lease may stand still.
const AWAY: Duration = Duration::from_secs(5);

/// Starts a fleet's nodes, of which the first looks for the registry at `url`.
async fn start(fleet: &mut Fleet<Linked>, url: String) {
    let settings = Settings { upstreams: vec![(REGISTRY.to_owned(), url)], ..fleet.settings() };
    fleet.grow_with(settings).await.unwrap();
    for _ in 1..NODES {
        fleet.grow().await.unwrap();
    }
    fleet.settled().await.unwrap();
}

/// A fleet whose first node has a link of its own to upstream.
async fn with_a_link_of_its_own() -> (Fleet<Linked>, Link) {
    let mut fleet = Fleet::behind_a_link(Kind::Distribution, RATE, 0).await.unwrap();
    let link = Link::start(fleet.registry.registry.address(), RATE).unwrap();
    start(&mut fleet, link.url()).await;
    (fleet, link)
}

/// The home has no way to upstream. It wants the image too, a little after the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_home_has_no_route_to_upstream() {
    let (fleet, link) = with_a_link_of_its_own().await;
    link.cut();
    let mut rollout = Rollout::of(fleet, SIZE, |nodes, digest| closest(nodes, digest)[0] == 0).await;
    rollout.begin(1..NODES);
    // What the tag names has to be known to somebody: a node that fails to ask upstream itself does not wait.
    rollout.reaches(0.05).await;
    rollout.begin([0]);
    rollout.complete(rollout.numbers()).await;
    assert_eq!(link.carried(), 0);
    rollout.cost_at_most(1.1);
}

/// One member, not the home, whose way to the registry leads nowhere: its readers wait as the others' do, and what it was
/// sent to fetch, others fetch.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_hears_nothing_from_upstream() {
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut fleet = Fleet::behind_a_link(Kind::Distribution, RATE, 0).await.unwrap();
    start(&mut fleet, format!("http://{}", nowhere.local_addr().unwrap())).await;
    let mut rollout = Rollout::of(fleet, SIZE, |nodes, digest| closest(nodes, digest)[0] != 0).await;
    rollout.begin(1..NODES);
    rollout.reaches(0.05).await;
    rollout.begin([0]);
    rollout.complete(rollout.numbers()).await;
    rollout.cost_at_most(1.1);
}

/// Connections break, and new ones are refused for a while. Clients are told soon, and try again.
#[tokio::test(flavor = "multi_thread")]
async fn upstream_is_cut_off_and_comes_back() {
    let mut rollout = Rollout::under_way(NODES).await;
    rollout.fleet.registry.link.cut();
    tokio::time::sleep(AWAY).await;
    rollout.fleet.registry.link.restore();
    rollout.complete_within(2, rollout.numbers()).await;
    // What was on its way: less than a chunk for each lease.
    rollout.cost_at_most(1.1);
}

/// The registry stands still: connections stay, and say nothing. No client notices.
#[tokio::test(flavor = "multi_thread")]
async fn upstream_freezes_and_thaws() {
    let mut rollout = Rollout::under_way(NODES).await;
    rollout.fleet.registry.registry.freeze().unwrap();
    tokio::time::sleep(AWAY).await;
    rollout.fleet.registry.registry.thaw().unwrap();
    rollout.complete(rollout.numbers()).await;
    rollout.cost_at_most(1.1);
}

/// What the first node fetches is altered on its way, and it signs for that. Whoever has passed wrong bytes on to a client
/// already fails it once.
async fn what_a_node_fetches_is_wrong(is_home: bool) {
    let (fleet, link) = with_a_link_of_its_own().await;
    link.spoil();
    let wanted = |nodes: &[Node], digest: &str| (closest(nodes, digest)[0] == 0) == is_home;
    let mut rollout = Rollout::of(fleet, SIZE / 2, wanted).await;
    rollout.begin(rollout.numbers());
    rollout.complete_within(2, 1..NODES).await;
    assert!(link.carried() > 0, "the first node had no lease");
    let spoilt = link.carried() as f64 / rollout.image.size() as f64;
    // The second copy, and what the first node gets of it until it finds that two others had other bytes than it.
    at_most(rollout.copies() + spoilt, 2.6);
    // The node with the bad link has peers that hold the right bytes now.
    rollout.complete_within(3, [0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_holder_attests_wrong_bytes() {
    what_a_node_fetches_is_wrong(false).await;
}

/// A home thinks well of itself, and may be the one that goes again.
#[tokio::test(flavor = "multi_thread")]
async fn a_home_attests_wrong_bytes() {
    what_a_node_fetches_is_wrong(true).await;
}
