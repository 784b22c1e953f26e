//! A link that is shared: what is being sent over it at once, each flow by its weight.
//!
//! Exact for weighted processor sharing, as TCP comes near: `served` counts the bytes that a flow of weight 1 has got
//! since the link was last idle, so that a flow is over when that reaches what it had at its begin plus its own length,
//! divided by its weight.

use std::time::Duration;

/// Closer to its end than this, in bytes, a flow is over: rounding to nanoseconds costs less.
const ROUNDING: f64 = 1.0;

#[derive(Debug)]
struct Flow<T> {
    end: f64,
    weight: f64,
    what: T,
}

#[derive(Debug)]
pub(crate) struct Link<T> {
    /// In bytes a second.
    rate: f64,
    /// The most that one flow gets, in bytes a second.
    cap: f64,
    served: f64,
    at: Duration,
    flows: Vec<Flow<T>>,
    /// When it is looked after next.
    watched: Option<Duration>,
}

impl<T> Link<T> {
    pub(crate) fn new(rate: f64, cap: f64) -> Self {
        Self { rate, cap, served: 0.0, at: Duration::ZERO, flows: Vec::new(), watched: None }
    }

    /// What a flow of weight 1 gets. A flow that reaches the cap leaves the rest to nobody, where weights differ.
    fn each(&self) -> f64 {
        let (mut all, mut most) = (0.0, 1.0_f64);
        for flow in &self.flows {
            all += flow.weight;
            most = most.max(flow.weight);
        }
        (self.rate / f64::max(all, 1.0)).min(self.cap / most)
    }

    fn advance(&mut self, now: Duration) {
        if self.flows.is_empty() {
            self.served = 0.0;
        } else {
            self.served += now.saturating_sub(self.at).as_secs_f64() * self.each();
        }
        self.at = now;
    }

    /// A flow of weight 1 begins.
    pub(crate) fn begin(&mut self, bytes: f64, what: T, now: Duration) {
        self.begin_weighted(bytes, 1.0, what, now);
    }

    /// A flow begins; one of weight 2 gets twice as much as one of weight 1.
    pub(crate) fn begin_weighted(&mut self, bytes: f64, weight: f64, what: T, now: Duration) {
        self.advance(now);
        self.flows.push(Flow { end: self.served + bytes / weight, weight, what });
    }

    /// Takes a flow that is over.
    pub(crate) fn ended(&mut self, now: Duration) -> Option<T> {
        self.advance(now);
        let over = self.flows.iter().position(|flow| flow.end <= self.served + ROUNDING)?;
        Some(self.flows.remove(over).what)
    }

    /// When the next flow is over, if none begins before.
    fn next(&self) -> Option<Duration> {
        let least = self.flows.iter().map(|flow| flow.end).min_by(f64::total_cmp)?;
        let left = (least - self.served).max(0.0) / self.each();
        // Rounded up: an event that comes too early would only be repeated.
        Some(self.at + Duration::from_secs_f64(left) + Duration::from_nanos(1))
    }

    /// When an event is needed that looks after it, if none is under way that comes as soon.
    pub(crate) fn watch(&mut self) -> Option<Duration> {
        let next = self.next()?;
        if self.watched.is_some_and(|watched| watched <= next) {
            return None;
        }
        self.watched = Some(next);
        Some(next)
    }

    /// That event has come.
    pub(crate) fn looked(&mut self, now: Duration) {
        self.watched.take_if(|watched| *watched <= now);
    }

    /// Breaks flows off; says how many bytes each still lacked.
    pub(crate) fn stop(&mut self, now: Duration, which: impl Fn(&T) -> bool) -> Vec<(f64, T)> {
        self.advance(now);
        let served = self.served;
        self.flows
            .extract_if(.., |flow| which(&flow.what))
            .map(|flow| (((flow.end - served) * flow.weight).max(0.0), flow.what))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_share_and_the_last_one_is_alone() {
        let mut link = Link::new(100.0, 80.0);
        let at = Duration::from_secs_f64;
        link.begin(100.0, 'a', at(0.0));
        link.begin(200.0, 'b', at(0.0));
        let end = link.next().unwrap();
        assert!((end.as_secs_f64() - 2.0).abs() < 1e-6, "{end:?}");
        assert_eq!(link.ended(end), Some('a'));
        // Alone, it gets no more than a flow may.
        let end = link.next().unwrap();
        assert!((end.as_secs_f64() - 3.25).abs() < 1e-6, "{end:?}");
        let stopped = link.stop(at(2.5), |_| true);
        assert!((stopped[0].0 - 60.0).abs() < 0.1, "{stopped:?}");
        assert_eq!(link.next(), None);
    }
}
