//! A cap on a rate, shared by all who move bytes under it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use leaky_bucket::RateLimiter;

/// How often the bucket is filled.
const REFILL: Duration = Duration::from_millis(20);

/// At most so many bytes a second, or none. Cheap to clone: all clones share the rate, in the order in which they ask.
#[derive(Clone, Default)]
pub struct RateCap(Option<Arc<RateLimiter>>);

impl RateCap {
    /// At most this many bytes a second.
    pub fn of(bytes_a_second: u64) -> Self {
        let second = usize::try_from(bytes_a_second).unwrap_or(usize::MAX).max(1);
        let limiter = RateLimiter::builder()
            // A tenth of a second may go out at once.
            .max((second / 10).max(1))
            .initial(0)
            .refill((second / 50).max(1))
            .interval(REFILL)
            .build();
        Self(Some(Arc::new(limiter)))
    }

    /// Waits until so many bytes may move.
    pub async fn pass(&self, bytes: usize) {
        if let Some(limiter) = &self.0 {
            limiter.acquire(bytes).await;
        }
    }
}

impl fmt::Debug for RateCap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RateCap").field(&self.0.as_ref().map(|limiter| limiter.refill() * 50)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_who_share_a_cap_share_its_rate() {
        let cap = RateCap::of(64 << 20);
        let began = std::time::Instant::now();
        let movers = (0..4).map(|_| {
            let cap = cap.clone();
            async move {
                for _ in 0..32 {
                    cap.pass(128 << 10).await;
                }
            }
        });
        futures::future::join_all(movers).await;
        // 16 MiB, a tenth of a second's worth of them at once.
        let first = began.elapsed();
        assert!(first > Duration::from_millis(140), "{first:?}");
        // More at once than the bucket holds.
        cap.pass(16 << 20).await;
        assert!(began.elapsed() > first + Duration::from_millis(140));
        RateCap::default().pass(usize::MAX).await;
    }
}
