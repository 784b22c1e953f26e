//! HEAD and ranges where registries differ.

use http::Method;
use shoal_proto::manifest::OCI_INDEX;
use shoal_proto::name::Reference;
use shoal_proto::range::ByteRange;

use super::fake::{Asked, Fake, answer};
use super::*;
use crate::source::Accept;

async fn head(registry: &Fake) -> crate::upstream::HeadAnswer {
    let upstreams = upstreams([("reg.test", at(registry.http()))]);
    let tag = Reference::Tag("v1".parse().unwrap());
    upstreams.head_manifest(&scope("reg.test"), &tag, &Accept::default()).await.unwrap()
}

#[tokio::test]
async fn what_head_does_not_say_is_not_made_up() {
    for status in [405, 501] {
        let registry = Fake::start(move |_| answer(status, &[], "")).await;
        assert_eq!(head(&registry).await.info(), None);
    }
    let registry = Fake::start(|_| answer(200, &[("content-type", OCI_INDEX)], "{}")).await;
    let said = head(&registry).await;
    assert_eq!((said.digest, said.size, said.media_type.as_deref()), (None, Some(2), Some(OCI_INDEX)));

    let digest = digest().to_string();
    let registry = Fake::start(move |_| {
        answer(200, &[("content-type", "application/json"), ("docker-content-digest", &digest)], "{}")
    })
    .await;
    let said = head(&registry).await;
    assert_eq!((said.digest, said.media_type), (Some(super::digest()), None), "any file is JSON");
}

/// The size, and which requests it took.
async fn size(
    answers: impl Fn(&Asked) -> http::Response<axum::body::Body> + Send + Sync + 'static,
) -> String {
    let registry = Fake::start(answers).await;
    let upstreams = upstreams([("reg.test", at(registry.http()))]);
    let size = upstreams.blob_size(&scope("reg.test"), &digest()).await.unwrap();
    let took: Vec<String> =
        registry.asked().iter().map(|asked| format!("{} {}", asked.method, asked.header("range"))).collect();
    format!("{size:?} by {}", took.join(", ").replace(" ,", ","))
}

#[tokio::test]
async fn a_size_by_whatever_tells_it() {
    assert_eq!(size(|_| answer(200, &[("content-length", "5")], "hello")).await.trim(), "Some(5) by HEAD");
    for status in [200, 405, 501] {
        let by_range = size(move |asked| match asked.method {
            Method::HEAD => answer(status, &[], ""),
            _ => answer(206, &[("content-range", "bytes 0-0/5")], "h"),
        });
        assert_eq!(by_range.await, "Some(5) by HEAD, GET bytes=0-0");
    }
    let empty = size(|asked| match asked.method {
        Method::HEAD => answer(405, &[], ""),
        _ => answer(416, &[("content-range", "bytes */0")], ""),
    });
    assert_eq!(empty.await, "Some(0) by HEAD, GET bytes=0-0");
    let untold = size(|asked| match asked.method {
        Method::HEAD => answer(405, &[], ""),
        _ => answer(206, &[("content-range", "bytes 0-0/*")], "h"),
    });
    assert_eq!(untold.await, "None by HEAD, GET bytes=0-0");
}

/// Storage that is signed for GET alone answers 403 to HEAD.
#[tokio::test]
async fn a_size_from_storage_that_knows_no_head() {
    let storage = Fake::start(|asked| match asked.method {
        Method::HEAD => answer(403, &[], ""),
        _ => answer(206, &[("content-range", "bytes 0-0/5")], "h"),
    })
    .await;
    let location = storage.http();
    assert_eq!(
        size(move |_| answer(307, &[("location", &location)], "")).await,
        "Some(5) by HEAD, GET bytes=0-0"
    );
    assert_eq!(storage.asked().len(), 2);
}

#[tokio::test]
async fn a_missing_blob_is_missing() {
    let registry = Fake::start(|_| answer(404, &[], "")).await;
    let upstreams = upstreams([("reg.test", at(registry.http()))]);
    let error = upstreams.blob_size(&scope("reg.test"), &digest()).await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { .. }), "{error}");
    assert_eq!(registry.asked().len(), 1, "a second question would be answered alike");
}

#[tokio::test]
async fn ranges_honoured_ignored_and_answered_wrongly() {
    let range = ByteRange::new(1, 3);
    let of = async |status, headers: &'static [(&str, &str)], body: &'static str| {
        let registry = Fake::start(move |_| answer(status, headers, body)).await;
        let upstreams = upstreams([("reg.test", at(registry.http()))]);
        let download = upstreams.blob(&scope("reg.test"), &digest(), range).await?;
        assert_eq!(registry.asked()[0].header("range"), "bytes=1-2");
        let (start, size) = (download.start, download.size);
        Ok::<_, PullError>((start, size, bytes(download).await?))
    };
    let honoured = of(206, &[("content-range", "bytes 1-2/5")], "el").await.unwrap();
    assert_eq!(honoured, (1, Some(5), b"el".to_vec()));
    let ignored = of(200, &[], "hello").await.unwrap();
    assert_eq!(ignored, (0, Some(5), b"hello".to_vec()));
    let other = of(206, &[("content-range", "bytes 0-1/5")], "he").await.unwrap_err().to_string();
    assert!(other.contains("asked for bytes 1-2 and answers with 0-1"), "{other}");
    let silent = of(206, &[], "el").await.unwrap_err().to_string();
    assert!(silent.contains("without a Content-Range"), "{silent}");
    let behind = of(416, &[("content-range", "bytes */1")], "").await.unwrap_err();
    assert!(matches!(behind, PullError::Unsatisfiable(error) if error.size == 1), "{behind}");
}
