//! The configuration of a node: flags over environment over file over defaults.
//!
//! | module | concept |
//! | --- | --- |
//! | [`flags`] | the command line of `shoal run` |
//! | [`environment`] | the environment, as a value |
//! | [`problem`] | what is wrong, always with key, value, place and what is allowed |
//! | `file` | the TOML file, read into values that remember their line |
//! | `value`, `bootstrap` | what each kind of value may be |
//! | `upstream` | the registries |
//! | `open` | the files that a configuration names |
//! | [`show`] | the effective configuration, for people |
//!
//! This is the only place that reads the environment or a configuration file of a node. Everything that is wrong
//! is reported at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use shoal_gateway::upstream::config::Settings;

mod bootstrap;
pub mod environment;
mod file;
pub mod flags;
mod open;
pub mod problem;
pub mod show;
#[cfg(test)]
mod tests;
mod upstream;
mod value;

pub use environment::Environment;
pub use flags::Flags;
pub use problem::{ConfigError, Problem, Source};

use crate::access::Times;
use crate::tags::{Rule, Rules};
use file::File;
use open::{Kind, ToOpen};
use problem::{Given, Wrong};
use value::Parse;

/// Where clients find the gateway unless told otherwise: this machine only.
pub const GATEWAY_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5055);
/// Where the admin API listens unless told otherwise: this machine only.
pub const ADMIN_ADDR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5057);
/// Where peers are listened for, with a cluster key.
pub const PEER_ADDR: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 5056);
/// Where peers are listened for without a cluster key: such a node speaks to peers on this machine only.
pub const PEER_ADDR_WITHOUT_KEY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5056);

/// Everything that `shoal run` needs to know, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The folder of this node's data: blobs, its database, its identity.
    pub data_dir: PathBuf,
    /// Where the gateway listens for clients.
    pub gateway_addr: SocketAddr,
    /// Where peers are listened for. `[::]` means every address of this host, IPv4 as well.
    pub peer_addr: SocketAddr,
    /// Where the admin API listens: status, metrics, health.
    pub admin_addr: SocketAddr,
    /// Where first peers are found; each in one of the forms of [`Flags::bootstrap`].
    pub bootstrap: Vec<String>,
    /// The file with the secret that admits peers. Without one, peers on this machine only.
    pub cluster_key_file: Option<PathBuf>,
    /// The name of what is near: peers that name the same are asked first.
    pub zone: Option<String>,
    /// The most bytes a second that are sent to peers.
    pub upload_rate: Option<u64>,
    /// The most bytes a second of blobs that are taken from peers and upstream.
    pub download_rate: Option<u64>,
    /// The most bytes a second of blobs that are taken from upstream.
    pub upstream_rate: Option<u64>,
    /// When the body of a blob that is still being fetched starts.
    pub stream: Stream,
    /// How long what upstream says of tags holds.
    pub tags: Rules,
    /// How long what upstream says of who may read holds.
    pub access: Times,
    /// Which registries may be asked, and how each is reached.
    pub upstreams: Settings,
    /// Stop when standard input ends: the node of a demo or test ends with who started it.
    pub exit_with_stdin: bool,
}

/// When the body of a blob that is still being fetched starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stream {
    /// While its chunks still arrive; its last byte waits for the digest. A client that was given a wrong byte
    /// has to start again.
    #[default]
    Early,
    /// When its digest is proven: no client is ever given a wrong byte, and waits for the whole blob first.
    Proven,
}

impl Config {
    /// What is allowed but probably not meant, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.cluster_key_file.is_none() && !self.peer_addr.ip().is_loopback() {
            warnings.push(format!(
                "peer_addr is {}, but without a cluster key this node speaks to peers on this machine only: make \
                 a key with `shoal key new` and name its file with cluster_key_file",
                self.peer_addr
            ));
        }
        for (name, settings) in &self.upstreams.upstreams {
            if settings.insecure {
                warnings.push(format!("the certificate of {name} is not checked (insecure = true)"));
            }
        }
        warnings
    }
}

/// A checked configuration, and where each of its values was said.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Where each key of the file's top level got its value.
    pub origins: BTreeMap<&'static str, Source>,
}

/// Reads the configuration of a node and tries the files that it names.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load(flags: &Flags, environment: &Environment) -> Result<Loaded, ConfigError> {
    let (loaded, open, mut problems) = resolve(flags, environment);
    problems.extend(open.iter().filter_map(ToOpen::check));
    let data_dir = &loaded.config.data_dir;
    if data_dir.exists() && !data_dir.is_dir() {
        let source = loaded.origins.get("data_dir").cloned().unwrap_or(Source::Default);
        let given = Given { key: "data_dir".to_owned(), text: data_dir.display().to_string(), source };
        let allowed = "allowed: a folder, or a path where one can be made";
        problems.push(given.problem(Wrong::new("is not a folder", allowed)));
    }
    if problems.is_empty() { Ok(loaded) } else { Err(ConfigError(problems)) }
}

/// A listener of a running node that commands speak to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// `gateway_addr`.
    Gateway,
    /// `admin_addr`.
    Admin,
}

/// Where a command reaches the node that runs with this environment: the flag, or what the node itself was told.
///
/// The configuration file is read only if neither flag nor variable names the address, and the key and password
/// files never: who asks a node for its status may not be allowed to read them.
///
/// # Errors
/// What is wrong with the address, or with the file that should have named it.
pub fn address_of(
    listener: Listener,
    flag: Option<&str>,
    environment: &Environment,
) -> Result<SocketAddr, ConfigError> {
    let (key, default) = match listener {
        Listener::Gateway => ("gateway_addr", GATEWAY_ADDR),
        Listener::Admin => ("admin_addr", ADMIN_ADDR),
    };
    let mut layers = Layers::without_file(environment);
    if layers.flag_or_variable(key, flag).is_none() {
        layers = Layers::new(&Flags::default(), environment);
    }
    let mut address = layers.one(key, flag, value::node_address).unwrap_or(default);
    if !layers.problems.is_empty() {
        return Err(ConfigError(layers.problems));
    }
    // A node that listens on every address is reached on this machine's own.
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Ok(address)
}

/// Brings the layers together. Where a value is wrong its default stands in, and a problem says so.
fn resolve(flags: &Flags, environment: &Environment) -> (Loaded, Vec<ToOpen>, Vec<Problem>) {
    let mut layers = Layers::new(flags, environment);
    let data_dir = layers.data_dir(flags.data_dir.as_deref());
    let gateway_addr = layers.one("gateway_addr", flags.gateway_addr.as_deref(), value::listen_address);
    let peer_addr = layers.one("peer_addr", flags.peer_addr.as_deref(), value::listen_address);
    let admin_addr = layers.one("admin_addr", flags.admin_addr.as_deref(), value::listen_address);
    let cluster_key_file = layers.cluster_key_file(flags.cluster_key_file.as_deref());
    let default_peer_addr = if cluster_key_file.is_some() { PEER_ADDR } else { PEER_ADDR_WITHOUT_KEY };
    let config = Config {
        data_dir,
        gateway_addr: gateway_addr.unwrap_or(GATEWAY_ADDR),
        peer_addr: peer_addr.unwrap_or(default_peer_addr),
        admin_addr: admin_addr.unwrap_or(ADMIN_ADDR),
        bootstrap: layers.bootstrap(&flags.bootstrap),
        cluster_key_file,
        zone: layers.one("zone", flags.zone.as_deref(), value::zone),
        upload_rate: layers.one("upload_rate", flags.upload_rate.as_deref(), value::rate),
        download_rate: layers.one("download_rate", flags.download_rate.as_deref(), value::rate),
        upstream_rate: layers.one("upstream_rate", flags.upstream_rate.as_deref(), value::rate),
        stream: layers.one("stream", None, value::stream).unwrap_or_default(),
        tags: layers.tags(),
        access: layers.access(),
        upstreams: layers.upstreams(&flags.upstream),
        exit_with_stdin: flags.exit_with_stdin,
    };
    layers.distinct(&config);
    (Loaded { config, origins: layers.origins }, layers.open, layers.problems)
}

/// The layers of one reading, the strongest first, and what was found.
struct Layers<'a> {
    environment: &'a Environment,
    file: File,
    origins: BTreeMap<&'static str, Source>,
    open: Vec<ToOpen>,
    problems: Vec<Problem>,
}

impl<'a> Layers<'a> {
    fn without_file(environment: &'a Environment) -> Self {
        Self {
            environment,
            file: File::default(),
            origins: BTreeMap::new(),
            open: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn new(flags: &Flags, environment: &'a Environment) -> Self {
        let mut layers = Self::without_file(environment);
        if let Some(named) = layers.given("config", flags.config.as_deref()) {
            layers.file = file::read(Path::new(&named.text), &named, &mut layers.problems);
        }
        layers
    }

    /// What was said of a key, by whoever comes first.
    fn given(&mut self, key: &'static str, flag: Option<&str>) -> Option<Given> {
        let given = self
            .flag_or_variable(key, flag)
            .or_else(|| self.file.texts.iter().find(|given| given.key == key).cloned());
        let origin = given.as_ref().map_or(Source::Default, |given| given.source.clone());
        self.origins.insert(key, origin);
        given
    }

    fn flag_or_variable(&mut self, key: &str, flag: Option<&str>) -> Option<Given> {
        if let Some(text) = flag {
            let source = Source::Flag(format!("--{}", key.replace('_', "-")));
            return Some(Given { key: key.to_owned(), text: text.to_owned(), source });
        }
        self.variable(key)
    }

    /// The environment's twin of a key: `SHOAL_` and the key in capitals.
    fn variable(&mut self, key: &str) -> Option<Given> {
        let name = format!("SHOAL_{}", key.to_ascii_uppercase());
        let value = self.environment.get(&name)?;
        let given = Given {
            key: key.to_owned(),
            text: value.to_string_lossy().into_owned(),
            source: Source::Environment(name),
        };
        if value.to_str().is_none() {
            self.problems.push(given.problem(Wrong::new("is not UTF-8", "allowed: UTF-8 text")));
            return None;
        }
        Some(given)
    }

    fn one<T>(&mut self, key: &'static str, flag: Option<&str>, parse: Parse<T>) -> Option<T> {
        let given = self.given(key, flag)?;
        self.read(&given, parse)
    }

    fn data_dir(&mut self, flag: Option<&str>) -> PathBuf {
        let said = self.one("data_dir", flag, value::path);
        let nobody_said = self.origins.get("data_dir") == Some(&Source::Default);
        said.or_else(|| self.environment.default_data_dir()).unwrap_or_else(|| {
            if nobody_said {
                self.problems.push(Problem {
                    key: "data_dir".to_owned(),
                    value: None,
                    source: Source::Default,
                    wrong: "has no default here: neither XDG_DATA_HOME nor HOME is an absolute path"
                        .to_owned(),
                    allowed: "name a folder with --data-dir, SHOAL_DATA_DIR or data_dir in the file"
                        .to_owned(),
                });
            }
            PathBuf::new()
        })
    }

    fn cluster_key_file(&mut self, flag: Option<&str>) -> Option<PathBuf> {
        let given = self.given("cluster_key_file", flag)?;
        match value::cluster_key_path(&given.text) {
            Ok(path) => {
                self.open.push(ToOpen { kind: Kind::ClusterKey, given, path: path.clone() });
                Some(path)
            }
            Err(wrong) => {
                self.problems.push(given.problem_with_secret(wrong));
                // As if there were one: the defaults that depend on it are not this mistake's.
                Some(PathBuf::new())
            }
        }
    }

    /// The flags' addresses, or else the variable's, or else the file's: one list, never mixed.
    fn bootstrap(&mut self, flags: &[String]) -> Vec<String> {
        let mut list = flag_list("bootstrap", flags);
        let mut origin = Source::Flag("--bootstrap".to_owned());
        // `--bootstrap ""` says that there is none.
        if flags.is_empty() {
            list = self.variable_list("bootstrap");
            if list.is_empty() {
                list.clone_from(&self.file.bootstrap);
            }
            origin = list.first().map_or(Source::Default, |given| given.source.clone());
        }
        self.origins.insert("bootstrap", origin);
        let mut addresses = Vec::new();
        for given in list {
            match bootstrap::address(&given.text) {
                Ok(address) if addresses.contains(&address) => {}
                Ok(address) => addresses.push(address),
                Err(wrong) => self.problems.push(given.problem(wrong)),
            }
        }
        addresses
    }

    fn tags(&mut self) -> Rules {
        let usual = Rules::default();
        let mut rules = Vec::new();
        for (matching, ttl) in std::mem::take(&mut self.file.tags) {
            let (matching, ttl) = (self.read(&matching, value::tag_pattern), self.read(&ttl, value::ttl));
            rules.extend(matching.zip(ttl).map(|(matching, ttl)| Rule { matching, ttl }));
        }
        Rules {
            trust: self.one("tags", None, value::trust).unwrap_or_default(),
            ttl: self.one("tag_ttl", None, value::duration).unwrap_or(usual.ttl),
            stale: self.one("tag_stale", None, value::duration).unwrap_or(usual.stale),
            rules,
        }
    }

    fn access(&mut self) -> Times {
        let usual = Times::default();
        let (everyone, client) = (self.file.public_for.clone(), self.file.client_for.clone());
        Times {
            everyone: everyone.and_then(|given| self.read(&given, value::duration)).unwrap_or(usual.everyone),
            client: client.and_then(|given| self.read(&given, value::duration)).unwrap_or(usual.client),
        }
    }

    fn read<T>(&mut self, given: &Given, parse: Parse<T>) -> Option<T> {
        parse(&given.text).map_err(|wrong| self.problems.push(given.problem(wrong))).ok()
    }

    fn upstreams(&mut self, flags: &[String]) -> Settings {
        let variable = self.variable_list("upstream");
        let flags = flag_list("upstream", flags);
        upstream::settings(&self.file, [variable, flags], &mut self.open, &mut self.problems)
    }

    fn variable_list(&mut self, key: &str) -> Vec<Given> {
        self.variable(key).as_ref().map(split).unwrap_or_default()
    }

    /// Two listeners cannot have one port.
    fn distinct(&mut self, config: &Config) {
        let listeners = [
            ("gateway_addr", config.gateway_addr),
            ("peer_addr", config.peer_addr),
            ("admin_addr", config.admin_addr),
        ];
        for (at, (key, address)) in listeners.iter().enumerate() {
            let taken = |other: &SocketAddr| {
                // `[::]` takes IPv4 as well.
                let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
                let same_ip = other.ip() == address.ip()
                    || other.ip() == any
                    || address.ip() == any
                    || (other.is_ipv4() == address.is_ipv4()
                        && (other.ip().is_unspecified() || address.ip().is_unspecified()));
                address.port() != 0 && other.port() == address.port() && same_ip
            };
            if let Some((other, _)) = listeners[..at].iter().find(|(_, address)| taken(address)) {
                let source = self.origins.get(key).cloned().unwrap_or(Source::Default);
                let given = Given { key: (*key).to_owned(), text: address.to_string(), source };
                self.problems.push(given.problem(Wrong::new(
                    format!("is taken by {other}"),
                    "allowed: another port for each of gateway_addr, peer_addr and admin_addr",
                )));
            }
        }
    }
}

/// What a flag that may be repeated said.
fn flag_list(key: &str, flags: &[String]) -> Vec<Given> {
    let source = Source::Flag(format!("--{key}"));
    let given = |text: &String| Given { key: key.to_owned(), text: text.clone(), source: source.clone() };
    flags.iter().flat_map(|text| split(&given(text))).collect()
}

/// The parts of a text that may hold several values between spaces and commas, neither of which any of them has.
fn split(given: &Given) -> Vec<Given> {
    let between = |c: char| c == ',' || c.is_whitespace();
    let parts = given.text.split(between).filter(|part| !part.is_empty());
    parts.map(|part| Given { text: part.to_owned(), ..given.clone() }).collect()
}
