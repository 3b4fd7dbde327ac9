//! What was measured, and how sure one can be of it.

use std::collections::BTreeMap;

/// The values of one quantity, one per round, for each peer. Round `n` of one peer ran beside round `n` of the others.
#[derive(Default)]
pub struct Series(BTreeMap<String, Vec<f64>>);

/// A ratio of medians, or a median, and its 95 % interval.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// The value.
    pub of: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Series {
    /// Adds a round's value.
    pub fn add(&mut self, peer: &str, value: f64) {
        self.0.entry(peer.to_owned()).or_default().push(value);
    }

    /// As many values of every peer as that has which has fewest.
    pub fn level(&mut self) {
        let least = self.0.values().map(Vec::len).min().unwrap_or(0);
        self.0.values_mut().for_each(|values| values.truncate(least));
    }

    /// The values of a peer, in the order of rounds.
    pub fn of(&self, peer: &str) -> &[f64] {
        self.0.get(peer).map_or(&[], Vec::as_slice)
    }

    /// The median of a peer, if it ran.
    pub fn median(&self, peer: &str) -> Option<f64> {
        median(self.of(peer))
    }

    /// `one` in proportion to `other`: rounds are drawn again a thousand times, both peers' values of a round together,
    /// because what disturbs one disturbs the other.
    pub fn ratio(&self, one: &str, other: &str) -> Option<Ratio> {
        let (a, b) = (self.of(one), self.of(other));
        let rounds = a.len().min(b.len());
        let of = median(a)? / median(b)?;
        // A share of nothing, or of a difference that came out below nothing, says nothing.
        if !of.is_finite() || of < 0.0 {
            return None;
        }
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut drawn: Vec<f64> = (0..1000)
            .filter_map(|_| {
                let rounds: Vec<usize> = (0..rounds).map(|_| draw(&mut seed, rounds)).collect();
                let of = |values: &[f64]| median(&rounds.iter().map(|&n| values[n]).collect::<Vec<_>>());
                Some(of(a)? / of(b)?)
            })
            .collect();
        let (low, high) = ends(&mut drawn, of);
        Some(Ratio { of, low, high })
    }

    /// The median of a peer with its 95 % interval, by drawing its values again.
    pub fn interval(&self, peer: &str) -> Option<Ratio> {
        let values = self.of(peer);
        let of = median(values)?;
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let again = |_| median(&values.iter().map(|_| values[draw(&mut seed, values.len())]).collect::<Vec<_>>());
        let mut drawn: Vec<f64> = (0..1000).filter_map(again).collect();
        let (low, high) = ends(&mut drawn, of);
        Some(Ratio { of, low, high })
    }
}

/// The ends of the middle 95 %.
fn ends(drawn: &mut [f64], of: f64) -> (f64, f64) {
    drawn.sort_by(f64::total_cmp);
    let at = |share: f64| drawn.get((share * drawn.len() as f64) as usize).copied().unwrap_or(of);
    (at(0.025), at(0.975))
}

fn draw(seed: &mut u64, below: usize) -> usize {
    // xorshift64: the same interval for the same figures.
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed % below as u64) as usize
}

/// The middle one, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn the_interval_holds_the_ratio_and_narrows_when_rounds_agree() {
        let mut series = Series::default();
        for n in 0..40 {
            // What disturbs a round disturbs both.
            let weather = 1.0 + f64::from(n % 7);
            series.add("a", 2.0 * weather);
            series.add("b", 8.0 * weather);
            series.add("c", 8.0 + f64::from(n % 5));
        }
        let same = series.ratio("a", "b").unwrap();
        assert_eq!((same.of, same.low, same.high), (0.25, 0.25, 0.25));
        let other = series.ratio("a", "c").unwrap();
        assert!(other.low <= other.of && other.of <= other.high && other.low < other.high, "{other:?}");
        assert!(series.ratio("a", "nobody").is_none());
        let own = series.interval("a").unwrap();
        assert!(own.of == series.median("a").unwrap() && own.low < own.of && own.of < own.high, "{own:?}");
    }
}
