//! `alloc/`: what counting adds to an allocator. All of them are called directly, none through the
//! global one.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    hint::black_box,
};

use stats_alloc::StatsAlloc;
use tower_memory::{Account, TrackingAllocator};
use tracking_allocator::{
    AllocationGroupId, AllocationGroupToken, AllocationRegistry, AllocationTracker, Allocator,
};

use crate::{
    harness::{Contest, Report, Target, measure},
    sides::Side,
};

static BARE: System = System;
static OURS: TrackingAllocator = TrackingAllocator::system();
pub(crate) static TRACKING: Allocator<System> = Allocator::system();
static STATS: StatsAlloc<System> = StatsAlloc::system();

/// The cheapest tracker that keeps the figures we keep.
pub(crate) struct Tracker;

thread_local! {
    static ALLOCATED: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    static FREED: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

fn count(cell: &Cell<(u64, u64)>, size: usize) {
    let (count, bytes) = cell.get();
    cell.set((count + 1, bytes + size as u64));
}

impl AllocationTracker for Tracker {
    fn allocated(&self, _: usize, size: usize, _: usize, _: AllocationGroupId) {
        ALLOCATED.with(|cell| count(cell, size));
    }

    fn deallocated(
        &self,
        _: usize,
        size: usize,
        _: usize,
        _: AllocationGroupId,
        _: AllocationGroupId,
    ) {
        FREED.with(|cell| count(cell, size));
    }
}

/// A new group. Registering one fails, by mistake, when two threads do so at once.
pub(crate) fn group() -> AllocationGroupToken {
    std::iter::repeat_with(AllocationGroupToken::register)
        .flatten()
        .next()
        .expect("endless")
}

const fn layout(size: usize) -> Layout {
    match Layout::from_size_align(size, 8) {
        Ok(layout) => layout,
        Err(_) => panic!("not a layout"),
    }
}

#[inline(always)]
fn pair<const SIZE: usize>(allocator: &impl GlobalAlloc) {
    // SAFETY: the size is not zero; the block is freed once, with its layout.
    unsafe {
        let ptr = black_box(allocator.alloc(const { layout(SIZE) }));
        assert!(!ptr.is_null());
        allocator.dealloc(ptr, const { layout(SIZE) });
    }
}

/// A block that doubles from 16 bytes to 2 KiB.
#[inline(always)]
fn growth(allocator: &impl GlobalAlloc) {
    let mut size = 16;
    // SAFETY: sizes are not zero; each call gets the block's present layout.
    unsafe {
        let mut ptr = black_box(allocator.alloc(layout(size)));
        assert!(!ptr.is_null());
        while size < 2048 {
            ptr = black_box(allocator.realloc(ptr, layout(size), size * 2));
            assert!(!ptr.is_null());
            size *= 2;
        }
        allocator.dealloc(ptr, layout(size));
    }
}

/// The work is a macro argument and not a function's, so that each side gets a copy of its own.
macro_rules! contest {
    ($name:literal, $threads:literal, $work:expr, $most:literal) => {
        Contest::new(
            [
                concat!("alloc/", $name, "/", $threads, "_thread").to_owned(),
                concat!("alloc/", $name, "/", $threads, "_thread/inside").to_owned(),
                concat!("alloc/", $name, "/", $threads, "_thread/tracking-allocator").to_owned(),
                concat!("alloc/", $name, "/", $threads, "_thread/stats_alloc").to_owned(),
            ],
            |report: &mut Report, [bare_row, inside_row, tracking_row, stats_row]| {
                // The second contest finds it set already.
                let _ = AllocationRegistry::set_global_tracker(Tracker);
                AllocationRegistry::enable_tracking();
                let [ours, inside, bare, tracking, stats] = measure([
                    Side::on($threads, "ours", || || $work(&OURS)),
                    Side::on($threads, "ours inside an account", || {
                        let account: &Account = Box::leak(Box::new(Account::new()));
                        let entered = account.enter();
                        move || {
                            let _entered = &entered;
                            $work(&OURS);
                        }
                    }),
                    Side::on($threads, "bare System", || || $work(&BARE)),
                    Side::on($threads, "tracking-allocator", || {
                        // Groups live as long as the process.
                        let group = Box::leak(Box::new(group()));
                        let entered = group.enter();
                        move || {
                            let _entered = &entered;
                            $work(&TRACKING);
                        }
                    }),
                    Side::on($threads, "stats_alloc", || || $work(&STATS)),
                ]);
                AllocationRegistry::disable_tracking();
                report.compare(bare_row, &ours, &bare, Target::AtMost($most));
                report.compare(inside_row, &inside, &bare, Target::AtMost($most));
                report.compare(tracking_row, &ours, &tracking, Target::None);
                report.compare(stats_row, &ours, &stats, Target::None);
            },
        )
    };
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    contests.extend([
        contest!("pair_16B", 1, pair::<16>, 1.08),
        contest!("pair_16B", 2, pair::<16>, 1.08),
        contest!("pair_64B", 1, pair::<64>, 1.08),
        contest!("pair_64B", 2, pair::<64>, 1.08),
        contest!("pair_1KiB", 1, pair::<1024>, 1.08),
        contest!("pair_1KiB", 2, pair::<1024>, 1.08),
        contest!("realloc_growth", 1, growth, 1.05),
        contest!("realloc_growth", 2, growth, 1.05),
    ]);
}
