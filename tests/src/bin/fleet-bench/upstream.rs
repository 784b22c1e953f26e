//! The registry behind its own link, with the image in it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use shoal_tests::network::{Host, Network, Shape};
use shoal_tests::process::{Process, until};
use shoal_tests::registry::{Registry, Site};

use crate::inside::publish::{Published, Request};
use crate::inside::{ask, get_inside, spec};
use crate::options::{MIB, Options};

/// What the image is called.
pub(crate) const REPOSITORY: &str = "bench";
pub(crate) const TAG: &str = "1";
/// Where the registry listens, or what stands before it.
pub(crate) const PORT: u16 = 5000;
/// Making the image up and pushing it.
const PUBLISHING: Duration = Duration::from_mins(10);

#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) registry: Registry,
    /// How others reach it.
    pub(crate) url: String,
    pub(crate) image: Published,
    /// What makes it ignore Range, if it shall.
    _proxy: Option<Process>,
    _host: Host,
}

impl Upstream {
    pub(crate) async fn start(options: &Options, network: &mut Network, home: &Path) -> Result<Self> {
        let host = network.connect("upstream", Shape::megabits(options.upstream_rate))?;
        let public = SocketAddr::from((host.address, PORT));
        let own = if options.range { public } else { SocketAddr::from(([127, 0, 0, 1], PORT + 1)) };
        let site = Site {
            address: Some(own),
            namespace: Some(Arc::clone(&host.namespace)),
            caches: None,
            guard: None,
        };
        let registry = Registry::start_at(options.registry, home, "upstream-registry", site).await?;
        let request = Request {
            url: registry.url(),
            repository: REPOSITORY.to_owned(),
            tag: TAG.to_owned(),
            directory: home.join("image"),
            seed: 1,
            layers: vec![options.mib * MIB / options.layers; usize::try_from(options.layers)?],
        };
        let words = ["publish", &serde_json::to_string(&request)?];
        let image = ask(spec(&host.namespace, "publish", home, &words)?, PUBLISHING).await;
        let image: Published = image.context("the image cannot be pushed")?;
        let proxy = if options.range {
            None
        } else {
            let words = ["without-range", &public.to_string(), &registry.url()];
            Some(spec(&host.namespace, "without-range", home, &words)?.start()?)
        };
        let url = format!("http://{public}");
        until("the upstream answers", Duration::from_secs(10), async || {
            get_inside(&host.namespace, home, &url, "/v2/").await.ok()
        })
        .await?;
        Ok(Self { registry, url, image, _proxy: proxy, _host: host })
    }
}
