//! Tag lists and referrers are upstream's own answers: passed through as they are, and never waited for without end.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use shoal_tests::faulty::{Fault, Kind};
use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::image::{OCI_INDEX, digest};

/// Clients give up waiting for headers after 30 s.
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn where_upstream_knows_referrers_the_answer_is_never_404() {
    let fleet = Fleet::with_faulty_upstream(1).await.unwrap();
    let client = fleet.nodes[0].client().unwrap();
    let subject = digest(b"the subject");
    let index = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{ "mediaType": "x/y", "digest": digest(b"signature"), "size": 9, "artifactType": "x/sig" }],
    });
    let index = Bytes::from(format!("{index:#}\n"));
    fleet.registry.hold_referrers(&subject, index.clone());
    let known =
        client.get(&format!("/v2/{REGISTRY}/a/referrers/{subject}?artifactType=x%2Fsig")).await.unwrap();
    assert_eq!(known.status.as_u16(), 200, "{known:?}");
    assert_eq!(known.header("content-type"), OCI_INDEX);
    assert_eq!(known.body, index, "not as it was sent");
    let target = fleet.registry.seen().last().unwrap().target.clone();
    assert!(target.ends_with("?artifactType=x%2Fsig"), "the filter is not passed on: {target}");

    let unknown = digest(b"what nobody has");
    let unknown = client.get(&format!("/v2/a/referrers/{unknown}?ns={REGISTRY}")).await.unwrap();
    assert_eq!(unknown.status.as_u16(), 200, "{unknown:?}");
    assert_eq!(unknown.header("content-type"), OCI_INDEX);
    let empty: Value = serde_json::from_slice(&unknown.body).unwrap();
    assert_eq!(empty["manifests"], json!([]));
    let target = fleet.registry.seen().last().unwrap().target.clone();
    assert!(!target.contains("ns="), "ns went upstream: {target}");

    let malformed = client.get(&format!("/v2/{REGISTRY}/a/referrers/sha256:abc")).await.unwrap();
    assert_eq!(malformed.status.as_u16(), 400, "{malformed:?}");
    assert_eq!(malformed.error_code().unwrap(), "DIGEST_INVALID");
}

#[tokio::test]
async fn an_upstream_that_fails_or_hangs_is_an_error_in_time() {
    let fleet = Fleet::with_faulty_upstream(1).await.unwrap();
    let client = fleet.nodes[0].client().unwrap();
    let subject = digest(b"the subject");
    fleet.registry.hold_referrers(&subject, Bytes::from(vec![b' '; 300_000]));
    let ask = async |what: &str, fault| {
        let path = format!("/v2/{REGISTRY}/a/{what}");
        let answer = tokio::time::timeout(LIMIT, client.get(&path)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{what}, {fault:?}: no answer")).unwrap();
        (answer.status.as_u16(), answer.error_code().unwrap())
    };
    let referrers = format!("referrers/{subject}");
    let told = |status: u16, code: &str| (status, code.to_owned());
    let (refused, broken) = (told(404, "NAME_UNKNOWN"), told(502, "UNAVAILABLE"));
    let no_referrers = told(404, "MANIFEST_UNKNOWN");
    // Of tag lists it has none, so it can only refuse them or be silent.
    for (fault, of_tags, of_referrers) in [
        (Fault::Status(403), &refused, &no_referrers),
        (Fault::Status(500), &broken, &broken),
        (Fault::Short, &refused, &broken),
        (Fault::Stall, &refused, &broken),
        (Fault::Silent, &broken, &broken),
    ] {
        fleet.registry.fail(Kind::List, fault);
        let (tags, referrers) = tokio::join!(ask("tags/list", fault), ask(&referrers, fault));
        assert_eq!((&tags, &referrers), (of_tags, of_referrers), "{fault:?}");
    }
}
