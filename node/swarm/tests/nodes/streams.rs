//! Chunks and questions over streams, with peers that stall, go, and come back.

use std::time::{Duration, Instant};

use bytes::Bytes;
use shoal_proto::attestation::{Attestation, Claim};
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::Digest;
use shoal_proto::identity::{Keypair, PeerId};
use shoal_proto::swarm::turn::AskTurn;
use shoal_proto::wire::{Holding, Refusal};
use shoal_swarm::{ChunkError, Handle};

use crate::fleet::{SIZE, Wish, at_once, blob, claim, joined, nobodys, node, until};

/// Asks for a chunk until its holder has a slot for it: one that it has just sent yields to others.
async fn given(
    asker: &Handle,
    holder: PeerId,
    digest: Digest,
    chunk: u32,
) -> Result<(Bytes, Attestation), ChunkError> {
    loop {
        match asker.chunk(holder, claim(digest, chunk), nobodys()).await {
            Err(ChunkError::Refused(Refusal::Busy | Refusal::Sent)) => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            given => return given,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_come_over_and_check() {
    let blob = blob();
    let digest = Digest::sha256_of(&blob);
    let holder = node(Wish { blobs: vec![blob.clone()], ..Wish::default() }).await;
    let asker = node(Wish { bootstrap: vec![holder.address()], ..Wish::default() }).await;
    joined(&asker).await;
    let peer = holder.handle.local_peer();
    assert_eq!(asker.handle.ask_blob(peer, at_once(digest)).await.unwrap(), Holding::Complete { size: SIZE });
    let nothing = Digest::sha256_of(b"nothing");
    assert_eq!(asker.handle.ask_blob(peer, at_once(nothing)).await.unwrap(), Holding::None);

    let layout = ChunkLayout::of(SIZE).unwrap();
    // Many at once, more than the pipeline holds: each comes right.
    let mut tasks = tokio::task::JoinSet::new();
    for round in 0..25 {
        let chunk = round % layout.count();
        let asker = asker.handle.clone();
        tasks.spawn(async move { (chunk, given(&asker, peer, digest, chunk).await) });
    }
    while let Some(done) = tasks.join_next().await {
        let (chunk, given) = done.unwrap();
        let (bytes, attestation) = given.unwrap();
        let range = layout.range(chunk).unwrap();
        assert_eq!(bytes, blob.slice(range.start as usize..range.end as usize));
        attestation.check(&Claim { digest, size: SIZE, chunk }, &bytes).unwrap();
    }
    let missing = asker.handle.chunk(peer, claim(nothing, 0), nobodys()).await;
    assert!(matches!(missing, Err(ChunkError::Refused(Refusal::Missing))), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stalls_costs_seconds_and_its_questions_are_still_answered() {
    let blob = blob();
    let digest = Digest::sha256_of(&blob);
    let holder = node(Wish { blobs: vec![blob], stalls: usize::MAX, ..Wish::default() }).await;
    let asker = node(Wish { bootstrap: vec![holder.address()], ..Wish::default() }).await;
    joined(&asker).await;
    let peer = holder.handle.local_peer();
    let began = Instant::now();
    let stalled = asker.handle.chunk(peer, claim(digest, 0), nobodys()).await;
    assert!(matches!(stalled, Err(ChunkError::Stalled)), "{stalled:?}");
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert_eq!(asker.handle.ask_blob(peer, at_once(digest)).await.unwrap(), Holding::Complete { size: SIZE });
}

/// A session has so many questions answered at once: those that this node cannot answer do not take the places for ever.
#[tokio::test(flavor = "multi_thread")]
async fn questions_that_are_never_answered_make_room_for_others() {
    let blob = blob();
    let digest = Digest::sha256_of(&blob);
    let holder = node(Wish { blobs: vec![blob], mute: true, ..Wish::default() }).await;
    let asker = node(Wish { bootstrap: vec![holder.address()], ..Wish::default() }).await;
    joined(&asker).await;
    let peer = holder.handle.local_peer();
    let asks = (0..64).map(|_| {
        let ask = AskTurn { key: digest, fresh: Duration::from_secs(1), lost: Vec::new() };
        asker.handle.turn(peer, ask)
    });
    for answer in futures::future::join_all(asks).await {
        assert!(answer.is_err(), "{answer:?}");
    }
    until("an answer", async || asker.handle.ask_blob(peer, at_once(digest)).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_goes_is_gone_at_once() {
    let blob = blob();
    let digest = Digest::sha256_of(&blob);
    let holder = node(Wish { blobs: vec![blob], stalls: usize::MAX, ..Wish::default() }).await;
    let asker = node(Wish { bootstrap: vec![holder.address()], ..Wish::default() }).await;
    joined(&asker).await;
    let peer = holder.handle.local_peer();
    let handle = asker.handle.clone();
    let waiting = tokio::spawn(async move { handle.chunk(peer, claim(digest, 0), nobodys()).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    drop(holder);
    let gone = waiting.await.unwrap();
    assert!(matches!(gone, Err(ChunkError::Gone | ChunkError::Stalled)), "{gone:?}");
    assert!(began.elapsed() < Duration::from_secs(8));
    until("noticing that it is gone", async || asker.handle.connected().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pipeline_does_not_wait_for_itself() {
    let blob = blob();
    let digest = Digest::sha256_of(&blob);
    let holder = node(Wish { blobs: vec![blob], ..Wish::default() }).await;
    let asker = node(Wish { bootstrap: vec![holder.address()], ..Wish::default() }).await;
    joined(&asker).await;
    let peer = holder.handle.local_peer();
    let began = Instant::now();
    for _ in 0..20 {
        let all = (0..64).map(|n| {
            let asker = asker.handle.clone();
            async move { given(&asker, peer, digest, n % 4).await }
        });
        for given in futures::future::join_all(all).await {
            assert!(given.is_ok(), "{:?}", given.err());
        }
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_restarts_while_nothing_is_due_is_not_gone() {
    let blob = blob();
    let digest = Digest::sha256_of(&blob);
    let keypair = Keypair::generate_ed25519();
    let asker = node(Wish::default()).await;
    let wish = |listen: Option<String>| Wish {
        keypair: Some(keypair.clone()),
        listen,
        bootstrap: vec![asker.address()],
        blobs: vec![blob.clone()],
        ..Wish::default()
    };
    let mut holder = node(wish(None)).await;
    let (peer, address) = (holder.handle.local_peer(), holder.address());
    for round in 0..3 {
        joined(&holder).await;
        until("the provider's coming", async || asker.handle.connected().len() == 1).await;
        // More than one lane, and a session: all are idle when the provider restarts.
        let all = (0..24).map(|n| given(&asker.handle, peer, digest, n % 4));
        for given in futures::future::join_all(all).await {
            assert!(given.is_ok(), "round {round}: {:?}", given.err());
        }
        assert!(asker.handle.ask_blob(peer, at_once(digest)).await.is_ok(), "round {round}");
        holder.end().await;
        holder = node(wish(Some(address.clone()))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_on_lanes_that_die_unanswered_are_made_again() {
    let blob = blob();
    let digest = Digest::sha256_of(&blob);
    let keypair = Keypair::generate_ed25519();
    let asker = node(Wish::default()).await;
    let wish = |stalls| Wish {
        keypair: Some(keypair.clone()),
        bootstrap: vec![asker.address()],
        stalls,
        blobs: vec![blob.clone()],
        ..Wish::default()
    };
    // What is asked of it waits until it ends.
    let old = node(wish(usize::MAX)).await;
    until("the provider's coming", async || asker.handle.connected().len() == 1).await;
    let peer = old.handle.local_peer();
    let all: Vec<_> = (0..12)
        .map(|n| {
            let asker = asker.handle.clone();
            tokio::spawn(async move { given(&asker, peer, digest, n % 4).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The same peer, as it comes back before its old connection is known to be dead.
    let new = node(wish(0)).await;
    joined(&new).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    old.end().await;
    for given in all {
        let given = given.await.unwrap();
        assert!(given.is_ok(), "{:?}", given.err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_request_frees_its_slot_as_it_is_given_up() {
    let blob = blob();
    let digest = Digest::sha256_of(&blob);
    // As many as are served at once: no further request is taken on, and the reset is seen all the same.
    let holder = node(Wish { blobs: vec![blob], stalls: 2, slots: Some(2), ..Wish::default() }).await;
    let asker = node(Wish { bootstrap: vec![holder.address()], ..Wish::default() }).await;
    joined(&asker).await;
    let peer = holder.handle.local_peer();
    let both = [0, 1].map(|n| asker.handle.chunk(peer, claim(digest, n), nobodys()));
    for stalled in futures::future::join_all(both).await {
        assert!(matches!(stalled, Err(ChunkError::Stalled)), "{stalled:?}");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let given = asker.handle.chunk(peer, claim(digest, 0), nobodys()).await;
    assert!(given.is_ok(), "{:?}", given.err());
}
