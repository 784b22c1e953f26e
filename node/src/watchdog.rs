//! Ends a process whose reactor stands still: a mirror that is frozen is worse than one that is gone, because
//! clients wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often the reactor shows that it lives, and the watchdog looks.
const BEAT: Duration = Duration::from_secs(1);
/// So many looks without a sign, and the process aborts.
const PATIENCE: u32 = 10;

/// What one look of the watchdog concludes.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Alive,
    Frozen,
}

/// Counts looks without a sign of life.
///
/// Looks are counted, not seconds: in a process that was stopped (SIGSTOP, a suspended laptop) the watchdog
/// stood still too, and must not think that the reactor did.
#[derive(Debug, Default)]
struct Watch {
    last: u64,
    missed: u32,
}

impl Watch {
    fn look(&mut self, beats: u64) -> Verdict {
        if beats != self.last {
            self.last = beats;
            self.missed = 0;
            return Verdict::Alive;
        }
        self.missed += 1;
        if self.missed >= PATIENCE { Verdict::Frozen } else { Verdict::Alive }
    }
}

/// Starts the watchdog's thread, and the task that shows it that the reactor lives.
///
/// # Errors
/// If the thread cannot be started.
pub fn start() -> std::io::Result<()> {
    let beats = Arc::new(AtomicU64::new(0));
    // The thread ends with the runtime: the task's counter is then its only other owner's and gone.
    let seen = Arc::downgrade(&beats);
    std::thread::Builder::new().name("watchdog".into()).spawn(move || {
        let mut watch = Watch::default();
        loop {
            std::thread::sleep(BEAT);
            let Some(beats) = seen.upgrade() else { return };
            if watch.look(beats.load(Ordering::Relaxed)) == Verdict::Frozen {
                tracing::error!(seconds = PATIENCE, "the reactor stands still: aborting, to be restarted");
                std::process::abort();
            }
        }
    })?;
    tokio::spawn(async move {
        loop {
            beats.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(BEAT / 2).await;
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_silence_is_frozen() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(1), Verdict::Alive);
        for _ in 1..PATIENCE {
            assert_eq!(watch.look(1), Verdict::Alive);
        }
        assert_eq!(watch.look(2), Verdict::Alive);
        for _ in 1..PATIENCE {
            assert_eq!(watch.look(2), Verdict::Alive);
        }
        assert_eq!(watch.look(2), Verdict::Frozen);
    }
}
