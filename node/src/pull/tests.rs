//! Pulling from a gateway that says exactly what each test needs.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};
use shoal_proto::manifest::{DOCKER_LIST, OCI_INDEX, OCI_MANIFEST};

use super::*;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What the gateway answers to one path.
#[derive(Clone)]
struct Answer {
    status: StatusCode,
    headers: Vec<(&'static str, String)>,
    pieces: Vec<Result<Bytes, String>>,
}

impl Answer {
    fn ok(bytes: &[u8]) -> Self {
        Self { status: StatusCode::OK, headers: Vec::new(), pieces: vec![Ok(Bytes::copy_from_slice(bytes))] }
    }

    fn error(status: StatusCode, body: &str) -> Self {
        Self { status, ..Self::ok(body.as_bytes()) }
    }

    fn with(mut self, header: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((header, value.into()));
        self
    }

    fn response(self) -> Response {
        let mut response = Response::builder().status(self.status);
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        // What goes before an error must have left before it.
        let pieces = futures::stream::iter(self.pieces).then(|piece| async {
            if piece.is_err() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            piece
        });
        response.body(Body::from_stream(pieces)).unwrap()
    }
}

/// A gateway for one repository, `docker.io/library/tool`.
#[derive(Default)]
struct Content {
    answers: HashMap<String, Answer>,
    /// So often each blob does not come in time.
    late: usize,
}

impl Content {
    /// Serves a blob and returns its descriptor.
    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::sha256_of(bytes);
        self.answers.insert(format!("blobs/{digest}"), Answer::ok(bytes));
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Serves a manifest by digest and returns its descriptor.
    fn manifest(&mut self, media_type: &str, manifest: &Value) -> Value {
        let bytes = serde_json::to_vec(manifest).unwrap();
        let digest = Digest::sha256_of(&bytes);
        let answer = Answer::ok(&bytes).with("content-type", media_type);
        self.answers.insert(format!("manifests/{digest}"), answer);
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// An image of one config and some layers.
    fn image(&mut self, config: &[u8], layers: &[&[u8]]) -> Value {
        let config = self.blob(CONFIG, config);
        let layers: Vec<Value> = layers.iter().map(|layer| self.blob(LAYER, layer)).collect();
        self.manifest(OCI_MANIFEST, &json!({"schemaVersion": 2, "config": config, "layers": layers}))
    }

    /// Gives a tag to what a descriptor names.
    fn tag(&mut self, tag: &str, descriptor: &Value) {
        let digest = descriptor["digest"].as_str().unwrap();
        let answer = self.answers[&format!("manifests/{digest}")].clone();
        self.answers.insert(format!("manifests/{tag}"), answer.with("docker-content-digest", digest));
    }

    fn set(&mut self, path: &str, answer: Answer) {
        self.answers.insert(path.to_owned(), answer);
    }

    async fn serve(self) -> FakeGateway {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answers, late) = (asked.clone(), Arc::new(self.answers), self.late);
        let answer = move |request: Request| {
            let uri = request.uri().clone();
            let path = uri.path().strip_prefix("/v2/library/tool/").unwrap_or("elsewhere").to_owned();
            let mut log = log.lock().unwrap();
            log.push(path.clone());
            let times = log.iter().filter(|&asked| *asked == path).count();
            let answer = match answers.get(&path) {
                _ if uri.query() != Some("ns=docker.io") => Answer::error(StatusCode::BAD_REQUEST, "no ns"),
                Some(_) if path.starts_with("blobs/") && times <= late => {
                    Answer::error(StatusCode::GATEWAY_TIMEOUT, "")
                }
                Some(answer) => answer.clone(),
                None => Answer::error(StatusCode::NOT_FOUND, ""),
            };
            async move { answer.response() }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
        FakeGateway { address, asked, _server: server }
    }
}

/// Runs until dropped.
struct FakeGateway {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    _server: JoinSet<()>,
}

impl FakeGateway {
    /// Pulls, and returns what it came to and the lines of its progress.
    async fn pull(&self, image: &str, wanted: Wanted) -> (Result<Summary, PullFailure>, Vec<String>) {
        let node = LocalNode::new(self.address, "--gateway-addr", Duration::from_secs(30)).unwrap();
        let mut progress = Progress::Kept(Vec::new());
        let done = pull(node, &image.parse().unwrap(), &wanted, &mut progress).await;
        let Progress::Kept(lines) = progress else { unreachable!() };
        (done, lines)
    }

    async fn failure(&self, image: &str) -> PullFailure {
        self.pull(image, linux("amd64")).await.0.expect_err("the pull should fail")
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn linux(architecture: &str) -> Wanted {
    Wanted::One(format!("linux/{architecture}").parse().unwrap())
}

fn digest(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().unwrap().parse().unwrap()
}

fn on(mut descriptor: Value, os: &str, architecture: &str) -> Value {
    descriptor["platform"] = json!({"os": os, "architecture": architecture});
    descriptor
}

#[tokio::test]
async fn an_image_by_tag_and_by_digest() {
    let mut content = Content::default();
    // The same layer twice and an empty one: each blob is asked for once.
    let image = content.image(b"config", &[b"layer one", b"layer two", b"layer one", b"", b"layer three"]);
    content.tag("1", &image);
    let gateway = content.serve().await;
    let size = image["size"].as_u64().unwrap();
    let expected = Summary { digest: digest(&image), manifests: 1, blobs: 5, bytes: size + 6 + 9 + 9 + 11 };

    let (done, lines) = gateway.pull("tool:1", linux("amd64")).await;
    assert_eq!(done.unwrap(), expected);
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("sha256:") && line.ends_with("proven")), "{lines:?}");
    let mut asked = gateway.asked();
    assert_eq!(asked.remove(0), "manifests/1");
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), 5, "{asked:?}");

    let by_digest = format!("docker.io/library/tool@{}", digest(&image));
    assert_eq!(gateway.pull(&by_digest, Wanted::All).await.0.unwrap(), expected);
    let line = last_line(&"tool:1".parse().unwrap(), &expected, Duration::from_millis(1500));
    let bytes = expected.bytes;
    assert_eq!(
        line,
        format!(
            "pulled docker.io/library/tool:1: {bytes} B ({bytes} bytes) in 1.5 s, 1 manifest and 5 blobs proven, {}\n",
            digest(&image)
        )
    );
}

#[tokio::test]
async fn an_index_gives_one_platform_or_all() {
    let mut content = Content::default();
    let amd = content.image(b"amd config", &[b"shared", b"amd layer"]);
    let arm = content.image(b"arm config", &[b"shared", b"arm layer"]);
    let attestation = content.image(b"attested config", &[b"attestation"]);
    let entries =
        [on(amd, "linux", "amd64"), on(arm, "linux", "arm64"), on(attestation, "unknown", "unknown")];
    for (tag, media_type) in [("oci", OCI_INDEX), ("docker", DOCKER_LIST)] {
        let index = content.manifest(media_type, &json!({"mediaType": media_type, "manifests": entries}));
        content.tag(tag, &index);
    }
    let gateway = content.serve().await;
    for tag in ["tool:oci", "tool:docker"] {
        let counts = |summary: Summary| (summary.manifests, summary.blobs);
        assert_eq!(counts(gateway.pull(tag, linux("arm64")).await.0.unwrap()), (2, 3));
        assert_eq!(counts(gateway.pull(tag, Wanted::All).await.0.unwrap()), (4, 7));
    }
    let failure = gateway.pull("tool:oci", linux("s390x")).await.0.unwrap_err();
    assert_eq!(
        failure.to_string(),
        "the image is not there for linux/s390x, only for linux/amd64, linux/arm64: name one with --platform, or \
         --all-platforms"
    );
}

#[tokio::test]
async fn an_image_for_one_platform_alone_is_no_other() {
    let mut content = Content::default();
    let image = content.image(br#"{"os": "linux", "architecture": "amd64", "rootfs": {}}"#, &[b"layer"]);
    content.tag("1", &image);
    let gateway = content.serve().await;
    assert!(gateway.pull("tool:1", linux("amd64")).await.0.is_ok());
    assert!(gateway.pull("tool:1", Wanted::All).await.0.is_ok());
    let failure = gateway.pull("tool:1", linux("sparc")).await.0.unwrap_err();
    assert!(failure.to_string().starts_with("the image is not there for linux/sparc, only for linux/amd64"));
    let (done, lines) = gateway.pull("tool:1", Wanted::Here("linux/sparc".parse().unwrap())).await;
    assert!(done.is_ok());
    assert!(lines[0].contains("is for linux/amd64 alone"), "{lines:?}");
}

#[tokio::test]
async fn indexes_that_list_each_other_end() {
    let mut content = Content::default();
    let mut index = content.image(b"config", &[b"layer"]);
    for _ in 0..4 {
        index = content.manifest(OCI_INDEX, &json!({"manifests": [index]}));
    }
    content.tag("deep", &index);
    let gateway = content.serve().await;
    let failure = gateway.pull("tool:deep", Wanted::All).await.0.unwrap_err();
    assert!(failure.to_string().ends_with("lists indexes in indexes too deep"), "{failure}");
}

#[tokio::test]
async fn a_wrong_blob_fails_and_the_others_go_on() {
    let mut content = Content::default();
    let image =
        content.image(b"config", &[b"layer one", b"layer two", b"layer three", b"layer four", b"layer five"]);
    content.tag("1", &image);
    let path = |bytes: &[u8]| format!("blobs/{}", Digest::sha256_of(bytes));
    content.set(&path(b"layer one"), Answer::ok(b"layer 0ne"));
    content.set(&path(b"layer two"), Answer::ok(b"layer"));
    content.set(&path(b"layer three"), Answer::ok(b"layer three and more"));
    let cut =
        Answer { pieces: vec![Ok(Bytes::from_static(b"lay")), Err("reset".to_owned())], ..Answer::ok(b"") };
    content.set(&path(b"layer four"), cut);
    content.set(&path(b"layer five"), Answer { pieces: vec![Err("reset".to_owned())], ..Answer::ok(b"") });
    let gateway = content.serve().await;

    let (done, lines) = gateway.pull("tool:1", linux("amd64")).await;
    let PullFailure::Blobs { failures, of } = done.unwrap_err() else { panic!("other failure") };
    assert_eq!((failures.len(), of), (5, 6));
    let mut said: Vec<String> = failures.iter().map(ToString::to_string).collect();
    let contains = |said: &[String], text: &str| said.iter().any(|line| line.contains(text));
    let one = Digest::sha256_of(b"layer one");
    let came = Digest::sha256_of(b"layer 0ne");
    assert!(contains(&said, &format!("the blob is wrong: {one} was promised, {came} came")), "{said:#?}");
    // What the node says next is what people are told: here it gives the same again.
    assert!(
        contains(&said, "ended after 5 of 9 bytes; asked again, the node begins to give it"),
        "{said:#?}"
    );
    assert!(contains(&said, "is longer than the 11 bytes that its manifest says"), "{said:#?}");
    assert!(contains(&said, "was cut off after 3 of 10 bytes: the node at 127.0.0.1:"), "{said:#?}");
    let five = format!("{}", Digest::sha256_of(b"layer five"));
    assert!(contains(&said, &five), "{said:#?}");
    said.extend(lines);
    assert_eq!(
        said.iter().filter(|line| line.ends_with("proven")).count(),
        1,
        "the config is right: {said:#?}"
    );
}

#[tokio::test]
async fn a_wrong_manifest_is_not_followed() {
    let mut content = Content::default();
    let image = content.image(b"config", &[b"layer"]);
    content.tag("1", &image);
    let promised = Digest::sha256_of(b"something else");
    content.set(
        &format!("manifests/{promised}"),
        content.answers[&format!("manifests/{}", digest(&image))].clone(),
    );
    let lying = content.answers["manifests/1"].clone();
    let headers = vec![("docker-content-digest", promised.to_string())];
    content.set("manifests/lying", Answer { headers, ..lying });
    content.set("manifests/text", Answer::ok(b"<html>"));
    content.set("manifests/large", Answer::ok(&vec![b' '; 4 * 1024 * 1024 + 1]));
    let gateway = content.serve().await;

    for name in [format!("tool@{promised}"), "tool:lying".to_owned()] {
        let failure = gateway.failure(&name).await.to_string();
        let expected = format!("the manifest is wrong: {promised} was promised, {} came", digest(&image));
        assert_eq!(failure, expected);
    }
    let failure = gateway.failure("tool:text").await.to_string();
    assert!(
        failure.contains("cannot be followed: the manifest is not of a form that Shoal reads"),
        "{failure}"
    );
    let failure = gateway.failure("tool:large").await.to_string();
    assert!(failure.contains("tool:large is larger than 4 MiB"), "{failure}");
    assert!(gateway.asked().iter().all(|path| path.starts_with("manifests/")), "{:?}", gateway.asked());
}

#[tokio::test]
async fn what_the_gateway_says_is_shown() {
    let mut content = Content::default();
    let errors = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"upstream":404}},
                    {"code":"DENIED","message":"no\u001b[31m","detail":"really not"}]}"#;
    content.set("manifests/unknown", Answer::error(StatusCode::NOT_FOUND, errors));
    content.set("manifests/plain", Answer::error(StatusCode::BAD_GATEWAY, "upstream\r\nis \u{1b}[2Jdown\n"));
    content
        .set("manifests/moved", Answer::error(StatusCode::FOUND, "").with("location", "http://127.0.0.1:1/"));
    let gateway = content.serve().await;
    for (tag, expected) in [
        (
            "unknown",
            "404 Not Found; MANIFEST_UNKNOWN: manifest unknown ({\"upstream\":404}); DENIED: no [31m (really not)",
        ),
        ("plain", "502 Bad Gateway; upstream  is  [2Jdown"),
        ("nothing", "404 Not Found"),
        ("moved", "302 Found"),
    ] {
        let failure = gateway.failure(&format!("tool:{tag}")).await.to_string();
        let what = "the node cannot give the manifest docker.io/library/tool:";
        assert_eq!(failure, format!("{what}{tag}: {expected}"));
    }
}

#[tokio::test]
async fn no_gateway() {
    // Bound and dropped: a port where nobody listens.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = Options {
        image: "tool".parse().unwrap(),
        gateway_addr: Some(address.to_string()),
        platform: None,
        all_platforms: false,
    };
    let error = run(options, &Environment::default()).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("no node answers at {address} (")), "{error}");
    assert!(
        error.ends_with("start one with `shoal run`, or say where it listens with --gateway-addr IP:PORT"),
        "{error}"
    );
}

#[tokio::test]
async fn layers_that_registries_do_not_keep_are_named_and_left_out() {
    let mut content = Content::default();
    let config = content.blob(CONFIG, b"config");
    let foreign = json!({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                         "digest": Digest::sha256_of(b"licensed"), "size": 8});
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [foreign]});
    let image = content.manifest(OCI_MANIFEST, &manifest);
    content.tag("win", &image);
    let gateway = content.serve().await;
    let (done, lines) = gateway.pull("tool:win", linux("amd64")).await;
    assert_eq!(done.unwrap().blobs, 1);
    assert!(lines[0].contains("is not kept by registries"), "{lines:?}");
}

#[tokio::test]
async fn a_blob_that_does_not_come_in_time_is_asked_for_again() {
    let mut content = Content { late: 2, ..Content::default() };
    let image = content.image(b"config", &[b"layer"]);
    content.tag("latest", &image);
    let gateway = content.serve().await;
    assert_eq!(gateway.pull("tool", linux("amd64")).await.0.unwrap().blobs, 2);
    let blobs = gateway.asked().iter().filter(|path| path.starts_with("blobs/")).count();
    // Two blobs, each late twice; the configuration is read for its platform before, which is when it was late.
    assert_eq!(blobs, 7);
}

#[test]
fn platforms() {
    for good in ["linux/amd64", "windows/386"] {
        assert_eq!(good.parse::<platform::Platform>().unwrap().to_string(), good);
    }
    for bad in ["", "linux", "linux/", "/amd64", "linux/arm/v7", "Linux/amd64", "linux/amd 64"] {
        let error = bad.parse::<platform::Platform>().unwrap_err().to_string();
        assert!(error.contains("write os/architecture, as in linux/amd64"), "{error}");
    }
}
