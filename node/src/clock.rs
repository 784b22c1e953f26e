//! The wall clock, as it is written down and told to others: times since the Unix epoch.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What the clocks of two nodes may differ by, and an answer be under way.
pub const SKEW: Duration = Duration::from_secs(30);

/// Now, in milliseconds. 0 where the clock stands before 1970.
pub fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Whether this is later than now, by more than clocks may differ: by whichever of the two clocks is wrong.
pub fn is_to_come(unix_ms: u64, now: u64) -> bool {
    u128::from(unix_ms) > u128::from(now) + SKEW.as_millis()
}

/// Now, in seconds.
pub fn unix_seconds() -> u64 {
    unix_ms() / 1000
}
