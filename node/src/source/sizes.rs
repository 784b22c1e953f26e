//! What manifests said of the sizes of the blobs they list.
//!
//! So that a blob need not be asked of upstream only for its size, what manifests said is remembered for a while. It
//! is a hint: that a manifest's digest is proven says nothing of whether its author told the truth, nor of what is in its
//! repository. A lie stays in the repository that told it, and ends when it is found out or contradicted.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_proto::digest::Digest;
use shoal_proto::manifest::{Descriptor, Listing};
use shoal_proto::name::Scope;

/// The most sizes remembered; those noted first are forgotten first. About 10 MiB when full.
const MOST: usize = 65_536;

/// How long what did not come out, or was contradicted, is not believed.
const DOUBT: Duration = Duration::from_secs(30);

type Key = (Digest, Arc<Scope>);

/// The remembered sizes. A std mutex, held for a map access and never across an await.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    inner: Mutex<Inner>,
}

/// What was said last, and until when it is not believed: then others are asked.
#[derive(Debug)]
struct Said {
    size: u64,
    doubted_until: Option<Instant>,
}

#[derive(Debug, Default)]
struct Inner {
    sizes: HashMap<Key, Said>,
    order: VecDeque<Key>,
}

impl Sizes {
    /// Remembers what this manifest of this repository lists. One that cannot be read lists nothing; what another
    /// manifest lists with another size is believed of neither for a while, and then of the later.
    pub(super) fn note(&self, scope: &Scope, manifest: &[u8]) {
        let Ok(listing) = Listing::parse(manifest) else { return };
        let scope = Arc::new(scope.clone());
        let mut inner = self.inner();
        for descriptor in listing.blobs.into_iter().chain(listing.manifests).filter(is_there) {
            inner.note((descriptor.digest, scope.clone()), descriptor.size);
        }
    }

    /// Remembers what upstream said of a manifest or blob of this repository.
    pub(super) fn note_one(&self, scope: &Scope, digest: Digest, size: u64) {
        self.inner().note((digest, Arc::new(scope.clone())), size);
    }

    /// The size in bytes that manifests of this repository gave this digest.
    pub(super) fn of(&self, scope: &Scope, digest: &Digest) -> Option<u64> {
        self.of_at(scope, digest, Instant::now())
    }

    fn of_at(&self, scope: &Scope, digest: &Digest, now: Instant) -> Option<u64> {
        let key = (*digest, Arc::new(scope.clone()));
        let inner = self.inner();
        let said = inner.sizes.get(&key)?;
        said.doubted_until.is_none_or(|until| until <= now).then_some(said.size)
    }

    /// Believes no manifest of this repository on this digest for a while: what it said did not come out. Not for ever:
    /// one bad answer of upstream's may have been to blame, and others may not know the size at all.
    pub(super) fn doubt(&self, scope: &Scope, digest: &Digest) {
        let key = (*digest, Arc::new(scope.clone()));
        if let Some(said) = self.inner().sizes.get_mut(&key) {
            said.doubted_until = Some(Instant::now() + DOUBT);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn note(&mut self, key: Key, said: u64) {
        if let Some(known) = self.sizes.get_mut(&key) {
            if known.size != said {
                *known = Said { size: said, doubted_until: Some(Instant::now() + DOUBT) };
            }
            return;
        }
        self.sizes.insert(key.clone(), Said { size: said, doubted_until: None });
        self.order.push_back(key);
        if self.order.len() > MOST
            && let Some(first) = self.order.pop_front()
        {
            self.sizes.remove(&first);
        }
    }
}

/// Whether a registry that took the manifest has this. Layers that are to be had elsewhere it takes unseen (image spec,
/// "Non-Distributable Layers"): that one is listed says nothing.
fn is_there(descriptor: &Descriptor) -> bool {
    !["nondistributable", "foreign"].iter().any(|elsewhere| descriptor.media_type.contains(elsewhere))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(repository: &str) -> Scope {
        Scope { registry: "reg.test".parse().unwrap(), repository: repository.parse().unwrap() }
    }

    fn digest(n: u32) -> Digest {
        Digest::sha256_of(&n.to_be_bytes())
    }

    fn manifest(numbers: std::ops::Range<u32>, more: u32) -> String {
        let layers: Vec<String> =
            numbers.map(|n| format!(r#"{{"digest":"{}","size":{}}}"#, digest(n), n + more)).collect();
        format!(r#"{{"layers":[{}]}}"#, layers.join(","))
    }

    #[test]
    fn the_first_noted_are_forgotten_first() {
        let (sizes, scope) = (Sizes::default(), scope("a"));
        for page in 0..8 {
            sizes.note(&scope, manifest(page * 9000..(page + 1) * 9000, 0).as_bytes());
        }
        assert_eq!(sizes.of(&scope, &digest(71_999)), Some(71_999));
        assert_eq!(sizes.of(&scope, &digest(0)), None);
        {
            let inner = sizes.inner();
            assert_eq!((inner.sizes.len(), inner.order.len()), (MOST, MOST));
        }
        sizes.note(&scope, b"not a manifest");
    }

    #[test]
    fn a_doubt_passes() {
        let (sizes, scope) = (Sizes::default(), scope("a"));
        let later = || Instant::now() + DOUBT;
        sizes.note(&scope, manifest(7..8, 0).as_bytes());
        sizes.doubt(&scope, &digest(7));
        assert_eq!(sizes.of(&scope, &digest(7)), None);
        assert_eq!(sizes.of_at(&scope, &digest(7), later()), Some(7));
        // Of two that contradict each other the later is believed then.
        sizes.note(&scope, manifest(7..8, 1).as_bytes());
        assert_eq!(sizes.of(&scope, &digest(7)), None);
        assert_eq!(sizes.of_at(&scope, &digest(7), later()), Some(8));
    }

    #[test]
    fn a_lie_stays_where_it_was_told_and_is_not_believed_twice() {
        let sizes = Sizes::default();
        let (good, bad) = (scope("good"), scope("bad"));
        sizes.note(&good, manifest(7..9, 0).as_bytes());
        sizes.note(&bad, manifest(7..9, 5).as_bytes());
        assert_eq!((sizes.of(&good, &digest(7)), sizes.of(&bad, &digest(7))), (Some(7), Some(12)));

        // Said again it is no other; contradicted, neither is believed.
        sizes.note(&good, manifest(7..8, 0).as_bytes());
        assert_eq!(sizes.of(&good, &digest(7)), Some(7));
        sizes.note(&good, manifest(7..8, 1).as_bytes());
        assert_eq!(sizes.of(&good, &digest(7)), None);
        assert_eq!(sizes.of(&good, &digest(8)), Some(8));

        sizes.doubt(&bad, &digest(8));
        sizes.note(&bad, manifest(8..9, 5).as_bytes());
        assert_eq!(sizes.of(&bad, &digest(8)), None);
    }
}
