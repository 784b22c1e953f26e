//! nginx before a registry: TLS, client certificates, redirects, errors, and a log of who sent what.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::process::{Process, Spec, until};
use crate::tool;

/// How long it may take to start.
const START: Duration = Duration::from_secs(20);

/// A running nginx. It is killed when this is dropped.
#[derive(Debug)]
pub struct Nginx {
    log: PathBuf,
    _process: Process,
}

/// One request that nginx answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// At which port.
    pub port: u16,
    /// Its method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The answer.
    pub status: u16,
    /// Whether it carried an `Authorization`.
    pub authorized: bool,
}

/// An address on loopback where nothing listens.
///
/// # Errors
/// If there is none.
pub fn free(host: &str) -> Result<SocketAddr> {
    let listener = TcpListener::bind((host, 0)).with_context(|| format!("nothing can listen at {host}"))?;
    Ok(listener.local_addr()?)
}

impl Nginx {
    /// Starts it with these `server` blocks, of which one listens at `address`.
    ///
    /// # Errors
    /// If it is not installed, does not understand the blocks, or does not start.
    pub async fn start(home: &Path, name: &str, address: SocketAddr, servers: &str) -> Result<Self> {
        let directory = home.join(name);
        fs::create_dir_all(directory.join("temp"))?;
        let (config, log) = (directory.join("nginx.conf"), directory.join("access.log"));
        fs::write(&config, configuration(&directory, &log, servers))?;
        let mut spec = Spec::new(&tool::NGINX.path()?, name, &directory);
        spec.command().arg("-p").arg(&directory).arg("-c").arg(&config).args(["-e", "stderr"]);
        let process = spec.start()?;
        until("nginx listens", START, async || TcpStream::connect(address).ok())
            .await
            .with_context(|| process.tail())?;
        Ok(Self { log, _process: process })
    }

    /// What it was asked so far. A request is logged when its answer is sent, which a client may see a moment before.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn seen(&self) -> Result<Vec<Seen>> {
        let mut before = fs::read_to_string(&self.log)?;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = fs::read_to_string(&self.log)?;
            if now == before {
                return now
                    .lines()
                    .map(|line| read(line).with_context(|| format!("a log line: {line}")))
                    .collect();
            }
            before = now;
        }
    }
}

fn read(line: &str) -> Option<Seen> {
    let mut words = line.split(' ');
    Some(Seen {
        port: words.next()?.parse().ok()?,
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        status: words.next()?.parse().ok()?,
        authorized: words.next()? != "-",
    })
}

fn configuration(directory: &Path, log: &Path, servers: &str) -> String {
    let temp = directory.join("temp");
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("  {what}_temp_path {}/{what};\n", temp.display()))
        .concat();
    format!(
        "daemon off;
master_process off;
user root;
pid {}/nginx.pid;
events {{}}
http {{
  log_format seen '$server_port $request_method $request_uri $status $http_authorization';
  access_log {} seen;
{paths}  proxy_set_header Host $http_host;
{servers}
}}
",
        directory.display(),
        log.display()
    )
}
