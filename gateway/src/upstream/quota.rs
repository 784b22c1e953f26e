//! How many requests a registry says that it still allows.
//!
//! Docker Hub says it with each manifest, as `ratelimit-limit: 100;w=21600` and `ratelimit-remaining: 97;w=21600` (a
//! number, and the seconds that it counts over). It is shown to the operator; nothing is held back because of it: what
//! holds a fleet back is the 429 that follows.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::header::HeaderName;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");

/// What a registry last said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// How many requests it still allows.
    pub remaining: u64,
    /// Of how many, if it says so.
    pub limit: Option<u64>,
    /// Within which time, if it says so.
    pub window: Option<Duration>,
}

impl Allowance {
    /// Whether few are left: a tenth of the limit or less.
    pub fn is_low(&self) -> bool {
        self.remaining <= self.limit.map_or(0, |limit| limit / 10)
    }

    fn read(headers: &HeaderMap) -> Option<Self> {
        let (remaining, window) = value(headers, &REMAINING)?;
        let limit = value(headers, &LIMIT);
        let window = window.or_else(|| limit.and_then(|(_, window)| window));
        Some(Self { remaining, limit: limit.map(|(limit, _)| limit), window })
    }
}

/// `NUMBER` or `NUMBER;w=SECONDS`.
fn value(headers: &HeaderMap, name: &HeaderName) -> Option<(u64, Option<Duration>)> {
    let text = headers.get(name)?.to_str().ok()?;
    let mut parts = text.split(';').map(str::trim);
    let number = parts.next()?.parse().ok()?;
    let window = parts.find_map(|part| part.strip_prefix("w=")?.parse().ok());
    Some((number, window.map(Duration::from_secs)))
}

/// The last word of one registry.
#[derive(Debug, Default)]
pub(super) struct Quota {
    /// Held for an instant only.
    last: Mutex<Option<Allowance>>,
}

impl Quota {
    /// Takes note of what an answer says; gives it if it is now low and was not before.
    pub(super) fn note(&self, headers: &HeaderMap) -> Option<Allowance> {
        let now = Allowance::read(headers)?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.replace(now);
        (now.is_low() && !before.is_some_and(|before| before.is_low())).then_some(now)
    }

    /// What was last said.
    pub(super) fn last(&self) -> Option<Allowance> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(limit: &str, remaining: &str) -> HeaderMap {
        HeaderMap::from_iter([(LIMIT, limit.parse().unwrap()), (REMAINING, remaining.parse().unwrap())])
    }

    #[test]
    fn as_docker_hub_says_it() {
        let read = |limit, remaining| Allowance::read(&said(limit, remaining));
        let window = Some(Duration::from_hours(6));
        let hub = Allowance { remaining: 97, limit: Some(100), window };
        assert_eq!(read("100;w=21600", "97;w=21600"), Some(hub));
        assert_eq!(read("100", "97 ; w=21600"), Some(hub));
        assert_eq!(read("many", "5"), Some(Allowance { remaining: 5, limit: None, window: None }));
        for nothing in ["", "-1", "few", ";w=3"] {
            assert_eq!(read("100", nothing), None, "{nothing}");
        }
    }

    #[test]
    fn few_are_told_once() {
        let quota = Quota::default();
        assert_eq!(quota.note(&HeaderMap::new()), None);
        assert_eq!(quota.note(&said("100;w=9", "11;w=9")), None);
        assert_eq!(quota.note(&said("100;w=9", "10;w=9")).map(|low| low.remaining), Some(10));
        assert_eq!(quota.note(&said("100;w=9", "9;w=9")), None);
        assert_eq!(quota.note(&said("100;w=9", "100;w=9")), None);
        assert_eq!(quota.note(&said("100;w=9", "0;w=9")).map(|low| low.remaining), Some(0));
        assert_eq!(quota.last().map(|last| last.remaining), Some(0));
    }
}
