//! What decides who is admitted: the crate's own rule, and what others do.

use std::time::Duration;

use super::{
    limit::{
        mean::MeanPeak,
        policy::{Candidate, Policy, Reading, Verdict, worst},
        stage::Stages,
    },
    world::{LIMIT, Request, Reserved, View},
};

pub(crate) trait Control {
    /// What to reserve for a request, or `None` if it is refused.
    fn admits(&mut self, view: View, route: usize, dice: f64) -> Option<Reserved>;

    fn closed(&mut self, _request: &Request) {}

    /// Called every 10 ms with the requests that may be open. Returns those to cancel.
    fn tick(&mut self, _view: View, _requests: &[Request]) -> Vec<usize> {
        Vec::new()
    }

    /// A request of a route came to hold so much.
    fn learns(&mut self, _route: usize, _bytes: f64) {}

    fn restarts(&mut self, _forgets: bool) {}
}

/// Admits all.
pub(crate) struct Nothing;

impl Control for Nothing {
    fn admits(&mut self, _: View, _: usize, _: f64) -> Option<Reserved> {
        Some(Reserved::default())
    }
}

/// So many in flight.
pub(crate) struct InFlight(pub(crate) usize);

impl Control for InFlight {
    fn admits(&mut self, view: View, _: usize, _: f64) -> Option<Reserved> {
        (view.open < self.0).then_some(Reserved::default())
    }
}

/// Refuses from a share of the limit on: surely above the second, and by chance in between.
pub(crate) struct Threshold {
    pub(crate) shares: (f64, f64),
    /// Seconds between two looks.
    pub(crate) period: f64,
    looked: f64,
    refused: f64,
}

impl Threshold {
    pub(crate) const fn new(from: f64, to: f64, period: f64) -> Self {
        Self {
            shares: (from, to),
            period,
            looked: f64::MIN,
            refused: 0.0,
        }
    }
}

impl Control for Threshold {
    fn admits(&mut self, _: View, _: usize, dice: f64) -> Option<Reserved> {
        (dice >= self.refused).then_some(Reserved::default())
    }

    fn tick(&mut self, view: View, _: &[Request]) -> Vec<usize> {
        if view.now - self.looked >= self.period - 1e-6 {
            self.looked = view.now;
            let (from, to) = self.shares;
            let share = view.used / LIMIT;
            self.refused = if to > from {
                ((share - from) / (to - from)).clamp(0.0, 1.0)
            } else {
                f64::from(u8::from(share >= from))
            };
        }
        Vec::new()
    }

    fn restarts(&mut self, _: bool) {
        self.refused = 0.0;
    }
}

/// The crate's rule, by the crate's code.
pub(crate) struct Ours {
    policy: Policy,
    verdict: Verdict,
    read: f64,
    means: Vec<MeanPeak>,
    totals: Reading,
    random: u64,
}

impl Ours {
    pub(crate) fn new(routes: usize) -> Self {
        Self {
            policy: Policy::new(Stages::default(), Duration::from_secs(1)),
            verdict: Verdict::open(),
            read: f64::MIN,
            means: vec![MeanPeak::default(); routes],
            totals: Reading::default(),
            random: 0,
        }
    }

    fn read(&mut self, view: View) {
        self.read = view.now;
        self.verdict = self.policy.read(&Reading {
            at: Duration::from_secs_f64(view.now),
            limit: LIMIT as u64,
            used: Some(view.used as u64),
            held: Some(view.held.max(0.0) as u64),
            ..self.totals
        });
    }
}

impl Control for Ours {
    fn admits(&mut self, view: View, route: usize, _: f64) -> Option<Reserved> {
        // As the crate does, which reads when a request finds that the figures are old.
        if view.now - self.read > 0.005 {
            self.read(view);
        }
        let known = self.means[route].get();
        let mean = known.unwrap_or(LIMIT as u64 / 64);
        if self.totals.reserved + mean > self.verdict.rooms[1] {
            self.totals.refused += 1;
            return None;
        }
        self.totals.reserved += mean;
        self.totals.admitted += 1;
        let reserved = Reserved {
            bytes: mean,
            guessed: if known.is_none() { mean } else { 0 },
        };
        self.totals.guessed += reserved.guessed;
        Some(reserved)
    }

    fn closed(&mut self, request: &Request) {
        self.totals.reserved -= request.reserved.bytes;
        self.totals.guessed -= request.reserved.guessed;
        self.totals.released += request.reserved.bytes;
        self.learns(request.route, request.held);
    }

    fn tick(&mut self, view: View, requests: &[Request]) -> Vec<usize> {
        self.read(view);
        if !self.verdict.cancels {
            return Vec::new();
        }
        let candidates = requests.iter().enumerate().filter(|(_, it)| it.waits());
        let worst = worst(candidates.map(|(key, it)| Candidate {
            key,
            held: it.held as u64,
            mean: self.means[it.route].get().unwrap_or(0),
            since: Duration::from_secs_f64(it.start),
        }));
        worst.into_iter().collect()
    }

    fn learns(&mut self, route: usize, bytes: f64) {
        self.random += 1;
        let mean = &mut self.means[route];
        if mean.counts(self.random) {
            *mean = mean.with(bytes as u64);
        }
    }

    fn restarts(&mut self, forgets: bool) {
        let known = self.means.clone();
        *self = Self::new(known.len());
        if !forgets {
            self.means = known;
        }
    }
}
