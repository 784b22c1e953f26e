//! How a pull is watched: bars on a terminal, a line a blob elsewhere.

use std::time::Instant;

use indicatif::{BinaryBytes, MultiProgress, ProgressBar, ProgressStyle};
use shoal_proto::digest::Digest;
use shoal_proto::manifest::Descriptor;

use super::failure::PullFailure;
use crate::cli;

/// What a blob's bar looks like.
const BAR: &str =
    "{prefix} {bar:30} {binary_bytes:>11} of {binary_total_bytes:<11} {binary_bytes_per_sec} {msg}";

/// Where progress is shown.
#[derive(Debug)]
pub(super) enum Progress {
    /// A bar for each blob, on standard error.
    Bars(MultiProgress),
    /// A line for each finished blob, on standard error.
    Lines,
    /// Lines kept for a test to read.
    #[cfg(test)]
    Kept(Vec<String>),
}

/// One blob's progress.
#[derive(Debug)]
pub(super) struct Meter {
    digest: Digest,
    size: u64,
    start: Instant,
    bar: Option<ProgressBar>,
}

impl Meter {
    /// So many bytes more.
    pub(super) fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }
}

impl Progress {
    pub(super) fn bars() -> Self {
        Self::Bars(MultiProgress::new())
    }

    pub(super) fn lines() -> Self {
        Self::Lines
    }

    /// A blob starts.
    pub(super) fn start(&mut self, blob: &Descriptor) -> Meter {
        let mut meter = Meter { digest: blob.digest, size: blob.size, start: Instant::now(), bar: None };
        if let Self::Bars(bars) = self {
            let bar = bars.add(ProgressBar::new(blob.size));
            if let Ok(style) = ProgressStyle::with_template(BAR) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(short(&blob.digest));
            meter.bar = Some(bar);
        }
        meter
    }

    /// A blob is here, its digest proven.
    pub(super) fn done(&mut self, meter: Meter) {
        if let Some(bar) = meter.bar {
            bar.finish_with_message("proven");
            return;
        }
        let took = meter.start.elapsed().as_secs_f64();
        self.note(&format!("{} {} in {took:.1} s, proven", meter.digest, BinaryBytes(meter.size)));
    }

    /// A blob failed.
    pub(super) fn failed(&mut self, meter: Meter, failure: &PullFailure) {
        match meter.bar {
            // Why is said at the end, where it is not overwritten.
            Some(bar) => bar.abandon_with_message("failed"),
            None => self.note(&format!("{} failed: {failure}", meter.digest)),
        }
    }

    /// A line of its own.
    pub(super) fn note(&mut self, line: &str) {
        match self {
            Self::Bars(bars) => {
                let _ = bars.println(line);
            }
            Self::Lines => cli::explain(line),
            #[cfg(test)]
            Self::Kept(lines) => lines.push(line.to_owned()),
        }
    }
}

/// Enough of a digest to tell blobs apart.
fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}
