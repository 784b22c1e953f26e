//! Blobs that are here, but not for the registry that is asked.
//!
//! They came from another registry, where not everyone can read them. That the asked one says it has the digest is no
//! proof: whoever runs one can make it say so. So it has to send the bytes once, in whole, before what is held is given
//! for it; a fleet has one node do that. Held bytes are never compared with what it sends: one that guesses could then learn
//! a blob byte by byte.
//!
//! While a blob is on its way from another registry, its own bytes are passed on, past the swarm and the store.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use shoal_gateway::error::PullError;
use shoal_gateway::source::BlobBody;
use shoal_gateway::upstream::identity::Identity;
use shoal_proto::chunk::MAX_BLOB;
use shoal_proto::digest::{Digest, Hasher};
use shoal_proto::name::Registry;
use shoal_proto::range::{ByteRange, RangeRequest};
use shoal_proto::verdict::{Object, Question, Reader};
use shoal_store::{Of, Whose};
use tokio::time::{Instant, timeout};

use super::blobs::{Begin, untold};
use super::{NodeSource, unavailable};
use crate::config::Stream;
use crate::fetch::{OpenError, Ports, small};
use crate::turn::Wish;

/// The most repositories that are asked whether everyone can read there what came from them.
const MAX_ASKED: usize = 3;
/// How long they may take for that, together.
const ASKED: Duration = Duration::from_secs(2);
/// A registry that failed no longer ago than this is not asked.
const JUST_NOW: Duration = Duration::from_secs(10);
/// How long one who waits for a proof waits; the proof goes on without it.
const PATIENCE: Duration = Duration::from_secs(15);
/// For how long the fleet remembers who proved it.
const FRESH: Duration = Duration::from_mins(10);
/// How long what another registry sends may take to be over, before its own is passed on.
const OVER: Duration = Duration::from_secs(5);

/// A whole blob that is passed on.
struct Passing {
    ports: Ports,
    registry: Registry,
    digest: Digest,
    /// The most bytes that are taken.
    most: u64,
    stream: BoxStream<'static, Result<Bytes, PullError>>,
    hasher: Hasher,
    hashed: u64,
    /// The last piece is given when the digest has come out: no client gets all of a wrong blob.
    kept_back: Option<Bytes>,
}

impl NodeSource {
    /// Has it proven that what is held for other registries' clients is for this one's too.
    pub(super) async fn prove(&self, of: &Of, digest: &Digest) -> Result<(), PullError> {
        let origin = of.origin();
        let (source, for_whom, digest) = (self.clone(), of.clone(), *digest);
        let proof = self.proofs.of((digest, origin), || async move {
            if source.is_everyones(&digest).await? {
                return Ok(());
            }
            if !small::is_held_by_peers(&source.ports, digest, origin).await {
                source.have_it_sent(&for_whom, digest).await?;
            }
            source.ports.store.note_origin(&digest, for_whom).await.map_err(unavailable)
        })?;
        let waited = timeout(PATIENCE, proof).await;
        waited.unwrap_or_else(|_| {
            let registry = &of.scope.registry;
            Err(PullError::Unavailable(format!(
                "{digest} is held of another registry, and {registry} is still sending it"
            )))
        })
    }

    /// Whether everyone can read what is held of this digest where it came from.
    async fn is_everyones(&self, digest: &Digest) -> Result<bool, PullError> {
        let Whose { origins, everyones } = self.ports.store.whose(digest).await.map_err(unavailable)?;
        if everyones {
            return Ok(true);
        }
        let reader = Reader::Everyone;
        let worth_asking = origins.into_iter().filter(|scope| {
            !self.access.is_refused(scope, reader)
                && !self.ports.upstreams.is_down(&scope.registry, JUST_NOW)
                && !self.ports.upstreams.is_paused(&scope.registry)
        });
        let ask = async {
            for scope in worth_asking.take(MAX_ASKED) {
                let question = Question { scope: scope.clone(), object: Object::Blob(*digest), reader };
                if self.ask_once(&question, Identity::Anonymous).await.is_ok() {
                    return Some(scope);
                }
            }
            None
        };
        let Some(scope) = timeout(ASKED, ask).await.ok().flatten() else { return Ok(false) };
        let of = Of { scope, everyones: true };
        self.ports.store.note_origin(digest, of).await.map_err(unavailable)?;
        Ok(true)
    }

    /// Has a node of the fleet take the whole blob from the registry, for nothing but to know that it has it.
    async fn have_it_sent(&self, of: &Of, digest: Digest) -> Result<(), PullError> {
        let registry = &of.scope.registry;
        let key = Digest::sha256_of(format!("proof\n{registry}\n{digest}").as_bytes());
        let wish = Wish { key, fresh: FRESH, asked: Instant::now(), registry };
        let origin = of.origin();
        wish.once(
            &self.ports,
            async || {
                let (_, mut stream) = self.passing(of, &digest).await?;
                while let Some(piece) = stream.next().await {
                    piece?;
                }
                // Before the others hear that it is over, and ask this node.
                self.ports.store.note_origin(&digest, of.clone()).await.map_err(unavailable)
            },
            async |by| small::is_held_by(&self.ports, by, digest, origin).await.then_some(()),
        )
        .await
    }

    /// The body of a blob that is on its way from another registry.
    pub(super) async fn of_another(
        &self,
        of: &Of,
        digest: &Digest,
        size: u64,
        range: Option<RangeRequest>,
    ) -> Result<BlobBody, PullError> {
        if let Some(mut transfer) = self.fetcher.find(*digest).await {
            drop(timeout(OVER, transfer.finished()).await);
        }
        if let Some(held) = self.held_blob(of, digest, range).await? {
            return Ok(held);
        }
        match self.body(of, digest, size, range, Begin::Again).await {
            Err(OpenError::OfAnother) => {}
            Err(OpenError::Failed(error)) => return Err(error),
            Ok(body) => return Ok(body),
        }
        if range.is_some() || self.stream == Stream::Proven {
            return Err(PullError::Unavailable(format!("{digest} is being fetched from another registry")));
        }
        let (size, stream) = self.passing(of, digest).await?;
        let size = size.ok_or_else(|| untold(&of.scope, digest))?;
        Ok(BlobBody { size, range: ByteRange::new(0, size), stream })
    }

    /// All bytes of the blob as the registry sends them, and how many, if it says so: what is known here of the blob shows
    /// in nothing. The stream ends well only if they are what the digest promises.
    async fn passing(
        &self,
        of: &Of,
        digest: &Digest,
    ) -> Result<(Option<u64>, BoxStream<'static, Result<Bytes, PullError>>), PullError> {
        self.ports.metrics.upstream_request();
        let download = self.ports.upstreams.blob(&of.scope, digest, None).await?;
        let size = download.size;
        let passing = Passing {
            ports: self.ports.clone(),
            registry: of.scope.registry.clone(),
            digest: *digest,
            most: size.unwrap_or(MAX_BLOB),
            stream: download.stream,
            hasher: Hasher::new(digest.algorithm()),
            hashed: 0,
            kept_back: None,
        };
        let next = async |passing: Option<Passing>| match passing {
            Some(passing) => passing.next().await,
            None => Ok(None),
        };
        Ok((size, stream::try_unfold(Some(passing), next).boxed()))
    }
}

impl Passing {
    /// The next piece, and what comes after it.
    async fn next(mut self) -> Result<Option<(Bytes, Option<Self>)>, PullError> {
        while let Some(piece) = self.stream.next().await {
            let piece = piece?;
            self.ports.came_from_upstream(piece.len()).await;
            self.hasher.update(&piece);
            self.hashed += piece.len() as u64;
            if self.hashed > self.most {
                return Err(self.wrong());
            }
            if let Some(before) = self.kept_back.replace(piece) {
                return Ok(Some((before, Some(self))));
            }
        }
        if self.hasher.clone().finish() != self.digest {
            return Err(self.wrong());
        }
        Ok(self.kept_back.take().map(|last| (last, None)))
    }

    fn wrong(&self) -> PullError {
        PullError::Content(format!("what {} sends for {} is not that", self.registry, self.digest))
    }
}
