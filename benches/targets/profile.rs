//! `profile/`: what the allocation profile adds to counting. All allocators are called directly, none
//! through the global one.
//!
//! Stacks are taken if the benchmark is built with `RUSTFLAGS="-C force-frame-pointers=yes"`, by ours and by
//! `pprof-alloc`.

use std::{alloc::System, hint::black_box};

use pprof_alloc::PprofAlloc;
use stats_alloc::StatsAlloc;
use tower_memory::{Account, TrackingAllocator, profile::Profile};
use tracking_allocator::AllocationRegistry;

use crate::{
    alloc::{TRACKING, Tracker, group},
    harness::{Contest, Report, Target, measure},
    pairs::{PAIRS, work},
    sides::Side,
};

static BARE: System = System;
static COUNTERS: tower_memory_counters::TrackingAllocator =
    tower_memory_counters::TrackingAllocator::system();
static PROFILED: TrackingAllocator = TrackingAllocator::system();
static PEER: PprofAlloc = PprofAlloc::new().with_pprof();
static STATS: StatsAlloc<System> = StatsAlloc::system();

const KIB: u64 = 1 << 10;

/// The operations of a side whose profile is on, at a rate, or off.
fn profiled(rate: Option<u64>, size: usize) -> impl FnMut() {
    match rate {
        Some(rate) => _ = Profile::start(rate),
        None => Profile::stop(),
    }
    // By as much the thread has noticed.
    drop(black_box(vec![0_u8; 64 << 10]));
    move || work(&PROFILED, size)
}

fn contest(threads: usize, size: usize) -> Contest {
    let name = |what: &str| format!("profile/pairs_{size}B/{threads}_thread/{what}");
    let rows = [
        "off",
        "512KiB",
        "128KiB",
        "512KiB_inside",
        "pprof-alloc",
        "pprof-alloc/added",
        "stats_alloc",
        "tracking-allocator",
        "counters",
    ];
    let rows = rows.map(name);
    Contest::new(
        rows,
        move |report: &mut Report,
              [
            off_row,
            on_row,
            dense_row,
            inside_row,
            peer_row,
            added_row,
            stats_row,
            tracking_row,
            counters_row,
        ]| {
            // Another contest may have set it already.
            let _ = AllocationRegistry::set_global_tracker(Tracker);
            AllocationRegistry::enable_tracking();
            let [
                counters,
                off,
                on,
                dense,
                inside,
                bare,
                peer,
                stats,
                tracking,
            ] = measure([
                Side::on(threads, "counters only", || || work(&COUNTERS, size)),
                Side::on(threads, "profile off", || profiled(None, size)),
                Side::on(threads, "profile at 512 KiB", || {
                    profiled(Some(512 * KIB), size)
                }),
                Side::on(threads, "profile at 128 KiB", || {
                    profiled(Some(128 * KIB), size)
                }),
                Side::on(threads, "profile at 512 KiB in an account", || {
                    let account: &Account = Box::leak(Box::new(Account::labelled("/bench")));
                    let mut work = profiled(Some(512 * KIB), size);
                    let entered = account.enter();
                    move || {
                        let _entered = &entered;
                        work();
                    }
                }),
                Side::on(threads, "bare System", || || work(&BARE, size)),
                Side::on(threads, "pprof-alloc", || || work(&PEER, size)),
                Side::on(threads, "stats_alloc", || || work(&STATS, size)),
                Side::on(threads, "tracking-allocator", || {
                    // Groups live as long as the process.
                    let group = Box::leak(Box::new(group()));
                    let entered = group.enter();
                    move || {
                        let _entered = &entered;
                        work(&TRACKING, size);
                    }
                }),
            ]);
            Profile::stop();
            AllocationRegistry::disable_tracking();
            let [
                counters,
                off,
                on,
                dense,
                inside,
                bare,
                peer,
                stats,
                tracking,
            ] = [
                counters, off, on, dense, inside, bare, peer, stats, tracking,
            ]
            .map(|side| side.split(PAIRS));
            report.compare(off_row, &off, &counters, Target::AtMost(1.05));
            report.compare(on_row, &on, &counters, Target::AtMost(1.10));
            report.compare(dense_row, &dense, &counters, Target::None);
            report.compare(inside_row, &inside, &counters, Target::None);
            report.compare(peer_row, &on, &peer, Target::AtMost(1.0 / 3.5));
            // Without what the inner allocator takes, which is most of ours.
            report.compare_added(added_row, (&on, &peer, &bare), Target::AtMost(1.0 / 3.5));
            report.compare(stats_row, &on, &stats, Target::None);
            report.compare(tracking_row, &on, &tracking, Target::None);
            report.compare(counters_row, &counters, &bare, Target::None);
        },
    )
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    for (threads, size) in [(1, 64), (1, 1024), (2, 64), (2, 1024)] {
        contests.push(contest(threads, size));
    }
}
