//! One process, its requests and its memory, event by event. It dies above [`HARD`], and is back after two
//! seconds without what it had in flight.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use super::{controls::Control, random::Random};

pub(crate) const MIB: f64 = 1_048_576.0;
/// What the container allows.
pub(crate) const HARD: f64 = 1024.0 * MIB;
/// What the process is told to stay within.
pub(crate) const LIMIT: f64 = 0.9 * HARD;
/// Code, caches and connections.
const BASE: f64 = 100.0 * MIB;
const CORES: usize = 8;
/// Clients wait so long.
const PATIENCE: f64 = 2.0;
/// An answer within this time is good.
const GOOD: f64 = 1.0;
/// The burst.
const BURST: std::ops::Range<f64> = 10.0..30.0;
const END: f64 = 36.0;
/// Between two looks of a control at the clock.
const TICK: f64 = 0.01;
/// The most that one request holds: the budget of a request is an eighth of the limit by default.
const LARGEST: f64 = LIMIT / 8.0;

/// Requests of one route: their share of the traffic, before and in the burst, the MiB that they hold, and the
/// seconds that they wait and compute.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    pub(crate) shares: [f64; 2],
    pub(crate) mib: f64,
    pub(crate) sigma: f64,
    /// Another kind of requests: how many of them, and what they hold.
    pub(crate) large: (f64, f64),
    pub(crate) waits: [f64; 2],
    pub(crate) cpu: f64,
}

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Requests per second, and how many times as many in the burst.
    pub(crate) rate: f64,
    pub(crate) burst: f64,
    /// How many clients read slowly, and for how long.
    pub(crate) slow: (f64, f64),
    /// What was learnt is unknown at the start, and after a death.
    pub(crate) cold: bool,
    /// Requests that come within 20 ms, every 5 s.
    pub(crate) herd: usize,
    /// What a request has allocated at its start, in the middle, and at the end of its wait.
    pub(crate) shape: [f64; 3],
    pub(crate) routes: &'static [Route],
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Outcome {
    pub(crate) deaths: f64,
    /// Highest use, as a share of [`HARD`].
    pub(crate) peak: f64,
    /// Per second of the burst.
    pub(crate) good: f64,
    pub(crate) late: f64,
    /// Good ones of all routes but the first.
    pub(crate) heavy: f64,
    /// Share of the requests.
    pub(crate) refused: f64,
    /// Mean use in the burst, as a share of [`LIMIT`].
    pub(crate) used: f64,
    pub(crate) victims: f64,
    /// Deviation of the goodput over 250 ms, as a share of its mean.
    pub(crate) unsteady: f64,
}

impl Outcome {
    /// The mean of several runs, with the highest of their peaks.
    pub(crate) fn mean(runs: &[Self]) -> Self {
        let of = |f: fn(&Self) -> f64| runs.iter().map(f).sum::<f64>() / runs.len() as f64;
        Self {
            deaths: of(|run| run.deaths),
            peak: runs.iter().fold(0.0, |peak, run| peak.max(run.peak)),
            good: of(|run| run.good),
            late: of(|run| run.late),
            heavy: of(|run| run.heavy),
            refused: of(|run| run.refused),
            used: of(|run| run.used),
            victims: of(|run| run.victims),
            unsteady: of(|run| run.unsteady),
        }
    }
}

impl Random {
    fn share(&mut self) -> f64 {
        self.below(1 << 53) as f64 / (1_u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.share()).ln()
    }

    fn bytes(&mut self, route: &Route) -> f64 {
        let (share, large) = route.large;
        let mib = if self.share() < share {
            large
        } else {
            route.mib
        };
        let normal = (-2.0 * (1.0 - self.share()).ln()).sqrt()
            * (std::f64::consts::TAU * self.share()).cos();
        let sigma = route.sigma;
        (mib * MIB * (sigma * normal - sigma * sigma / 2.0).exp()).min(LARGEST)
    }
}

#[derive(Clone, Copy, PartialEq)]
struct At(f64);

impl Eq for At {}

impl PartialOrd for At {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for At {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Herd,
    One,
    Arrival,
    Grows(usize, u8),
    Computed(usize),
    Sent(usize),
    GaveUp(usize),
    Tick,
    Restarted,
}

/// What a control has reserved for a request, in bytes, and how much of it is a guess.
#[derive(Clone, Copy, Default)]
pub(crate) struct Reserved {
    pub(crate) bytes: u64,
    pub(crate) guessed: u64,
}

/// A request, and what a control needs to know of it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Request {
    pub(crate) route: usize,
    pub(crate) start: f64,
    pub(crate) held: f64,
    /// What the control has reserved for it.
    pub(crate) reserved: Reserved,
    size: f64,
    cpu: f64,
    slow: bool,
    alive: bool,
    computes: bool,
    life: u32,
}

impl Request {
    /// Whether it waits, so that it can be cancelled.
    pub(crate) fn waits(&self) -> bool {
        self.alive && !self.computes
    }
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Answered,
    GaveUp,
    Victim,
}

pub(crate) struct World<'a> {
    scenario: &'a Scenario,
    random: Random,
    events: BinaryHeap<Reverse<(At, u64, Event)>>,
    sequence: u64,
    requests: Vec<Request>,
    /// All requests before this one have ended.
    oldest: usize,
    queue: VecDeque<usize>,
    busy: usize,
    used: f64,
    held: f64,
    open: usize,
    /// How often it died.
    life: u32,
    down: bool,
    /// Bytes of responses that are being sent.
    sending: Vec<(f64, u32)>,
    outcome: Outcome,
    offered: f64,
    looks: f64,
    quarters: [f64; 80],
}

/// What a control sees.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub(crate) now: f64,
    pub(crate) used: f64,
    pub(crate) held: f64,
    pub(crate) open: usize,
}

/// Plays a scenario under a control.
pub(crate) fn play(scenario: &Scenario, control: &mut dyn Control, seed: u64) -> Outcome {
    let mut world = World {
        scenario,
        random: Random(seed),
        events: BinaryHeap::new(),
        sequence: 0,
        requests: Vec::new(),
        oldest: 0,
        queue: VecDeque::new(),
        busy: 0,
        used: BASE,
        held: 0.0,
        open: 0,
        life: 0,
        down: false,
        sending: Vec::new(),
        outcome: Outcome::default(),
        offered: 0.0,
        looks: 0.0,
        quarters: [0.0; 80],
    };
    if !scenario.cold {
        for (number, route) in scenario.routes.iter().enumerate() {
            for _ in 0..300 {
                let bytes = world.random.bytes(route);
                control.learns(number, bytes);
            }
        }
    }
    world.run(control);
    world.result()
}

impl World<'_> {
    fn at(&mut self, at: f64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((At(at), self.sequence, event)));
    }

    fn run(&mut self, control: &mut dyn Control) {
        self.at(0.0, Event::Arrival);
        self.at(0.0, Event::Tick);
        if self.scenario.herd > 0 {
            for herd in 0..4 {
                self.at(10.001 + 5.0 * f64::from(herd), Event::Herd);
            }
        }
        while let Some(Reverse((At(now), _, event))) = self.events.pop() {
            if now > END {
                break;
            }
            self.happens(event, now, control);
            self.compute(now);
            self.outcome.peak = self.outcome.peak.max(self.used / HARD);
            if self.used > HARD {
                self.die(now, control);
            }
        }
    }

    fn view(&self, now: f64) -> View {
        View {
            now,
            used: self.used,
            held: self.held,
            open: self.open,
        }
    }

    fn happens(&mut self, event: Event, now: f64, control: &mut dyn Control) {
        match event {
            Event::Herd => {
                for _ in 0..self.scenario.herd {
                    let at = now + 0.02 * self.random.share();
                    self.at(at, Event::One);
                }
            }
            Event::Arrival => {
                let times = if BURST.contains(&now) {
                    self.scenario.burst
                } else {
                    1.0
                };
                let pause = self.random.exponential(1.0 / (self.scenario.rate * times));
                self.at(now + pause, Event::Arrival);
                self.arrives(now, control);
            }
            Event::One => self.arrives(now, control),
            Event::Grows(id, step) => {
                let request = &mut self.requests[id];
                if request.alive {
                    let by = request.size * self.scenario.shape[usize::from(step)];
                    request.held += by;
                    self.used += by;
                    self.held += by;
                    if step == 2 {
                        self.queue.push_back(id);
                    }
                }
            }
            Event::Computed(id) => {
                self.busy -= 1;
                if self.requests[id].alive {
                    self.ends(id, End::Answered, now, control);
                }
            }
            Event::GaveUp(id) => {
                if self.requests[id].waits() {
                    self.ends(id, End::GaveUp, now, control);
                }
            }
            Event::Sent(at) => {
                let (bytes, life) = self.sending[at];
                if life == self.life {
                    self.used -= bytes;
                }
            }
            Event::Restarted => self.down = false,
            Event::Tick => {
                self.at(now + TICK, Event::Tick);
                while self.requests.get(self.oldest).is_some_and(|it| !it.alive) {
                    self.oldest += 1;
                }
                let open = &self.requests[self.oldest..];
                for victim in control.tick(self.view(now), open) {
                    self.ends(self.oldest + victim, End::Victim, now, control);
                }
                if BURST.contains(&now) && now > BURST.start + 3.0 {
                    self.outcome.used += self.used / LIMIT;
                    self.looks += 1.0;
                }
            }
        }
    }

    fn arrives(&mut self, now: f64, control: &mut dyn Control) {
        let in_burst = BURST.contains(&now);
        let (which, routes) = (usize::from(in_burst), self.scenario.routes);
        let mut at = self.random.share() * routes.iter().map(|it| it.shares[which]).sum::<f64>();
        let found = routes.iter().position(|it| {
            at -= it.shares[which];
            at < 0.0
        });
        let route = found.unwrap_or(routes.len() - 1);
        let size = self.random.bytes(&routes[route]);
        let wait = self.random.exponential(routes[route].waits[which]);
        let cpu = self.random.exponential(routes[route].cpu);
        let slow = self.random.share() < self.scenario.slow.0;
        let dice = self.random.share();
        if in_burst {
            self.offered += 1.0;
        }
        if self.down {
            return;
        }
        let Some(reserved) = control.admits(self.view(now), route, dice) else {
            if in_burst {
                self.outcome.refused += 1.0;
            }
            return;
        };
        let id = self.requests.len();
        self.open += 1;
        self.requests.push(Request {
            route,
            start: now,
            reserved,
            size,
            cpu,
            slow,
            alive: true,
            life: self.life,
            ..Request::default()
        });
        for (step, after) in (0..).zip([0.0, wait / 2.0, wait]) {
            self.at(now + after, Event::Grows(id, step));
        }
        self.at(now + PATIENCE, Event::GaveUp(id));
    }

    fn ends(&mut self, id: usize, end: End, now: f64, control: &mut dyn Control) {
        let request = self.requests[id];
        self.requests[id].alive = false;
        self.requests[id].held = 0.0;
        if request.life != self.life {
            return;
        }
        self.open -= 1;
        self.held -= request.held;
        control.closed(&request);
        if end != End::Answered {
            self.used -= request.held;
            if end == End::Victim {
                self.outcome.victims += 1.0;
            }
            return;
        }
        // A third is the response, which the server keeps until it is sent.
        let response = request.held / 3.0;
        self.used -= request.held - response;
        self.sending.push((response, self.life));
        let takes = if request.slow {
            self.random.exponential(self.scenario.slow.1)
        } else {
            0.005
        };
        self.at(now + takes, Event::Sent(self.sending.len() - 1));
        if !BURST.contains(&now) {
            return;
        }
        if now - request.start > GOOD {
            self.outcome.late += 1.0;
            return;
        }
        self.outcome.good += 1.0;
        if request.route > 0 {
            self.outcome.heavy += 1.0;
        }
        self.quarters[((now - BURST.start) * 4.0) as usize] += 1.0;
    }

    fn compute(&mut self, now: f64) {
        while self.busy < CORES {
            let Some(id) = self.queue.pop_front() else {
                return;
            };
            if self.requests[id].alive {
                self.requests[id].computes = true;
                self.busy += 1;
                self.at(now + self.requests[id].cpu, Event::Computed(id));
            }
        }
    }

    fn die(&mut self, now: f64, control: &mut dyn Control) {
        self.outcome.deaths += 1.0;
        self.life += 1;
        self.down = true;
        for request in &mut self.requests[self.oldest..] {
            (request.alive, request.held) = (false, 0.0);
        }
        self.queue.clear();
        (self.used, self.held, self.open) = (BASE, 0.0, 0);
        control.restarts(self.scenario.cold);
        self.at(now + 2.0, Event::Restarted);
    }

    fn result(mut self) -> Outcome {
        let seconds = BURST.end - BURST.start;
        let outcome = &mut self.outcome;
        for figure in [&mut outcome.good, &mut outcome.late, &mut outcome.heavy] {
            *figure /= seconds;
        }
        outcome.refused /= self.offered.max(1.0);
        outcome.used /= self.looks.max(1.0);
        let steady = &self.quarters[12..76];
        let mean = steady.iter().sum::<f64>() / steady.len() as f64;
        let square = steady
            .iter()
            .map(|it| (it - mean) * (it - mean))
            .sum::<f64>();
        outcome.unsteady = (square / steady.len() as f64).sqrt() / mean.max(1e-9);
        self.outcome
    }
}
