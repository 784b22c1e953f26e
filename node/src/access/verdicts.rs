//! The memory of what upstream said, bounded: what was used longest ago is forgotten first.

use std::time::Duration;

use hashlink::LruCache;
use shoal_proto::name::Scope;
use shoal_proto::verdict::{Question, Reader, SignedVerdict};

use crate::clock;

/// The most that is remembered of each kind. Clients choose the names, so there is no end of them.
const MOST: usize = 4096;
/// That many may read a repository is written down again after so long.
const WRITE_EACH_MS: u64 = 5 * 60 * 1000;

/// What upstream said, by its clock of milliseconds since the Unix epoch.
#[derive(Debug)]
pub(super) struct Verdicts {
    /// What exactly was asked.
    exact: LruCache<Question, SignedVerdict>,
    /// When a reader last got something of a repository.
    read: LruCache<(Scope, Reader), u64>,
    /// When one was last refused.
    refused: LruCache<(Scope, Reader), u64>,
    /// When it was last written down that many may read a repository.
    written: LruCache<(Scope, Reader), u64>,
}

impl Default for Verdicts {
    fn default() -> Self {
        Self {
            exact: LruCache::new(MOST),
            read: LruCache::new(MOST),
            refused: LruCache::new(MOST),
            written: LruCache::new(MOST),
        }
    }
}

impl Verdicts {
    pub(super) fn remember(&mut self, signed: SignedVerdict) {
        let question = signed.verdict.question.clone();
        let newer = self
            .exact
            .peek(&question)
            .is_none_or(|known| known.verdict.checked_unix_ms <= signed.verdict.checked_unix_ms);
        if newer {
            self.exact.insert(question, signed);
        }
    }

    pub(super) fn find(&mut self, question: &Question, within: Duration, now: u64) -> Option<SignedVerdict> {
        let signed = self.exact.get(question)?.clone();
        let fresh = is_fresh(signed.verdict.checked_unix_ms, within, now);
        let refused = self.refused_since(&question.scope, question.reader, signed.verdict.checked_unix_ms);
        (fresh && !refused).then_some(signed)
    }

    pub(super) fn refused_since(&self, scope: &Scope, reader: Reader, at: u64) -> bool {
        self.refused.peek(&(scope.clone(), reader)).is_some_and(|&refused| refused >= at)
    }

    /// Notes a reading, and returns whether it should be written down.
    pub(super) fn read_at(&mut self, scope: &Scope, reader: Reader, at: u64) -> bool {
        let key = (scope.clone(), reader);
        if self.refused_since(scope, reader, at) {
            return false;
        }
        if self.read.peek(&key).is_none_or(|&known| known < at) {
            self.read.insert(key.clone(), at);
            self.refused.remove(&key);
        }
        if matches!(reader, Reader::Client(_)) {
            return false;
        }
        let due = self.written.peek(&key).is_none_or(|&written| at.saturating_sub(written) >= WRITE_EACH_MS);
        if due {
            self.written.insert(key, at);
        }
        due
    }

    pub(super) fn reads(&mut self, scope: &Scope, reader: Reader, within: Duration, now: u64) -> bool {
        self.read.get(&(scope.clone(), reader)).is_some_and(|&at| is_fresh(at, within, now))
    }

    pub(super) fn last(&mut self, scope: &Scope, reader: Reader) -> Option<u64> {
        self.read.get(&(scope.clone(), reader)).copied()
    }

    /// A refusal ends what was allowed: credentials are revoked, repositories made private.
    pub(super) fn refused(&mut self, scope: &Scope, reader: Reader, at: u64) {
        let key = (scope.clone(), reader);
        self.read.remove(&key);
        self.refused.insert(key, at);
    }

    pub(super) fn refuses(&mut self, scope: &Scope, reader: Reader, within: Duration, now: u64) -> bool {
        self.refused.get(&(scope.clone(), reader)).is_some_and(|&at| is_fresh(at, within, now))
    }
}

/// A clock that runs ahead, here or there, makes nothing fresh for ever.
fn is_fresh(at: u64, within: Duration, now: u64) -> bool {
    if u128::from(at) > u128::from(now) + clock::SKEW.as_millis() {
        return within == Duration::MAX;
    }
    u128::from(now.saturating_sub(at)) <= within.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn scope(repository: &str) -> Scope {
        Scope { registry: "reg.test".parse().unwrap(), repository: repository.parse().unwrap() }
    }

    #[test]
    fn what_is_allowed_ends_by_time_and_by_refusal() {
        let mut verdicts = Verdicts::default();
        let (mine, reader) = (scope("a"), Reader::Client([1; 32]));
        assert!(!verdicts.reads(&mine, reader, MINUTE, 1_000_000));
        verdicts.read_at(&mine, reader, 1_000_000);
        assert!(verdicts.reads(&mine, reader, MINUTE, 1_060_000));
        assert!(!verdicts.reads(&mine, reader, MINUTE, 1_060_001));
        assert!(!verdicts.reads(&mine, Reader::Everyone, MINUTE, 1_000_000));
        assert!(!verdicts.reads(&scope("b"), reader, MINUTE, 1_000_000));

        verdicts.refused(&mine, reader, 1_000_500);
        assert!(!verdicts.reads(&mine, reader, MINUTE, 1_000_600));
        assert!(verdicts.refuses(&mine, reader, MINUTE, 1_000_600));
        verdicts.read_at(&mine, reader, 1_001_000);
        assert!(!verdicts.refuses(&mine, reader, MINUTE, 1_001_000));
    }

    #[test]
    fn a_clock_that_runs_ahead_is_not_believed() {
        let mut verdicts = Verdicts::default();
        verdicts.read_at(&scope("a"), Reader::Everyone, 1_000_000);
        assert!(verdicts.reads(&scope("a"), Reader::Everyone, MINUTE, 975_000));
        assert!(!verdicts.reads(&scope("a"), Reader::Everyone, MINUTE, 900_000));
    }

    #[test]
    fn it_is_written_down_now_and_then_and_bounded() {
        let mut verdicts = Verdicts::default();
        assert!(verdicts.read_at(&scope("a"), Reader::Everyone, 1_000_000));
        assert!(!verdicts.read_at(&scope("a"), Reader::Everyone, 1_010_000));
        assert!(verdicts.read_at(&scope("a"), Reader::Everyone, 1_300_000));
        for number in 0..2 * MOST {
            verdicts.read_at(&scope(&format!("r{number}")), Reader::Everyone, 1_000_000);
            verdicts.refused(&scope(&format!("r{number}")), Reader::Client([0; 32]), 1_000_000);
        }
        assert_eq!((verdicts.read.len(), verdicts.refused.len(), verdicts.written.len()), (MOST, MOST, MOST));
    }
}
