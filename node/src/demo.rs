//! Stand-in.
#[derive(Debug, clap::Args)]
/// Nothing yet.
pub struct Options {}
/// Nothing yet.
pub async fn run(options: Options) -> anyhow::Result<()> {
    std::future::ready(()).await;
    anyhow::bail!("{options:?}")
}
