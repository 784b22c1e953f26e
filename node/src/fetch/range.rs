//! A contiguous range of a blob from upstream: cut into chunks, vouched for, stored.

use std::ops::Range;

use bytes::Bytes;
use futures::StreamExt as _;
use shoal_gateway::error::PullError;
use shoal_gateway::upstream::BlobDownload;
use shoal_proto::attestation::{Attestation, ChunkHash, Claim};
use shoal_proto::buffer::ChunkBuffer;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::name::Scope;
use shoal_proto::range::ByteRange;
use shoal_store::Partial;
use tokio::sync::mpsc;

use super::Ports;

/// One fetch.
pub(crate) struct RangeFetch {
    pub(crate) ports: Ports,
    pub(crate) digest: Digest,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) partial: Partial,
    pub(crate) chunks: Range<u32>,
    /// Gets each chunk once it is stored.
    pub(crate) stored: mpsc::Sender<Arrival>,
}

/// What a fetch brings.
pub(crate) enum Arrival {
    /// A chunk that is stored.
    Chunk(u32, Bytes),
    /// The upstream ignores ranges: everything to the blob's end is on its way.
    Whole,
}

impl RangeFetch {
    /// Runs to the end of the range, or to the first failure.
    pub(crate) async fn run(self) -> Result<(), PullError> {
        let layout = self.partial.layout();
        let Some(range) = bytes_of(layout, &self.chunks) else { return Ok(()) };
        let download = self.download(layout, range).await?;
        if let Some(size) = download.size
            && size != layout.size()
        {
            return Err(PullError::Content(format!(
                "{} is {size} bytes at upstream, where the manifest says {}",
                self.digest,
                layout.size()
            )));
        }
        let mut chunks = self.chunks.clone();
        if download.ignores_ranges && chunks.end < layout.count() {
            // It cost a request for all: so all of it is taken, whoever else would have fetched a part.
            chunks.end = layout.count();
            self.stored.send(Arrival::Whole).await.ok();
        }
        self.store(layout, chunks, range, download).await
    }

    /// Asks the repositories in turn: the blob may be gone from one and still in another.
    async fn download(&self, layout: ChunkLayout, range: ByteRange) -> Result<BlobDownload, PullError> {
        let range = (range.len() < layout.size()).then_some(range);
        let mut last = None;
        for scope in &self.scopes {
            self.ports.metrics.upstream_request();
            match self.ports.upstreams.blob(scope, &self.digest, range).await {
                Ok(download) => return Ok(download),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| PullError::Refused("no repository of this blob is known".to_owned())))
    }

    async fn store(
        &self,
        layout: ChunkLayout,
        mut chunks: Range<u32>,
        range: ByteRange,
        mut download: BlobDownload,
    ) -> Result<(), PullError> {
        let mut skip = range.start.saturating_sub(download.start);
        let Some(mut chunk) = chunks.next() else { return Ok(()) };
        let mut buffer = ChunkBuffer::of(length_of(layout, chunk));
        let mut filled = 0;
        while let Some(piece) = download.stream.next().await {
            let mut piece = piece?;
            self.ports.came_from_upstream(piece.len()).await;
            if skip > 0 {
                // An upstream that ignores Range sends from the start.
                let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
                drop(piece.split_to(skipped));
                skip -= skipped as u64;
            }
            while !piece.is_empty() {
                let part = piece.split_to(piece.len().min(buffer.len() - filled));
                buffer[filled..filled + part.len()].copy_from_slice(&part);
                filled += part.len();
                if filled < buffer.len() {
                    continue;
                }
                self.store_chunk(chunk, buffer.freeze()).await?;
                let Some(next) = chunks.next() else { return Ok(()) };
                chunk = next;
                buffer = ChunkBuffer::of(length_of(layout, chunk));
                filled = 0;
            }
        }
        Err(PullError::Upstream {
            registry: self.scopes.first().map_or_else(String::new, |scope| scope.registry.to_string()),
            status: None,
            reason: format!("the body of {} ended early", self.digest),
        })
    }

    async fn store_chunk(&self, chunk: u32, bytes: Bytes) -> Result<(), PullError> {
        let claim = Claim { digest: self.digest, size: self.partial.layout().size(), chunk };
        let (keypair, hashed) = (self.ports.keypair.clone(), bytes.clone());
        let attestation =
            tokio::task::spawn_blocking(move || Attestation::sign(&keypair, &claim, ChunkHash::of(&hashed)))
                .await
                .map_err(|error| PullError::Unavailable(error.to_string()))?
                .map_err(|error| PullError::Unavailable(error.to_string()))?;
        self.partial
            .write(chunk, bytes.clone(), attestation)
            .await
            .map_err(|error| PullError::Unavailable(error.to_string()))?;
        // The driver is gone only when the transfer is over.
        self.stored.send(Arrival::Chunk(chunk, bytes)).await.ok();
        Ok(())
    }
}

fn bytes_of(layout: ChunkLayout, chunks: &Range<u32>) -> Option<ByteRange> {
    let start = layout.range(chunks.start)?.start;
    let end = layout.range(chunks.end.checked_sub(1)?)?.end;
    ByteRange::new(start, end)
}

fn length_of(layout: ChunkLayout, chunk: u32) -> usize {
    let length = layout.range(chunk).map_or(0, ByteRange::len);
    // At most MAX_CHUNK.
    usize::try_from(length).unwrap_or(0)
}
