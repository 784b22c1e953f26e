//! Nodes of the fleet break.

use shoal_tests::fleet::REGISTRY;

use super::rollout::Rollout;

const NODES: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_home_is_killed() {
    let mut rollout = Rollout::under_way(NODES).await;
    let home = rollout.homes()[0];
    rollout.fleet.nodes[home].kill();
    let rest = rollout.numbers().filter(|&number| number != home);
    rollout.complete(rest).await;
    // What the dead one alone had: a lease, at most, and what it had not yet given to others.
    rollout.cost_at_most(1.3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_is_frozen_and_thaws() {
    let mut rollout = Rollout::under_way(NODES).await;
    let home = rollout.homes()[0];
    rollout.node(home).freeze().unwrap();
    let rest = rollout.numbers().filter(|&number| number != home);
    rollout.complete(rest).await;
    assert!(rollout.waits(home));
    rollout.node(home).thaw().unwrap();
    rollout.complete([home]).await;
    rollout.cost_at_most(1.3);
}

/// It still has its connections, so all others rank it first.
#[tokio::test(flavor = "multi_thread")]
async fn a_home_is_frozen_before_the_rollout_begins() {
    let mut rollout = Rollout::new(NODES).await;
    let home = rollout.homes()[0];
    // Tags and manifests have homes of their own: all this is about the layer.
    for number in rollout.numbers() {
        let client = rollout.node(number).client().unwrap();
        client.manifest(&format!("{REGISTRY}/rollout"), "1").await.unwrap();
    }
    rollout.node(home).freeze().unwrap();
    let rest: Vec<usize> = rollout.numbers().filter(|&number| number != home).collect();
    rollout.begin(rest.clone());
    rollout.complete(rest).await;
    rollout.node(home).thaw().unwrap();
    rollout.begin([home]);
    rollout.complete([home]).await;
    rollout.cost_at_most(1.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_holders_freeze_and_thaw() {
    let mut rollout = Rollout::under_way(NODES + 1).await;
    let home = rollout.homes()[0];
    // Those that are not the home, which has a test of its own.
    let holders = rollout.holders(3).await;
    let frozen: Vec<usize> = holders.into_iter().filter(|&number| number != home).take(2).collect();
    for &number in &frozen {
        rollout.node(number).freeze().unwrap();
    }
    let rest: Vec<usize> = rollout.numbers().filter(|number| !frozen.contains(number)).collect();
    rollout.complete(rest).await;
    for &number in &frozen {
        assert!(rollout.waits(number));
        rollout.node(number).thaw().unwrap();
    }
    rollout.complete(frozen).await;
    // Each of the two had a lease, and what it had not yet given to others.
    rollout.cost_at_most(1.3);
}
