//! Admission by memory, simulated: the crate's rule against what others do, in seven scenarios with eight seeds.
//!
//! The rule is the crate's own code, so what is simulated is what runs. The whole table:
//! `cargo test --release --test simulation -- --ignored --nocapture`.

// Of the crate as well: its files say `bug!`.
#[macro_use]
#[path = "../../src/bug.rs"]
mod bug;

mod controls;
mod limit;
#[path = "../support/random.rs"]
mod random;
mod world;

use self::{
    controls::{Control, InFlight, Nothing, Ours, Threshold},
    world::{Outcome, Route, Scenario, play},
};

const SEEDS: std::ops::RangeInclusive<u64> = 1..=8;

const fn route(shares: [f64; 2], mib: f64, sigma: f64, waits: [f64; 2], cpu: f64) -> Route {
    Route {
        shares,
        mib,
        sigma,
        large: (0.0, 0.0),
        waits,
        cpu,
    }
}

const SLOW_GROWTH: [f64; 3] = [0.2, 0.4, 0.4];

const SCENARIOS: [Scenario; 7] = [
    Scenario {
        name: "sale",
        about: "10 times the arrivals, and a database that is 4 times slower",
        rate: 180.0,
        burst: 10.0,
        slow: (0.02, 2.0),
        cold: false,
        herd: 0,
        shape: SLOW_GROWTH,
        routes: &[
            route([80.0, 80.0], 2.0, 0.5, [0.05, 0.2], 0.001),
            route([18.0, 18.0], 8.0, 0.7, [0.1, 0.4], 0.002),
            route([2.0, 2.0], 40.0, 1.0, [0.3, 0.8], 0.004),
        ],
    },
    Scenario {
        name: "mix",
        about: "the heavy route's share grows from 2 to 25 %",
        rate: 100.0,
        burst: 12.0,
        slow: (0.02, 2.0),
        cold: false,
        herd: 0,
        shape: SLOW_GROWTH,
        routes: &[
            route([98.0, 75.0], 1.0, 0.5, [0.05, 0.1], 0.001),
            route([2.0, 25.0], 20.0, 1.0, [0.4, 0.6], 0.003),
        ],
    },
    Scenario {
        name: "bimodal",
        about: "4 % of a route's requests hold 60 MiB, the others 0.5",
        rate: 120.0,
        burst: 12.0,
        slow: (0.0, 1.0),
        cold: false,
        herd: 0,
        shape: SLOW_GROWTH,
        routes: &[
            route([50.0, 50.0], 0.5, 0.5, [0.05, 0.2], 0.001),
            Route {
                large: (0.04, 60.0),
                ..route([50.0, 50.0], 0.5, 0.4, [0.3, 0.7], 0.002)
            },
        ],
    },
    Scenario {
        name: "cold",
        about: "as the mix, with a heavy route that nobody has seen, and restarts that forget",
        rate: 100.0,
        burst: 12.0,
        slow: (0.02, 2.0),
        cold: true,
        herd: 0,
        shape: SLOW_GROWTH,
        routes: &[
            route([98.0, 75.0], 1.0, 0.5, [0.05, 0.1], 0.001),
            route([0.0, 25.0], 20.0, 1.0, [0.4, 0.6], 0.003),
        ],
    },
    Scenario {
        name: "readers",
        about: "30 % of the responses are read for 4 s",
        rate: 120.0,
        burst: 8.0,
        slow: (0.3, 4.0),
        cold: false,
        herd: 0,
        shape: SLOW_GROWTH,
        routes: &[
            route([80.0, 80.0], 2.0, 0.5, [0.05, 0.1], 0.001),
            route([20.0, 20.0], 8.0, 0.7, [0.1, 0.2], 0.002),
        ],
    },
    Scenario {
        name: "herd",
        about: "6000 requests within 20 ms, every 5 s, whose memory comes late",
        rate: 100.0,
        burst: 1.0,
        slow: (0.02, 2.0),
        cold: false,
        herd: 6000,
        shape: [0.1, 0.1, 0.8],
        routes: &[
            route([80.0, 80.0], 1.0, 0.5, [0.1, 0.2], 0.001),
            route([20.0, 20.0], 5.0, 0.7, [0.1, 0.4], 0.002),
        ],
    },
    Scenario {
        name: "cpu",
        about: "processors are the bottleneck, and memory is not",
        rate: 300.0,
        burst: 10.0,
        slow: (0.0, 2.0),
        cold: false,
        herd: 0,
        shape: SLOW_GROWTH,
        routes: &[route([100.0, 100.0], 0.05, 0.3, [0.01, 0.01], 0.008)],
    },
];

fn runs(scenario: &Scenario, make: &dyn Fn(&Scenario) -> Box<dyn Control>) -> Vec<Outcome> {
    SEEDS
        .map(|seed| play(scenario, &mut *make(scenario), seed))
        .collect()
}

fn ours(scenario: &Scenario) -> Box<dyn Control> {
    Box::new(Ours::new(scenario.routes.len()))
}

#[test]
fn the_process_survives_every_scenario_with_every_seed() {
    for scenario in &SCENARIOS {
        let runs = runs(scenario, &ours);
        for (seed, run) in SEEDS.zip(&runs) {
            assert_eq!(run.deaths, 0.0, "{}, seed {seed}", scenario.name);
        }
    }
}

/// Prints the table in `docs/guide/limits.md`.
#[test]
#[ignore = "takes a minute, and asserts nothing: it prints the table"]
fn table() {
    type Make = Box<dyn Fn(&Scenario) -> Box<dyn Control>>;
    let controls: Vec<(&str, Make)> = vec![
        ("none", Box::new(|_| Box::new(Nothing))),
        ("32 in flight", Box::new(|_| Box::new(InFlight(32)))),
        ("128 in flight", Box::new(|_| Box::new(InFlight(128)))),
        (
            "95 %, each second",
            Box::new(|_| Box::new(Threshold::new(0.95, 0.95, 1.0))),
        ),
        (
            "80 to 95 %, each 250 ms",
            Box::new(|_| Box::new(Threshold::new(0.8, 0.95, 0.25))),
        ),
        (
            "80 %, each 10 ms",
            Box::new(|_| Box::new(Threshold::new(0.8, 0.8, 0.01))),
        ),
        ("tower-memory", Box::new(ours)),
    ];
    for scenario in &SCENARIOS {
        println!("\n{}: {}\n", scenario.name, scenario.about);
        println!(
            "| control | deaths | good/s | heavy/s | late/s | refused | used | peak | victims | unsteady |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        for (name, make) in &controls {
            let it = Outcome::mean(&runs(scenario, make));
            println!(
                "| {name} | {:.1} | {:.0} | {:.0} | {:.0} | {:.0} % | {:.0} % | {:.2} | {:.1} | {:.2} |",
                it.deaths,
                it.good,
                it.heavy,
                it.late,
                100.0 * it.refused,
                100.0 * it.used,
                it.peak,
                it.victims,
                it.unsteady
            );
        }
    }
}
