//! Blobs: how large they are, and their bytes, from wherever they come first.
//!
//! A blob's swarm is keyed by digest and size, so a size is needed before the first byte, and only the digest proves
//! it. What is at hand is tried first and upstream is asked last: a transfer that runs, what is already here of it,
//! the manifest that lists the blob, a peer, upstream. A size with which the blob does not come out costs one try,
//! and the next to ask is asked for the same client.

use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use shoal_gateway::error::PullError;
use shoal_gateway::source::BlobBody;
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::name::Scope;
use shoal_proto::range::{ByteRange, RangeRequest};

use shoal_store::{Held, Of, Whose};

use super::admission::is_refusal;
use super::{NodeSource, unavailable};
use crate::config::Stream;
use crate::fetch::discovery;
use crate::fetch::reader::Reader;
use crate::fetch::{OpenError, Status, TransferHandle};

/// How often, and for how long, a transfer that is ending is given time to let go of the blob: one of another size that
/// has just failed, or one from another registry.
const LET_GO: (Duration, u32) = (Duration::from_millis(20), 50);

/// Who says how large a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Teller {
    Transfer,
    Partial,
    Manifest,
    Peers,
    Upstream,
}

/// The nearest first: what the fetch needs is a size to begin with.
const NEAREST: [Teller; 5] =
    [Teller::Transfer, Teller::Partial, Teller::Manifest, Teller::Peers, Teller::Upstream];

/// Those who have the blob before those who only heard of it: their word is that it can be had.
const SUREST: [Teller; 5] =
    [Teller::Transfer, Teller::Peers, Teller::Upstream, Teller::Manifest, Teller::Partial];

impl NodeSource {
    /// What one of them says; `None` if it does not know, or cannot be right: only the digest of nothing has no bytes.
    async fn told(&self, teller: Teller, of: &Of, digest: &Digest) -> Result<Option<u64>, PullError> {
        let scope = &of.scope;
        let told = match teller {
            Teller::Transfer => {
                Ok(self.fetcher.find(*digest).await.and_then(|transfer| transfer.size_for(of)))
            }
            Teller::Manifest => Ok(self.sizes.of(scope, digest)),
            Teller::Partial => {
                self.ports.store.partial_size(digest, &scope.registry).await.map_err(unavailable)
            }
            Teller::Peers => Ok(discovery::size_from_peers(&self.ports, *digest, of.origin()).await),
            Teller::Upstream => {
                self.ports.metrics.upstream_request();
                self.ports.upstreams.blob_size(scope, digest).await
            }
        };
        let possible = |size: &u64| *size > 0 || digest.same_algorithm_of(b"") == *digest;
        Ok(told?.filter(possible))
    }

    /// What is held of this digest, and whether it is given for these.
    async fn here(&self, of: &Of, digest: &Digest) -> Result<Here, PullError> {
        let store = &self.ports.store;
        let Some(held) = store.held(digest).await.map_err(unavailable)? else { return Ok(Here::Nothing) };
        let whose = store.whose(digest).await.map_err(unavailable)?;
        if !whose.is_given_for(of.origin()) {
            return Ok(Here::Others(held));
        }
        self.note_everyones(of, digest, &whose).await?;
        Ok(Here::Ours(held))
    }

    /// Notes what came of asking for it: it was given for this repository, or upstream does not have it there.
    pub(super) async fn note_whether_found(&self, of: &Of, digest: &Digest, error: Option<&PullError>) {
        match error {
            None => self.access.found(&of.scope, digest, of.everyones).await,
            Some(error) if is_refusal(error) => self.access.gone(&of.scope, digest).await,
            Some(_) => {}
        }
    }

    /// What came for somebody is everyone's where everyone may read it.
    pub(super) async fn note_everyones(
        &self,
        of: &Of,
        digest: &Digest,
        whose: &Whose,
    ) -> Result<(), PullError> {
        if of.everyones && !whose.everyones && whose.is_known() {
            self.ports.store.note_origin(digest, of.clone()).await.map_err(unavailable)?;
        }
        Ok(())
    }

    /// The blob's size in bytes, and that it can be had.
    pub(super) async fn size_of_blob(&self, of: &Of, digest: &Digest) -> Result<u64, PullError> {
        match self.here(of, digest).await? {
            Here::Ours(held) => return Ok(held.size),
            Here::Others(_) => {
                let told = self.told(Teller::Upstream, of, digest).await?;
                return told.ok_or_else(|| untold(&of.scope, digest));
            }
            Here::Nothing => {}
        }
        for teller in SUREST {
            if let Some(size) = self.told(teller, of, digest).await? {
                return Ok(size);
            }
        }
        Err(untold(&of.scope, digest))
    }

    /// The blob's bytes, or a part of them.
    pub(super) async fn open_blob(
        &self,
        of: &Of,
        digest: &Digest,
        range: Option<RangeRequest>,
    ) -> Result<BlobBody, PullError> {
        let scope = &of.scope;
        if let Some(held) = self.held_blob(of, digest, range).await? {
            return Ok(held);
        }
        let partial = self.told(Teller::Partial, of, digest).await?;
        let mut tried: Vec<(u64, PullError)> = Vec::new();
        // A transfer is shared, and asks in this node's name alone. So that nodes which lead to each other do not wait
        // for each other's transfers, one for a relayed request begins only after a question that names them all.
        for teller in if self.relayed { SUREST } else { NEAREST } {
            let Some(size) = self.told(teller, of, digest).await? else { continue };
            let failed = |size| tried.iter().find(|(tried, _)| *tried == size).map(|(_, error)| error);
            // Chunks of another size are here. Hearsay is not enough to throw them away.
            let spoils = partial.is_some_and(|partial| {
                partial != size && !matches!(failed(partial), Some(PullError::Content(_)))
            });
            if failed(size).is_some() || (spoils && matches!(teller, Teller::Manifest | Teller::Peers)) {
                continue;
            }
            let begin = if tried.is_empty() { Begin::Transfer } else { Begin::Again };
            let body = match self.body(of, digest, size, range, begin).await {
                Err(OpenError::OfAnother(_)) => self.of_another(of, digest, size, range).await,
                Err(OpenError::Failed(error)) => Err(error),
                Ok(body) => Ok(body),
            };
            match body {
                Err(error) if casts_doubt(&error) => {
                    tracing::info!(%digest, size, ?teller, %error, "the blob does not come out at this size");
                    // A range that lies behind this size says nothing of the size, unless it lies within another: the
                    // client may have made it up.
                    if !matches!(error, PullError::Unsatisfiable(_)) {
                        self.sizes.doubt(scope, digest);
                    }
                    tried.push((size, error));
                }
                body => {
                    if body.is_ok() && !tried.is_empty() {
                        self.sizes.doubt(scope, digest);
                    }
                    return body;
                }
            }
        }
        Err(tried.pop().map_or_else(|| untold(scope, digest), |(_, error)| error))
    }

    /// The body of a blob that is held, once it is given for these.
    pub(super) async fn held_blob(
        &self,
        of: &Of,
        digest: &Digest,
        range: Option<RangeRequest>,
    ) -> Result<Option<BlobBody>, PullError> {
        let held = match self.here(of, digest).await? {
            Here::Nothing => return Ok(None),
            Here::Ours(held) => held,
            Here::Others(held) => {
                self.prove(of, digest).await?;
                held
            }
        };
        self.ports.metrics.store_request();
        Ok(Some(self.body(of, digest, held.size, range, Begin::Store).await?))
    }

    /// The body of a blob of this size, its first bytes at hand.
    pub(super) async fn body(
        &self,
        of: &Of,
        digest: &Digest,
        size: u64,
        range: Option<RangeRequest>,
        begin: Begin,
    ) -> Result<BlobBody, OpenError> {
        let layout = ChunkLayout::of(size).map_err(|error| PullError::TooLarge(error.to_string()))?;
        // `bytes=N-` is how clients go on where a body broke off, and `bytes=0-N` may be all there is.
        let of_a_part = match range {
            Some(RangeRequest::From { first, last }) => first > 0 && last.is_some(),
            Some(RangeRequest::Suffix(length)) => length < size,
            None => false,
        };
        let range = match range {
            Some(range) => Some(range.resolve(size).map_err(PullError::from)?),
            None => ByteRange::new(0, size),
        };
        let transfer = match begin {
            Begin::Store => None,
            Begin::Transfer | Begin::Again => self.fetch(of, digest, size, range, begin).await?,
        };
        let Some(range) = range else {
            return Ok(BlobBody { size, range: None, stream: stream::empty().boxed() });
        };
        let reader = Reader {
            store: self.ports.store.clone(),
            fetcher: self.fetcher.clone(),
            metrics: self.ports.metrics.clone(),
            digest: *digest,
            of: of.clone(),
            layout,
            room: self.room.clone(),
            of_a_part,
        };
        let mut stream = reader.read(range, transfer);
        // The status is sent before the body: so it is known that the blob can be had, by its first bytes.
        let first = stream
            .next()
            .await
            .unwrap_or_else(|| Err(PullError::Unavailable("the node is shutting down".to_owned())))?;
        let (sizes, scope, digest) = (self.sizes.clone(), of.scope.clone(), *digest);
        let rest = stream.inspect(move |item| {
            if let Err(error) = item
                && casts_doubt(error)
            {
                sizes.doubt(&scope, &digest);
            }
        });
        Ok(BlobBody { size, range: Some(range), stream: stream::iter([Ok(first)]).chain(rest).boxed() })
    }

    async fn fetch(
        &self,
        of: &Of,
        digest: &Digest,
        size: u64,
        range: Option<ByteRange>,
        begin: Begin,
    ) -> Result<Option<TransferHandle>, OpenError> {
        let mut opened = self.fetcher.open(*digest, size, of.clone()).await;
        if begin == Begin::Again {
            let (pause, times) = LET_GO;
            for _ in 0..times {
                if opened.is_ok() {
                    break;
                }
                tokio::time::sleep(pause).await;
                opened = self.fetcher.open(*digest, size, of.clone()).await;
            }
        }
        let mut transfer = opened?;
        // Its digest did not come out once: this client does not get what may be wrong again.
        let doubted = matches!(*transfer.status.borrow(), Status::Running { round, .. } if round > 0);
        if self.stream == Stream::Proven || doubted || range.is_none() {
            transfer.finished().await?;
            return Ok(None);
        }
        Ok(Some(transfer))
    }
}

/// What is held of a digest.
enum Here {
    Nothing,
    /// It is given.
    Ours(Held),
    /// It came from another registry, and is not everyone's.
    Others(Held),
}

/// Where a body begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// The blob is held.
    Store,
    /// It is fetched, or already being fetched.
    Transfer,
    /// The same, once a transfer that is just ending has let go of it.
    Again,
}

/// Whether this may be the fault of a wrong size.
fn casts_doubt(error: &PullError) -> bool {
    matches!(
        error,
        PullError::Content(_)
            | PullError::Unsatisfiable(_)
            | PullError::TooLarge(_)
            | PullError::Upstream { status: Some(206 | 416), .. }
    )
}

pub(super) fn untold(scope: &Scope, digest: &Digest) -> PullError {
    PullError::Upstream {
        registry: scope.registry.to_string(),
        status: None,
        reason: format!("it does not say how large {digest} is, and no manifest read here lists it"),
    }
}
