//! Turns, rounds, medians and lines.

use std::thread;

use crate::sides::{SIDE_BY_SIDE, Side};

/// Rounds that count.
const ROUNDS: usize = 25;

/// How long one side runs in one round, in nanoseconds.
pub(crate) const TURN: f64 = 8e6;

/// Some rows that are measured together.
pub(crate) struct Contest {
    pub(crate) rows: Vec<String>,
    run: Box<dyn FnOnce(&mut Report) + Send>,
}

impl Contest {
    pub(crate) fn new<const N: usize>(
        rows: [String; N],
        run: impl FnOnce(&mut Report, [&str; N]) + Send + 'static,
    ) -> Self {
        Self {
            rows: rows.to_vec(),
            run: Box::new(move |report| run(report, rows.each_ref().map(String::as_str))),
        }
    }
}

/// Nanoseconds per operation, one for each round.
pub(crate) struct Samples {
    pub(crate) label: &'static str,
    parallel: f64,
    pub(crate) rounds: Vec<f64>,
}

impl Samples {
    pub(crate) fn median(&self) -> f64 {
        Spread::of(self.rounds.iter().copied()).median
    }

    /// The same figures for `parts` times smaller operations.
    pub(crate) fn split(mut self, parts: u32) -> Self {
        self.rounds
            .iter_mut()
            .for_each(|ns| *ns /= f64::from(parts));
        self
    }

    /// What this side costs more than `base`, round by round.
    pub(crate) fn above(&self, base: &Self) -> Self {
        Self {
            label: self.label,
            parallel: self.parallel,
            rounds: self.with(base, |ours, base| ours - base).collect(),
        }
    }

    fn with(&self, other: &Self, f: fn(f64, f64) -> f64) -> impl Iterator<Item = f64> {
        self.rounds
            .iter()
            .zip(&other.rounds)
            .map(move |(&a, &b)| f(a, b))
    }

    pub(crate) fn ratio(&self, peer: &Self) -> Spread {
        Spread::of(self.with(peer, |ours, peer| ours / peer))
    }
}

/// A median with its quartiles.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    low: f64,
    high: f64,
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |part: usize| values[(values.len() - 1) * part / 4];
        Self {
            median: at(2),
            low: at(1),
            high: at(3),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} [{:.2}-{:.2}]", self.median, self.low, self.high)
    }
}

/// Lets the sides take turns.
pub(crate) fn measure<const N: usize>(mut sides: [Side<'_>; N]) -> [Samples; N] {
    let turns = sides.each_mut().map(|side| {
        let mut n = 1;
        loop {
            let took = (side.run)(n);
            if took >= TURN / 2.0 {
                break ((n as f64 * TURN / took) as u64).max(1);
            }
            n = if took < TURN / 50.0 { n * 10 } else { n * 2 };
        }
    });
    let mut samples = sides.each_ref().map(|side| Samples {
        label: side.label,
        parallel: 1.0,
        rounds: Vec::with_capacity(ROUNDS),
    });
    for round in 0..ROUNDS {
        // Each round begins with another side, so that none always follows the same one.
        for turn in 0..N {
            let at = (round + turn) % N;
            let n = turns[at];
            samples[at].rounds.push((sides[at].run)(n) / n as f64);
        }
    }
    for (samples, side) in samples.iter_mut().zip(&sides) {
        samples.parallel = side.parallel.get();
    }
    samples
}

/// What a ratio should be.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    Below(f64),
    None,
}

impl Target {
    fn meets(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(most) => Some(value <= most),
            Self::Below(limit) => Some(value < limit),
            Self::None => None,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<= {most:.2}"),
            Self::Below(limit) => write!(f, "< {limit:.2}"),
            Self::None => f.write_str("-"),
        }
    }
}

/// Prints the rows that were asked for.
pub(crate) struct Report {
    /// Of the rows that are asked for; none asks for all.
    prefixes: Vec<String>,
}

impl Report {
    pub(crate) const fn new(prefixes: Vec<String>) -> Self {
        Self { prefixes }
    }

    /// Whether a row was asked for.
    pub(crate) fn wants(&self, row: &str) -> bool {
        let mut prefixes = self.prefixes.iter();
        self.prefixes.is_empty() || prefixes.any(|prefix| row.starts_with(prefix))
    }

    /// Runs a contest if one of its rows was asked for. On a thread of its own: what former contests left
    /// with their thread, such as places of a pool, makes no difference then.
    pub(crate) fn run(&mut self, contest: Contest) {
        if contest.rows.iter().any(|row| self.wants(row)) {
            thread::scope(|scope| {
                let contest = scope.spawn(|| (contest.run)(self));
                contest.join().expect("no panic");
            });
        }
    }

    pub(crate) fn line(
        &mut self,
        row: &str,
        ours: &str,
        peer: &str,
        ratio: &str,
        target: &str,
        met: Option<bool>,
    ) {
        if !self.wants(row) {
            return;
        }
        let met = match met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "info",
        };
        println!("{row} | {ours} | {peer} | {ratio} | {target} | {met}");
    }

    /// Ours beside a peer.
    pub(crate) fn compare(&mut self, row: &str, ours: &Samples, peer: &Samples, target: Target) {
        let ratio = ours.ratio(peer);
        let mut shown = ratio.to_string();
        let parallel = ours.parallel.min(peer.parallel);
        if parallel < SIDE_BY_SIDE {
            // The machine was busy: threads that do not run at once do not get in each other's way.
            shown = format!("{shown} (only {:.0} % in parallel)", parallel * 100.0);
        }
        self.line(
            row,
            &nanos(ours.median()),
            &format!("{} ({})", nanos(peer.median()), peer.label),
            &shown,
            &target.to_string(),
            target.meets(ratio.median),
        );
    }

    /// Ours beside nothing but a number of nanoseconds.
    pub(crate) fn absolute(&mut self, row: &str, ours: &Samples, most: Option<f64>) {
        let spread = Spread::of(ours.rounds.iter().copied());
        self.line(
            row,
            &nanos(spread.median),
            "-",
            &format!("{spread} ns"),
            &most.map_or_else(|| "-".to_owned(), |most| format!("<= {most} ns")),
            most.map(|most| spread.median <= most),
        );
    }

    /// What ours adds to a base: at most so many nanoseconds.
    pub(crate) fn added(&mut self, row: &str, ours: &Samples, base: &Samples, most: Option<f64>) {
        let added = Spread::of(ours.above(base).rounds.into_iter());
        self.line(
            row,
            &nanos(ours.median()),
            &format!("{} ({})", nanos(base.median()), base.label),
            &format!("+{added} ns"),
            &most.map_or_else(|| "-".to_owned(), |most| format!("<= +{most} ns")),
            most.map(|most| added.median <= most),
        );
    }

    /// What ours adds to a base, beside what a peer adds to it.
    pub(crate) fn compare_added(
        &mut self,
        row: &str,
        (ours, peer, base): (&Samples, &Samples, &Samples),
        target: Target,
    ) {
        let (ours, peer) = (ours.above(base), peer.above(base));
        let ratio = ours.ratio(&peer);
        self.line(
            row,
            &format!("+{}", nanos(ours.median())),
            &format!("+{} ({})", nanos(peer.median()), peer.label),
            &ratio.to_string(),
            &target.to_string(),
            target.meets(ratio.median),
        );
    }
}

pub(crate) fn nanos(ns: f64) -> String {
    if ns.abs() < 100.0 {
        format!("{ns:.2} ns")
    } else if ns.abs() < 10_000.0 {
        format!("{ns:.0} ns")
    } else {
        format!("{:.1} us", ns / 1000.0)
    }
}
