//! One client, few connections, many layers: requests follow each other on a connection, and each answer is the right
//! one.

use std::net::SocketAddr;

use shoal_tests::fleet::Fleet;
use shoal_tests::image::{digest, synthetic};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const REPOSITORY: &str = "registry.test/some/image";
const CONNECTIONS: usize = 4;
const REQUESTS: usize = 64;

/// One HTTP/1.1 connection, which is never opened again.
struct Connection(BufReader<TcpStream>);

impl Connection {
    async fn open(address: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.unwrap()))
    }

    /// Sends one request, and gives status and body of its answer.
    async fn get(&mut self, path: &str) -> (u16, Vec<u8>) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: gateway\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
        let status = self.line().await;
        let status = status.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("{path}: {status:?}"));
        let status = status.split(' ').next().unwrap().parse().unwrap();
        let mut length = None;
        loop {
            let line = self.line().await.to_ascii_lowercase();
            assert_ne!(line, "connection: close", "{path}: the connection does not stay");
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = Some(value.parse().unwrap());
            }
        }
        let mut body = vec![0; length.unwrap_or_else(|| panic!("{path}: no Content-Length"))];
        self.0.read_exact(&mut body).await.unwrap();
        (status, body)
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).await.unwrap() > 0, "the connection ended");
        line.trim_end().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_layers_over_few_connections_are_all_right() {
    let fleet = Fleet::with_faulty_upstream(2).await.unwrap();
    // Some of one chunk, some of several, one of none.
    let sizes: Vec<u64> = (0..REQUESTS as u64).map(|number| number * number * 250).collect();
    let image = synthetic::image(fleet.home(), 1, &sizes).unwrap();
    fleet.registry.hold("1", &image).unwrap();
    for node in &fleet.nodes {
        let mut connections = JoinSet::new();
        for first in 0..CONNECTIONS {
            let address = node.serving.gateway;
            let layers = image.layers.clone();
            connections.spawn(async move {
                let mut connection = Connection::open(address).await;
                for layer in layers.iter().skip(first).step_by(CONNECTIONS) {
                    let path = format!("/v2/{REPOSITORY}/blobs/{}", layer.digest);
                    let (status, body) = connection.get(&path).await;
                    assert_eq!((status, body.len() as u64), (200, layer.size), "{path}");
                    assert_eq!(digest(&body), layer.digest, "{path}: another blob's bytes");
                    // An error in between does not end the connection either.
                    let (status, _) = connection.get("/v2/registry.test/a/blobs/latest").await;
                    assert_eq!(status, 400);
                }
            });
        }
        while let Some(done) = connections.join_next().await {
            done.unwrap();
        }
    }
}
