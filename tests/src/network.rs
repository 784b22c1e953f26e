//! A network of hosts, each in a namespace of its own, joined by a switch, behind links of a given rate.
//!
//! ```text
//!   host's namespace            the switch's namespace
//!   eth0 ── tbf: its upload ──► tbf: its download ── port of bridge `near` (or `far`: see [`Network::split`])
//! ```
//!
//! Each end of a link lets out only so much, and what has to wait waits in a queue of bounded time, as in a real
//! switch. The host's own network is never touched, and nothing here can reach it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::netns::Namespace;
use crate::tool;

/// What a host's end of its link is called.
const LINK: &str = "eth0";
/// Addresses that machines of all namespaces together may know: Linux counts them as one machine's, of which a thousand
/// are plenty. Beyond that, connects fail as if the other end were dead.
const NEIGHBOURS: [(&str, u32); 3] =
    [("gc_thresh3", 1 << 16), ("gc_thresh2", 1 << 15), ("gc_thresh1", 1 << 14)];
/// Where hosts have their addresses.
const SUBNET: &str = "10.77.0.0/24";
/// The bridge that joins the hosts.
const NEAR: &str = "near";
/// The bridge of those that were split off.
const FAR: &str = "far";
/// The least that a link lets out at once: one packet as large as the kernel makes them. With less, each of them is
/// cut up in software, which costs more CPU than all else on the link.
const LEAST_BURST: u64 = 72 << 10;

/// What a link can do, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Megabits a second, with Ethernet's, IP's and TCP's headers: content gets 95 % of it.
    pub megabits: u32,
    /// How long a packet waits for its turn before it is dropped instead.
    pub queue: Duration,
}

impl Shape {
    /// A link of this rate with a queue as switches have it.
    pub const fn megabits(megabits: u32) -> Self {
        Self { megabits, queue: Duration::from_millis(50) }
    }

    /// What may go out at once after a pause: 2 ms of the rate.
    fn burst(self) -> u64 {
        (u64::from(self.megabits) * 1_000_000 / 8 / 500).max(LEAST_BURST)
    }
}

/// The switch, and the links to it.
#[derive(Debug)]
pub struct Network {
    switch: Namespace,
    directory: PathBuf,
    hosts: u8,
}

/// One host's place in the network. Processes started in its namespace are on it.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where its processes run.
    pub namespace: Arc<Namespace>,
    /// Its address.
    pub address: Ipv4Addr,
    port: String,
}

impl Network {
    /// A switch with nothing connected. The logs of namespaces go to `directory`.
    ///
    /// # Errors
    /// If this is not root, or iproute2 is missing.
    pub fn new(directory: &Path) -> Result<Self> {
        let switch = Namespace::new("switch", directory)?;
        make_room_for_neighbours();
        for bridge in [NEAR, FAR] {
            switch.ip(&["link", "add", bridge, "type", "bridge"])?;
            switch.ip(&["link", "set", bridge, "up"])?;
        }
        Ok(Self { switch, directory: directory.to_owned(), hosts: 0 })
    }

    /// Connects a new host by a link of this shape.
    ///
    /// # Errors
    /// If there are 250 already, or the link cannot be made.
    pub fn connect(&mut self, name: &str, shape: Shape) -> Result<Host> {
        self.hosts = self.hosts.checked_add(1).filter(|&hosts| hosts <= 250).context("too many hosts")?;
        let namespace = Namespace::new(name, &self.directory)?;
        let address = Ipv4Addr::new(10, 77, 0, self.hosts);
        let port = format!("port{}", self.hosts);
        let id = namespace.id().to_string();
        self.switch.ip(&["link", "add", &port, "type", "veth", "peer", "name", LINK, "netns", &id])?;
        self.switch.ip(&["link", "set", &port, "master", NEAR, "up"])?;
        namespace.ip(&["address", "add", &format!("{address}/24"), "dev", LINK, "noprefixroute"])?;
        namespace.ip(&["link", "set", LINK, "up"])?;
        // One congestion control on every machine, or figures could not be compared. A route may name one that a
        // namespace may not have as its default.
        let source = address.to_string();
        let route = ["route", "add", SUBNET, "dev", LINK, "src", &source, "congctl", "cubic"];
        namespace.ip(&route)?;
        let host = Host { namespace: Arc::new(namespace), address, port };
        self.shape(&host, shape)?;
        Ok(host)
    }

    /// Gives a host's link another shape.
    ///
    /// # Errors
    /// If `tc` fails.
    pub fn shape(&self, host: &Host, shape: Shape) -> Result<()> {
        let rate = format!("{}mbit", shape.megabits);
        let burst = shape.burst().to_string();
        let queue = format!("{}ms", shape.queue.as_millis());
        for (namespace, link) in [(&*host.namespace, LINK), (&self.switch, &host.port)] {
            let tbf = ["root", "tbf", "rate", &rate, "burst", &burst, "latency", &queue];
            namespace.run(tool::TC, &[&["qdisc", "replace", "dev", link], tbf.as_slice()].concat())?;
        }
        Ok(())
    }

    /// Pulls the cable out of a host. Connections over it stay, and hear nothing.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn cut(&self, host: &Host) -> Result<()> {
        self.switch.ip(&["link", "set", &host.port, "down"])
    }

    /// Moves a host to the other side of a partition: those split off reach each other and nobody else.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn split(&self, host: &Host) -> Result<()> {
        self.switch.ip(&["link", "set", &host.port, "master", FAR])
    }

    /// Undoes [`Self::cut`] and [`Self::split`].
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn restore(&self, host: &Host) -> Result<()> {
        self.switch.ip(&["link", "set", &host.port, "master", NEAR, "up"])
    }
}

impl Host {
    /// Takes away this host's route to another, which answers "no route to host" at once, or gives it back.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn route(&self, to: Ipv4Addr, there: bool) -> Result<()> {
        let change = if there { "del" } else { "add" };
        self.namespace.ip(&["route", change, "unreachable", &format!("{to}/32")])
    }
}

/// Has the kernel keep so many [`NEIGHBOURS`]. It is a setting of the whole machine, and stays; where it cannot be
/// changed, thirty machines do without.
fn make_room_for_neighbours() {
    for (name, least) in NEIGHBOURS {
        let path = format!("/proc/sys/net/ipv4/neigh/default/{name}");
        let now = fs::read_to_string(&path).ok().and_then(|now| now.trim().parse::<u32>().ok());
        if now.is_some_and(|now| now < least) {
            drop(fs::write(&path, least.to_string()));
        }
    }
}
