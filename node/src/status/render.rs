//! A node's status as people read it.

use std::fmt::Write as _;

use indicatif::BinaryBytes;

use super::{AllowanceLine, PeerLine, PullLine, SentPast, Source, Status, SwarmLine};
use crate::cli::count;
use crate::savings::Savings;

/// The most peers and pulls listed; the rest is counted.
const LISTED: usize = 20;

/// Renders a status for a terminal. `now` is in seconds since the Unix epoch.
pub(super) fn for_people(status: &Status, now: u64) -> String {
    let mut out = String::new();
    let ready = if status.ready { "ready" } else { "not ready yet" };
    let up = span(status.uptime_seconds);
    line(&mut out, &format!("shoal {}, {ready}, up {up}", status.version));
    field(&mut out, "peer id", &status.peer_id);
    field(&mut out, "gateway", &status.gateway_addr);
    for (at, address) in status.peer_addrs.iter().enumerate() {
        field(&mut out, if at == 0 { "peers at" } else { "" }, address);
    }
    field(&mut out, "zone", status.zone.as_deref().unwrap_or("none"));
    let store = &status.store;
    field(&mut out, "holds", &format!("{}, {}", count(store.blobs, "blob"), BinaryBytes(store.bytes)));
    if store.partials > 0 {
        let parts =
            format!("{} in part, {}", count(store.partials, "blob"), BinaryBytes(store.partial_bytes));
        field(&mut out, "", &parts);
    }
    field(&mut out, "announced", &format!("{}, of blobs and tags", count(status.announced, "key")));
    field(&mut out, "uploaded", &BinaryBytes(status.uploaded_bytes).to_string());
    saved(&mut out, &status.savings, now);
    sent_past(&mut out, status.sent_past);
    for said in status.allowances.iter().take(LISTED) {
        field(&mut out, "allowed", &allowance(said));
    }
    traffic(&mut out, status);
    list(&mut out, "pulls running", &status.pulls, pull_line);
    if !status.swarms.is_empty() {
        list(&mut out, "swarms kept", &status.swarms, swarm_line);
    }
    list(&mut out, "peers connected", &status.peers, peer_line);
    out
}

/// Nothing of it before the first pull.
fn saved(out: &mut String, savings: &Savings, now: u64) {
    if savings.pulls == 0 {
        return;
    }
    let Savings { since, pulls, offline_pulls, .. } = *savings;
    let since = span(now.saturating_sub(since));
    let saved = BinaryBytes(savings.saved_bytes());
    field(out, "saved", &format!("{saved} that registries did not have to send again, in {since}"));
    let mut pulled = count(pulls, "pull");
    if offline_pulls > 0 {
        let _ = write!(pulled, ", {offline_pulls} of them while the registry was down");
    }
    field(out, "", &pulled);
}

/// Only where there were some: most nodes have no such rules.
fn sent_past(out: &mut String, sent: SentPast) {
    let reasons = [
        (sent.no_credentials, "without credentials for what is not everyone's"),
        (sent.wrong_credentials, "with credentials that upstream does not accept"),
        (
            sent.registry,
            "for what this node must not ask registries for, or lacks the login: its log says which",
        ),
    ];
    let mut name = "sent past";
    for (requests, reason) in reasons.into_iter().filter(|(requests, _)| *requests > 0) {
        field(out, name, &format!("{}, {reason}", count(requests, "request")));
        name = "";
    }
}

fn allowance(said: &AllowanceLine) -> String {
    let limit = said.limit.map_or_else(String::new, |limit| format!(" of {limit}"));
    let window = said.window_seconds.map_or_else(String::new, |seconds| format!(" in {}", span(seconds)));
    format!("{}{limit} left{window}, by {}", count(said.remaining, "request"), said.registry)
}

fn traffic(out: &mut String, status: &Status) {
    line(out, "\ncontent got          requests         bytes");
    let traffic = &status.traffic;
    for (name, Source { requests, bytes }) in
        [("from the store", traffic.store), ("from peers", traffic.peer), ("from upstream", traffic.upstream)]
    {
        line(out, &format!("  {name:<16} {requests:>10}  {:>12}", BinaryBytes(bytes).to_string()));
    }
}

fn list<T>(out: &mut String, title: &str, items: &[T], one: fn(&T) -> String) {
    line(out, &format!("\n{title}: {}", items.len()));
    for item in items.iter().take(LISTED) {
        line(out, &format!("  {}", one(item)));
    }
    if items.len() > LISTED {
        line(out, &format!("  and {} more", items.len() - LISTED));
    }
}

fn pull_line(pull: &PullLine) -> String {
    let percent =
        if pull.size == 0 { 100 } else { u128::from(pull.have_bytes) * 100 / u128::from(pull.size) };
    format!("{percent:>3} %  {} of {}  {}", BinaryBytes(pull.have_bytes), BinaryBytes(pull.size), pull.digest)
}

fn swarm_line(swarm: &SwarmLine) -> String {
    let role = if swarm.home { "home" } else { "standby" };
    format!(
        "{role:<7} {}, {} of upstream  {}  {}",
        count(swarm.members as u64, "member"),
        count(swarm.leases as u64, "range"),
        BinaryBytes(swarm.size),
        swarm.digest
    )
}

fn peer_line(peer: &PeerLine) -> String {
    let zone = peer.zone.as_deref().map_or_else(String::new, |zone| format!("  in {zone}"));
    format!("{}  {}  for {}{zone}", peer.peer_id, peer.address, span(peer.connected_seconds))
}

fn field(out: &mut String, name: &str, value: &str) {
    line(out, &format!("  {name:<10} {value}"));
}

fn line(out: &mut String, text: &str) {
    // Writing into a string cannot fail.
    let _ = writeln!(out, "{text}");
}

/// A span in its two largest units: `3d 4h`, `2m 5s`.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}
