//! Figures by case, and the files made of them: a table, the raw values, plots.

use std::fmt::Write as _;
use std::path::Path;

use crate::Outcome;
use crate::figures::{Ratio, Series};
use crate::life::WIDTHS;
use crate::targets::{Limit, TARGETS};

/// One quantity of a case.
pub struct Quantity {
    /// The case.
    pub case: String,
    /// What was measured.
    pub name: String,
    /// Its unit.
    pub unit: &'static str,
    /// The values.
    pub series: Series,
}

impl Quantity {
    fn more_is_better(&self) -> bool {
        self.unit.ends_with("/s") || matches!(self.unit, "lines" | "of the best narrower")
    }
}

/// Peers in the order of columns and of colours, whoever ran first.
const ORDER: [&str; 10] =
    ["go+runc", "go+crun", "go+youki", "rs+crun", "runc", "crun", "youki", "floor", "floor, mini's filter", MINI];

/// All of a run.
#[derive(Default)]
pub struct Report {
    quantities: Vec<Quantity>,
    peers: Vec<String>,
    notes: Vec<String>,
}

/// Who is measured against everyone else.
const MINI: &str = "mini";

/// What is plotted as bars.
const PLOTTED: &[(&str, &str)] = &[
    ("life", "total"),
    ("life", "CPU of the tree"),
    ("life-seccomp", "total"),
    ("life-seccomp", "CPU of the tree"),
    ("member", "total"),
    ("member", "CPU of the tree"),
    ("exec", "total"),
    ("exec", "CPU of the tree"),
    ("ctr-run", "wall"),
    ("ctr-run", "CPU"),
    ("alone", "run"),
    ("calls", "create, start, delete"),
    ("calls-v2", "create, start, delete"),
    ("idle", "private"),
    ("pods", "PSS per shim"),
    ("pods", "memory charged per pod"),
    ("stdio", "stdout, rate"),
    ("stdio", "stdout, CPU of the shim"),
    ("ask", "Stats"),
    ("probes", "CPU of a probe"),
];

impl Report {
    /// Adds a value.
    pub fn add(&mut self, case: &str, name: impl Into<String>, unit: &'static str, peer: &str, value: f64) {
        let name = name.into();
        if !self.peers.iter().any(|known| known == peer) {
            self.peers.push(peer.to_owned());
            self.peers.sort_by_key(|peer| ORDER.iter().position(|known| known == peer));
        }
        let found = self.quantities.iter().position(|q| q.case == case && q.name == name);
        let at = found.unwrap_or_else(|| {
            self.quantities.push(Quantity { case: case.to_owned(), name, unit, series: Series::default() });
            self.quantities.len() - 1
        });
        self.quantities[at].series.add(peer, value);
    }

    /// Something to be said below the table: a case that could not run, a peer that is missing.
    pub fn note(&mut self, words: String) {
        eprintln!("bench: {words}");
        self.notes.push(words);
    }

    /// Forgets the values of a case's last round, which not all peers have finished.
    pub fn level(&mut self, case: &str) {
        self.quantities.iter_mut().filter(|q| q.case == case).for_each(|q| q.series.level());
    }

    fn find(&self, case: &str, name: &str) -> Option<&Series> {
        self.quantities.iter().find(|q| q.case == case && q.name == name).map(|q| &q.series)
    }

    /// Table, raw values and plots below `dir`; the table is the answer too.
    pub fn write(&self, dir: &Path, head: &str) -> Outcome<String> {
        std::fs::create_dir_all(dir)?;
        let table = format!("{head}\n{}{}\n{}{}", self.targets(), self.worse(), self.tables(), self.said());
        std::fs::write(dir.join("table.md"), &table)?;
        std::fs::write(dir.join("raw.csv"), self.raw())?;
        for (case, quantity) in PLOTTED {
            let Some(found) = self.quantities.iter().find(|q| q.case == *case && q.name == *quantity) else { continue };
            let name = format!("{case}-{quantity}.svg").replace(", ", "-").replace(' ', "-").to_lowercase();
            std::fs::write(dir.join(name), crate::plot::bars(found, &self.peers))?;
        }
        for (case, title) in [
            ("parallel", "lives per second straight on shims, so many at a time"),
            ("ctr-parallel", "ctr run per second, so many at a time"),
        ] {
            if let Some(plot) = self.parallel(case, title) {
                std::fs::write(dir.join(format!("{case}.svg")), plot)?;
            }
        }
        Ok(table)
    }

    fn parallel(&self, case: &str, title: &str) -> Option<String> {
        let lines: Vec<(usize, String, Vec<f64>)> = self
            .peers
            .iter()
            .enumerate()
            .filter_map(|(n, peer)| {
                let at = |width: &usize| self.find(case, &format!("{width} at a time"))?.median(peer);
                Some((n, peer.clone(), WIDTHS.iter().map(at).collect::<Option<Vec<f64>>>()?))
            })
            .collect();
        (!lines.is_empty()).then(|| crate::plot::lines(title, &WIDTHS, &lines))
    }

    fn raw(&self) -> String {
        let mut text = String::from("case,quantity,unit,peer,round,value\n");
        for q in &self.quantities {
            for peer in &self.peers {
                for (round, value) in q.series.of(peer).iter().enumerate() {
                    let _ok = writeln!(text, "{},{},{},{peer},{round},{value:.4}", q.case, q.name, q.unit);
                }
            }
        }
        text
    }

    /// The targets of the cases that ran.
    fn targets(&self) -> String {
        let mut text =
            String::from("| case | quantity | target | measured [95 % interval] | |\n|---|---|---|---|---|\n");
        for target in TARGETS.iter().filter(|target| self.quantities.iter().any(|q| q.case == target.case)) {
            let found = self.quantities.iter().find(|q| q.case == target.case && q.name == target.quantity);
            let unit = found.map_or("", |q| q.unit);
            let value = |of: &str| {
                found.and_then(|q| if of == MINI { q.series.interval(MINI) } else { q.series.ratio(MINI, of) })
            };
            let (words, measured, met) = match target.limit {
                Limit::AtMost(limit) => {
                    (format!("≤ {limit} {unit}"), value(MINI), value(MINI).is_some_and(|v| v.of <= limit))
                }
                Limit::AtLeast(limit) => {
                    (format!("≥ {limit} {unit}"), value(MINI), value(MINI).is_some_and(|v| v.of >= limit))
                }
                Limit::OfPeer(peer, limit) => {
                    (format!("≤ {limit} of {peer}"), value(peer), value(peer).is_some_and(|v| v.of <= limit))
                }
                Limit::TimesPeer(peer, limit) => {
                    (format!("≥ {limit} × {peer}"), value(peer), value(peer).is_some_and(|v| v.of >= limit))
                }
            };
            let shown = measured.map_or_else(|| "not measured".to_owned(), shown);
            let verdict = match (measured.is_some(), met) {
                (false, _) => "",
                (true, true) => "met",
                (true, false) => "**missed**",
            };
            let _ok = writeln!(text, "| {} | {} | {words} | {shown} | {verdict} |", target.case, target.quantity);
        }
        text
    }

    /// Where mini is worse than a peer, and that is no accident: the whole interval says so.
    fn worse(&self) -> String {
        let mut rows = Vec::new();
        for q in &self.quantities {
            for peer in self.peers.iter().filter(|peer| *peer != MINI && !peer.starts_with("floor")) {
                let Some(ratio) = q.series.ratio(MINI, peer) else { continue };
                let worse = if q.more_is_better() { ratio.high < 1.0 } else { ratio.low > 1.0 };
                if worse && q.series.of(peer).len() > 1 {
                    rows.push(format!("{}: {}, {} of {peer}", q.case, q.name, shown(ratio)));
                }
            }
        }
        if rows.is_empty() {
            return "\nNowhere is mini worse than a peer.\n".to_owned();
        }
        format!("\nWorse than a peer:\n\n* {}\n", rows.join("\n* "))
    }

    /// Medians of all peers; in brackets mini's share of each with its 95 % interval.
    fn tables(&self) -> String {
        let mut text = String::new();
        let mut case = "";
        for q in &self.quantities {
            let peers: Vec<&String> = self.peers.iter().filter(|peer| self.has(&q.case, peer)).collect();
            if q.case != case {
                case = &q.case;
                let names: Vec<String> = peers.iter().map(|peer| format!(" {peer} |")).collect();
                let _ok = writeln!(text, "\n### {case}\n\n| |{}\n|---|{}", names.concat(), "---|".repeat(peers.len()));
            }
            let comma = if q.unit.is_empty() { "" } else { ", " };
            let _ok = write!(text, "| {}{comma}{} |", q.name, q.unit);
            for peer in peers {
                let Some(median) = q.series.median(peer) else {
                    text.push_str(" – |");
                    continue;
                };
                let ratio = q.series.ratio(MINI, peer).filter(|_| peer != MINI);
                let share = ratio.map(|ratio| format!(" ({})", shown(ratio))).unwrap_or_default();
                let _ok = write!(text, " {}{share} |", figure(median));
            }
            text.push('\n');
        }
        text
    }

    fn has(&self, case: &str, peer: &str) -> bool {
        self.quantities.iter().any(|q| q.case == case && !q.series.of(peer).is_empty())
    }

    fn said(&self) -> String {
        self.notes.iter().fold(String::from("\n"), |text, note| format!("{text}* {note}\n"))
    }
}

/// Three significant digits.
pub fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn shown(ratio: Ratio) -> String {
    format!("{} [{}–{}]", figure(ratio.of), figure(ratio.low), figure(ratio.high))
}
