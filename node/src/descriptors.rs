//! How many files and connections the process may have open, and how many of them clients may take.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shoal_gateway::server::Limits;

/// Raises the limit as far as the system lets the process: the usual one of 1,024 is meant for programs that wait for
/// files with `select`, which this one does not.
pub fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// How many clients may be connected to the gateway.
pub fn connections() -> usize {
    let connections = within(getrlimit(Resource::Nofile).current);
    if connections < Limits::default().connections {
        tracing::warn!(
            connections,
            "the limit of open files is low: so many clients may be connected at a time"
        );
    }
    connections
}

/// Half of what may be open is for files, peers, upstream and the admin port: without those no client is served.
fn within(limit: Option<u64>) -> usize {
    let most = Limits::default().connections;
    limit.map_or(most, |limit| usize::try_from(limit / 2).unwrap_or(most).min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_never_take_all_that_may_be_open() {
        assert_eq!(within(Some(1024)), 512);
        assert_eq!(within(Some(1 << 20)), Limits::default().connections);
        assert_eq!(within(None), Limits::default().connections);
    }
}
