//! Plots as SVG, readable on a light and on a dark page.

use std::fmt::Write as _;

use crate::report::{Quantity, figure};

const COLOURS: [&str; 9] =
    ["#1c7ed6", "#2f9e44", "#9c36b5", "#e8a90c", "#4263eb", "#66a80f", "#ae3ec9", "#868e96", "#495057"];
/// Whom the plots are about.
const MINI: &str = "#d9480f";
const HEAD: &str =
    "<svg xmlns=\"http://www.w3.org/2000/svg\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#777\"";

/// One bar per peer: the median, and a line over the middle half of its values.
pub fn bars(quantity: &Quantity, peers: &[String]) -> String {
    let rows: Vec<(usize, &String, f64)> =
        peers.iter().enumerate().filter_map(|(n, peer)| Some((n, peer, quantity.series.median(peer)?))).collect();
    let most = rows.iter().map(|row| row.2).fold(f64::MIN_POSITIVE, f64::max) * 1.15;
    let x = |value: f64| 150.0 + 400.0 * (value / most).min(1.0);
    let height = 40 + 26 * rows.len();
    let mut text = format!("{HEAD} width=\"620\" height=\"{height}\">\n");
    let _ok = writeln!(text, "<text x=\"8\" y=\"20\">{}: {}, {}</text>", quantity.case, quantity.name, quantity.unit);
    for (row, (colour, peer, median)) in rows.iter().enumerate() {
        let y = 34 + 26 * row;
        let (low, high) = quartiles(quantity.series.of(peer));
        let _ok = writeln!(
            text,
            "<text x=\"142\" y=\"{}\" text-anchor=\"end\">{peer}</text>\
             <rect x=\"150\" y=\"{y}\" width=\"{:.1}\" height=\"18\" fill=\"{}\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{}\" y2=\"{}\" stroke=\"#777\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            y + 14,
            x(*median) - 150.0,
            crate::plot::colour(*colour, peer),
            x(low),
            x(high),
            y + 9,
            y + 9,
            x(high.max(*median)) + 6.0,
            y + 14,
            figure(*median),
        );
    }
    text + "</svg>\n"
}

/// One line per peer over the same points.
pub fn lines(title: &str, points: &[usize], rows: &[(usize, String, Vec<f64>)]) -> String {
    let most = rows.iter().flat_map(|row| row.2.iter().copied()).fold(f64::MIN_POSITIVE, f64::max) * 1.1;
    let x = |n: usize| 60.0 + 420.0 * n as f64 / (points.len().max(2) - 1) as f64;
    let y = |value: f64| 250.0 - 210.0 * value / most;
    let mut text = format!("{HEAD} width=\"620\" height=\"290\">\n<text x=\"8\" y=\"20\">{title}</text>\n");
    for (n, point) in points.iter().enumerate() {
        let _ok = writeln!(text, "<text x=\"{:.1}\" y=\"270\" text-anchor=\"middle\">{point}</text>", x(n));
    }
    let ends: Vec<f64> = rows.iter().map(|row| row.2.last().map_or(0.0, |last| y(*last))).collect();
    for ((n, peer, values), at) in rows.iter().zip(apart(&ends)) {
        let colour = colour(*n, peer);
        let path: Vec<String> = values.iter().enumerate().map(|(n, v)| format!("{:.1},{:.1}", x(n), y(*v))).collect();
        let last = values.last().copied().unwrap_or_default();
        let _ok = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{peer} {}</text>",
            path.join(" "),
            x(points.len() - 1) + 8.0,
            at + 4.0,
            figure(last),
        );
    }
    text + "</svg>\n"
}

fn colour(n: usize, peer: &str) -> &'static str {
    if peer == "mini" { MINI } else { COLOURS[n % COLOURS.len()] }
}

/// Heights of labels that stay near their lines and a line of text apart.
fn apart(heights: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..heights.len()).collect();
    order.sort_by(|a, b| heights[*b].total_cmp(&heights[*a]));
    let mut placed = heights.to_vec();
    let mut above = f64::MAX;
    for n in order {
        placed[n] = heights[n].min(above - 15.0);
        above = placed[n];
    }
    placed
}

fn quartiles(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted.get((share * (sorted.len().max(1) - 1) as f64).round() as usize).copied();
    (at(0.25).unwrap_or_default(), at(0.75).unwrap_or_default())
}
