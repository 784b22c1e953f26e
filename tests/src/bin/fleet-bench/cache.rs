//! The way through one pull-through cache: Debian's docker-registry with `proxy.remoteurl`, on a link like a node's.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use shoal_tests::network::Shape;
use shoal_tests::registry::{Kind, Registry, Site};
use shoal_tests::usage::{Cpu, peak_mib};

use crate::Bench;
use crate::round::{Round, Used};
use crate::upstream::{PORT, REPOSITORY};

pub(crate) async fn measure(bench: &mut Bench<'_>) -> Result<Round> {
    let host = bench.network.connect("cache", Shape::megabits(bench.options.rate))?;
    let site = Site {
        address: Some(SocketAddr::from((host.address, PORT))),
        namespace: Some(Arc::clone(&host.namespace)),
        caches: Some(bench.upstream.url.clone()),
        guard: None,
    };
    let cache = Registry::start_at(Kind::Debian, bench.home.path(), "cache-registry", site).await?;
    if bench.options.holders() > 0 {
        // Whoever holds the image pulled it through the cache too.
        bench.pull_before(0, &cache.url(), REPOSITORY).await?;
    }
    let cpu = Cpu::of(cache.id())?;
    let (begin, url) = (bench.begin()?, cache.url());
    let mut round = Round::measure(bench, begin, bench.pulls(&url, REPOSITORY, begin)).await?;
    round.used = vec![Used { cpu: cpu.since()?, peak_mib: peak_mib(cache.id())? }];
    Ok(round)
}
