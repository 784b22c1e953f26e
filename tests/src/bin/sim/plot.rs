//! The completion curve: how many nodes have the image, over time, beside the bound.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const MARGIN: f64 = 50.0;

/// An SVG of it. `ends` are the times at which nodes ended, in order.
pub(crate) fn svg(title: &str, ends: &[f64], bound: f64) -> String {
    let last = ends.last().copied().unwrap_or(0.0).max(bound) * 1.05;
    #[expect(clippy::cast_precision_loss, reason = "a picture")]
    let all = ends.len().max(1) as f64;
    let x = |time: f64| MARGIN + time / last * (WIDTH - 2.0 * MARGIN);
    let y = |count: f64| HEIGHT - MARGIN - count / all * (HEIGHT - 2.0 * MARGIN);
    let mut path = format!("M{:.1} {:.1}", x(0.0), y(0.0));
    // More points than pixels say nothing more.
    let step = ends.len().div_ceil(1000).max(1);
    for (count, end) in (1_u32..).zip(ends).filter(|(count, _)| (*count as usize).is_multiple_of(step)) {
        // Infallible: it is written to a string.
        write!(path, "H{:.1}V{:.1}", x(*end), y(f64::from(count))).unwrap_or_default();
    }
    write!(path, "H{:.1}V{:.1}", x(ends.last().copied().unwrap_or(0.0)), y(all)).unwrap_or_default();
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    let (left, right, top, bottom) = (MARGIN, WIDTH - MARGIN, MARGIN, HEIGHT - MARGIN);
    let (at, end) = (x(bound), ends.last().copied().unwrap_or(0.0));
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>
<text x="{left}" y="24" font-size="14">{title}</text>
<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#888"/>
<path d="M{at:.1} {top}V{bottom}" stroke="#c33" stroke-dasharray="4 3"/>
<text x="{at:.1}" y="{top}" fill="#c33" text-anchor="end" dx="-4" dy="-4">bound {bound:.2} s</text>
<path d="{path}" fill="none" stroke="#226" stroke-width="2"/>
<text x="{right}" y="{bottom}" text-anchor="end" dy="18">last node at {end:.2} s</text>
<text x="{left}" y="{top}" text-anchor="end" dx="-6" dy="4">{all}</text>
<text x="{left}" y="{bottom}" text-anchor="end" dx="-6" dy="18">0</text>
</svg>
"##
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_ends_at_the_top() {
        let svg = svg("a < b", &[1.0, 2.0], 1.5);
        assert!(svg.contains("a &lt; b") && svg.contains("last node at 2.00 s"), "{svg}");
        assert!(svg.contains("V50.0\" fill=\"none\" stroke=\"#226\""), "{svg}");
    }
}
