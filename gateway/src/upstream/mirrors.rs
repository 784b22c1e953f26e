//! Mirrors of a registry, asked in order before the registry itself, each while it is well.
//!
//! A mirror is a registry of the same name at another place, with connections, tokens and pauses of its own. It may lack
//! what the registry has, and it may be down: whatever it answers but success, the next in the row is asked. One that
//! fails is left alone for a time that doubles; then one request tries it, and the others go past it until that one knows.
//!
//! What is asked to find out who may read is asked of the registry alone: a mirror reads with logins of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Response;
use tokio::time::Instant;

use super::identity::Who;
use super::request::{self, Ask};
use super::site::{At, Site, host_and_port};
use crate::error::PullError;

/// How long the first failure counts, and the longest that one does.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// For how long one request is waited for that tries whether a mirror is well again.
const TRIAL: Duration = Duration::from_secs(10);
/// How long a mirror may take to answer: the client waits for the next one too.
const PATIENCE: Duration = Duration::from_secs(3);

/// One mirror.
pub(super) struct Mirror {
    pub(super) site: Site,
    health: Health,
}

/// Which mirror an answer is of. What is wrong with its body comes out later.
#[derive(Clone)]
pub(super) struct Origin(Arc<Mirror>);

impl Mirror {
    pub(super) fn new(site: Site) -> Self {
        Self { site, health: Health::default() }
    }
}

impl Origin {
    /// The mirror that gave an answer, if one did.
    pub(super) fn of(response: &Response) -> Option<Self> {
        response.extensions().get().cloned()
    }

    /// What it gave was not good.
    pub(super) fn failed(&self, why: &str) {
        self.0.failed(why);
    }
}

impl Mirror {
    fn failed(&self, why: &str) {
        let pause = self.health.failed(Instant::now());
        let (registry, mirror) = (&self.site.registry, host_and_port(&self.site.base));
        tracing::warn!(%registry, mirror, why, seconds = pause.as_secs(), "a mirror failed and is left alone");
    }
}

/// Asks the mirrors; `None` if none of them has it.
pub(super) async fn ask(at: At<'_>, ask: &Ask) -> Option<Response> {
    for mirror in at.mirrors {
        if mirror.site.circuit.pause(Instant::now()).is_some() || !mirror.health.may_ask(Instant::now()) {
            continue;
        }
        let Some(ask) = there(at, mirror, ask) else { continue };
        let who = if mirror.site.login.is_some() { at.who } else { &Who::Nobody };
        let there = At { site: &mirror.site, who, mirrors: &[], ..at };
        let patience = PATIENCE.min(at.web.limits.head);
        let answer = tokio::time::timeout(patience, Box::pin(request::ask_registry(there, &ask))).await;
        let error = match answer {
            Ok(Ok(mut response)) => {
                mirror.health.succeeded();
                response.extensions_mut().insert(Origin(mirror.clone()));
                return Some(response);
            }
            Ok(Err(error)) => error,
            Err(_) => mirror.site.failed(None, format!("it did not answer within {patience:?}")),
        };
        match &error {
            // It is well; it lacks this, or does not give it to us, or its circuit knows for how long it is to be left.
            PullError::NotFound { .. }
            | PullError::Denied { .. }
            | PullError::Throttled { .. }
            | PullError::Rejected { .. }
            | PullError::Upstream { status: Some(400..=499), .. } => {
                mirror.health.succeeded();
                tracing::debug!(mirror = host_and_port(&mirror.site.base), %error, "the next is asked");
            }
            _ => mirror.failed(&error.to_string()),
        }
    }
    None
}

/// The same question at a mirror.
fn there(at: At<'_>, mirror: &Mirror, ask: &Ask) -> Option<Ask> {
    let own = at.endpoint("");
    let rest = ask.url.path().strip_prefix(own.path())?;
    let mut url = mirror.site.endpoint(at.repository, rest);
    url.set_query(ask.url.query());
    Some(Ask { url, ..ask.clone() })
}

/// Whether a mirror is asked.
#[derive(Debug, Default)]
struct Health {
    /// Held for an instant only.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    left_until: Option<Instant>,
    /// Somebody tries it meanwhile.
    trial: bool,
}

impl Health {
    /// Whether it is asked now. Of a failed one whose time is over, the first who comes says yes for a trial.
    fn may_ask(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.left_until {
            Some(until) if now < until => false,
            Some(_) => {
                state.left_until = Some(now + TRIAL);
                state.trial = true;
                true
            }
            None => true,
        }
    }

    fn succeeded(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    /// Says for how long it is left alone.
    fn failed(&self, now: Instant) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Requests that fail together are one failure.
        if state.trial || state.left_until.is_none_or(|until| until <= now) {
            let pause = FIRST_PAUSE.saturating_mul(1 << state.failures.min(10)).min(LONGEST_PAUSE);
            *state = State { failures: state.failures + 1, left_until: Some(now + pause), trial: false };
        }
        state.left_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_mirror_is_left_alone_for_longer_and_tried_by_one() {
        let (health, begin) = (Health::default(), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        assert!(health.may_ask(begin));
        assert_eq!(health.failed(begin), FIRST_PAUSE);
        assert!(!health.may_ask(after(4)));
        assert!(health.may_ask(after(5)), "a trial");
        assert!(!health.may_ask(after(6)), "one at a time");
        assert_eq!(health.failed(after(7)), 2 * FIRST_PAUSE);
        assert!(!health.may_ask(after(16)));
        assert!(health.may_ask(after(17)));
        assert!(health.may_ask(after(28)), "whoever tried it never came back");
        health.succeeded();
        assert!(health.may_ask(after(28)) && health.may_ask(after(28)));
        assert_eq!(health.failed(after(28)), FIRST_PAUSE);
    }

    #[test]
    fn requests_that_fail_together_are_one_failure_and_no_pause_is_endless() {
        let health = Health::default();
        let mut now = Instant::now();
        health.failed(now);
        for _ in 0..20 {
            now += LONGEST_PAUSE;
            assert!(health.failed(now) <= LONGEST_PAUSE);
        }
        assert_eq!(health.failed(now), LONGEST_PAUSE);
        let health = Health::default();
        for _ in 0..20 {
            health.failed(now);
        }
        assert_eq!(health.state.lock().unwrap().failures, 1);
    }
}
