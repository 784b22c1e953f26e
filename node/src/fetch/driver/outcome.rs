//! How a transfer ends: held, or begun again because the digest was another, or not to be had.

use std::collections::BTreeMap;

use shoal_gateway::error::PullError;
use shoal_proto::attestation::{Attestation, Claim};
use shoal_proto::identity::PeerId;
use shoal_proto::transfer::{Event, Transfer, UpstreamFailure};
use shoal_store::FinishError;

use super::Driver;
use crate::fetch::Status;
use crate::hearsay;

impl Driver {
    /// What follows from how that ended in this round: the end, or what the core has to know.
    pub(super) async fn kept(
        &mut self,
        round: u32,
        result: Result<(), FinishError>,
    ) -> Result<Status, Event> {
        match result {
            Ok(()) => {
                self.name_liars().await;
                self.ports.peers.announce(self.digest).await;
                Ok(Status::Held { round })
            }
            Err(FinishError::Incomplete { missing }) => {
                tracing::warn!(missing, "chunks were damaged on this node's disk and are fetched again");
                self.proven = false;
                Err(Event::Lost(self.partial.missing()))
            }
            Err(FinishError::Mismatch { actual }) => {
                tracing::warn!(%actual, "the digest did not come out");
                self.proven = false;
                self.ports.metrics.digest_mismatch();
                let own = self.ports.peers.local_peer();
                let others: Vec<(u32, Attestation)> = self
                    .partial
                    .attestations()
                    .into_iter()
                    .filter(|(_, attestation)| attestation.signer != own)
                    .collect();
                self.doubt.note(&others);
                Err(Event::Mismatch(others.into_iter().map(|(_, attestation)| attestation.signer).collect()))
            }
            Err(error) => Ok(Status::Failed(PullError::Unavailable(error.to_string()))),
        }
    }

    /// How many of the blob's bytes came from other nodes: the chunks that others vouch for.
    pub(super) fn bytes_of_peers(&self) -> u64 {
        let (own, layout) = (self.ports.peers.local_peer(), self.partial.layout());
        let foreign = self.partial.attestations().into_iter().filter(|(_, said)| said.signer != own);
        foreign.filter_map(|(chunk, _)| layout.range(chunk)).map(shoal_proto::range::ByteRange::len).sum()
    }

    /// The blob is fetched once more if its digest did not come out: whoever waits learns that what it has read may be
    /// wrong.
    pub(super) fn begun_again(&mut self, core: &Transfer) {
        let have = u32::try_from(core.have().count_ones(..)).unwrap_or(u32::MAX);
        let round = core.round();
        let before = self.status.send_replace(Status::Running { have, round });
        if !matches!(before, Status::Running { round: before, .. } if before == round) {
            self.waiting.clear();
            self.waiting_unproven.clear();
        }
    }

    /// After a repair that came out: whoever had vouched for other bytes lied, and signed it.
    async fn name_liars(&mut self) {
        let (digest, size) = (self.digest, self.partial.layout().size());
        let mut liars: BTreeMap<PeerId, u32> = BTreeMap::new();
        for (chunk, vouched) in self.doubt.vouched() {
            let Ok(proven) = self.ports.store.read_chunk(&digest, chunk).await else { continue };
            let claim = Claim { digest, size, chunk };
            let is_false = |said: &&Attestation| said.hash != proven.hash && said.verify(&claim).is_ok();
            for said in vouched.iter().filter(is_false) {
                *liars.entry(said.signer).or_default() += 1;
            }
        }
        for (peer, chunks) in liars {
            let time = self.ports.barred.bar(peer);
            self.ports.metrics.false_attestations(chunks);
            tracing::warn!(
                %peer, chunks, seconds = time.as_secs(),
                "a peer vouched for wrong bytes, by its signature, and is not asked for a while"
            );
        }
    }

    pub(super) async fn failed(&mut self, failure: Option<UpstreamFailure>) -> Status {
        if failure == Some(UpstreamFailure::WrongBytes) {
            // Nothing of it can be trusted to be of this digest.
            if let Err(error) = self.partial.discard().await {
                tracing::warn!(%error, "could not discard a partial blob");
            }
            return Status::Failed(PullError::Content(format!(
                "what upstream and peers sent does not have the digest {}",
                self.digest
            )));
        }
        if let Some(error) = self.upstream_error.take() {
            return Status::Failed(error);
        }
        let (Some(failure), Some(scope)) = (failure, self.scopes.first()) else {
            return Status::Failed(PullError::Unavailable(
                "no peer and no upstream could give the blob".to_owned(),
            ));
        };
        // Other members were refused, or met with trouble.
        let error = hearsay::told(scope.registry.to_string(), failure.into());
        self.ports.upstreams.heard(&scope.registry, &error);
        Status::Failed(error)
    }
}
