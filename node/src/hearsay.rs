//! What upstream said to another node of the fleet, told to this node's clients as if it had said it here.

use shoal_gateway::error::PullError;
use shoal_proto::swarm::lease::LeaseEnd;

/// What others are told of a failure: whether any node would have met with it, or only this one.
pub fn end_of(error: &PullError) -> LeaseEnd {
    let status = error.status();
    match error {
        PullError::Throttled { retry_after, .. } => LeaseEnd::Trouble { status, retry_after: *retry_after },
        PullError::Upstream { .. } | PullError::Content(_) | PullError::Unavailable(_) => {
            LeaseEnd::Trouble { status, retry_after: None }
        }
        _ => LeaseEnd::Refused { status },
    }
}

/// The failure that the client of the node that asked upstream was told of, as far as that node says.
pub fn told(registry: String, how: LeaseEnd) -> PullError {
    let reason = || "other nodes asked it and it failed".to_owned();
    match how {
        LeaseEnd::Refused { status: Some(404) } => PullError::NotFound { registry },
        LeaseEnd::Refused { status: Some(status @ (401 | 403)) } => PullError::Denied { registry, status },
        LeaseEnd::Refused { status: None } => {
            PullError::Refused(format!("no node that could be sent to {registry} for it was able to ask"))
        }
        LeaseEnd::Trouble { status: Some(429), retry_after } => {
            PullError::Throttled { registry, status: 429, retry_after }
        }
        LeaseEnd::Trouble { status: Some(503), retry_after: Some(after) } => {
            PullError::Throttled { registry, status: 503, retry_after: Some(after) }
        }
        LeaseEnd::Refused { status: Some(status) } => {
            PullError::Rejected { registry, status, reason: format!("it answered {status} to another node") }
        }
        LeaseEnd::Trouble { status, .. } => PullError::Upstream { registry, status, reason: reason() },
        LeaseEnd::Done => PullError::Upstream { registry, status: None, reason: reason() },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_failure_told_by_another_node_is_the_same_failure() {
        let registry = || "registry.test".to_owned();
        let after = Some(Duration::from_secs(9));
        for error in [
            PullError::NotFound { registry: registry() },
            PullError::Denied { registry: registry(), status: 401 },
            PullError::Denied { registry: registry(), status: 403 },
            PullError::Throttled { registry: registry(), status: 429, retry_after: None },
            PullError::Throttled { registry: registry(), status: 503, retry_after: after },
        ] {
            assert_eq!(told(registry(), end_of(&error)).to_string(), error.to_string());
        }
        let reason = "it answered 451".to_owned();
        let rejected = PullError::Rejected { registry: registry(), status: 451, reason };
        let told_of = told(registry(), end_of(&rejected));
        assert!(matches!(told_of, PullError::Rejected { status: 451, .. }), "{told_of:?}");
        let reason = "it broke".to_owned();
        let broken = PullError::Upstream { registry: registry(), status: Some(500), reason };
        let told_of = told(registry(), end_of(&broken));
        assert!(matches!(told_of, PullError::Upstream { status: Some(500), .. }), "{told_of:?}");
    }
}
