//! Registries that nobody configured, remembered for their tokens and pauses.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashlink::LruCache;
use shoal_proto::name::Registry;

use super::client::Wire;
use super::site::Site;
use crate::error::PullError;

/// The most that are remembered. Clients choose the names, so there is no end of them.
const MAX_STRANGERS: usize = 256;

/// The last ones that clients asked for.
pub(super) struct Strangers {
    /// Held for an instant only, never across an await.
    known: Mutex<LruCache<Registry, Arc<Site>>>,
}

impl Default for Strangers {
    fn default() -> Self {
        // Bounded below, by another rule than the cache's own.
        Self { known: Mutex::new(LruCache::new_unbounded()) }
    }
}

impl Strangers {
    /// All that are remembered.
    pub(super) fn all(&self) -> Vec<(Registry, Arc<Site>)> {
        self.known().iter().map(|(name, site)| (name.clone(), site.clone())).collect()
    }

    /// The registry of that name, if its name alone does not forbid to ask it.
    pub(super) fn get(&self, registry: &Registry, public: &Wire) -> Result<Arc<Site>, PullError> {
        let mut known = self.known();
        if let Some(site) = known.get(registry) {
            return Ok(site.clone());
        }
        let site = Site::stranger(registry.clone(), public.clone())?;
        site.wires.bare.check(&site.base).map_err(|problem| site.not_public(&site.base, &problem))?;
        if known.len() >= MAX_STRANGERS {
            make_room(&mut known);
        }
        let site = Arc::new(site);
        known.insert(registry.clone(), site.clone());
        Ok(site)
    }

    fn known(&self) -> MutexGuard<'_, LruCache<Registry, Arc<Site>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets who was asked for longest ago of those that never answered, or of all: else who makes up names could have the
/// pause forgotten that a real registry asked for.
fn make_room(known: &mut LruCache<Registry, Arc<Site>>) {
    let silent = known.iter().find(|(_, site)| !site.reach.has_answered()).map(|(name, _)| name.clone());
    match silent {
        Some(name) => drop(known.remove(&name)),
        None => drop(known.remove_lru()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::client::{Introduction, Limits};
    use crate::upstream::roots::Roots;

    fn wire() -> Wire {
        let introduction = Introduction::new("a", "b").unwrap();
        Wire::public(&introduction, Limits::default(), &Roots::of_this_machine()).unwrap()
    }

    fn name(number: usize) -> Registry {
        format!("r{number}.example.com").parse().unwrap()
    }

    #[test]
    fn they_are_remembered_but_not_without_end() {
        let (strangers, wire) = (Strangers::default(), wire());
        for number in 0..2 * MAX_STRANGERS {
            let site = strangers.get(&name(number), &wire).unwrap();
            assert!(Arc::ptr_eq(&site, &strangers.get(&name(number), &wire).unwrap()));
        }
        assert_eq!(strangers.known().len(), MAX_STRANGERS);
    }

    #[test]
    fn made_up_names_push_out_nobody_who_has_answered_or_is_in_use() {
        let (strangers, wire) = (Strangers::default(), wire());
        let real = strangers.get(&name(0), &wire).unwrap();
        real.reach.note(&Ok::<_, PullError>(()), tokio::time::Instant::now());
        for number in 1..2 * MAX_STRANGERS {
            strangers.get(&name(number), &wire).unwrap();
            let used = strangers.get(&name(1), &wire).unwrap();
            assert!(Arc::ptr_eq(&used, &strangers.get(&name(1), &wire).unwrap()));
        }
        assert!(Arc::ptr_eq(&real, &strangers.get(&name(0), &wire).unwrap()));
        assert!(strangers.all().iter().any(|(known, _)| *known == name(1)));
        for (_, site) in strangers.all() {
            site.reach.note(&Ok::<_, PullError>(()), tokio::time::Instant::now());
        }
        strangers.get(&name(9 * MAX_STRANGERS), &wire).unwrap();
        assert_eq!(strangers.known().len(), MAX_STRANGERS, "where all have answered one of them goes");
    }
}
