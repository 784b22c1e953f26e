//! Whose the bytes of a digest are.
//!
//! A digest is no ticket: what came from one registry is not for another's clients merely because that one says it has
//! the digest. So a blob on its way is of one registry, and of what is held it is noted which registries gave it, and
//! whether everyone could read it in one of them.

use std::sync::atomic::{AtomicBool, Ordering};

use redb::ReadTransaction;
use shoal_proto::digest::Digest;
use shoal_proto::name::{Registry, Scope};
use shoal_proto::origin::Origin;

use crate::StoreError;
use crate::change::Change;
use crate::store::{Held, Inner, Store, blocking, remove_if_there};
use crate::tables::{EVERYONES, ORIGINS, PARTIAL, PARTIAL_OF, key, scope_of, scopes};

/// The most origins remembered of one blob.
const MAX_ORIGINS: usize = 16;
/// The most of them of one registry: they say no more than the first, but where else to ask.
const MAX_OF_ONE: usize = 4;

/// For whose sake bytes come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Of {
    /// The repository whose registry gives them.
    pub scope: Scope,
    /// Everyone may read them there.
    pub everyones: bool,
}

impl Of {
    /// Their registry, as nodes name it to each other.
    pub fn origin(&self) -> Origin {
        Origin::of(&self.scope.registry)
    }
}

/// Whose what is held of a digest is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Whose {
    /// The repositories whose registry gave the bytes, of up to 16 registries; none of a blob that was found beside a new
    /// database.
    pub origins: Vec<Scope>,
    /// Everyone could read it in one of them.
    pub everyones: bool,
}

impl Whose {
    /// Whether this node gives it for a registry that says it has it: also what was found beside a new database, of which
    /// nobody knows whose it is. To other nodes that is not given: they would note it.
    pub fn is_given_for(&self, origin: Origin) -> bool {
        self.is_of(origin) || !self.is_known()
    }

    /// Whether it is known to be this registry's.
    pub fn is_of(&self, origin: Origin) -> bool {
        self.everyones || self.origins.iter().any(|scope| Origin::of(&scope.registry) == origin)
    }

    /// Whether anything is known of it.
    pub const fn is_known(&self) -> bool {
        self.everyones || !self.origins.is_empty()
    }
}

/// Whose a blob on its way is.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) scope: Scope,
    everyones: AtomicBool,
}

impl Owner {
    pub(crate) fn new(Of { scope, everyones }: Of) -> Self {
        Self { scope, everyones: AtomicBool::new(everyones) }
    }

    /// Whether these may have what comes: one registry's clients, or everyone what everyone may read.
    pub(crate) fn admits(&self, of: &Of) -> bool {
        self.is_from(of) || (of.everyones && self.is_everyones())
    }

    /// These have what comes too, if they may: of the same registry, they may know that everyone may.
    pub(crate) fn join(&self, of: &Of) -> bool {
        if self.is_from(of) {
            self.everyones.fetch_or(of.everyones, Ordering::Relaxed);
        }
        self.admits(of)
    }

    fn is_from(&self, of: &Of) -> bool {
        self.scope.registry == of.scope.registry
    }

    pub(crate) fn is_everyones(&self) -> bool {
        self.everyones.load(Ordering::Relaxed)
    }

    pub(crate) fn now(&self) -> Of {
        Of { scope: self.scope.clone(), everyones: self.is_everyones() }
    }
}

impl Store {
    /// Whose what is held of this digest is.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn whose(&self, digest: &Digest) -> Result<Whose, StoreError> {
        let (inner, digest) = (self.inner.clone(), *digest);
        blocking(move || inner.database.read(|txn| whose(txn, &digest))).await
    }

    /// A blob that is held, and known to be this registry's.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn held_of(&self, digest: &Digest, origin: Origin) -> Result<Option<Held>, StoreError> {
        let Some(held) = self.held(digest).await? else { return Ok(None) };
        Ok(self.whose(digest).await?.is_of(origin).then_some(held))
    }

    /// The size that a blob of which a part is here is being fetched with, unless another registry sends it.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn partial_size(
        &self,
        digest: &Digest,
        registry: &Registry,
    ) -> Result<Option<u64>, StoreError> {
        let (inner, digest, registry) = (self.inner.clone(), *digest, registry.clone());
        blocking(move || {
            inner.database.read(|txn| {
                if !is_ours(txn, &digest, &registry, &whose(txn, &digest)?)? {
                    return Ok(None);
                }
                Ok(txn.open_table(PARTIAL)?.get(&*key(&digest))?.map(|row| row.value()))
            })
        })
        .await
    }

    /// Notes whose bytes these are too; of one registry, four repositories at most.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub async fn note_origin(&self, digest: &Digest, of: Of) -> Result<(), StoreError> {
        let Whose { origins, everyones } = self.whose(digest).await?;
        if place(&origins, &of.scope) == Place::None && (everyones || !of.everyones) {
            // Most of the time: it needs no commit.
            return Ok(());
        }
        self.inner.writer.write(Change::Origin(*digest, of)).await
    }
}

/// Where one more origin goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// It says nothing new.
    None,
    Free,
    InsteadOf(&'a Scope),
}

/// A registry that is not known yet finds a place in any case: what is not noted has to be proven again, by a whole copy.
pub(crate) fn place<'a>(origins: &'a [Scope], new: &Scope) -> Place<'a> {
    let of = |registry: &Registry| origins.iter().filter(move |known| known.registry == *registry).count();
    if origins.contains(new) || of(&new.registry) >= MAX_OF_ONE {
        return Place::None;
    }
    if origins.len() < MAX_ORIGINS {
        return Place::Free;
    }
    let one_of_several = origins.iter().find(|known| of(&known.registry) > 1);
    match one_of_several.or_else(|| origins.first()) {
        Some(other) if of(&new.registry) == 0 => Place::InsteadOf(other),
        _ => Place::None,
    }
}

fn whose(txn: &ReadTransaction, digest: &Digest) -> Result<Whose, StoreError> {
    let everyones = txn.open_table(EVERYONES)?.get(&*key(digest))?.is_some();
    Ok(Whose { origins: scopes(&txn.open_table(ORIGINS)?, digest)?, everyones })
}

/// Whether what is here of a blob in part may be given for this registry.
fn is_ours(
    txn: &ReadTransaction,
    digest: &Digest,
    registry: &Registry,
    whose: &Whose,
) -> Result<bool, StoreError> {
    let partial_of = txn.open_table(PARTIAL_OF)?.get(&*key(digest))?.and_then(|row| scope_of(row.value()));
    Ok(match partial_of {
        Some(theirs) if theirs.registry == *registry => true,
        // It was found beside a new database, and is damaged.
        None if !whose.is_known() => true,
        _ => whose.is_of(Origin::of(registry)),
    })
}

impl Inner {
    /// Makes way for one who wants to resume what is there of a blob: what is of another registry alone goes, unless it
    /// was held and is being repaired. Blocks.
    pub(crate) fn make_way(&self, digest: &Digest, of: &Of) -> Result<(), StoreError> {
        let known = self.database.read(|txn| {
            if txn.open_table(PARTIAL)?.get(&*key(digest))?.is_none() {
                return Ok(None);
            }
            let whose = whose(txn, digest)?;
            Ok(Some((is_ours(txn, digest, &of.scope.registry, &whose)?, whose.is_known())))
        })?;
        let (is_ours, was_held) = known.unwrap_or((true, false));
        if is_ours {
            return Ok(());
        }
        if was_held {
            return Err(StoreError::OfAnother(*digest));
        }
        tracing::info!(%digest, scope = %of.scope, "what is here in part is of another registry, and is fetched anew");
        self.writer.write_blocking(Change::DropPartial(*digest))?;
        Ok(remove_if_there(&*self.disk, &crate::layout::partial(digest))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(registry: u32, repository: u32) -> Scope {
        Scope {
            registry: format!("registry-{registry}.test").parse().unwrap(),
            repository: format!("repository-{repository}").parse().unwrap(),
        }
    }

    #[test]
    fn every_registry_finds_a_place_and_none_takes_all() {
        let mut origins: Vec<Scope> = Vec::new();
        for repository in 0..4 {
            assert_eq!(place(&origins, &scope(0, repository)), Place::Free);
            origins.push(scope(0, repository));
        }
        assert_eq!(place(&origins, &scope(0, 9)), Place::None, "four of one registry are enough");
        for registry in 1..=12 {
            assert_eq!(place(&origins, &scope(registry, 0)), Place::Free);
            origins.push(scope(registry, 0));
        }
        assert_eq!(place(&origins, &scope(5, 0)), Place::None, "it is known");
        assert_eq!(place(&origins, &scope(5, 1)), Place::None, "its registry is known");
        assert_eq!(
            place(&origins, &scope(13, 0)),
            Place::InsteadOf(&scope(0, 0)),
            "of several of one registry"
        );
        let all_differ: Vec<Scope> = (0..16).map(|registry| scope(registry, 0)).collect();
        assert_eq!(
            place(&all_differ, &scope(16, 0)),
            Place::InsteadOf(&scope(0, 0)),
            "the newest is asked for"
        );
    }
}
