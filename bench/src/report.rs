//! Figures by case, and the files made of them: a table, the raw values, plots.

use std::fmt::Write as _;
use std::path::Path;

use crate::Outcome;
use crate::figures::{Ratio, Series};
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

/// All of a run.
#[derive(Default)]
pub struct Report {
    quantities: Vec<Quantity>,
    peers: Vec<String>,
    notes: Vec<String>,
}

/// Who is measured against everyone else.
const MINI: &str = "mini";

impl Report {
    /// Adds a value.
    pub fn add(&mut self, case: &str, name: impl Into<String>, unit: &'static str, peer: &str, value: f64) {
        let name = name.into();
        if !self.peers.iter().any(|known| known == peer) {
            self.peers.push(peer.to_owned());
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

    fn find(&self, case: &str, name: &str) -> Option<&Series> {
        self.quantities.iter().find(|q| q.case == case && q.name == name).map(|q| &q.series)
    }

    /// Table, raw values and plots below `dir`; the table is the answer too.
    pub fn write(&self, dir: &Path, head: &str) -> Outcome<String> {
        std::fs::create_dir_all(dir)?;
        let table = format!("{head}\n{}\n{}{}", self.targets(), self.tables(), self.said());
        std::fs::write(dir.join("table.md"), &table)?;
        std::fs::write(dir.join("raw.csv"), self.raw())?;
        for (case, quantity) in [
            ("life", "total"),
            ("life", "CPU of the tree"),
            ("life-seccomp", "total"),
            ("member", "total"),
            ("exec", "total"),
            ("ctr-run", "wall"),
            ("alone", "run"),
            ("idle", "private"),
            ("pods", "PSS per shim"),
        ] {
            let Some(found) = self.quantities.iter().find(|q| q.case == case && q.name == quantity) else { continue };
            let name = format!("{case}-{quantity}.svg").replace(' ', "-").to_lowercase();
            std::fs::write(dir.join(name), crate::plot::bars(found, &self.peers))?;
        }
        if let Some(plot) = self.parallel() {
            std::fs::write(dir.join("parallel.svg"), plot)?;
        }
        Ok(table)
    }

    fn parallel(&self) -> Option<String> {
        let widths = [1, 4, 16, 32];
        let lines: Vec<(String, Vec<f64>)> = self
            .peers
            .iter()
            .filter_map(|peer| {
                let at = |width: &i32| self.find("parallel", &format!("{width} at a time"))?.median(peer);
                Some((peer.clone(), widths.iter().map(at).collect::<Option<Vec<f64>>>()?))
            })
            .collect();
        (!lines.is_empty()).then(|| crate::plot::lines("lives per second, so many at a time", &widths, &lines))
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

    fn targets(&self) -> String {
        let mut text = String::from("| case | quantity | target | measured | |\n|---|---|---|---|---|\n");
        for target in TARGETS {
            let Some(series) = self.find(target.case, target.quantity) else { continue };
            let (words, shown, met) = match target.limit {
                Limit::AtMost(limit) => {
                    (format!("≤ {limit}"), series.median(MINI).map(figure), series.median(MINI).map(|v| v <= limit))
                }
                Limit::OfPeer(peer, limit) => {
                    let ratio = series.ratio(MINI, peer);
                    (format!("≤ {limit} of {peer}"), ratio.map(shown), ratio.map(|r| r.of <= limit))
                }
                Limit::TimesPeer(peer, limit) => {
                    let ratio = series.ratio(MINI, peer);
                    (format!("≥ {limit} × {peer}"), ratio.map(shown), ratio.map(|r| r.of >= limit))
                }
            };
            let (Some(shown), Some(met)) = (shown, met) else { continue };
            let verdict = if met { "met" } else { "**missed**" };
            let _ok = writeln!(text, "| {} | {} | {words} | {shown} | {verdict} |", target.case, target.quantity);
        }
        text
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
            let _ok = write!(text, "| {}, {} |", q.name, q.unit);
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
