//! A member of the cluster that says whatever bytes a test wants: the connection is Shoal's, what runs on it is not.
//!
//! It answers pings, or the node would hang up before long. Which protocol a stream speaks is agreed on by
//! multistream-select, spoken here by hand: each side sends its header and the protocol's name, as lines behind
//! their lengths.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox};
use libp2p::core::transport::{DialOpts, PortUse};
use libp2p::core::{Endpoint, Transport as _};
use prost::Message;
use shoal_proto::identity::Keypair;
use shoal_proto::wire::{CHUNK_PROTOCOL, SESSION_PROTOCOL, decode_frame, encode_frame, generated, hello};
use shoal_swarm::cluster_key::ClusterKey;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

const MULTISTREAM: &str = "/multistream/1.0.0";
const PING: &str = "/ipfs/ping/1.0.0";
const NOT_AVAILABLE: &str = "na";
/// How long the node may take for a step of its own.
const PATIENCE: Duration = Duration::from_secs(20);

/// The bytes with which a question or request of this number is answered.
pub type Answer = Arc<dyn Fn(u64) -> Bytes + Send + Sync>;

/// What it says on streams that the node opens.
#[derive(Clone)]
pub struct Answers {
    /// First of all, on each.
    pub greeting: Bytes,
    /// To a question on a session stream.
    pub session: Answer,
    /// To a request on a chunk stream.
    pub chunks: Answer,
}

impl Default for Answers {
    /// A true greeting, and then nothing.
    fn default() -> Self {
        let nothing: Answer = Arc::new(|_| Bytes::new());
        let mut greeting = BytesMut::new();
        encode_frame(&hello(), &mut greeting);
        Self { greeting: greeting.freeze(), session: nothing.clone(), chunks: nothing }
    }
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

/// How much it was asked.
#[derive(Debug, Default)]
struct Asked {
    questions: AtomicU64,
    chunks: AtomicU64,
}

/// The member. Its connection ends when it is dropped.
#[derive(Debug)]
pub struct Raw {
    wanted: mpsc::Sender<oneshot::Sender<SubstreamBox>>,
    asked: Arc<Asked>,
    driver: JoinHandle<()>,
}

impl Raw {
    /// Connects to the node at `address`.
    ///
    /// # Errors
    /// If the node is not reached, or does not let it in.
    pub async fn join(address: SocketAddr, key: ClusterKey, answers: Answers) -> Result<Self> {
        Self::join_as(&Keypair::generate_ed25519(), address, key, answers).await
    }

    /// The same, as this identity.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub async fn join_as(
        keypair: &Keypair,
        address: SocketAddr,
        key: ClusterKey,
        answers: Answers,
    ) -> Result<Self> {
        let mut transport = shoal_swarm::transport::transport(keypair, Some(key))?;
        let address = format!("/ip4/{}/tcp/{}", address.ip(), address.port()).parse()?;
        let opts = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let (_, muxer) = transport.dial(address, opts)?.await?;
        let (wanted, wishes) = mpsc::channel(16);
        let asked = Arc::<Asked>::default();
        let driver = tokio::spawn(drive(muxer, wishes, answers, asked.clone()));
        Ok(Self { wanted, asked, driver })
    }

    /// How many questions the node asked it.
    pub fn questions(&self) -> u64 {
        self.asked.questions.load(Ordering::Relaxed)
    }

    /// How many chunks the node asked of it.
    pub fn chunks(&self) -> u64 {
        self.asked.chunks.load(Ordering::Relaxed)
    }

    /// Opens a stream that speaks `protocol`.
    ///
    /// # Errors
    /// If the node does not take it.
    pub async fn open(&self, protocol: &str) -> Result<SubstreamBox> {
        let opened = async {
            let (reply, stream) = oneshot::channel();
            self.wanted.send(reply).await.ok().context("the connection ended")?;
            let mut stream = stream.await.context("the connection ended")?;
            write_line(&mut stream, MULTISTREAM).await?;
            write_line(&mut stream, protocol).await?;
            stream.flush().await?;
            for expected in [MULTISTREAM, protocol] {
                let said = read_line(&mut stream).await?;
                ensure!(said == expected, "the node answered {said:?} to {protocol}");
            }
            Ok(stream)
        };
        tokio::time::timeout(PATIENCE, opened).await.context("the node does not take a stream")?
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Reads the next message; what came after it stays in `read`.
///
/// # Errors
/// If none comes, or something else.
pub async fn next_message<M: Message + Default>(stream: &mut SubstreamBox, read: &mut BytesMut) -> Result<M> {
    let reading = async {
        loop {
            if let Some(message) = decode_frame(read)? {
                return Ok(message);
            }
            let mut piece = [0; 4096];
            let length = stream.read(&mut piece).await?;
            ensure!(length > 0, "the node ended the stream");
            read.extend_from_slice(&piece[..length]);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.context("the node does not answer")?
}

/// Reads until the node ends the stream, in whatever way.
///
/// # Errors
/// If it does not end it within a time that covers all of the node's own limits.
pub async fn until_ended(stream: &mut SubstreamBox) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 4096];
    let reading = async {
        // A reset is an end too.
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            all.extend_from_slice(&buffer[..read]);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.context("the node does not end the stream")?;
    Ok(all)
}

enum Event {
    Inbound(SubstreamBox),
    Outbound(oneshot::Sender<SubstreamBox>, SubstreamBox),
    Ended,
}

/// Runs the connection: a muxer goes on only while it is polled.
async fn drive(
    mut muxer: StreamMuxerBox,
    mut wishes: mpsc::Receiver<oneshot::Sender<SubstreamBox>>,
    answers: Answers,
    asked: Arc<Asked>,
) {
    let mut wish = None;
    let mut streams = JoinSet::new();
    loop {
        match poll_fn(|cx| step(&mut muxer, &mut wishes, &mut wish, cx)).await {
            Event::Inbound(stream) => {
                let (answers, asked) = (answers.clone(), asked.clone());
                streams.spawn(async move {
                    // The node may hang up at any time.
                    accept(stream, &answers, &asked).await.ok();
                });
            }
            // Whoever wanted it may have given up.
            Event::Outbound(reply, stream) => drop(reply.send(stream)),
            Event::Ended => return,
        }
    }
}

fn step(
    muxer: &mut StreamMuxerBox,
    wishes: &mut mpsc::Receiver<oneshot::Sender<SubstreamBox>>,
    wish: &mut Option<oneshot::Sender<SubstreamBox>>,
    cx: &mut Context<'_>,
) -> Poll<Event> {
    match muxer.poll_unpin(cx) {
        Poll::Ready(Err(_)) => return Poll::Ready(Event::Ended),
        // The peer's address changed, which is of no interest.
        Poll::Ready(Ok(_)) => cx.waker().wake_by_ref(),
        Poll::Pending => {}
    }
    if let Poll::Ready(inbound) = muxer.poll_inbound_unpin(cx) {
        return Poll::Ready(inbound.map_or(Event::Ended, Event::Inbound));
    }
    if wish.is_none() {
        match wishes.poll_recv(cx) {
            Poll::Ready(Some(wanted)) => *wish = Some(wanted),
            Poll::Ready(None) => return Poll::Ready(Event::Ended),
            Poll::Pending => {}
        }
    }
    if let Some(reply) = wish.take() {
        match muxer.poll_outbound_unpin(cx) {
            Poll::Ready(Ok(stream)) => return Poll::Ready(Event::Outbound(reply, stream)),
            Poll::Ready(Err(_)) => return Poll::Ready(Event::Ended),
            Poll::Pending => *wish = Some(reply),
        }
    }
    Poll::Pending
}

/// Takes a stream that the node opened.
async fn accept(mut stream: SubstreamBox, answers: &Answers, asked: &Asked) -> Result<()> {
    let header = read_line(&mut stream).await?;
    write_line(&mut stream, &header).await?;
    let protocol = loop {
        let protocol = read_line(&mut stream).await?;
        if [PING, SESSION_PROTOCOL, CHUNK_PROTOCOL].contains(&protocol.as_str()) {
            break protocol;
        }
        write_line(&mut stream, NOT_AVAILABLE).await?;
        stream.flush().await?;
    };
    write_line(&mut stream, &protocol).await?;
    stream.flush().await?;
    match protocol.as_str() {
        PING => echo(stream).await,
        SESSION_PROTOCOL => {
            let id = |message: generated::SessionMessage| Some(message.id);
            answer(stream, &answers.greeting, &answers.session, id, &asked.questions).await
        }
        _ => {
            // One without a digest asks for nothing.
            let id = |request: generated::ChunkRequest| (!request.digest.is_empty()).then_some(request.id);
            answer(stream, &answers.greeting, &answers.chunks, id, &asked.chunks).await
        }
    }
}

async fn echo(mut stream: SubstreamBox) -> Result<()> {
    let mut ping = [0; 32];
    loop {
        stream.read_exact(&mut ping).await?;
        stream.write_all(&ping).await?;
        stream.flush().await?;
    }
}

async fn answer<M: Message + Default>(
    mut stream: SubstreamBox,
    greeting: &Bytes,
    answer: &Answer,
    id: impl Fn(M) -> Option<u64>,
    asked: &AtomicU64,
) -> Result<()> {
    stream.write_all(greeting).await?;
    stream.flush().await?;
    let mut read = BytesMut::new();
    let mut greeted = false;
    loop {
        if !greeted {
            greeted = decode_frame::<generated::Hello>(&mut read)?.is_some();
        }
        while greeted && let Some(message) = decode_frame::<M>(&mut read)? {
            let Some(id) = id(message) else { continue };
            asked.fetch_add(1, Ordering::Relaxed);
            stream.write_all(&answer(id)).await?;
            stream.flush().await?;
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await? {
            0 => return Ok(()),
            length => read.extend_from_slice(&piece[..length]),
        }
    }
}

async fn write_line(stream: &mut SubstreamBox, line: &str) -> Result<()> {
    // Protocol names are short: their length is one byte.
    let length = u8::try_from(line.len() + 1).ok().filter(|length| *length < 128);
    stream.write_all(&[length.context("a long protocol name")?]).await?;
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    Ok(())
}

async fn read_line(stream: &mut SubstreamBox) -> Result<String> {
    let mut length = [0];
    stream.read_exact(&mut length).await?;
    let mut line = vec![0; usize::from(length[0])];
    stream.read_exact(&mut line).await?;
    let line = String::from_utf8(line)?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.to_owned()),
        None => bail!("not a line of multistream-select: {line:?}"),
    }
}
