//! What a transfer knows of one peer: what it has, how fast it is, whether it may be asked now.

use std::time::Duration;

use super::{Availability, ChunkFailure};

/// Chunks in flight at a peer whose rate is not known yet.
const FIRST_WINDOW: u32 = 2;
/// The most chunks in flight at one peer.
const MAX_WINDOW: u32 = 32;
/// A peer has as much in flight as it brings in this time: long enough to cover round trips and its queue,
/// short enough that little is lost with it.
const WINDOW_TIME: Duration = Duration::from_millis(100);
/// The pause after a first "busy" doubles with each that follows, so often.
const DOUBLINGS: u32 = 5;
/// A chunk that a peer has just sent to others is not asked of it for so many times the pause of a busy peer: about as
/// long as those take to get it and to say so.
const SENT: u32 = 6;
/// How often a peer may stall before it is dropped.
const MAX_STALLS: u32 = 2;

#[derive(Debug)]
pub(super) struct Provider {
    availability: Availability,
    /// In bytes a second, smoothed; 0 when not measured.
    rate: f64,
    in_flight: u32,
    in_flight_bytes: u64,
    /// When its last chunk arrived: under pipelining the time between arrivals is what measures its rate.
    last_arrival: Option<Duration>,
    paused_until: Duration,
    busy_in_a_row: u32,
    stalls: u32,
    /// Chunks that it has just sent to others, and until when it is not asked for them.
    sent: Vec<(u32, Duration)>,
    /// It was asked what it has got meanwhile, and has not answered.
    pub(super) followed: bool,
}

impl Provider {
    pub(super) fn new(availability: Availability) -> Self {
        Self {
            availability,
            rate: 0.0,
            in_flight: 0,
            in_flight_bytes: 0,
            last_arrival: None,
            paused_until: Duration::ZERO,
            busy_in_a_row: 0,
            stalls: 0,
            sent: Vec::new(),
            followed: false,
        }
    }

    /// Notes what it says it has; gives back what it said before.
    pub(super) fn update(&mut self, availability: Availability) -> Availability {
        self.followed = false;
        std::mem::replace(&mut self.availability, availability)
    }

    pub(super) fn availability(&self) -> &Availability {
        &self.availability
    }

    pub(super) fn is_partial(&self) -> bool {
        matches!(self.availability, Availability::Partial(_))
    }

    /// How many chunks it is known to have; 0 for one that has all.
    pub(super) fn known(&self) -> u32 {
        match &self.availability {
            Availability::Complete => 0,
            // At most 2^18 chunks.
            Availability::Partial(chunks) => u32::try_from(chunks.count_ones(..)).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn has(&self, chunk: u32) -> bool {
        match &self.availability {
            Availability::Complete => true,
            Availability::Partial(chunks) => chunks.contains(chunk as usize),
        }
    }

    /// Whether it can be asked for this chunk now.
    pub(super) fn offers(&self, chunk: u32, now: Duration) -> bool {
        self.has(chunk) && !self.sent.iter().any(|&(sent, until)| sent == chunk && now < until)
    }

    /// Whether it is left alone for now.
    pub(super) fn is_paused(&self, now: Duration) -> bool {
        now < self.paused_until
    }

    /// How many more chunks of this size it may be asked for now.
    pub(super) fn room(&self, chunk_size: u64, now: Duration) -> u32 {
        if self.is_paused(now) {
            return 0;
        }
        let window = if self.rate > 0.0 {
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let chunks = self.rate * WINDOW_TIME.as_secs_f64() / chunk_size as f64;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped, positive")]
            let chunks = chunks.ceil().clamp(f64::from(FIRST_WINDOW), f64::from(MAX_WINDOW)) as u32;
            chunks
        } else {
            FIRST_WINDOW
        };
        window.saturating_sub(self.in_flight)
    }

    /// How long until it would have brought one more chunk of this size; a peer not measured yet goes first,
    /// so that it gets measured.
    pub(super) fn expected(&self, chunk_size: u64) -> Duration {
        if self.rate <= 0.0 {
            return Duration::from_millis(u64::from(self.in_flight));
        }
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let seconds = (self.in_flight_bytes + chunk_size) as f64 / self.rate;
        Duration::from_secs_f64(seconds.min(3600.0))
    }

    /// Notes a request, and says how long it may take before a second peer is asked.
    pub(super) fn asked(&mut self, bytes: u64, at_least: Duration) -> Duration {
        let expected = self.expected(bytes);
        self.in_flight += 1;
        self.in_flight_bytes += bytes;
        if self.rate > 0.0 { at_least.max(expected * 4) } else { at_least * 2 }
    }

    pub(super) fn arrived(&mut self, bytes: u64, took: Duration, now: Duration) {
        self.release(bytes);
        self.busy_in_a_row = 0;
        self.stalls = 0;
        let since_last = self.last_arrival.map_or(took, |last| now.saturating_sub(last));
        self.last_arrival = Some(now);
        let seconds = took.min(since_last).as_secs_f64().max(1e-5);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let rate = bytes as f64 / seconds;
        self.rate = if self.rate > 0.0 { self.rate * 0.8 + rate * 0.2 } else { rate };
    }

    /// A request to it is no longer awaited.
    pub(super) fn cancelled(&mut self) {
        let share = self.in_flight_bytes / u64::from(self.in_flight.max(1));
        self.release(share);
    }

    fn release(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.in_flight_bytes =
            if self.in_flight == 0 { 0 } else { self.in_flight_bytes.saturating_sub(bytes) };
    }

    fn pause(&mut self, pause: Duration, now: Duration) {
        self.paused_until = now + pause * 2_u32.pow(self.busy_in_a_row.min(DOUBLINGS));
        self.busy_in_a_row += 1;
    }

    /// Notes a failure, and says whether the peer is kept. After a first "busy" it is left alone for `pause`.
    pub(super) fn failed(
        &mut self,
        chunk: u32,
        failure: ChunkFailure,
        pause: Duration,
        now: Duration,
    ) -> bool {
        self.cancelled();
        match failure {
            ChunkFailure::Busy => {
                self.pause(pause, now);
                true
            }
            ChunkFailure::Sent => {
                self.sent.retain(|&(_, until)| now < until);
                // No more than are in flight in that time.
                self.sent.push((chunk, now + pause * SENT));
                self.pause(pause, now);
                true
            }
            ChunkFailure::Missing | ChunkFailure::Disbelieved => match &mut self.availability {
                // It said it had everything: nothing it says of this blob can be planned with.
                Availability::Complete => false,
                Availability::Partial(chunks) => {
                    chunks.set(chunk as usize, false);
                    true
                }
            },
            ChunkFailure::Stalled => {
                self.stalls += 1;
                self.paused_until = now + Duration::from_secs(1);
                self.stalls < MAX_STALLS
            }
            ChunkFailure::Gone | ChunkFailure::Corrupt => false,
        }
    }

    /// When it can next be asked for what it cannot be asked for now.
    pub(super) fn due(&self, now: Duration) -> Option<Duration> {
        let sent = self.sent.iter().map(|&(_, until)| until);
        sent.chain([self.paused_until]).filter(|&until| until > now).min()
    }
}
