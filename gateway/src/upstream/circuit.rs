//! The pause after a registry's 429.
//!
//! A registry that counts requests also counts those it refuses: each further one may lengthen the ban.
//! Until its `Retry-After` is over, nothing more is sent there and callers are told at once.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;
use tokio::time::Instant;

/// The pause when a 429 does not say how long.
const UNSAID: Duration = Duration::from_secs(10);
/// The shortest pause: a `Retry-After: 0` is not an invitation to a busy loop.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest pause, whatever was said: quotas last for hours, but another repository or a login may be fine
/// before.
const LONGEST: Duration = Duration::from_mins(5);

/// Whether a registry may be asked now.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    /// Held for an instant only, never across an await.
    closed_until: Mutex<Option<Instant>>,
}

impl Circuit {
    /// How long the registry wants to be left alone, if it does.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let until = *self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.and_then(|until| until.checked_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Takes note of a 429; says for how long nothing is sent.
    pub(super) fn throttled(&self, said: Option<Duration>, now: Instant) -> Duration {
        let pause = said.unwrap_or(UNSAID).clamp(SHORTEST, LONGEST);
        let mut until = self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        let next = now + pause;
        *until = Some(until.map_or(next, |until| until.max(next)));
        pause
    }
}

/// What `Retry-After` says: seconds or a date (RFC 9110, section 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        // More digits than fit are longer than any pause.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, text.parse().unwrap());
        // 1994-11-06 08:49:37
        retry_after(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777))
    }

    #[test]
    fn retry_after_forms() {
        assert_eq!(said("7"), Some(Duration::from_secs(7)));
        assert_eq!(said("Sun, 06 Nov 1994 08:49:57 GMT"), Some(Duration::from_secs(20)));
        assert_eq!(said("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(said("99999999999999999999999"), Some(Duration::from_secs(u64::MAX)));
        for nonsense in ["", "-1", "soon", "1.5"] {
            assert_eq!(said(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_pause_is_bounded_and_never_shortened() {
        let circuit = Circuit::default();
        let now = Instant::now();
        assert_eq!(circuit.pause(now), None);
        assert_eq!(circuit.throttled(Some(Duration::from_secs(u64::MAX)), now), LONGEST);
        assert_eq!(circuit.throttled(Some(Duration::ZERO), now), SHORTEST);
        assert_eq!(circuit.pause(now), Some(LONGEST));
        assert_eq!(circuit.pause(now + LONGEST), None);
        assert_eq!(circuit.throttled(None, now + LONGEST), UNSAID);
    }
}
