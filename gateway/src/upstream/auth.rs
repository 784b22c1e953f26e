//! Tokens: fetched once, kept until shortly before they end.
//!
//! One slot a repository and who asks. Whoever needs its grant while another fetches it waits for that one and takes its
//! result, be it an error: a hundred layers cost one token request, also when it fails.
//!
//! Where a client's login is checked, no token counts that it got earlier: a token outlives a login that was revoked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use shoal_proto::name::Repository;
use tokio::time::Instant;
use url::Url;

use super::body;
use super::challenge::Challenge;
use super::circuit;
use super::credentials::Login;
use super::identity::{Party, Who};
use super::realm::{self, Realm};
use super::request;
use super::site::{At, Site, host_and_port};
use crate::error::PullError;

/// The most repositories of one registry whose grants are kept.
const MAX_SLOTS: usize = 1024;
/// The largest token answer that is read.
const MAX_ANSWER: u64 = 1024 * 1024;
/// How long a token lasts that does not say (distribution project, token specification).
const UNSAID: u64 = 60;
/// The longest that a token is believed to last.
const LONGEST: u64 = 3600;
/// For how long a user and password are sent without a look at where they come from.
const PASSWORD_KEPT: Duration = Duration::from_mins(5);

/// The right to ask one repository, as a header says it.
#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub(super) header: HeaderValue,
    /// When it was got, and when it ends if it is a token: what is no token shows the login itself each time.
    got: Instant,
    ends: Option<Instant>,
    /// Why the operator's credentials were not used for it, if they were not.
    pub(super) withheld: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct Slot {
    grant: Option<Grant>,
    /// How the last fetch failed and when, for those who already waited then.
    failure: Option<(Instant, PullError)>,
}

/// The grants of one registry.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// This lock is held for an instant, a slot's own while its token is fetched.
    slots: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<Slot>>>>,
}

/// What a grant is for, and whose it is.
type Key = (Repository, Party);

impl Tokens {
    fn slot(&self, repository: &Repository, whose: Party) -> Arc<tokio::sync::Mutex<Slot>> {
        let key = (repository.clone(), whose);
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MAX_SLOTS && !slots.contains_key(&key) {
            // Whoever uses one now keeps it; the others cost a token request each when they come back.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        let slot = slots.get(&key).cloned().unwrap_or_default();
        if slots.len() < MAX_SLOTS {
            slots.entry(key).or_insert_with(|| slot.clone());
        }
        slot
    }

    /// What is at hand for a first try.
    ///
    /// Cancel-safe: it only waits.
    pub(super) async fn current(&self, at: At<'_>) -> Option<Grant> {
        let now = Instant::now();
        if let Who::Client(login) = at.who
            && let Some(header) = login.bearer()
        {
            return Some(Grant { header, got: now, ends: None, withheld: None });
        }
        let slot = self.slot(at.repository, at.who.party());
        let slot = slot.lock().await;
        slot.grant.clone().filter(|grant| grant.counts(at, now))
    }
}

impl Grant {
    /// Whether it holds, and says of the login what is to be known: that it is good now, where that is checked.
    fn counts(&self, at: At<'_>, since: Instant) -> bool {
        let Some(ends) = self.ends else { return true };
        Instant::now() < ends && (!at.checks_login || self.got >= since)
    }
}

/// A grant that answers `challenge`, other than the one that was just `rejected`.
///
/// Cancel-safe: a fetch that is dropped leaves the slot as it was, and the next who waits fetches.
pub(super) async fn authorize(
    at: At<'_>,
    challenge: &Challenge,
    rejected: Option<&HeaderValue>,
) -> Result<Grant, PullError> {
    if matches!(at.who, Who::Client(login) if login.basic().is_none()) {
        // Its token was tried, and there is nothing to get another with.
        return Err(denied(at.site, StatusCode::UNAUTHORIZED));
    }
    let began = Instant::now();
    let slot = at.site.tokens.slot(at.repository, at.who.party());
    let mut slot = slot.lock().await;
    if let Some(grant) = &slot.grant
        && grant.counts(at, began)
        && rejected != Some(&grant.header)
    {
        return Ok(grant.clone());
    }
    if let Some((failed, error)) = &slot.failure
        && *failed >= began
    {
        return Err(error.clone());
    }
    let result = match challenge {
        Challenge::Basic => basic(at, rejected).await,
        Challenge::Bearer { realm, service, scope } => {
            bearer(at, realm, service.as_deref(), scope.as_deref()).await
        }
    };
    match result {
        Ok(grant) => {
            *slot = Slot { grant: Some(grant.clone()), failure: None };
            Ok(grant)
        }
        Err(error) => {
            *slot = Slot { grant: None, failure: Some((Instant::now(), error.clone())) };
            Err(error)
        }
    }
}

fn denied(site: &Site, status: StatusCode) -> PullError {
    PullError::Denied { registry: site.registry.to_string(), status: status.as_u16() }
}

async fn basic(at: At<'_>, rejected: Option<&HeaderValue>) -> Result<Grant, PullError> {
    let refused = rejected.cloned().map(Login::Password);
    let header = match login(at, refused.as_ref()).await? {
        Some(Login::Password(header)) => header,
        Some(Login::Identity(_)) => {
            return Err(PullError::Refused(format!(
                "{} wants a user and password, and what is configured for it is an identity token",
                at.site.registry
            )));
        }
        None => return Err(denied(at.site, StatusCode::UNAUTHORIZED)),
    };
    let ends = matches!(at.who, Who::Operator).then(|| Instant::now() + PASSWORD_KEPT);
    Ok(Grant { header, got: Instant::now(), ends, withheld: None })
}

/// Whether whoever is asked for has something to show.
fn has_login(at: At<'_>) -> bool {
    match at.who {
        Who::Nobody => false,
        Who::Client(login) => login.basic().is_some(),
        Who::Operator => at.site.has_credentials(),
    }
}

/// What whoever is asked for shows; if possible another than the `refused` one.
async fn login(at: At<'_>, refused: Option<&Login>) -> Result<Option<Login>, PullError> {
    match (at.who, &at.site.login) {
        (Who::Nobody, _) | (Who::Operator, None) => Ok(None),
        (Who::Client(login), _) => Ok(login.basic().map(Login::Password)),
        (Who::Operator, Some(logins)) => {
            logins.login(at.repository, refused).await.map(Some).map_err(PullError::Refused)
        }
    }
}

/// A header value that no log shows.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

async fn bearer(
    at: At<'_>,
    realm: &str,
    service: Option<&str>,
    scope: Option<&str>,
) -> Result<Grant, PullError> {
    let realm = realm::judge(at, realm)?;
    let own_scope = format!("repository:{}:pull", at.site.path_of(at.repository));
    let wish = Wish { realm, service, scope: scope.unwrap_or(&own_scope) };
    let withheld =
        (has_login(at) && !wish.realm.trusted).then(|| Arc::from(realm::withheld(at.site, &wish.realm.url)));
    let shown = if wish.realm.trusted { login(at, None).await? } else { None };
    let mut result = fetch(at, &wish, shown.as_ref()).await;
    if let (Some(shown), Err(PullError::Denied { .. })) = (&shown, &result) {
        // It may have been rotated.
        let other = login(at, Some(shown)).await?.filter(|other| other != shown);
        if let Some(other) = other {
            result = fetch(at, &wish, Some(&other)).await;
        }
    }
    match result {
        Ok((header, lasts)) => {
            let got = Instant::now();
            Ok(Grant { header, got, ends: Some(got + lasts), withheld })
        }
        Err(PullError::Denied { .. }) if let Some(why) = &withheld => {
            Err(PullError::Refused(why.to_string()))
        }
        Err(error) => Err(error),
    }
}

/// What token is wanted of whom.
struct Wish<'a> {
    realm: Realm<'a>,
    service: Option<&'a str>,
    scope: &'a str,
}

/// How the token service is asked: by GET with a password or nothing, by POST with an identity token.
fn question(wish: &Wish<'_>, shown: Option<&Login>) -> reqwest::RequestBuilder {
    let http = &wish.realm.wire.http;
    let ask = match shown {
        None => http.get(token_url(&wish.realm.url, wish.service, wish.scope)),
        Some(Login::Password(header)) => http
            .get(token_url(&wish.realm.url, wish.service, wish.scope))
            .header(AUTHORIZATION, header.clone()),
        Some(Login::Identity(token)) => {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token").append_pair("client_id", "shoal");
            if let Some(service) = wish.service {
                form.append_pair("service", service);
            }
            form.append_pair("scope", wish.scope).append_pair("refresh_token", token);
            http.post(wish.realm.url.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.finish())
        }
    };
    ask.header(ACCEPT, "application/json")
}

fn token_url(realm: &Url, service: Option<&str>, scope: &str) -> Url {
    let mut url = realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        for scope in scope.split_ascii_whitespace() {
            query.append_pair("scope", scope);
        }
    }
    url
}

/// Asks the token service. Redirects are not followed: where credentials go was judged by the first URL.
async fn fetch(
    at: At<'_>,
    wish: &Wish<'_>,
    shown: Option<&Login>,
) -> Result<(HeaderValue, Duration), PullError> {
    let (site, realm) = (at.site, &wish.realm);
    let host = host_and_port(&realm.url);
    let ask = question(wish, shown).build().map_err(|error| request::transport(site, &realm.url, error))?;
    let response = request::execute(realm.wire, site, ask).await?;
    let status = response.status();
    if let Some(asked) = circuit::asked(status, response.headers(), SystemTime::now()) {
        return Err(request::throttled(at, status, asked));
    }
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(denied(site, status)),
        _ => return Err(site.failed(Some(status), format!("its token service {host} answered {status}"))),
    }
    let bytes = body::read(response, MAX_ANSWER, at.web.limits.stall)
        .await
        .map_err(|error| site.failed(None, format!("the answer of its token service {host}: {error}")))?;
    read_token(&bytes)
        .ok_or_else(|| site.failed(None, format!("its token service {host} answered without a token")))
}

fn read_token(bytes: &[u8]) -> Option<(HeaderValue, Duration)> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<serde_json::Number>,
    }
    let answer: Answer = serde_json::from_slice(bytes).ok()?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty())?;
    let lasts =
        answer.expires_in.and_then(|lasts| lasts.as_u64()).filter(|&lasts| lasts > 0).unwrap_or(UNSAID);
    let lasts = Duration::from_secs(lasts.min(LONGEST));
    // Some slack, so that it does not end on the way.
    let slack = Duration::from_secs(10).min(lasts / 5);
    Some((secret(&format!("Bearer {token}"))?, lasts.saturating_sub(slack)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_answers() {
        let lasts = |json: &str| read_token(json.as_bytes()).map(|(_, lasts)| lasts.as_millis());
        assert_eq!(lasts(r#"{"token":"a"}"#), Some(50_000));
        assert_eq!(lasts(r#"{"access_token":"a","expires_in":300}"#), Some(290_000));
        assert_eq!(lasts(r#"{"token":"a","expires_in":1}"#), Some(800));
        assert_eq!(lasts(r#"{"token":"a","expires_in":-5}"#), Some(50_000));
        assert_eq!(lasts(r#"{"token":"a","expires_in":1e300}"#), Some(50_000));
        assert_eq!(lasts(r#"{"token":"a","expires_in":18446744073709551615}"#), Some(3_590_000));
        for bad in ["", "{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, r#"{"token":7}"#, "[]"] {
            assert_eq!(lasts(bad), None, "{bad}");
        }
    }

    #[test]
    fn tokens_do_not_show() {
        let (header, _) = read_token(br#"{"token":"hunter2"}"#).unwrap();
        assert!(!format!("{header:?}").contains("hunter2"));
    }

    #[test]
    fn the_url_keeps_what_the_realm_had() {
        let url = token_url(
            &"https://a/t?x=1".parse().unwrap(),
            Some("s &"),
            "repository:a/b:pull repository:c:pull",
        );
        assert_eq!(
            url.as_str(),
            "https://a/t?x=1&service=s+%26&scope=repository%3Aa%2Fb%3Apull&scope=repository%3Ac%3Apull"
        );
    }

    #[test]
    fn slots_are_bounded() {
        let tokens = Tokens::default();
        let held = tokens.slot(&"held".parse().unwrap(), Party::Operator);
        for number in 0..3 * MAX_SLOTS {
            tokens.slot(&format!("a{number}").parse().unwrap(), Party::Client([1; 32]));
        }
        assert!(tokens.slots.lock().unwrap().len() <= MAX_SLOTS);
        assert!(Arc::ptr_eq(&held, &tokens.slot(&"held".parse().unwrap(), Party::Operator)));
    }
}
