//! In whose name a registry is asked.
//!
//! The same registry answers differently to the operator's credentials, to a client's own, and to nobody's. Tokens
//! are therefore kept apart by who they were given to, and what a client may read is found out by asking as it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use shoal_proto::name::Repository;
use tokio::time::Instant;

/// The most repositories of one registry for which a client's login is kept.
const MAX_LENT: usize = 256;

/// In whose name a registry is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Identity {
    /// This node's: the operator's credentials, a client certificate among them; without any, what a client lent it for
    /// the repository; else nobody's.
    #[default]
    Node,
    /// Nobody's.
    Anonymous,
    /// A client's own.
    Client(ClientLogin),
}

/// What a client said of itself in its `Authorization`. No log shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientLogin {
    header: HeaderValue,
    fingerprint: [u8; 32],
}

impl ClientLogin {
    /// A header of the scheme `Basic` or `Bearer`, the only ones that registries know; `None` for anything else.
    ///
    /// `key` makes the fingerprint one that nobody else can compute or try passwords against.
    pub fn read(header: &HeaderValue, key: &[u8; 32]) -> Option<Self> {
        let (scheme, rest) = header.to_str().ok()?.split_once(' ')?;
        let known = scheme.eq_ignore_ascii_case("basic") || scheme.eq_ignore_ascii_case("bearer");
        if !known || rest.trim().is_empty() {
            return None;
        }
        let mut header = header.clone();
        header.set_sensitive(true);
        let fingerprint = *blake3::keyed_hash(key, header.as_bytes()).as_bytes();
        Some(Self { header, fingerprint })
    }

    /// By which the client is known without its secret: its header's hash under the key given to [`ClientLogin::read`].
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// What is sent in exchange for a token, or where the registry wants Basic: only a name and password can be.
    pub(super) fn basic(&self) -> Option<HeaderValue> {
        self.is("basic").then(|| self.header.clone())
    }

    /// What is sent to the registry itself at once.
    pub(super) fn bearer(&self) -> Option<HeaderValue> {
        self.is("bearer").then(|| self.header.clone())
    }

    fn is(&self, scheme: &str) -> bool {
        let text = self.header.as_bytes();
        text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    }
}

impl fmt::Debug for ClientLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientLogin")
    }
}

/// Who one request is made for, at one registry and repository.
#[derive(Debug, Clone)]
pub(super) enum Who {
    Nobody,
    Operator,
    Client(ClientLogin),
}

/// [`Who`], as tokens are filed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Party {
    Nobody,
    Operator,
    Client([u8; 32]),
}

impl Who {
    pub(super) const fn party(&self) -> Party {
        match self {
            Self::Nobody => Party::Nobody,
            Self::Operator => Party::Operator,
            Self::Client(login) => Party::Client(login.fingerprint),
        }
    }
}

/// What clients lent this node for repositories that it has no credentials for.
///
/// A blob is fetched once, whoever waits for it, and its ranges are asked for long after the client's request: so the
/// node keeps the login for a while. It is sent to the registry that accepted it, for that repository, and nowhere else.
#[derive(Default)]
pub(super) struct Lent {
    /// Held for an instant only.
    logins: Mutex<HashMap<Repository, (ClientLogin, Instant)>>,
}

impl Lent {
    /// Remembers a login that the registry accepted; the one that ends soonest makes room.
    pub(super) fn lend(&self, repository: &Repository, login: ClientLogin, lasts: Duration) {
        let now = Instant::now();
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        logins.retain(|_, (_, ends)| *ends > now);
        if logins.len() >= MAX_LENT
            && !logins.contains_key(repository)
            && let Some(first) =
                logins.iter().min_by_key(|(_, (_, ends))| *ends).map(|(repository, _)| repository.clone())
        {
            logins.remove(&first);
        }
        logins.insert(repository.clone(), (login, now + lasts));
    }

    /// The login that was last lent for the repository.
    pub(super) fn of(&self, repository: &Repository) -> Option<ClientLogin> {
        let logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        logins.get(repository).filter(|(_, ends)| *ends > Instant::now()).map(|(login, _)| login.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_registries_know_and_never_shown() {
        let read = |text: &str| ClientLogin::read(&HeaderValue::from_str(text).unwrap(), &[7; 32]);
        let basic = read("basic aHVudGVyMg==").unwrap();
        assert!(basic.basic().is_some() && basic.bearer().is_none());
        let bearer = read("Bearer hunter2").unwrap();
        assert!(bearer.basic().is_none() && bearer.bearer().is_some());
        for other in ["", "Basic", "Basic ", "Digest x", "basicx y"] {
            assert_eq!(read(other), None, "{other}");
        }
        assert!(!format!("{bearer:?} {:?}", bearer.bearer()).contains("hunter2"));
        assert_ne!(basic.fingerprint(), bearer.fingerprint());
        let other_key = ClientLogin::read(&HeaderValue::from_static("Bearer hunter2"), &[8; 32]).unwrap();
        assert_ne!(bearer.fingerprint(), other_key.fingerprint());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_lent_is_given_back() {
        let login = ClientLogin::read(&HeaderValue::from_static("Basic YQ=="), &[0; 32]).unwrap();
        let (lent, mine): (Lent, Repository) = (Lent::default(), "a/b".parse().unwrap());
        lent.lend(&mine, login.clone(), Duration::from_secs(9));
        assert_eq!(lent.of(&mine), Some(login));
        assert_eq!(lent.of(&"a/c".parse().unwrap()), None);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(lent.of(&mine), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_soonest_makes_room() {
        let login = ClientLogin::read(&HeaderValue::from_static("Basic YQ=="), &[0; 32]).unwrap();
        let lent = Lent::default();
        let repository = |number: usize| -> Repository { format!("a/b{number}").parse().unwrap() };
        for number in 0..=MAX_LENT {
            let lasts = Duration::from_secs(if number == 7 { 5 } else { 60 });
            lent.lend(&repository(number), login.clone(), lasts);
        }
        assert_eq!(lent.of(&repository(7)), None);
        assert_eq!(lent.of(&repository(0)), Some(login.clone()));
        assert_eq!(lent.of(&repository(MAX_LENT)), Some(login));
        assert_eq!(lent.logins.lock().unwrap().len(), MAX_LENT);
    }
}
