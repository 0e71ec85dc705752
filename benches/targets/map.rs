//! `arena/map_*` and `arena/vec_*`: collections that lie in the arena.

use std::hint::black_box;

use allocator_api2::vec::Vec as AllocatorVec;
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

/// Fills a list that begins empty, and drops it; per value.
macro_rules! list {
    ($name:literal, $fill:ident) => {
        Contest::new(
            [
                concat!("arena/", $name, "/cursor/allocator-api2").to_owned(),
                concat!("arena/", $name, "/shared/allocator-api2").to_owned(),
                concat!("arena/", $name, "/shared/heap").to_owned(),
            ],
            |report: &mut Report, [cursor_row, shared_row, heap_row]| {
                let pool = ArenaPool::new();
                let sides = measure([
                    Side::single("cursor.vec", || {
                        let arena = pool.rent();
                        let mut cursor = arena.cursor();
                        let mut list = cursor.vec();
                        $fill!(list);
                        black_box(&*list);
                    }),
                    Side::single("arena.vec", || {
                        let arena = pool.rent();
                        let mut list = arena.vec();
                        $fill!(list);
                        black_box(&*list);
                    }),
                    Side::single("allocator-api2 Vec", || {
                        let arena = pool.rent();
                        let mut list = AllocatorVec::new_in(&arena);
                        $fill!(list);
                        black_box(&*list);
                    }),
                    Side::single("std Vec", || {
                        let mut list = Vec::new();
                        $fill!(list);
                        black_box(&*list);
                    }),
                ]);
                let [cursor, shared, peer, heap] = sides.map(|side| side.split(ENTRIES as u32));
                report.compare(cursor_row, &cursor, &peer, Target::None);
                report.compare(shared_row, &shared, &peer, Target::None);
                report.compare(heap_row, &shared, &heap, Target::None);
            },
        )
    };
}

macro_rules! push {
    ($list:expr) => {
        for n in 0..ENTRIES {
            $list.push(black_box(n));
        }
    };
}

macro_rules! extend_from_slice {
    ($list:expr) => {
        for _ in 0..ENTRIES / 10 {
            $list.extend_from_slice(&black_box([1_u64; 10]));
        }
    };
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    contests.extend([
        list!("vec_push_u64", push),
        list!("vec_extend_u64", extend_from_slice),
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
