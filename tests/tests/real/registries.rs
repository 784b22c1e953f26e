//! What is passed through from real registries: tag lists page by page, and referrers.

use std::process::Command;

use serde_json::Value;
use shoal_tests::client::{Answer, Client};
use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::image::debian::Debian;
use shoal_tests::image::{digest, index, synthetic};
use shoal_tests::process::output;
use shoal_tests::registry::Kind;
use shoal_tests::registry::push::Target;
use shoal_tests::tool;

/// The tags of one page.
fn tags(page: &Answer) -> Vec<String> {
    assert_eq!(page.status.as_u16(), 200, "{page:?}");
    assert!(page.header("content-type").starts_with("application/json"), "{page:?}");
    let body: Value = serde_json::from_slice(&page.body).unwrap();
    let tags = body["tags"].as_array().unwrap_or_else(|| panic!("{body}"));
    tags.iter().map(|tag| tag.as_str().unwrap().to_owned()).collect()
}

/// Where a page's `Link` leads, as RFC 8288 writes it.
fn next(page: &Answer) -> Option<String> {
    let link = page.headers.get("link")?.to_str().unwrap();
    let (target, rest) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
    assert!(rest.contains("rel=\"next\""), "{link}");
    assert!(target.starts_with("/v2/"), "{link} leads away from the gateway");
    Some(target.to_owned())
}

/// All pages from `first` on.
async fn walk(client: &Client, first: &str) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut path = Some(first.to_owned());
    while let Some(at) = path {
        let page = client.get(&at).await.unwrap();
        pages.push(tags(&page));
        path = next(&page);
        assert!(pages.len() < 50, "the pages lead in a circle");
    }
    pages
}

#[tokio::test]
async fn a_tag_list_is_walked_to_its_end_through_the_gateway() {
    for kind in Kind::ALL {
        let fleet = Fleet::start(kind, 1).await.unwrap();
        let image = synthetic::image(fleet.home(), 1, &[1000]).unwrap();
        let mut names: Vec<String> = (0..25).map(|number| format!("tag-{number:02}")).collect();
        names.push("z".to_owned());
        let target = Target::new(&fleet.registry.url());
        target.image("some/image", &names[0], &image).await.unwrap();
        for name in &names[1..] {
            target.document("some/image", name, &image.manifest).await.unwrap();
        }
        let client = fleet.nodes[0].client().unwrap();
        let direct = Client::new(&fleet.registry.url()).unwrap();
        for (list, ns) in [
            (format!("/v2/{REGISTRY}/some/image/tags/list"), String::new()),
            ("/v2/some/image/tags/list".to_owned(), format!("ns={REGISTRY}")),
        ] {
            let mut whole = tags(&client.get(&format!("{list}?{ns}")).await.unwrap());
            // Debian's knows neither order nor pages.
            whole.sort();
            assert_eq!(whole, names, "{kind:?} {list}");
            if kind == Kind::Debian {
                continue;
            }
            let original = walk(&direct, "/v2/some/image/tags/list?n=10").await;
            let pages = walk(&client, &format!("{list}?n=10&{ns}")).await;
            assert_eq!(pages, original, "{kind:?} {list}: other pages than the registry's own");
            assert_eq!(pages.concat(), names, "{kind:?} {list}");
            assert_eq!(pages[0].len(), 10, "{kind:?} {list}: n is not passed on");
            let last = client.get(&format!("{list}?n=3&last=tag-07&{ns}")).await.unwrap();
            assert_eq!(tags(&last), names[8..11], "{kind:?} {list}: last is not passed on");
        }
        let unknown = client.get(&format!("/v2/{REGISTRY}/no/such/image/tags/list")).await.unwrap();
        assert_eq!(unknown.status.as_u16(), 404, "{kind:?}: {unknown:?}");
        assert_eq!(unknown.error_code().unwrap(), "NAME_UNKNOWN", "{kind:?}");
    }
}

/// Neither registry knows the question. A client is told so, as the registry itself would: it then looks for the
/// tag that such clients agree on, which works through the gateway too. An empty list would hide what is there.
#[tokio::test]
async fn where_the_registry_knows_no_referrers_clients_find_the_tag_instead() {
    for kind in Kind::ALL {
        let fleet = Fleet::start(kind, 1).await.unwrap();
        let image = synthetic::image(fleet.home(), 1, &[1000]).unwrap();
        fleet.registry.push("some/image", "1", &image).await.unwrap();
        let referrers = index(&[&image]);
        let tag = image.manifest.digest.replace(':', "-");
        let target = Target::new(&fleet.registry.url());
        target.document("some/image", &tag, &referrers).await.unwrap();
        let client = fleet.nodes[0].client().unwrap();
        let direct = Client::new(&fleet.registry.url()).unwrap();
        for digest in [&image.manifest.digest, &digest(b"nothing that exists")] {
            let path = format!("some/image/referrers/{digest}");
            let itself = direct.get(&format!("/v2/{path}")).await.unwrap().status.as_u16();
            assert_eq!(itself, 404, "{kind:?} knows referrers by now: compare the answers here");
            let answer = client.get(&format!("/v2/{REGISTRY}/{path}")).await.unwrap();
            assert_eq!(answer.status.as_u16(), itself, "{kind:?} {path}: {answer:?}");
            answer.error_code().unwrap();
        }
        let found = client.manifest(&format!("{REGISTRY}/some/image"), &tag).await.unwrap();
        assert_eq!((found.status.as_u16(), &found.body), (200, &referrers.bytes), "{kind:?}: {found:?}");
    }
}

/// `shoal pull` of a multi-arch image from a real registry, without a terminal.
#[tokio::test]
async fn shoal_pull_takes_this_machines_platform_of_an_index() {
    let debian = Debian::get().unwrap();
    for kind in Kind::ALL {
        let fleet = Fleet::start(kind, 1).await.unwrap();
        fleet.registry.push_debian("library/debian", &debian).await.unwrap();
        let gateway = fleet.nodes[0].serving.gateway.to_string();
        let mut command = Command::new(tool::shoal().unwrap());
        command.args(["pull", &format!("{REGISTRY}/library/debian"), "--gateway-addr", &gateway]);
        let said = tokio::task::spawn_blocking(move || output(&mut command)).await.unwrap().unwrap();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(&debian.index.digest), "{said}");
        // The index, the manifest, and that platform's blobs: no byte of the other's.
        let held = fleet.nodes[0].status().await.unwrap().store;
        assert_eq!(held.blobs, 2 + debian.image.blobs().count() as u64, "{kind:?}: {said}");
        let access = fleet.registry.access().await.unwrap();
        assert_eq!(access.all_blob_bytes(), debian.image.size(), "{kind:?}: {said}");
    }
}
