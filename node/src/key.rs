//! The cluster key on the command line: `shoal key new`.

use shoal_swarm::cluster_key::ClusterKey;

/// How to keep a new key, for people.
pub const HINT: &str = "\
Keep this line secret and give it to every node of the cluster:
  file        (umask 077; shoal key new > cluster.key)
              shoal run --cluster-key-file cluster.key
  Kubernetes  shoal key new | kubectl --namespace shoal create secret generic shoal-cluster-key --from-file=cluster.key=/dev/stdin
              mounted as a file, SHOAL_CLUSTER_KEY_FILE naming its path";

/// A new key's line for standard output.
pub fn new() -> String {
    ClusterKey::generate().reveal()
}
