//! What proven manifests said of the sizes of the blobs they list.
//!
//! A blob's size comes from a manifest whose digest is proven, or from upstream; so that a blob need not be asked
//! of upstream only for its size, what manifests said is remembered for a while.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use shoal_proto::digest::Digest;
use shoal_proto::manifest::Listing;

/// The most sizes remembered; those noted first are forgotten first. About 10 MiB when full.
const MOST: usize = 65_536;

/// The remembered sizes. A std mutex, held for a map access and never across an await.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sizes: HashMap<Digest, u64>,
    order: VecDeque<Digest>,
}

impl Sizes {
    /// Remembers what this manifest, its digest proven, lists. One that cannot be read lists nothing.
    pub(super) fn note(&self, manifest: &[u8]) {
        let Ok(listing) = Listing::parse(manifest) else { return };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for descriptor in listing.blobs.into_iter().chain(listing.manifests) {
            if inner.sizes.insert(descriptor.digest, descriptor.size).is_none() {
                inner.order.push_back(descriptor.digest);
            }
        }
        while inner.order.len() > MOST {
            if let Some(first) = inner.order.pop_front() {
                inner.sizes.remove(&first);
            }
        }
    }

    /// The size in bytes that a manifest gave this digest.
    pub(super) fn of(&self, digest: &Digest) -> Option<u64> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).sizes.get(digest).copied()
    }

    /// A size that proved wrong.
    pub(super) fn forget(&self, digest: &Digest) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).sizes.remove(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(numbers: std::ops::Range<u32>) -> String {
        let layers: Vec<String> = numbers
            .map(|n| format!(r#"{{"digest":"{}","size":{n}}}"#, Digest::sha256_of(&n.to_be_bytes())))
            .collect();
        format!(r#"{{"layers":[{}]}}"#, layers.join(","))
    }

    #[test]
    fn the_first_noted_are_forgotten_first() {
        let sizes = Sizes::default();
        let digest = |n: u32| Digest::sha256_of(&n.to_be_bytes());
        for page in 0..8 {
            sizes.note(manifest(page * 9000..(page + 1) * 9000).as_bytes());
        }
        assert_eq!(sizes.of(&digest(71_999)), Some(71_999));
        assert_eq!(sizes.of(&digest(0)), None);
        assert_eq!(sizes.inner.lock().unwrap().sizes.len(), MOST);
        sizes.note(b"not a manifest");
        sizes.forget(&digest(71_999));
        assert_eq!(sizes.of(&digest(71_999)), None);
    }
}
