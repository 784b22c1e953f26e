//! The memory of what upstream said, bounded: what was used longest ago is forgotten first.

use std::time::Duration;

use hashlink::LruCache;
use shoal_proto::digest::Digest;
use shoal_proto::name::{Reference, Scope};
use shoal_proto::verdict::{Object, Question, Reader, SignedVerdict};

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
    pub(super) fn remember(&mut self, signed: SignedVerdict, now: u64) {
        let question = signed.verdict.question.clone();
        let newer = self
            .exact
            .peek(&question)
            .is_none_or(|known| is_newer(signed.verdict.checked_unix_ms, known.verdict.checked_unix_ms, now));
        if newer {
            self.exact.insert(question, signed);
        }
    }

    /// What was said, if it is not older than `within`.
    pub(super) fn find(
        &mut self,
        question: &Question,
        within: Option<Duration>,
        now: u64,
    ) -> Option<SignedVerdict> {
        let signed = self.exact.get(question)?.clone();
        let fresh = is_fresh(signed.verdict.checked_unix_ms, within, now);
        let refused = self.refused_since(&question.scope, question.reader, signed.verdict.checked_unix_ms);
        (fresh && !refused).then_some(signed)
    }

    /// What was said of this to many is no more so. What was said to clients ends soon.
    pub(super) fn gone(&mut self, scope: &Scope, digest: &Digest) {
        for reader in [Reader::Everyone, Reader::Cluster] {
            for object in [Object::Blob(*digest), Object::Manifest(Reference::Digest(*digest))] {
                self.exact.remove(&Question { scope: scope.clone(), object, reader });
            }
        }
    }

    pub(super) fn refused_since(&self, scope: &Scope, reader: Reader, at: u64) -> bool {
        self.refused.peek(&(scope.clone(), reader)).is_some_and(|&refused| refused >= at)
    }

    /// Notes a reading, and returns whether it should be written down.
    pub(super) fn read_at(&mut self, scope: &Scope, reader: Reader, at: u64, now: u64) -> bool {
        let key = (scope.clone(), reader);
        if self.refused_since(scope, reader, at) {
            return false;
        }
        if self.read.peek(&key).is_none_or(|&known| is_newer(at, known, now)) {
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
        self.written.remove(&key);
        self.refused.insert(key, at);
    }

    pub(super) fn refuses(&mut self, scope: &Scope, reader: Reader, within: Duration, now: u64) -> bool {
        self.refused.get(&(scope.clone(), reader)).is_some_and(|&at| is_fresh(at, within, now))
    }
}

/// A clock that runs ahead, here or there, makes nothing fresh for ever.
fn is_fresh(at: u64, within: impl Into<Option<Duration>>, now: u64) -> bool {
    let age = u128::from(now.saturating_sub(at));
    !clock::is_to_come(at, now) && within.into().is_none_or(|within| age <= within.as_millis())
}

/// Whether what was said then counts instead of what is known: that one may be of before this clock was set back.
fn is_newer(at: u64, known: u64, now: u64) -> bool {
    known <= at || clock::is_to_come(known, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_proto::identity::Keypair;
    use shoal_proto::verdict::Verdict;

    const MINUTE: Duration = Duration::from_mins(1);

    fn scope(repository: &str) -> Scope {
        Scope { registry: "reg.test".parse().unwrap(), repository: repository.parse().unwrap() }
    }

    #[test]
    fn what_is_allowed_ends_by_time_and_by_refusal() {
        let mut verdicts = Verdicts::default();
        let (mine, reader) = (scope("a"), Reader::Client([1; 32]));
        assert!(!verdicts.reads(&mine, reader, MINUTE, 1_000_000));
        verdicts.read_at(&mine, reader, 1_000_000, 1_000_000);
        assert!(verdicts.reads(&mine, reader, MINUTE, 1_060_000));
        assert!(!verdicts.reads(&mine, reader, MINUTE, 1_060_001));
        assert!(!verdicts.reads(&mine, Reader::Everyone, MINUTE, 1_000_000));
        assert!(!verdicts.reads(&scope("b"), reader, MINUTE, 1_000_000));

        verdicts.refused(&mine, reader, 1_000_500);
        assert!(!verdicts.reads(&mine, reader, MINUTE, 1_000_600));
        assert!(verdicts.refuses(&mine, reader, MINUTE, 1_000_600));
        verdicts.read_at(&mine, reader, 1_001_000, 1_001_000);
        assert!(!verdicts.refuses(&mine, reader, MINUTE, 1_001_000));
    }

    #[test]
    fn a_clock_that_runs_ahead_is_not_believed() {
        let mut verdicts = Verdicts::default();
        verdicts.read_at(&scope("a"), Reader::Everyone, 1_000_000, 1_000_000);
        assert!(verdicts.reads(&scope("a"), Reader::Everyone, MINUTE, 975_000));
        assert!(!verdicts.reads(&scope("a"), Reader::Everyone, MINUTE, 900_000));
    }

    #[test]
    fn what_is_of_a_time_to_come_makes_room_for_what_is_of_now() {
        let (mut verdicts, mine) = (Verdicts::default(), scope("a"));
        let (ahead, now) = (2_000_000, 1_000_000);
        verdicts.read_at(&mine, Reader::Everyone, ahead, ahead);
        verdicts.read_at(&mine, Reader::Everyone, now, now);
        assert!(verdicts.reads(&mine, Reader::Everyone, MINUTE, now + 1));

        let keypair = Keypair::generate_ed25519();
        let object = Object::Blob(Digest::sha256_of(b"a"));
        let question = Question { scope: mine, object, reader: Reader::Everyone };
        let said =
            |checked_unix_ms| Verdict { question: question.clone(), checked_unix_ms }.sign(&keypair).unwrap();
        verdicts.remember(said(ahead), ahead);
        assert!(verdicts.find(&question, None, now).is_none(), "peers are not told of it");
        verdicts.remember(said(now), now);
        assert!(verdicts.find(&question, Some(MINUTE), now + 1).is_some());
        verdicts.remember(said(now - 5), now);
        let kept = verdicts.find(&question, None, now).unwrap();
        assert_eq!(kept.verdict.checked_unix_ms, now, "of two that can be, the newer");
    }

    #[test]
    fn it_is_written_down_now_and_then_and_bounded() {
        let mut verdicts = Verdicts::default();
        assert!(verdicts.read_at(&scope("a"), Reader::Everyone, 1_000_000, 1_000_000));
        assert!(!verdicts.read_at(&scope("a"), Reader::Everyone, 1_010_000, 1_010_000));
        assert!(verdicts.read_at(&scope("a"), Reader::Everyone, 1_300_000, 1_300_000));
        for number in 0..2 * MOST {
            verdicts.read_at(&scope(&format!("r{number}")), Reader::Everyone, 1_000_000, 1_000_000);
            verdicts.refused(&scope(&format!("r{number}")), Reader::Client([0; 32]), 1_000_000);
        }
        assert_eq!((verdicts.read.len(), verdicts.refused.len(), verdicts.written.len()), (MOST, MOST, MOST));
    }
}
