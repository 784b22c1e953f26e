//! Registries that nobody configured, remembered for their tokens and pauses.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use shoal_proto::name::Registry;

use super::client::Wire;
use super::site::Site;
use crate::error::PullError;

/// The most that are remembered. Clients choose the names, so there is no end of them.
const MAX_STRANGERS: usize = 256;

/// The last ones that clients named.
#[derive(Default)]
pub(super) struct Strangers {
    /// Held for an instant only, never across an await.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    sites: HashMap<Registry, Arc<Site>>,
    /// In the order in which they came.
    order: VecDeque<Registry>,
}

impl Strangers {
    /// All that are remembered.
    pub(super) fn all(&self) -> Vec<(Registry, Arc<Site>)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.sites.iter().map(|(name, site)| (name.clone(), site.clone())).collect()
    }

    /// The registry of that name, if its name alone does not forbid to ask it.
    pub(super) fn get(&self, registry: &Registry, public: &Wire) -> Result<Arc<Site>, PullError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(site) = known.sites.get(registry) {
            return Ok(site.clone());
        }
        let site = Site::stranger(registry.clone(), public.clone())?;
        site.wire.check(&site.base).map_err(|problem| site.not_public(&site.base, &problem))?;
        let site = Arc::new(site);
        if known.order.len() >= MAX_STRANGERS
            && let Some(oldest) = known.order.pop_front()
        {
            known.sites.remove(&oldest);
        }
        known.order.push_back(registry.clone());
        known.sites.insert(registry.clone(), site.clone());
        Ok(site)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::client::{Introduction, Limits};
    use crate::upstream::roots::Roots;

    #[test]
    fn they_are_remembered_but_not_without_end() {
        let introduction = Introduction::new("a", "b").unwrap();
        let wire = Wire::public(&introduction, Limits::default(), &Roots::of_this_machine()).unwrap();
        let strangers = Strangers::default();
        for number in 0..2 * MAX_STRANGERS {
            let name = format!("r{number}.example.com").parse().unwrap();
            let site = strangers.get(&name, &wire).unwrap();
            assert!(Arc::ptr_eq(&site, &strangers.get(&name, &wire).unwrap()));
        }
        let known = strangers.known.lock().unwrap();
        assert_eq!((known.sites.len(), known.order.len()), (MAX_STRANGERS, MAX_STRANGERS));
    }
}
