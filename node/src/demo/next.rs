//! What to try with a fleet that is left running.

use std::path::Path;

use super::fleet::Fleet;
use super::registry::Registry;
use super::{REGISTRY, REPOSITORY, TAG};

/// Commands for what people have, with this fleet's ports in them. `program` is this one, which after `cargo run` is on
/// nobody's path.
pub(super) fn steps(program: &Path, fleet: &Fleet, registry: &Registry) -> String {
    let shoal = quoted(program);
    // A fleet has at least one node.
    let Some(node) = fleet.nodes().last() else { return String::new() };
    let (gateway, admin, upstream) = (node.gateway(), node.admin(), registry.address());
    format!(
        "
The fleet runs on until Ctrl-C. The last node's gateway is {gateway}. What to try:

  look at it       {shoal} status --admin-addr {admin}
                   curl http://{admin}/metrics
  curl             curl -s 'http://{gateway}/v2/{REPOSITORY}/manifests/{TAG}?ns={REGISTRY}'
  skopeo           skopeo copy --src-tls-verify=false docker://{gateway}/{REGISTRY}/{REPOSITORY}:{TAG} dir:/tmp/app
  podman           podman pull --tls-verify=false {gateway}/{REGISTRY}/{REPOSITORY}:{TAG}
  Docker           docker pull {gateway}/{REGISTRY}/{REPOSITORY}:{TAG}
                   (registry-mirrors in daemon.json is for Docker Hub's images only)
  containerd       mkdir -p /tmp/hosts/{REGISTRY}
                   printf 'server = \"http://{upstream}\"\\n[host.\"http://{gateway}\"]\\n  capabilities = [\"pull\", \"resolve\"]\\n' \\
                     > /tmp/hosts/{REGISTRY}/hosts.toml
                   ctr images pull --hosts-dir /tmp/hosts {REGISTRY}/{REPOSITORY}:{TAG}
"
    )
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_where_a_shell_needs_it() {
        assert_eq!(quoted(Path::new("/a/target/debug/shoal")), "/a/target/debug/shoal");
        assert_eq!(quoted(Path::new("/my dir/it's")), "'/my dir/it'\\''s'");
    }
}
