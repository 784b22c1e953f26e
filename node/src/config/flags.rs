//! The command line of `shoal run`, as clap reads it.

/// What the command line of `shoal run` may say; nothing of it is checked yet.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Configuration file, TOML. None is read unless named.
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
    /// Folder for this node's data [default: /var/lib/shoal for root, else ~/.local/share/shoal].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Where clients reach the gateway [default: 127.0.0.1:5055].
    #[arg(long, value_name = "IP:PORT")]
    pub gateway_addr: Option<String>,
    /// Where other nodes reach this one [default: `[::]:5056`, IPv4 as well; 127.0.0.1:5056 without a cluster key].
    #[arg(long, value_name = "IP:PORT")]
    pub peer_addr: Option<String>,
    /// Where status, metrics and health are served [default: 127.0.0.1:5057].
    #[arg(long, value_name = "IP:PORT")]
    pub admin_addr: Option<String>,
    /// A node to join through: `host:port`, `[IPv6]:port`, a multiaddr, or `dns:name:port` for a name that stands for
    /// many. Several: repeat it, or separate them by spaces or commas.
    #[arg(long, value_name = "ADDR", num_args = 1..)]
    pub bootstrap: Vec<String>,
    /// File with the secret that all nodes of a cluster share, from `shoal key new`. Without it a node speaks to
    /// nodes on this machine only.
    #[arg(long, value_name = "FILE")]
    pub cluster_key_file: Option<String>,
    /// Where a registry is reached, as in `docker.io=https://mirror.example.com`. Any public registry works
    /// without. Several: repeat it, or separate them by spaces or commas.
    #[arg(long, value_name = "NAME=URL", num_args = 1..)]
    pub upstream: Vec<String>,
    /// Zone of this node, as in eu-west-1a: peers that name the same are asked first.
    #[arg(long, value_name = "NAME")]
    pub zone: Option<String>,
    /// The most bytes a second to send to peers, as in 50MiB [default: no cap].
    #[arg(long, value_name = "RATE")]
    pub upload_rate: Option<String>,
    /// The most bytes a second of blobs to take, from peers and upstream together [default: no cap].
    #[arg(long, value_name = "RATE")]
    pub download_rate: Option<String>,
    /// The most bytes a second of blobs to take from upstream registries [default: no cap].
    #[arg(long, value_name = "RATE")]
    pub upstream_rate: Option<String>,
    /// Stop when standard input ends.
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}
