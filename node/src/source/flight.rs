//! One fetch of a thing at a time, however many clients ask for it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

/// Who is fetching what. The second who wants a thing waits for the first, and then finds it in the store.
///
/// A std mutex guards the map: it is held for a lookup and never across an await.
#[derive(Debug)]
pub(super) struct Flights<K> {
    turns: Mutex<HashMap<K, Weak<Turn<()>>>>,
}

impl<K> Default for Flights<K> {
    fn default() -> Self {
        Self { turns: Mutex::default() }
    }
}

impl<K: Hash + Eq + Clone> Flights<K> {
    /// Waits for this key's turn, which lasts until the guard is dropped.
    pub(super) async fn turn(&self, key: &K) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(turn) = turns.get(key).and_then(Weak::upgrade) {
                turn
            } else {
                // Entries that nobody waits for go whenever one comes: the map is as large as what is in flight.
                turns.retain(|_, turn| turn.strong_count() > 0);
                let turn = Arc::new(Turn::new(()));
                turns.insert(key.clone(), Arc::downgrade(&turn));
                turn
            }
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_for_a_key_and_no_entry_stays() {
        let flights = Arc::new(Flights::default());
        let inside = Arc::new(AtomicU32::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (flights, inside) = (flights.clone(), inside.clone());
            tasks.spawn(async move {
                let _turn = flights.turn(&1).await;
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, Ordering::SeqCst);
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        let _other = flights.turn(&2).await;
        assert_eq!(flights.turns.lock().unwrap().len(), 1);
    }
}
