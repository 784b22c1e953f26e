//! The digest of a blob on its way follows its prefix.

use bytes::Bytes;
use shoal_proto::digest::Digest;
use tokio::task::spawn_blocking;

use super::Partial;
use super::prefix::Taken;
use super::progress::Phase;
use crate::{FinishError, StoreError};

impl Partial {
    /// Feeds the digest whatever follows its prefix, unless somebody does already. Nobody waits for it but
    /// [`Partial::finish`].
    pub(super) fn hash_on(&self, fresh: Option<(u32, Bytes)>) {
        let taken = {
            let mut progress = self.state.progress();
            let next = progress.prefix.needs();
            let fed = next.is_some_and(|next| progress.have.contains(next as usize));
            if fed { progress.prefix.take() } else { None }
        };
        let Some(taken) = taken else { return };
        let this = self.clone();
        spawn_blocking(move || this.feed(taken, fresh.as_ref()));
    }

    /// Feeds chunk after chunk, as far as they go. Blocks.
    fn feed(&self, mut taken: Taken, fresh: Option<&(u32, Bytes)>) {
        loop {
            {
                let mut progress = self.state.progress();
                if progress.phase == Phase::Closed || !progress.have.contains(taken.next as usize) {
                    // Under the lock: a chunk that comes after this finds the hasher here.
                    progress.prefix.put(taken);
                    break;
                }
            }
            let bytes = match fresh {
                Some((chunk, bytes)) if *chunk == taken.next => Ok(bytes.clone()),
                _ => self.state.bytes(taken.next),
            };
            match bytes {
                Ok(bytes) => {
                    taken.hasher.update(&bytes);
                    taken.next += 1;
                }
                Err(error) => {
                    tracing::warn!(digest = %self.state.digest, chunk = taken.next, %error, "cannot be read back");
                    let mut progress = self.state.progress();
                    progress.have.set(taken.next as usize, false);
                    progress.chunks.remove(&taken.next);
                    progress.prefix.put(taken);
                    break;
                }
            }
        }
        self.state.hashed.notify_waiters();
    }

    /// The digest of all chunks, once the last of them is fed.
    pub(super) async fn whole_digest(&self) -> Result<Digest, FinishError> {
        let count = self.state.layout.count();
        loop {
            let hashed = self.state.hashed.notified();
            tokio::pin!(hashed);
            // Before the look, so that what happens after the look is heard.
            hashed.as_mut().enable();
            {
                let progress = self.state.progress();
                if progress.phase == Phase::Closed {
                    return Err(StoreError::Closed.into());
                }
                let missing = count as usize - progress.have.count_ones(..);
                if missing > 0 {
                    return Err(FinishError::Incomplete { missing });
                }
                if progress.prefix.is_at(count)
                    && let Some(digest) = progress.prefix.digest()
                {
                    return Ok(digest);
                }
            }
            self.hash_on(None);
            hashed.await;
        }
    }
}
