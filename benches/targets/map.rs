//! `arena/map_*`: a hash map whose table lies in the arena.

use std::hint::black_box;

use bumpalo::Bump;
use hashbrown::HashMap;
use tower_memory::ArenaPool;

use crate::{
    harness::{Contest, Report, Target, measure},
    sides::Side,
};

const ENTRIES: u64 = 1000;

/// Fills a map, and drops it.
macro_rules! fill {
    ($map:expr) => {{
        let mut map = $map;
        for key in 0..ENTRIES {
            map.insert(black_box(key), key);
        }
        black_box(&map);
    }};
}

/// A map that begins empty and grows, or one that is made with room for all.
macro_rules! contest {
    ($name:literal, $capacity:expr, $heap:expr) => {
        Contest::new(
            [
                concat!("arena/", $name, "/heap").to_owned(),
                concat!("arena/", $name, "/bumpalo").to_owned(),
            ],
            |report: &mut Report, [heap_row, bump_row]| {
                let pool = ArenaPool::new();
                let mut bump = Bump::new();
                let [ours, heap, bump] = measure([
                    Side::single("&Arena", || {
                        let arena = pool.rent();
                        fill!(HashMap::<u64, u64, _, _>::with_capacity_in(
                            $capacity, &arena
                        ));
                    }),
                    Side::single("heap", || {
                        fill!(HashMap::<u64, u64>::with_capacity($capacity));
                    }),
                    Side::single("bumpalo", || {
                        fill!(HashMap::<u64, u64, _, _>::with_capacity_in(
                            $capacity, &bump
                        ));
                        bump.reset();
                    }),
                ]);
                report.compare(heap_row, &ours, &heap, $heap);
                report.compare(bump_row, &ours, &bump, Target::AtMost(1.1));
            },
        )
    };
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    contests.extend([
        contest!("map_1000", 0, Target::Below(1.0)),
        // One allocation for all entries: nothing to gain.
        contest!("map_1000_with_capacity", ENTRIES as usize, Target::None),
    ]);
}
