//! Medians and spreads.

use std::fmt;

/// Figures of several rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    pub(crate) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    fn at(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1) as f64;
        let (low, high) = (
            (last * part).floor() as usize,
            (last * part).ceil() as usize,
        );
        match (sorted.get(low), sorted.get(high)) {
            (Some(low), Some(high)) => f64::midpoint(*low, *high),
            _ => f64::NAN,
        }
    }

    pub(crate) fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// The ratios of single rounds: what slows the machine down for a while slows down both.
    pub(crate) fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }
}

/// The median, and the quartiles in parentheses.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [low, middle, high] = [0.25, 0.5, 0.75].map(|part| short(self.at(part)));
        if self.0.len() < 2 {
            return f.write_str(&middle);
        }
        write!(f, "{middle} ({low} to {high})")
    }
}

/// About three digits.
pub(crate) fn short(figure: f64) -> String {
    match figure {
        f if f.is_nan() => "-".into(),
        f if f.abs() >= 100.0 => format!("{f:.0}"),
        f if f.abs() >= 10.0 => format!("{f:.1}"),
        f if f.abs() >= 0.095 || f == 0.0 => format!("{f:.2}"),
        f => format!("{f:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_quartiles_and_ratios() {
        let mut figures = Figures::default();
        [4.0, 1.0, 3.0, 2.0, 5.0]
            .into_iter()
            .for_each(|f| figures.push(f));
        assert_eq!(figures.to_string(), "3.00 (2.00 to 4.00)");
        let mut half = Figures::default();
        [2.0, 0.5, 1.5, 1.0, 2.5]
            .into_iter()
            .for_each(|f| half.push(f));
        assert_eq!(half.over(&figures).to_string(), "0.50 (0.50 to 0.50)");
        assert_eq!(Figures::default().to_string(), "-");
        assert_eq!(
            [1234.5, 12.34, 0.125, 0.0123].map(short),
            ["1234", "12.3", "0.12", "0.0123"]
        );
    }
}
