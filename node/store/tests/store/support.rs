//! What the tests share.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal_proto::attestation::{Attestation, ChunkHash, Claim};
use shoal_proto::chunk::ChunkLayout;
use shoal_proto::digest::{Algorithm, Digest, Hasher};
use shoal_proto::identity::Keypair;
use shoal_store::disk::memory::MemoryDisk;
use shoal_store::{FinishError, Options, Partial, ReadError, Recovery, Store, StoreError};

pub(crate) fn options() -> Options {
    Options { flush: Duration::from_millis(5), ..Options::default() }
}

pub(crate) fn open(disk: &MemoryDisk) -> (Store, Recovery) {
    Store::open(Arc::new(disk.clone()), options()).unwrap()
}

pub(crate) fn content(seed: u8, size: usize) -> Bytes {
    (0..size)
        .map(|n| (n as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed)
        .collect::<Vec<_>>()
        .into()
}

pub(crate) fn of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

pub(crate) fn keypair() -> Keypair {
    Keypair::ed25519_from_bytes([3; 32]).unwrap()
}

pub(crate) fn chunk_of(bytes: &Bytes, layout: ChunkLayout, chunk: u32) -> Bytes {
    let range = layout.range(chunk).unwrap();
    bytes.slice(range.start as usize..range.end as usize)
}

pub(crate) async fn write(partial: &Partial, bytes: &Bytes, chunk: u32) -> Result<(), StoreError> {
    let piece = chunk_of(bytes, partial.layout(), chunk);
    let claim = Claim { digest: partial.digest(), size: partial.layout().size(), chunk };
    let attestation = Attestation::sign(&keypair(), &claim, ChunkHash::of(&piece)).unwrap();
    partial.write(chunk, piece, attestation).await
}

pub(crate) async fn fetch(store: &Store, digest: &Digest, bytes: &Bytes) -> Result<(), FinishError> {
    let partial = store.partial(digest, bytes.len() as u64).await?;
    for chunk in 0..partial.layout().count() {
        write(&partial, bytes, chunk).await?;
    }
    partial.finish().await
}

pub(crate) async fn whole(store: &Store, digest: &Digest) -> Result<Vec<u8>, ReadError> {
    let size = store.held(digest).await?.ok_or(ReadError::NotHeld)?.size;
    let mut bytes = Vec::new();
    for chunk in 0..ChunkLayout::of(size).unwrap().count() {
        bytes.extend_from_slice(&store.read_chunk(digest, chunk).await?.bytes);
    }
    Ok(bytes)
}
