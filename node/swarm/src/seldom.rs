//! Warnings that are given once in a while, however often their cause comes back.

use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug)]
pub(crate) struct Seldom {
    pause: Duration,
    last: Option<Instant>,
}

impl Seldom {
    pub(crate) fn every(pause: Duration) -> Self {
        Self { pause, last: None }
    }

    /// Whether it is time again; then it counts as given.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.last.is_none_or(|last| now.saturating_duration_since(last) >= self.pause);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_in_a_while() {
        let mut seldom = Seldom::every(Duration::from_mins(1));
        let now = Instant::now();
        assert!(seldom.is_due(now));
        assert!(!seldom.is_due(now + Duration::from_secs(59)));
        assert!(seldom.is_due(now + Duration::from_mins(1)));
    }
}
