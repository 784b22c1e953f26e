//! An HTTP client that only counts bytes, so that the client's own work hardly shows.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Layers at a time, as container engines do.
const AT_A_TIME: usize = 3;

/// Downloads all of these; how many bytes their bodies had.
pub(crate) async fn all(address: SocketAddr, paths: &[String]) -> Result<u64> {
    let downloads = paths.iter().map(|path| async move {
        let mut download = Download::begin(address, path).await?;
        download.rest().await?;
        Ok::<_, anyhow::Error>(download.length)
    });
    stream::iter(downloads)
        .buffer_unordered(AT_A_TIME)
        .try_fold(0, async |sum, length| Ok(sum + length))
        .await
}

/// How long the first byte of the body takes, from before the connection is made.
pub(crate) async fn first_byte(address: SocketAddr, path: &str) -> Result<Duration> {
    let began = Instant::now();
    let mut download = Download::begin(address, path).await?;
    if download.got == 0 {
        download.read().await?;
    }
    Ok(began.elapsed())
}

struct Download {
    stream: TcpStream,
    buffer: Vec<u8>,
    got: u64,
    length: u64,
}

impl Download {
    async fn begin(address: SocketAddr, path: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut buffer = vec![0; 1 << 20];
        let mut filled = 0;
        let end = loop {
            let read = stream.read(&mut buffer[filled..]).await?;
            if read == 0 {
                bail!("the answer to {path} ended within its head");
            }
            filled += read;
            if let Some(at) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let head = std::str::from_utf8(&buffer[..end])?.to_ascii_lowercase();
        if !head.starts_with("http/1.1 200") {
            bail!("{path}: {head}");
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length = length.context("no content-length")?.trim().parse()?;
        Ok(Self { stream, buffer, got: (filled - end) as u64, length })
    }

    async fn read(&mut self) -> Result<()> {
        match self.stream.read(&mut self.buffer).await? {
            0 => bail!("the body ended after {} of {} bytes", self.got, self.length),
            read => self.got += read as u64,
        }
        Ok(())
    }

    async fn rest(&mut self) -> Result<()> {
        while self.got < self.length {
            self.read().await?;
        }
        Ok(())
    }
}
