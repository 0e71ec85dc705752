//! `record/`: what the statistics take of one request, from its start to its close, without the rest of the layer.

use tower_memory::account;
use tower_memory_counters::observe::Recording;

use crate::{
    harness::{Contest, Report, measure},
    sides::Side,
};

/// Nanoseconds that a request may take.
const MOST: f64 = 30.0;

/// Requests whose allocations are counted.
const COUNTED: u64 = 10_000;

fn contest(threads: usize) -> Contest {
    Contest::new(
        [format!("record/closed_request/{threads}_thread")],
        move |report: &mut Report, [row]| {
            let statistics = &Recording::new();
            let [ours] = measure([Side::on(threads, "statistics", || {
                let mut n = 0;
                move || {
                    n += 1;
                    statistics.record(n);
                }
            })]);
            let allocations = || {
                let usage = account::thread_usage().expect("the allocator is installed");
                usage.allocations
            };
            (0..COUNTED).for_each(|n| statistics.record(n));
            let before = allocations();
            (0..COUNTED).for_each(|n| statistics.record(n));
            assert_eq!(allocations(), before, "recording allocates nothing");
            report.absolute(row, &ours, Some(MOST));
        },
    )
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    contests.extend([1, 2].map(contest));
}
