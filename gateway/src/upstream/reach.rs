//! Whether a registry answered when it was last asked: while it does not, what was known before stands in for its word,
//! and what is served was saved from an outage.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::PullError;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Held for an instant only, never across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failed_at: Option<Instant>,
    /// It gave no answer at all, which takes long.
    silent_at: Option<Instant>,
    /// It answered at least once.
    has_answered: bool,
}

impl Reach {
    /// What came of a question. Only a registry that is there can refuse something; one that wants to be left alone
    /// says nothing new.
    pub(super) fn note<T>(&self, answer: &Result<T, PullError>, now: Instant) {
        let (failed, silent) = match answer {
            Err(PullError::Upstream { status: None, .. }) => (true, true),
            Err(PullError::Upstream { status: Some(500..), .. }) => (true, false),
            Err(PullError::Throttled { .. }) => {
                self.state().has_answered = true;
                return;
            }
            Err(PullError::Refused(_)) => return,
            Ok(_) | Err(_) => (false, false),
        };
        let mut state = self.state();
        state.failed_at = failed.then_some(now);
        state.silent_at = silent.then_some(now);
        state.has_answered |= !silent;
    }

    /// Whether the last question got no answer, no longer ago than this.
    pub(super) fn silent_within(&self, time: Duration, now: Instant) -> bool {
        self.state().silent_at.is_some_and(|at| now.saturating_duration_since(at) < time)
    }

    /// Whether there is such a registry, as far as is known.
    pub(super) fn has_answered(&self) -> bool {
        self.state().has_answered
    }

    /// Whether the last question failed, no longer ago than this.
    pub(super) fn failed_within(&self, time: Duration, now: Instant) -> bool {
        self.state().failed_at.is_some_and(|at| now.saturating_duration_since(at) < time)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn failed(status: Option<u16>) -> Result<(), PullError> {
        Err(PullError::Upstream { registry: "reg.test".into(), status, reason: "on purpose".into() })
    }

    #[test]
    fn a_registry_is_down_for_a_while_after_a_failure_and_up_with_its_next_answer() {
        let (reach, begin) = (Reach::default(), Instant::now());
        assert!(!reach.failed_within(MINUTE, begin));
        for down in [None, Some(500), Some(503)] {
            reach.note(&failed(down), begin);
            assert!(reach.failed_within(MINUTE, begin), "{down:?}");
            assert!(!reach.failed_within(MINUTE, begin + MINUTE));
            reach.note(&Err::<(), _>(PullError::NotFound { registry: "reg.test".into() }), begin);
            assert!(!reach.failed_within(MINUTE, begin));
        }
        reach.note(&failed(None), begin);
        assert!(reach.silent_within(MINUTE, begin));
        reach.note(&failed(Some(503)), begin);
        assert!(!reach.silent_within(MINUTE, begin), "it said something");
        reach.note(&failed(Some(400)), begin);
        assert!(!reach.failed_within(MINUTE, begin), "it answered");
    }

    #[test]
    fn one_that_wants_to_be_left_alone_says_nothing_new() {
        let (reach, begin) = (Reach::default(), Instant::now());
        let throttled =
            || PullError::Throttled { registry: "reg.test".into(), status: 429, retry_after: None };
        reach.note(&Err::<(), _>(throttled()), begin);
        assert!(!reach.failed_within(MINUTE, begin));
        reach.note(&failed(None), begin);
        reach.note(&Err::<(), _>(throttled()), begin);
        assert!(reach.failed_within(MINUTE, begin));
    }
}
