//! The clients that can be set up: where their files are, and what makes them read them again.

use std::path::{Path, PathBuf};

use super::change::Change;
use super::mirror::{Files, Mirror, Plan};
use super::problem::Problem;
use super::{buildkit, containerd, containers, docker, k3s};

/// A client of registries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Client {
    /// containerd, also under Kubernetes: certs.d/…/hosts.toml and config.toml.
    Containerd,
    /// Docker Engine: daemon.json. Docker Hub's images alone.
    Docker,
    /// podman, and buildah and skopeo with it: registries.conf.
    Podman,
    /// CRI-O: the same registries.conf.
    Crio,
    /// k3s: registries.yaml. RKE2 with --config-dir /etc/rancher/rke2.
    K3s,
    /// buildkitd: buildkitd.toml.
    Buildkit,
}

impl Client {
    /// Its name in a record. podman and CRI-O share a file, and so they share a record.
    pub(super) fn record(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Podman | Self::Crio => "containers",
            Self::K3s => "k3s",
            Self::Buildkit => "buildkit",
        }
    }

    /// The folder where its configuration is.
    pub(super) fn folder(self) -> PathBuf {
        PathBuf::from(match self {
            Self::Containerd => "/etc/containerd",
            Self::Docker => "/etc/docker",
            Self::Podman | Self::Crio => "/etc/containers",
            Self::K3s => "/etc/rancher/k3s",
            Self::Buildkit => "/etc/buildkit",
        })
    }

    /// What its files are to become, so that it uses the mirror.
    pub(super) fn plan(self, folder: &Path, mirror: &Mirror, files: &dyn Files) -> Result<Plan, Problem> {
        match self {
            Self::Containerd => containerd::plan(folder, mirror, files),
            Self::Docker => docker::plan(folder, mirror, files),
            Self::Podman | Self::Crio => containers::plan(folder, mirror, files),
            Self::K3s => k3s::plan(folder, mirror, files),
            Self::Buildkit => buildkit::plan(folder, mirror, files),
        }
    }

    /// What has to be done for these files to be read.
    pub(super) fn after(self, changes: &[Change]) -> &'static str {
        match self {
            Self::Containerd if changes.iter().any(|change| containerd::needs_restart(&change.path)) => {
                "restart needed: containerd reads config.toml when it starts (systemctl restart containerd; \
                 containers go on running)"
            }
            Self::Containerd => "no reload or restart needed: containerd reads hosts.toml at each pull",
            Self::Docker if changes.iter().any(docker::needs_restart) => {
                "restart needed: at a reload Docker keeps the mirrors of a registry-mirrors that is gone (systemctl \
                 restart docker; containers stop, unless live-restore is set)"
            }
            Self::Docker => {
                "reload needed: Docker reads registry-mirrors again at a reload (systemctl reload docker; containers \
                 go on running)"
            }
            Self::Podman | Self::Crio => {
                "podman, buildah and skopeo need no reload or restart: they read these files at each pull. CRI-O \
                 needs a reload (systemctl reload crio)"
            }
            Self::K3s => {
                "restart needed: k3s reads registries.yaml when it starts (systemctl restart k3s, or k3s-agent; \
                 containers go on running)"
            }
            Self::Buildkit => {
                "restart needed: buildkitd reads buildkitd.toml when it starts (systemctl restart buildkit)"
            }
        }
    }
}
