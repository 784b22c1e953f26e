//! The pause that a registry asks for: by 429, or by 503 with a `Retry-After`.
//!
//! A registry that counts requests also counts those it refuses: each further one may lengthen the ban.
//! Until its `Retry-After` is over, nothing more is sent there and callers are told at once.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

/// The pause when a 429 does not say how long: shorter than a client waits for a body that it has begun.
const UNSAID: Duration = Duration::from_secs(3);
/// The shortest pause: a `Retry-After: 0` is not an invitation to a busy loop.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest pause, whatever was said: quotas last for hours, but another repository or a login may be fine
/// before.
const LONGEST: Duration = Duration::from_mins(5);

/// A pause that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    /// What is left of it.
    pub(super) left: Duration,
    /// The status by which it was asked for.
    pub(super) status: StatusCode,
}

/// Whether a registry may be asked now.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    /// Held for an instant only, never across an await.
    closed_until: Mutex<Option<(Instant, StatusCode)>>,
}

impl Circuit {
    /// How long the registry wants to be left alone, if it does.
    pub(super) fn pause(&self, now: Instant) -> Option<Pause> {
        let (until, status) = (*self.closed_until.lock().unwrap_or_else(PoisonError::into_inner))?;
        let left = until.checked_duration_since(now).filter(|left| !left.is_zero())?;
        Some(Pause { left, status })
    }

    /// Takes note that it wants to be; says for how long nothing is sent.
    pub(super) fn throttled(&self, status: StatusCode, asked: Duration, now: Instant) -> Duration {
        let pause = asked.clamp(SHORTEST, LONGEST);
        let mut closed = self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        let next = now + pause;
        if closed.is_none_or(|(until, _)| until < next) {
            *closed = Some((next, status));
        }
        pause
    }
}

/// For how long an answer asks to be left alone, if it does. A 503 without a time is a failure like any other.
pub(super) fn asked(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let said = retry_after(headers, now);
    match status {
        StatusCode::TOO_MANY_REQUESTS => Some(said.unwrap_or(UNSAID)),
        StatusCode::SERVICE_UNAVAILABLE => said,
        _ => None,
    }
}

/// What `Retry-After` says: seconds or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
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
        let (busy, down) = (StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(circuit.throttled(busy, Duration::from_secs(u64::MAX), now), LONGEST);
        assert_eq!(circuit.throttled(down, Duration::ZERO, now), SHORTEST);
        assert_eq!(circuit.pause(now), Some(Pause { left: LONGEST, status: busy }));
        assert_eq!(circuit.pause(now + LONGEST), None);
        assert_eq!(circuit.throttled(busy, UNSAID, now + LONGEST), UNSAID);
    }

    #[test]
    fn what_asks_for_a_pause() {
        let now = SystemTime::UNIX_EPOCH;
        let time = HeaderMap::from_iter([(RETRY_AFTER, "7".parse().unwrap())]);
        let none = HeaderMap::new();
        let seven = Some(Duration::from_secs(7));
        for (status, headers, expected) in [
            (429, &time, seven),
            (429, &none, Some(UNSAID)),
            (503, &time, seven),
            (503, &none, None),
            (500, &time, None),
            (200, &time, None),
        ] {
            assert_eq!(asked(StatusCode::from_u16(status).unwrap(), headers, now), expected, "{status}");
        }
    }
}
