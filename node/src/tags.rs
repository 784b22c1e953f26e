//! How long what upstream said of a tag holds, by the operator's rules; and what it said last.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashlink::LruCache;
use shoal_proto::digest::Digest;
use shoal_proto::name::{Scope, Tag};
use shoal_proto::tag::SignedTagMapping;
use wildmatch::WildMatch;

/// The most answers remembered.
const MOST: usize = 4096;
/// The tag that moves by its nature: always asked for, unless a rule says otherwise.
const MOVING: &str = "latest";

/// Whose word on tags this node takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Trust {
    /// One node of the fleet asks upstream, the others take its signed word.
    #[default]
    Fleet,
    /// This node asks upstream itself, and when that is down goes by what it heard itself.
    Own,
}

/// How long upstream's word on a tag holds, counted from when it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// So long. With nothing, for whoever asked before upstream was asked.
    For(Duration),
    /// For ever: the tag never moves.
    Forever,
}

/// One rule: which tags, and how long.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// `registry/repository:tag`, with `*` for any characters.
    pub matching: WildMatch,
    /// For how long.
    pub ttl: Ttl,
}

/// What the operator says of tags.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Whose word is taken.
    pub trust: Trust,
    /// How long a tag holds that no rule matches.
    pub ttl: Duration,
    /// How old an answer may be that is given while upstream is down.
    pub stale: Duration,
    /// The first that matches counts.
    pub rules: Vec<Rule>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            trust: Trust::Fleet,
            // Long enough for the requests of one rollout to share a check, too short for a person to notice.
            ttl: Duration::from_secs(2),
            // Outlives a long weekend; a fleet that runs on older tags than that is better told.
            stale: Duration::from_hours(7 * 24),
            rules: Vec::new(),
        }
    }
}

impl Rules {
    /// How long upstream's word on this tag holds.
    pub fn ttl(&self, scope: &Scope, tag: &Tag) -> Ttl {
        let name = format!("{scope}:{tag}");
        let rule = self.rules.iter().find(|rule| rule.matching.matches(&name));
        match rule {
            Some(rule) => rule.ttl,
            None if tag.as_str() == MOVING => Ttl::For(Duration::ZERO),
            None => Ttl::For(self.ttl),
        }
    }
}

/// What upstream last said, by exactly what was asked: registries answer clients that accept other types with other
/// manifests. Cheap to clone. A std mutex, held for a map access and never across an await.
#[derive(Debug, Clone)]
pub struct Recent(Arc<Mutex<Memory>>);

#[derive(Debug)]
struct Memory {
    said: LruCache<Digest, Said>,
    /// When somebody last asked by hand.
    refreshed: LruCache<(Scope, Tag), u64>,
}

/// What upstream said to one question.
#[derive(Debug, Clone)]
pub struct Said {
    /// What it said, and who asked.
    pub signed: SignedTagMapping,
    /// When this node began to ask, or to ask the node that had asked: by its own clock, in milliseconds since the Unix
    /// epoch.
    pub asked_unix_ms: u64,
}

impl Said {
    /// The moment from which on it is known to have held: of two clocks the one that says less.
    pub fn holds_from(&self) -> u64 {
        self.asked_unix_ms.min(self.signed.mapping.checked_unix_ms)
    }
}

impl Default for Recent {
    fn default() -> Self {
        let memory = Memory { said: LruCache::new(MOST), refreshed: LruCache::new(MOST) };
        Self(Arc::new(Mutex::new(memory)))
    }
}

impl Recent {
    /// What was said to this question.
    pub fn get(&self, asked: &Digest) -> Option<Said> {
        self.inner().said.get(asked).cloned()
    }

    /// Remembers it.
    pub fn note(&self, asked: Digest, said: Said) {
        self.inner().said.insert(asked, said);
    }

    /// Somebody asked by hand what a tag names: nothing older counts any more.
    pub fn refreshed(&self, scope: &Scope, tag: &Tag, at_unix_ms: u64) {
        self.inner().refreshed.insert((scope.clone(), tag.clone()), at_unix_ms);
    }

    /// When somebody last asked by hand, in milliseconds since the Unix epoch.
    pub fn refreshed_at(&self, scope: &Scope, tag: &Tag) -> Option<u64> {
        self.inner().refreshed.get(&(scope.clone(), tag.clone())).copied()
    }

    fn inner(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rule = |matching: &str, ttl| Rule { matching: WildMatch::new(matching), ttl };
        let minute = Ttl::For(Duration::from_mins(1));
        let rules = Rules {
            rules: vec![
                rule("registry.example.com/releases/*:v*", Ttl::Forever),
                rule("registry.example.com/*", minute),
            ],
            ..Rules::default()
        };
        let ttl = |name: &str| {
            let image: shoal_proto::name::ImageName = name.parse().unwrap();
            let shoal_proto::name::Reference::Tag(tag) = &image.reference else {
                panic!("{name} has no tag")
            };
            rules.ttl(&image.scope, tag)
        };
        assert_eq!(ttl("registry.example.com/releases/a/b:v1"), Ttl::Forever);
        assert_eq!(ttl("registry.example.com/releases/a:1"), minute);
        assert_eq!(ttl("registry.example.com/a:latest"), minute);
        assert_eq!(ttl("debian"), Ttl::For(Duration::ZERO));
        assert_eq!(ttl("debian:12"), Ttl::For(Duration::from_secs(2)));
        // A pattern is of the whole name.
        assert_eq!(ttl("evil.registry.example.com/releases/a:v1"), Ttl::For(Duration::from_secs(2)));
    }
}
