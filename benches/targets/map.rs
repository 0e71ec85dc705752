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

/// Fills a map, looks each entry up if `$read`, and drops it.
macro_rules! use_map {
    ($map:expr, $read:expr) => {{
        let mut map = $map;
        for key in 0..ENTRIES {
            map.insert(black_box(key), key);
        }
        if $read {
            for key in 0..ENTRIES {
                black_box(map.get(&black_box(key)));
            }
        }
        black_box(&map);
    }};
}

/// A map that begins empty and grows, or one that is made with room for all.
macro_rules! contest {
    ($name:literal, $capacity:expr, $read:expr, $heap:expr) => {
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
                        use_map!(
                            HashMap::<u64, u64, _, _>::with_capacity_in($capacity, &arena),
                            $read
                        );
                    }),
                    Side::single("heap", || {
                        use_map!(HashMap::<u64, u64>::with_capacity($capacity), $read);
                    }),
                    Side::single("bumpalo", || {
                        use_map!(
                            HashMap::<u64, u64, _, _>::with_capacity_in($capacity, &bump),
                            $read
                        );
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
        contest!("map_1000", 0, false, Target::Below(1.0)),
        contest!("map_1000_read_once", 0, true, Target::Below(1.0)),
        // One allocation for all entries: nothing to gain.
        contest!(
            "map_1000_with_capacity",
            ENTRIES as usize,
            false,
            Target::None
        ),
    ]);
}
