//! `jemalloc/`: the allocation profile above jemalloc, beside jemalloc's own profiler. Both are called directly.
//!
//! ```text
//! RUSTFLAGS="-C force-frame-pointers=yes" \
//!     cargo run --release --manifest-path benches/jemalloc/Cargo.toml [-- PREFIX.. | --list]
//! ```
//!
//! The lines are those of `benches/targets`, whose harness this is.
#![expect(unsafe_code, reason = "reads clocks and calls allocators directly")]
#![allow(missing_docs, dead_code, reason = "a program; the harness can do more")]

#[path = "../targets/clock.rs"]
mod clock;
#[path = "../targets/harness.rs"]
mod harness;
#[path = "../targets/machine.rs"]
mod machine;
#[path = "../targets/pairs.rs"]
mod pairs;
#[path = "../targets/run.rs"]
mod run;
#[path = "../targets/sides.rs"]
mod sides;

use std::{hint::black_box, ptr};

use tikv_jemallocator::Jemalloc;
use tower_memory::{TrackingAllocator, profile::Profile};

use crate::{
    harness::{Contest, Report, Target, measure},
    pairs::{PAIRS, work},
    sides::Side,
};

#[global_allocator]
static OURS: TrackingAllocator<Jemalloc> = TrackingAllocator::new(Jemalloc);

/// What jemalloc reads when it starts: a sample each 512 KiB, while that is switched on.
#[unsafe(export_name = "_rjem_malloc_conf")]
static CONF: &[u8; 46] = b"prof:true,prof_active:false,lg_prof_sample:19\0";

const RATE: u64 = 512 << 10;

/// Switches jemalloc's profiler on or off.
fn jemalloc_samples(mut active: bool) {
    // SAFETY: the setting of this name is a C `bool`, which is as large as Rust's.
    let failed = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"prof.active".as_ptr(),
            ptr::null_mut(),
            ptr::null_mut(),
            (&raw mut active).cast(),
            size_of::<bool>(),
        )
    };
    assert_eq!(failed, 0, "this jemalloc has no profiler");
}

/// Switches our profile on or off.
fn ours_samples(active: bool) {
    if active {
        Profile::start(RATE);
    } else {
        Profile::stop();
    }
    // By so many bytes the thread has noticed.
    drop(black_box(vec![0_u8; 64 << 10]));
}

/// The operations of a side, of which at most one profiler samples.
fn side(
    threads: usize,
    label: &'static str,
    [ours, jemalloc]: [bool; 2],
    op: impl Fn() + Copy + Sync + 'static,
) -> Side<'static> {
    Side::on(threads, label, move || {
        ours_samples(ours);
        jemalloc_samples(jemalloc);
        op
    })
}

fn contest(threads: usize, size: usize) -> Contest {
    let rows = [
        "off",
        "512KiB",
        "ours_512KiB_beside_off",
        "jemalloc_512KiB_beside_off",
    ];
    let rows = rows.map(|what| format!("jemalloc/pairs_{size}B/{threads}_thread/{what}"));
    Contest::new(
        rows,
        move |report: &mut Report, [off_row, on_row, ours_row, jemalloc_row]| {
            let ours = move || work(&OURS, size);
            let jemalloc = move || work(&Jemalloc, size);
            let sides = measure([
                side(threads, "ours, off", [false, false], ours),
                side(threads, "ours, 512 KiB", [true, false], ours),
                side(threads, "jemalloc, off", [false, false], jemalloc),
                side(threads, "jemalloc, 512 KiB", [false, true], jemalloc),
            ]);
            Profile::stop();
            jemalloc_samples(false);
            let [ours_off, ours_on, jemalloc_off, jemalloc_on] =
                sides.map(|side| side.split(PAIRS));
            report.compare(off_row, &ours_off, &jemalloc_off, Target::None);
            report.compare(on_row, &ours_on, &jemalloc_on, Target::None);
            report.compare(ours_row, &ours_on, &ours_off, Target::None);
            report.compare(jemalloc_row, &jemalloc_on, &jemalloc_off, Target::None);
        },
    )
}

fn add(contests: &mut Vec<Contest>) {
    for (threads, size) in [(1, 64), (1, 1024), (2, 64), (2, 1024)] {
        contests.push(contest(threads, size));
    }
}

fn main() {
    run::run("TrackingAllocator<Jemalloc>", &[add]);
}
