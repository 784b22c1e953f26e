//! Peers that break the protocol, though they have the cluster key: what they say is dropped with the stream it came
//! on, the node stays up, serves the others, and its memory stays bounded.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::AsyncWriteExt as _;
use shoal_proto::chunk::{MAX_BLOB, MAX_CHUNK, MIN_CHUNK};
use shoal_proto::digest::Digest;
use shoal_proto::identity::Keypair;
use shoal_proto::origin::Origin;
use shoal_proto::wire::{
    AskBlob, CHUNK_PROTOCOL, ChunkRequest, MAX_MESSAGE, SESSION_PROTOCOL, SessionMessage, encode_frame,
    generated, hello, received,
};
use shoal_tests::faulty::Faulty;
use shoal_tests::fleet::{Fleet, REGISTRY};
use shoal_tests::image::{Image, synthetic};
use shoal_tests::node::Node;
use shoal_tests::process::until;
use shoal_tests::raw::{Answer, Answers, Raw, next_message, until_ended};

const MIB: u64 = 1 << 20;
const REPOSITORY: &str = "registry.test/some/image";
/// The size of the image's layer, in chunks of 256 KiB: larger than any manifest, so that nobody takes it for one.
const LAYER: u64 = 5 * MIB;
/// How long a pull may take while others misbehave.
const PATIENCE: Duration = Duration::from_mins(1);
/// How much a node may grow by what bad peers send. The attacks below amount to several times this.
const GROWTH_MIB: u64 = 48;

/// A fleet whose first node holds an image.
async fn fleet(nodes: usize, seed: u64) -> (Fleet<Faulty>, Image) {
    let fleet = Fleet::with_faulty_upstream(nodes).await.unwrap();
    let image = synthetic::image(fleet.home(), seed, &[LAYER, 1000]).unwrap();
    fleet.registry.hold("1", &image).unwrap();
    pulls(&fleet.nodes[0], &image, "a first pull").await;
    (fleet, image)
}

async fn pulls(node: &Node, image: &Image, when: &str) {
    let client = node.client().unwrap();
    let pulled = tokio::time::timeout(PATIENCE, client.pull(REPOSITORY, &image.manifest.digest, image)).await;
    let pulled = pulled.unwrap_or_else(|_| panic!("{when}: the pull hangs"));
    pulled.unwrap_or_else(|error| panic!("{when}: {error:#}"));
}

async fn raw(fleet: &Fleet<Faulty>, answers: Answers) -> Raw {
    Raw::join(fleet.nodes[0].serving.peer, fleet.cluster_key().unwrap(), answers).await.unwrap()
}

/// Waits until a node has exactly so many peers.
async fn connected(node: &Node, peers: usize) {
    let connected = until("the node has that many peers", PATIENCE, async || {
        (node.status().await.ok()?.peers.len() == peers).then_some(())
    });
    connected.await.unwrap();
}

/// The memory that a process occupies now.
fn resident_mib(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

fn greeting() -> BytesMut {
    let mut bytes = BytesMut::new();
    encode_frame(&hello(), &mut bytes);
    bytes
}

/// A greeting and then these bytes, as they are.
fn then(bytes: &[u8]) -> Vec<u8> {
    let mut all = greeting();
    all.extend_from_slice(bytes);
    all.to_vec()
}

/// A greeting and then a message of these bytes.
fn then_message(message: &[u8]) -> Vec<u8> {
    let mut all = greeting();
    all.extend_from_slice(&length(message.len() as u64));
    all.extend_from_slice(message);
    all.to_vec()
}

fn asking(chunk: &generated::ChunkRequest) -> Vec<u8> {
    let mut all = greeting();
    encode_frame(chunk, &mut all);
    all.to_vec()
}

fn request(image: &Image, size: u64, chunk: u32) -> generated::ChunkRequest {
    let digest: Digest = image.layers[0].digest.parse().unwrap();
    let origin = Origin::of(&REGISTRY.parse().unwrap());
    ChunkRequest { id: 1, digest, size, chunk, origin }.into_wire(0)
}

/// Asks for a chunk on a stream of its own.
async fn ask(member: &Raw, request: generated::ChunkRequest) -> generated::ChunkReply {
    let mut stream = member.open(CHUNK_PROTOCOL).await.unwrap();
    stream.write_all(&asking(&request)).await.unwrap();
    stream.flush().await.unwrap();
    let mut read = BytesMut::new();
    next_message::<generated::Hello>(&mut stream, &mut read).await.unwrap();
    next_message(&mut stream, &mut read).await.unwrap()
}

/// The varint of a length.
fn length(mut length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while length >= 0x80 {
        bytes.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap());
    bytes
}

/// What no node would send, on either kind of stream: each ends the stream at once.
fn malformed() -> Vec<(&'static str, Vec<u8>)> {
    let noise: Vec<u8> = (0..100_000_u32).map(|n| (n * 31 % 251) as u8 | 0x80).collect();
    let mut no_version = BytesMut::new();
    encode_frame(&generated::Hello::default(), &mut no_version);
    vec![
        ("noise for a greeting", noise.clone()),
        ("HTTP", b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100)),
        ("a greeting of 2^32 bytes", length(1 << 32)),
        ("a greeting without a version", no_version.to_vec()),
        ("noise", then(&noise)),
        ("a length of 2^32", then(&length(1 << 32))),
        ("a length of 2^63", then(&length(1 << 63))),
        ("a length of one byte too many", then(&length(MAX_MESSAGE as u64 + 1))),
        ("a message of zeros", then_message(&[0; 1000])),
        ("a message that is cut off inside", then_message(&[0x0a, 0xff, 0xff, 0x03, 1, 2, 3])),
        ("an empty message", then_message(&[])),
        ("a second greeting", then(&greeting())),
    ]
}

/// What only chunk streams can get wrong.
fn impossible_chunks(image: &Image) -> Vec<(&'static str, Vec<u8>)> {
    let true_request = request(image, LAYER, 0);
    vec![
        ("a chunk said to be there that was not asked for", asking(&received(1))),
        ("a chunk beyond the end", asking(&generated::ChunkRequest { chunk: 20, ..true_request.clone() })),
        (
            "the chunk of the largest number",
            asking(&generated::ChunkRequest { chunk: u32::MAX, ..true_request.clone() }),
        ),
        ("a blob of 2^64 bytes", asking(&generated::ChunkRequest { size: u64::MAX, ..true_request.clone() })),
        ("a chunk of an empty blob", asking(&generated::ChunkRequest { size: 0, ..true_request.clone() })),
        (
            "a short digest",
            asking(&generated::ChunkRequest { digest: Bytes::from_static(b"\x12\x20abc"), ..true_request }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_protocol_ends_its_stream_and_nothing_else() {
    let (mut fleet, image) = fleet(2, 1).await;
    let member = raw(&fleet, Answers::default()).await;
    let both = malformed();
    let cases = [SESSION_PROTOCOL, CHUNK_PROTOCOL]
        .into_iter()
        .flat_map(|protocol| both.iter().cloned().map(move |(what, bytes)| (protocol, what, bytes)))
        .chain(impossible_chunks(&image).into_iter().map(|(what, bytes)| (CHUNK_PROTOCOL, what, bytes)));
    for (protocol, what, bytes) in cases {
        let mut stream =
            member.open(protocol).await.unwrap_or_else(|error| panic!("before {what}: {error:#}"));
        // It may end while it is written to.
        stream.write_all(&bytes).await.ok();
        stream.flush().await.ok();
        let said = until_ended(&mut stream).await;
        let said = said.unwrap_or_else(|error| panic!("{protocol}, {what}: {error:#}"));
        // A greeting at the most: no answer, and no byte of the blob.
        assert!(said.len() < 100, "{protocol}, {what}: answered {} bytes", said.len());
    }
    // The same connection is as good as before, and so is the node for its peers.
    let reply = ask(&member, request(&image, LAYER, 0)).await;
    assert_eq!((reply.status(), reply.length), (generated::ChunkStatus::Ok, 256 << 10));
    pulls(&fleet.nodes[1], &image, "after it all").await;
    assert!(fleet.nodes[0].is_running());
}

/// A blob of another size than the one held has no chunk that could be given.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_of_a_blob_of_another_size_is_refused_with_a_reason() {
    let (fleet, image) = fleet(1, 2).await;
    let member = raw(&fleet, Answers::default()).await;
    for size in [LAYER - 1, LAYER + 1, MAX_BLOB] {
        let reply = ask(&member, request(&image, size, 0)).await;
        assert_eq!(
            (reply.id, reply.status(), reply.length),
            (1, generated::ChunkStatus::Invalid, 0),
            "{size}"
        );
    }
}

/// Streams that begin a message and stop, ask for much and read nothing, or only stand there.
#[tokio::test(flavor = "multi_thread")]
async fn half_messages_and_peers_that_never_read_cost_bounded_memory() {
    let (mut fleet, image) = fleet(2, 3).await;
    let before = resident_mib(fleet.nodes[0].id());
    let mut half = then(&length(MAX_MESSAGE as u64));
    half.resize(half.len() + MAX_MESSAGE - 1, 7);
    let mut greedy = greeting();
    for chunk in (0..20).cycle().take(4000) {
        encode_frame(&request(&image, LAYER, chunk), &mut greedy);
    }
    let mut curious = greeting();
    let digest: Digest = image.layers[0].digest.parse().unwrap();
    for id in 0..4000 {
        encode_frame(
            &SessionMessage::AskBlob(AskBlob {
                digest,
                following: None,
                round: 0,
                origin: Origin::from_bytes([0; Origin::LEN]),
            })
            .into_wire(id),
            &mut curious,
        );
    }
    let attacks = [
        (SESSION_PROTOCOL, half.clone()),
        (CHUNK_PROTOCOL, half),
        (CHUNK_PROTOCOL, greedy.to_vec()),
        (SESSION_PROTOCOL, curious.to_vec()),
        (SESSION_PROTOCOL, Vec::new()),
    ];
    // More members than one would be enough for each attack on its own, and more streams than a peer may have.
    let mut held = Vec::new();
    let mut writing = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let member = raw(&fleet, Answers::default()).await;
        for (protocol, bytes) in attacks.iter().cycle().take(10).cloned() {
            let Ok(mut stream) = member.open(protocol).await else { continue };
            writing.spawn(async move {
                // A session is read no more, a chunk stream with so many requests ends: neither goes on, which is
                // what is wanted.
                tokio::time::timeout(Duration::from_secs(2), stream.write_all(&bytes)).await.ok();
                stream
            });
        }
        held.push(member);
    }
    let streams = writing.join_all().await;
    assert!(streams.len() >= 40, "only {} streams were opened", streams.len());
    pulls(&fleet.nodes[1], &image, "while half messages stand").await;
    pulls(&fleet.nodes[0], &image, "while half messages stand").await;
    let after = resident_mib(fleet.nodes[0].id());
    assert!(after < before + GROWTH_MIB, "from {before} MiB to {after} MiB");
    drop((streams, held));
    assert!(fleet.nodes[0].is_running());
}

/// Something that a peer answers and no node would.
struct Case {
    what: &'static str,
    answers: Answers,
    /// Whether the node has reason to ask for chunks.
    chunks: bool,
}

/// Says the same to each question or request, whatever its number.
fn always(bytes: impl Into<Bytes>) -> Answer {
    let bytes = bytes.into();
    Arc::new(move |_| bytes.clone())
}

/// Says what it holds of whatever blob it is asked for.
fn holding(holding: generated::Holding, size: u64, chunks: Vec<u8>) -> Answer {
    let answer = generated::BlobAnswer { holding: holding.into(), size, chunks: chunks.into() };
    Arc::new(move |id| {
        let body = Some(generated::session_message::Body::BlobAnswer(answer.clone()));
        let mut message = BytesMut::new();
        encode_frame(&generated::SessionMessage { id, body }, &mut message);
        message.freeze()
    })
}

/// Promises a chunk of so many bytes and sends a few.
fn reply(length: u64, attestation: Option<generated::Attestation>) -> Answer {
    let length = u32::try_from(length).unwrap();
    Arc::new(move |id| {
        let (status, attestation) = (generated::ChunkStatus::Ok.into(), attestation.clone());
        let mut message = BytesMut::new();
        encode_frame(&generated::ChunkReply { id, status, attestation, length }, &mut message);
        message.extend_from_slice(&[7; 1000]);
        message.freeze()
    })
}

/// An attestation by this signer, which is none.
fn signed(signer: Vec<u8>) -> generated::Attestation {
    let (hash, signature) = (Bytes::from_static(&[7; 32]), Bytes::from_static(&[7; 64]));
    generated::Attestation { hash, signer: signer.into(), signature }
}

fn somebody() -> generated::Attestation {
    signed(Keypair::generate_ed25519().public().to_peer_id().to_bytes())
}

fn bad_answers(size: u64) -> Vec<Case> {
    use generated::Holding::{Complete, Partial};
    let only =
        |what, session| Case { what, answers: Answers { session, ..Answers::default() }, chunks: false };
    let chunks = |what, chunks| {
        let session = holding(Complete, size, Vec::new());
        Case { what, answers: Answers { session, chunks, ..Answers::default() }, chunks: true }
    };
    let noise = Answers { greeting: vec![0xff; 5000].into(), ..Answers::default() };
    vec![
        only("nothing at all", always("")),
        Case { what: "noise for a greeting", answers: noise, chunks: false },
        only("noise", always(vec![0xff; 5000])),
        only("a length of 2^32", always(length(1 << 32))),
        only("a bitmap that is too short", holding(Partial, size, vec![0xff])),
        only("a bitmap that is too long", holding(Partial, size, vec![0xff; 60_000])),
        only("a blob of 2^63 bytes", holding(Complete, 1 << 63, Vec::new())),
        only("a blob of another size", holding(Complete, size * 2, Vec::new())),
        chunks("all chunks, and then no chunk", always("")),
        chunks("all chunks, and then noise", always(vec![0xff; 5000])),
        chunks("a chunk of 4 GiB", reply(u64::from(u32::MAX), Some(somebody()))),
        chunks("a chunk of the largest size", reply(MAX_CHUNK, Some(somebody()))),
        chunks("a chunk that breaks off", reply(MIN_CHUNK, Some(somebody()))),
        chunks("a chunk that nobody signed", reply(MIN_CHUNK, None)),
        chunks("a signer that is nobody", reply(MIN_CHUNK, Some(signed(b"nobody".to_vec())))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_break_the_protocol_leave_the_pull_right() {
    let (mut fleet, _) = fleet(1, 4).await;
    let before = resident_mib(fleet.nodes[0].id());
    for (number, Case { what, answers, chunks }) in (0..).zip(bad_answers(LAYER)) {
        let image = synthetic::image(fleet.home(), 100 + number, &[LAYER]).unwrap();
        fleet.registry.hold("1", &image).unwrap();
        connected(&fleet.nodes[0], 0).await;
        let member = raw(&fleet, answers).await;
        connected(&fleet.nodes[0], 1).await;
        pulls(&fleet.nodes[0], &image, what).await;
        assert!(member.questions() > 0 || what.contains("greeting"), "{what}: it was asked nothing");
        assert_eq!(member.chunks() > 0, chunks, "{what}: {} chunks were asked of it", member.chunks());
    }
    let after = resident_mib(fleet.nodes[0].id());
    assert!(after < before + GROWTH_MIB, "from {before} MiB to {after} MiB");
    assert!(fleet.nodes[0].is_running());
}

/// It sends the beginning of a chunk, and its connection is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_disappears_in_the_middle_of_a_chunk_costs_nothing_else() {
    let (fleet, _) = fleet(1, 5).await;
    let node = &fleet.nodes[0];
    let image = synthetic::image(fleet.home(), 6, &[LAYER]).unwrap();
    fleet.registry.hold("1", &image).unwrap();
    let before = node.status().await.unwrap().traffic.upstream.bytes;
    let (session, chunks) =
        (holding(generated::Holding::Complete, LAYER, Vec::new()), reply(MIN_CHUNK, Some(somebody())));
    let member = raw(&fleet, Answers { session, chunks, ..Answers::default() }).await;
    connected(node, 1).await;
    let disappears = async move {
        let asked = until("a chunk is asked of it", PATIENCE, async || (member.chunks() > 0).then_some(()));
        asked.await.unwrap();
    };
    tokio::join!(pulls(node, &image, "while it disappears"), disappears);
    let upstream = node.status().await.unwrap().traffic.upstream.bytes - before;
    let whole = image.size() + image.manifest.bytes.len() as u64;
    assert!(upstream <= whole + MIN_CHUNK, "upstream gave {upstream} bytes of {whole}");
    connected(node, 0).await;
}
