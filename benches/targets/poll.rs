//! `poll/`: what accounting adds to each poll of a future.

use std::{
    future::poll_fn,
    hint::black_box,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tower_memory::Account;
use tracking_allocator::AllocationGroupToken;

use crate::{
    harness::{Contest, Report, Samples, Spread, measure, nanos},
    sides::Side,
};

/// Nanoseconds that a poll may cost more.
const MOST: f64 = 6.0;

fn nothing() {
    black_box(());
}

fn alloc_and_free() {
    drop(black_box(Box::new(black_box([1_u64; 8]))));
}

macro_rules! polling {
    ($future:expr) => {{
        let mut future = Box::pin($future);
        move || {
            let mut cx = Context::from_waker(black_box(Waker::noop()));
            let future: &mut std::pin::Pin<Box<_>> = black_box(&mut future);
            let _: Poll<()> = black_box(Future::poll(future.as_mut(), &mut cx));
        }
    }};
}

macro_rules! contest {
    ($name:literal, $work:path) => {
        Contest::new(
            [
                concat!("poll/", $name).to_owned(),
                concat!("poll/", $name, "/nested").to_owned(),
                concat!("poll/", $name, "/tracking-allocator").to_owned(),
            ],
            |report: &mut Report, [row, nested_row, peer_row]| {
                let body = || {
                    poll_fn(|_| {
                        $work();
                        Poll::<()>::Pending
                    })
                };
                let (outer, inner) = (Arc::new(Account::new()), Arc::new(Account::new()));
                let mut group = AllocationGroupToken::register().expect("there is room");
                let mut grouped = polling!(poll_fn(move |_| {
                    let entered = group.enter();
                    $work();
                    drop(entered);
                    Poll::<()>::Pending
                }));
                let [ours, nested, peer, bare] = measure([
                    Side::single("Account::track", polling!(Account::track(&outer, body()))),
                    Side::single(
                        "Account::track twice",
                        polling!(Account::track(&outer, Account::track(&inner, body()))),
                    ),
                    Side::single("tracking-allocator", &mut grouped),
                    Side::single("bare poll", polling!(body())),
                ]);
                let usage = outer.usage().expect("the allocator is installed");
                assert_eq!(usage.allocations, usage.deallocations);
                added(report, row, &ours, &bare, true);
                added(report, nested_row, &nested, &bare, false);
                report.compare_added(
                    peer_row,
                    (&ours, &peer, &bare),
                    crate::harness::Target::None,
                );
            },
        )
    };
}

fn added(report: &mut Report, row: &str, ours: &Samples, bare: &Samples, judged: bool) {
    let added = Spread::of(ours.above(bare).rounds.into_iter());
    let target = format!("<= +{MOST} ns");
    report.line(
        row,
        &nanos(ours.median()),
        &format!("{} ({})", nanos(bare.median()), bare.label),
        &format!("+{added} ns"),
        if judged { &target } else { "-" },
        judged.then_some(added.median <= MOST),
    );
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    contests.extend([
        contest!("enter_leave", nothing),
        contest!("enter_leave_with_alloc", alloc_and_free),
    ]);
}
