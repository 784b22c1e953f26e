//! Finds the programs that the tests drive, or says how to get them.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Where `tests/run` puts what it builds from source. `SHOAL_TESTS_BIN` names another place.
const BUILT: &str = "/opt/shoal-tests/bin";

/// A program that some test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// The name of its file.
    pub name: &'static str,
    /// What installs it on Debian 12.
    install: &'static str,
    /// Whether it is taken from where `tests/run` builds, and never from the system, which may have an older one.
    built: bool,
}

const fn debian(name: &'static str, install: &'static str) -> Tool {
    Tool { name, install, built: false }
}

const fn built(name: &'static str) -> Tool {
    Tool { name, install: "tests/run --install-only", built: true }
}

/// Debian's registry, version 2.8.
pub const DOCKER_REGISTRY: Tool = debian("docker-registry", "apt-get install docker-registry");
/// The registry of the distribution project, version 3.1.
pub const DISTRIBUTION: Tool = built("registry");
/// containerd 2.4's daemon.
pub const CONTAINERD: Tool = built("containerd");
/// containerd 2.4's own client.
pub const CTR: Tool = built("ctr");
/// What containerd 2.4 starts containers through.
pub const CONTAINERD_SHIM: Tool = built("containerd-shim-runc-v2");
/// Debian's containerd, version 1.6.
pub const DEBIAN_CONTAINERD: Tool = debian("containerd", "apt-get install containerd");
/// Its own client.
pub const DEBIAN_CTR: Tool = debian("ctr", "apt-get install containerd");
/// Compose, version 2.
pub const COMPOSE_V2: Tool = built("docker-compose-v2");
/// Compose, version 1.29.
pub const COMPOSE_V1: Tool = debian("docker-compose", "apt-get install docker-compose");
/// Docker Engine's daemon.
pub const DOCKERD: Tool = debian("dockerd", "apt-get install docker.io");
/// Docker's client.
pub const DOCKER: Tool = debian("docker", "apt-get install docker.io");
/// Runs containers for both engines.
pub const RUNC: Tool = debian("runc", "apt-get install runc");
/// A reverse proxy.
pub const NGINX: Tool = debian("nginx", "apt-get install nginx");
/// The client of podman's and CRI-O's library.
pub const SKOPEO: Tool = debian("skopeo", "apt-get install skopeo");
/// podman, version 4.3.
pub const PODMAN: Tool = debian("podman", "apt-get install podman");
/// buildah, version 1.28.
pub const BUILDAH: Tool = debian("buildah", "apt-get install buildah");
/// Docker Engine's daemon of version 29, which keeps images in containerd's store.
pub const MOBY_DOCKERD: Tool = built("dockerd");
/// `BuildKit`'s daemon.
pub const BUILDKITD: Tool = built("buildkitd");
/// Its client.
pub const BUILDCTL: Tool = built("buildctl");
/// The client of go-containerregistry.
pub const CRANE: Tool = built("crane");
/// The client of the ORAS project.
pub const ORAS: Tool = built("oras");
/// The client of regclient.
pub const REGCTL: Tool = built("regctl");
/// Makes a Debian root filesystem.
pub const DEBOOTSTRAP: Tool = debian("debootstrap", "apt-get install debootstrap");
/// Runs a program below another root.
pub const CHROOT: Tool = debian("chroot", "apt-get install coreutils");
/// Checks systemd's units, with no systemd running.
pub const SYSTEMD_ANALYZE: Tool = debian("systemd-analyze", "apt-get install systemd");
/// Packs layers.
pub const TAR: Tool = debian("tar", "apt-get install tar");
/// The shell that can open TCP connections by itself.
pub const BASH: Tool = debian("bash", "apt-get install bash");
/// Enters a network namespace.
pub const NSENTER: Tool = debian("nsenter", "apt-get install util-linux");
/// Makes a network namespace.
pub const UNSHARE: Tool = debian("unshare", "apt-get install util-linux");
/// Ends a command that takes too long.
pub const TIMEOUT: Tool = debian("timeout", "apt-get install coreutils");
/// Changes the environment of a command.
pub const ENV: Tool = debian("env", "apt-get install coreutils");
/// Makes network links.
pub const IP: Tool = debian("ip", "apt-get install iproute2");
/// Shapes network links.
pub const TC: Tool = debian("tc", "apt-get install iproute2");
/// Compresses layers.
pub const GZIP: Tool = debian("gzip", "apt-get install gzip");

impl Tool {
    /// The program's path.
    ///
    /// # Errors
    /// If it is not installed. The text says what installs it.
    pub fn path(self) -> Result<PathBuf> {
        for directory in self.directories() {
            let path = directory.join(self.name);
            if path.is_file() {
                return Ok(path);
            }
        }
        bail!("{} is not installed: `{}` (as root, on Debian 12) installs it", self.name, self.install)
    }

    fn directories(self) -> Vec<PathBuf> {
        if self.built {
            return vec![built_directory()];
        }
        let path = env::var_os("PATH").unwrap_or_default();
        // `sbin` is not in everyone's path.
        let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
        env::split_paths(&path).chain(system).collect()
    }
}

/// The search path with what `tests/run` builds in front.
///
/// # Errors
/// If a directory in it has a colon in its name.
pub fn search_path() -> Result<OsString> {
    let rest = env::var_os("PATH").unwrap_or_default();
    let directories = [built_directory()].into_iter().chain(env::split_paths(&rest));
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    Ok(env::join_paths(directories.chain(sbin))?)
}

/// The directory of what `tests/run` builds.
pub fn built_directory() -> PathBuf {
    env::var_os("SHOAL_TESTS_BIN").map_or_else(|| Path::new(BUILT).to_owned(), PathBuf::from)
}

/// The daemon under test.
///
/// `SHOAL_BIN` names it; otherwise it is looked for where Cargo puts it: beside or above the running test.
///
/// # Errors
/// If it was not built. The text says the command.
pub fn shoal() -> Result<PathBuf> {
    if let Some(path) = env::var_os("SHOAL_BIN") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("SHOAL_BIN is {}, which is no file", path.display());
        }
        return Ok(path);
    }
    let test = env::current_exe()?;
    // Cargo runs tests from target/<profile>/deps, and binaries from target/<profile>.
    for directory in test.ancestors().skip(1).take(2) {
        let path = directory.join("shoal");
        if path.is_file() {
            return Ok(path);
        }
    }
    let release = if test.components().any(|part| part.as_os_str() == "release") { " --release" } else { "" };
    bail!(
        "the daemon is not built: `cargo build{release} -p shoal --bin shoal` builds it, and SHOAL_BIN=FILE names \
         one that lies elsewhere"
    )
}

/// `setpriv`, of Debian's essential util-linux, if this machine has it.
pub(crate) fn setpriv() -> Option<PathBuf> {
    debian("setpriv", "apt-get install util-linux").path().ok()
}

/// Fails unless this runs as root, which `what` needs.
///
/// # Errors
/// If it does not. The text says what to do.
pub fn need_root(what: &str) -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    if effective != Some("0") {
        bail!("{what} needs root: run this as root, as `tests/run` does");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_installs_it() {
        let error = debian("no-such-tool", "apt-get install no-such-package").path().unwrap_err().to_string();
        assert!(error.contains("no-such-tool"), "{error}");
        assert!(error.contains("apt-get install no-such-package"), "{error}");
    }

    #[test]
    fn what_is_installed_is_found() {
        assert!(TAR.path().unwrap().is_absolute());
    }
}
