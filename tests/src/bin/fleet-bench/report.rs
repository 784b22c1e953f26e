//! The table.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

use crate::Bench;
use crate::bound::Fluid;
use crate::options::Way;
use crate::round::{Round, Used};

/// The value below which this part of the others lie (nearest rank).
fn percentile(values: impl IntoIterator<Item = f64>, part: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "few values")]
    let rank = (values.len() as f64 * part).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number above 0")]
    let rank = rank.max(1.0) as usize;
    values.get(rank - 1).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

pub(crate) fn print(bench: &Bench<'_>, rounds: &[(Way, Round)]) {
    let options = bench.options;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let range = if options.range { "" } else { ", upstream without Range" };
    println!(
        "{} nodes with {} Mbit/s each way, upstream with {} Mbit/s, {} MiB in {} layers, {}{range}; {cores} cores",
        options.nodes,
        options.rate,
        options.upstream_rate,
        options.mib,
        options.layers,
        options.arrival.name(),
    );
    println!();
    let cells = |what: &str, cell: &dyn Fn(Way, &Round) -> String| {
        let cells: Vec<String> = rounds.iter().map(|(way, round)| cell(*way, round)).collect();
        println!("| {what} | {} |", cells.join(" | "));
    };
    cells("", &|way, _| way.title().to_owned());
    cells("---", &|_, _| "---:".to_owned());
    outcome(bench, &cells);
    times(bench, &cells);
    usage(&cells);
    println!();
    println!("Bounds count each link's whole rate, of which headers of TCP, IP and Ethernet take 5 %.");
    println!(
        "If the whole machine was busy nearly all the time, with this or with other programs, its CPU may have"
    );
    println!("been the bound, and not the links. Times are of the pulls that did not fail.");
    for (way, round) in rounds {
        for failure in &round.failures {
            println!("\nFailed {}: {failure}", way.title());
        }
    }
}

type Cells<'a> = dyn Fn(&str, &dyn Fn(Way, &Round) -> String) + 'a;

fn outcome(bench: &Bench<'_>, cells: &Cells<'_>) {
    let image = bench.upstream.image.bytes;
    cells("pulls, failed of all", &|_, round| {
        format!("{} of {}", round.failures.len(), bench.options.pullers().len())
    });
    cells("upstream bytes ÷ image bytes", &|_, round| format!("{:.3}", ratio(round.upstream_bytes, image)));
    cells("upstream requests", &|_, round| round.upstream_requests.to_string());
    let pulled = image * bench.options.pullers().len() as u64;
    cells("bytes from peers ÷ bytes pulled", &|_, round| {
        round.peer_bytes.map_or_else(none, |bytes| format!("{:.3}", ratio(bytes, pulled)))
    });
}

fn times(bench: &Bench<'_>, cells: &Cells<'_>) {
    let fluid = Fluid::of(bench.options, bench.upstream.image.bytes);
    if bench.options.arrival.starts_nodes() {
        cells("first request p50 / max, s (a node starts first)", &|_, round| {
            let sent = || round.pulled.iter().map(|pulled| pulled.sent);
            format!("{:.2} / {:.2}", percentile(sent(), 0.5), percentile(sent(), 1.0))
        });
    }
    cells("first byte of a layer p50 / max, s", &|_, round| {
        let first = || round.pulled.iter().map(|pulled| pulled.first_byte);
        format!("{:.2} / {:.2}", percentile(first(), 0.5), percentile(first(), 1.0))
    });
    cells("completion p50 / p99 / max, s", &|_, round| {
        let done = |part| percentile(round.pulled.iter().map(|pulled| pulled.done), part);
        format!("{:.2} / {:.2} / {:.2}", done(0.5), done(0.99), done(1.0))
    });
    cells("the last node, from the first one's start, s", &|_, round| format!("{:.2}", round.last));
    cells("fluid bound of a fleet, s", &|_, _| format!("{:.2}", fluid.fleet()));
    cells("**the last node ÷ bound of a fleet**", &|_, round| {
        format!("**{:.2}**", round.last / fluid.fleet())
    });
    cells("fluid bound of this way, s", &|way, _| format!("{:.2}", fluid.of_way(way)));
    cells("the last node ÷ bound of this way", &|way, round| {
        format!("{:.2}", round.last / fluid.of_way(way))
    });
}

fn usage(cells: &Cells<'_>) {
    let used = |round: &Round, decimals, of: fn(&Used) -> f64| {
        mean_and_max(&round.used.iter().map(of).collect::<Vec<_>>(), decimals)
    };
    cells("CPU s of a node (or the cache) mean / max", &|_, round| used(round, 2, |used| used.cpu));
    cells("peak resident MiB of it mean / max", &|_, round| used(round, 0, |used| used.peak_mib));
    cells("control messages of a node", &|_, round| {
        let nodes = round.used.len().max(1) as u64;
        round.control_messages.map_or_else(none, |messages| (messages / nodes).to_string())
    });
    cells("CPU s of a client mean / max", &|_, round| {
        mean_and_max(&round.pulled.iter().map(|pulled| pulled.cpu).collect::<Vec<_>>(), 2)
    });
    cells("CPU s of nodes or cache, clients and registry together", &|_, round| {
        let used: f64 = round.used.iter().map(|used| used.cpu).sum();
        let clients: f64 = round.pulled.iter().map(|pulled| pulled.cpu).sum();
        format!("{:.1}", used + clients + round.registry_cpu)
    });
    cells("CPU s of the whole machine, and how much of what it had", &|_, round| {
        format!("{:.0}, {:.0} %", round.machine.seconds, round.machine.part * 100.0)
    });
}

fn mean_and_max(values: &[f64], decimals: usize) -> String {
    if values.is_empty() {
        return none();
    }
    #[expect(clippy::cast_precision_loss, reason = "few values")]
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    format!("{mean:.decimals$} / {:.decimals$}", percentile(values.iter().copied(), 1.0))
}

fn none() -> String {
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values = || (1..=8).map(f64::from);
        assert!((percentile(values(), 0.5) - 4.0).abs() < 1e-9);
        assert!((percentile(values(), 0.99) - 8.0).abs() < 1e-9);
        assert!((percentile(values(), 0.0) - 1.0).abs() < 1e-9);
        assert!(percentile(std::iter::empty(), 0.5).is_nan());
    }
}
