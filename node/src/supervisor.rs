//! What systemd is told, where it started the node (`Type=notify`): so that what waits for the service waits until it
//! serves, and no longer.
//!
//! There is no heartbeat for it: `watchdog.rs` ends a process that stands still, and systemd sees that end.

use sd_notify::NotifyState;

/// The node serves.
pub fn serves() {
    tell(NotifyState::Ready);
}

/// The node was told to stop, or cannot go on, and finishes what it is at.
pub fn stops() {
    tell(NotifyState::Stopping);
}

/// Nothing where nobody asked to be told. Who asked and cannot be reached ends the service by himself.
fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd could not be told of the node's state");
    }
}
