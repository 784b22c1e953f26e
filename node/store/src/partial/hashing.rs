//! The digest of a blob on its way follows its prefix.

use shoal_proto::digest::Digest;
use tokio::task::spawn_blocking;

use super::Partial;
use super::prefix::Taken;
use super::progress::Phase;
use crate::{FinishError, StoreError};

impl Partial {
    /// Feeds the digest whatever follows its prefix, unless somebody does already. Nobody waits for it but
    /// [`Partial::prove`].
    pub(super) fn hash_on(&self) {
        let taken = {
            let mut progress = self.state.progress();
            let next = progress.prefix.needs();
            let fed = next.is_some_and(|next| progress.have.contains(next as usize));
            if fed { progress.prefix.take() } else { None }
        };
        let Some(taken) = taken else { return };
        let this = self.clone();
        spawn_blocking(move || this.feed(taken));
    }

    /// Feeds chunk after chunk, as far as they go. Blocks.
    ///
    /// What is read back is checked first: bytes that the disk changed would show only at the end, as a digest that
    /// does not come out, and whoever sent them would be blamed.
    fn feed(&self, mut taken: Taken) {
        loop {
            let chunk = taken.next;
            let hash = {
                let mut progress = self.state.progress();
                match progress.chunks.get(&chunk) {
                    Some(vouched) if progress.phase != Phase::Closed => vouched.hash,
                    _ => {
                        // Under the lock: a chunk that comes after this finds the hasher here.
                        progress.prefix.put(taken);
                        break;
                    }
                }
            };
            match self.state.read_back(chunk, hash) {
                Ok(bytes) => {
                    taken.hasher.update(&bytes);
                    taken.next += 1;
                }
                Err(error) => {
                    let mut progress = self.state.progress();
                    progress.prefix.put(taken);
                    progress.lose(chunk, hash, &error);
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
            self.hash_on();
            hashed.await;
        }
    }
}
