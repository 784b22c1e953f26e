//! Network namespaces: a network of its own for a process, that nothing on the host's network can reach.
//!
//! A namespace here has no name. It is the one of a process that does nothing else ([`Process`]), and others enter it
//! through `/proc/<id>/ns/net`. So the kernel itself removes it, and every link in it, once the last process in it is
//! gone: also when this process is killed, and a run can leave nothing behind that the next has to find.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::process::{Process, Spec, output};
use crate::tool::{self, Tool};

/// How long a namespace may take to come into being.
const START: Duration = Duration::from_secs(10);

/// A network namespace. It is gone when this is dropped and every process in it has ended.
#[derive(Debug)]
pub struct Namespace {
    holder: Process,
    nsenter: PathBuf,
}

impl Namespace {
    /// Makes a namespace with nothing in it but its own loopback. `name` is for messages and for its holder's log
    /// in `directory`.
    ///
    /// # Errors
    /// If this is not root, or a tool is missing.
    pub fn new(name: &str, directory: &Path) -> Result<Self> {
        tool::need_root("a network namespace")?;
        let nsenter = tool::NSENTER.path()?;
        let mut spec = Spec::new(&tool::UNSHARE.path()?, name, directory);
        spec.command().args(["--net", "--", "sleep", "infinity"]);
        let mut namespace = Self { holder: spec.start()?, nsenter };
        namespace.wait(name)?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Until the holder has left our own namespace, entering its would be entering ours.
    fn wait(&mut self, name: &str) -> Result<()> {
        let ours = fs::read_link("/proc/self/ns/net")?;
        let until = Instant::now() + START;
        while fs::read_link(self.path()).is_ok_and(|its| its == ours) {
            if Instant::now() > until || !self.holder.is_running() {
                bail!("there is no network namespace for {name}\n{}", self.holder.tail());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn path(&self) -> PathBuf {
        Path::new("/proc").join(self.holder.id().to_string()).join("ns/net")
    }

    /// The process whose namespace it is: `ip link ... netns ID` takes it.
    pub fn id(&self) -> u32 {
        self.holder.id()
    }

    /// The words to put before a command line to run it in here, by exec.
    pub(crate) fn entrance(&self) -> [OsString; 3] {
        let mut net = OsString::from("--net=");
        net.push(self.path());
        [self.nsenter.clone().into(), net, "--".into()]
    }

    /// Runs a tool in here to its end and gives its standard output.
    ///
    /// # Errors
    /// If it is missing or fails.
    pub fn run(&self, tool: Tool, arguments: &[&str]) -> Result<Vec<u8>> {
        let [nsenter, rest @ ..] = self.entrance();
        let mut command = Command::new(nsenter);
        command.args(rest).arg(tool.path()?).args(arguments);
        output(&mut command).context("in a network namespace")
    }

    /// Runs `ip` in here.
    ///
    /// # Errors
    /// If it fails.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        self.run(tool::IP, arguments).map(drop)
    }
}
