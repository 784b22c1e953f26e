//! The network of namespaces that fault tests and the fleet benchmark stand on, and that benchmark itself, small.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use shoal_tests::network::{Host, Network, Shape};
use shoal_tests::process::output;
use shoal_tests::registry::{Kind, Registry, Site};
use shoal_tests::tool;

/// Whether `host` gets a TCP connection to `address` within a second.
fn reaches(host: &Host, address: SocketAddr) -> bool {
    let connect = format!("exec 3<>/dev/tcp/{}/{}", address.ip(), address.port());
    let script = format!("timeout 1 bash -c '{connect}'");
    host.namespace.run(tool::BASH, &["-c", &script]).is_ok()
}

/// As [`reaches`], in a while: the machine may be busy, and a bridge learns.
fn comes_to_reach(host: &Host, address: SocketAddr) -> bool {
    (0..20).any(|_| reaches(host, address))
}

#[tokio::test]
async fn hosts_reach_each_other_until_they_are_cut_or_split_off() {
    let home = tempfile::tempdir().unwrap();
    let mut network = Network::new(home.path()).unwrap();
    let shape = Shape::megabits(100);
    let [server, other, third] =
        ["server", "other", "third"].map(|name| network.connect(name, shape).unwrap());
    let site = Site {
        address: Some(SocketAddr::from((server.address, 5000))),
        namespace: Some(Arc::clone(&server.namespace)),
        caches: None,
        guard: None,
    };
    let registry = Registry::start_at(Kind::Debian, home.path(), "registry", site).await.unwrap();
    let address = registry.address();
    assert!(comes_to_reach(&other, address) && comes_to_reach(&third, address));

    network.cut(&other).unwrap();
    assert!(!reaches(&other, address) && comes_to_reach(&third, address));
    network.restore(&other).unwrap();
    assert!(comes_to_reach(&other, address));

    network.split(&server).unwrap();
    network.split(&third).unwrap();
    assert!(!reaches(&other, address) && comes_to_reach(&third, address));
    network.restore(&server).unwrap();
    network.restore(&third).unwrap();
    assert!(comes_to_reach(&other, address) && comes_to_reach(&third, address));

    other.route(server.address, false).unwrap();
    assert!(!reaches(&other, address) && comes_to_reach(&third, address));
    other.route(server.address, true).unwrap();
    assert!(comes_to_reach(&other, address));
}

/// The figures of one row of the benchmark's table, by the row's name.
fn row(table: &str, name: &str) -> Vec<f64> {
    let line = table.lines().find(|line| line.starts_with(&format!("| {name} |")));
    let cells = line.unwrap_or_else(|| panic!("no {name} in\n{table}")).split('|').skip(2);
    cells.filter_map(|cell| cell.trim().parse().ok()).collect()
}

#[test]
fn the_fleet_benchmark_measures_what_the_links_allow() {
    let arguments = ["--nodes", "3", "--rate", "100", "--upstream-rate", "100", "--mib", "8", "--warm", "2"];
    for further in [&["--arrival", "scale-up"][..], &["--arrival", "seeded", "--no-range"][..]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fleet-bench"));
        let table = output(command.args(arguments).args(further)).unwrap();
        let table = String::from_utf8(table).unwrap();
        let nobody_beats_physics = row(&table, "the last node ÷ bound of this way");
        assert_eq!(nobody_beats_physics.len(), 3, "{table}");
        assert!(nobody_beats_physics.iter().all(|&ratio| ratio >= 1.0), "{table}");
        let copies = row(&table, "upstream bytes ÷ image bytes");
        let shoal = if further.contains(&"seeded") { 0.1 } else { 1.5 };
        assert!(copies[0] < shoal, "through Shoal the fleet shares one copy\n{table}");
        let from_peers = row(&table, "bytes from peers ÷ bytes pulled")[0];
        assert!(from_peers > 0.4, "and the rest comes from peers\n{table}");
        let pullers = if further.contains(&"seeded") { 2.0 } else { 3.0 };
        assert!((copies[1] - pullers).abs() < 0.01, "directly, each client costs a copy\n{table}");
    }
}
