//! How it went, as a table.

use std::fmt::Write as _;

use super::size::ByteSize;

/// One node's pull.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    /// Which node, from 1.
    pub(super) node: usize,
    /// Bytes that it fetched from the registry.
    pub(super) upstream: u64,
    /// Bytes that peers sent.
    pub(super) peers: u64,
    /// How long it took.
    pub(super) seconds: f64,
    /// Digests that the client proved.
    pub(super) digests: usize,
}

/// The table, and the fleet's upstream bytes over the image's. `sent` is what the registry itself says that it sent.
pub(super) fn render(lines: &[Line], sent: u64, image: u64) -> String {
    let mut out = String::from("node   from upstream     from peers       time   digests proven\n");
    for line in lines {
        let (upstream, peers) = (ByteSize(line.upstream).to_string(), ByteSize(line.peers).to_string());
        // Writing to a string cannot fail.
        writeln!(
            out,
            "{:>4}   {upstream:>13}   {peers:>12}   {:>6.2} s   {:>14}",
            line.node, line.seconds, line.digests
        )
        .ok();
    }
    // Hundredths, rounded up: a copy and a byte is not one copy.
    let hundredths = (u128::from(sent) * 100).div_ceil(u128::from(image.max(1)));
    writeln!(
        out,
        "\nupstream sent {} for {} × {}: {}.{:02} copies",
        ByteSize(sent),
        lines.len(),
        ByteSize(image),
        hundredths / 100,
        hundredths % 100
    )
    .ok();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let image = 256 << 20;
        let lines = [
            Line { node: 1, upstream: image, peers: 0, seconds: 1.5, digests: 6 },
            Line { node: 2, upstream: 1, peers: image, seconds: 12.25, digests: 6 },
        ];
        let expected = "\
node   from upstream     from peers       time   digests proven
   1       256.0 MiB            0 B     1.50 s                6
   2             1 B      256.0 MiB    12.25 s                6

upstream sent 256.0 MiB for 2 × 256.0 MiB: 1.01 copies
";
        assert_eq!(render(&lines, image + 1, image), expected);
    }
}
