//! `arena/alloc_*`: many small values, then all of their memory back at once.

use std::{alloc::Layout, hint::black_box};

use blink_alloc::{Blink, SyncBlinkAlloc};
use bumpalo::Bump;
use tower_memory::ArenaPool;

use crate::{
    harness::{Contest, Report, Samples, Target, measure},
    sides::Side,
};

/// Allocations between two recyclings.
pub(crate) const COUNT: u32 = 1000;

/// Nanoseconds that an allocation through `&Arena` may take if nobody else uses the arena.
const MOST: f64 = 4.0;

/// `value` in a `SyncBlinkAlloc`, which has no typed method of its own without its `Blink`, and with it
/// is not `Sync`.
#[inline(always)]
fn blink_put<T>(blink: &SyncBlinkAlloc, value: T) -> &T {
    let ptr = blink
        .allocate(Layout::new::<T>())
        .expect("memory")
        .cast::<T>();
    // SAFETY: fresh memory of the layout of a `T`, valid until the allocator is borrowed again.
    unsafe {
        ptr.write(value);
        &*ptr.as_ptr()
    }
}

#[inline(always)]
fn blink_slice<'a, T: Copy>(blink: &'a SyncBlinkAlloc, values: &[T]) -> &'a [T] {
    let ptr = blink
        .allocate(Layout::for_value(values))
        .expect("memory")
        .cast::<T>();
    // SAFETY: fresh memory of the values' layout, all of which is written.
    unsafe {
        ptr.copy_from_nonoverlapping(std::ptr::NonNull::from(values).cast(), values.len());
        std::slice::from_raw_parts(ptr.as_ptr(), values.len())
    }
}

/// What all contests of this file compare.
const PEERS: [&str; 8] = [
    "cursor/bumpalo",
    "cursor/bump-scope",
    "cursor/blink-alloc",
    "cursor/heap",
    "shared/blink-alloc_sync",
    "shared/bumpalo",
    "shared/heap",
    "shared/alone",
];

fn rows(name: &str) -> [String; 8] {
    PEERS.map(|peer| format!("arena/{name}/{peer}"))
}

/// `most` is what `&Arena` may take at most, where allocating is all there is to do.
fn compare(report: &mut Report, rows: [&str; 8], sides: [Samples; 7], most: Option<f64>) {
    let [cursor, shared, bump, scope, blink, sync, heap] = sides.map(|side| side.split(COUNT));
    let mut rows = rows.into_iter();
    for (ours, peer, target) in [
        (&cursor, &bump, Target::AtMost(1.05)),
        (&cursor, &scope, Target::None),
        (&cursor, &blink, Target::None),
        (&cursor, &heap, Target::None),
        (&shared, &sync, Target::AtMost(0.5)),
        (&shared, &bump, Target::None),
        (&shared, &heap, Target::None),
    ] {
        report.compare(rows.next().expect("a row each"), ours, peer, target);
    }
    report.absolute(rows.next().expect("a row each"), &shared, most);
}

/// `COUNT` values of `8 * WORDS` bytes.
fn values<const WORDS: usize>() -> Contest {
    Contest::new(
        rows(&format!("alloc_{}B", 8 * WORDS)),
        |report: &mut Report, rows| {
            let pool = ArenaPool::new();
            let mut bump = Bump::new();
            let mut scope: bump_scope::Bump = bump_scope::Bump::new();
            let mut blink = Blink::new();
            let mut sync = SyncBlinkAlloc::new();
            let mut boxes = Vec::with_capacity(COUNT as usize);
            let sides = measure([
                Side::single("Cursor", || {
                    let arena = pool.rent();
                    let mut cursor = arena.cursor();
                    for i in 0..u64::from(COUNT) {
                        black_box(cursor.alloc([i; WORDS]));
                    }
                }),
                Side::single("&Arena", || {
                    let arena = pool.rent();
                    for i in 0..u64::from(COUNT) {
                        black_box(arena.alloc([i; WORDS]));
                    }
                }),
                Side::single("bumpalo", || {
                    for i in 0..u64::from(COUNT) {
                        black_box(bump.alloc([i; WORDS]));
                    }
                    bump.reset();
                }),
                Side::single("bump-scope", || {
                    for i in 0..u64::from(COUNT) {
                        black_box(scope.alloc([i; WORDS]).into_mut());
                    }
                    scope.reset();
                }),
                Side::single("Blink", || {
                    for i in 0..u64::from(COUNT) {
                        black_box(blink.put_no_drop([i; WORDS]));
                    }
                    blink.reset();
                }),
                Side::single("SyncBlinkAlloc", || {
                    for i in 0..u64::from(COUNT) {
                        black_box(blink_put(&sync, [i; WORDS]));
                    }
                    sync.reset();
                }),
                Side::single("Box", || {
                    for i in 0..u64::from(COUNT) {
                        boxes.push(black_box(Box::new([i; WORDS])));
                    }
                    boxes.clear();
                }),
            ]);
            compare(report, rows, sides, Some(MOST));
        },
    )
}

/// Lengths from 16 to 64 bytes, in steps of `unit` bytes, in no order that a processor guesses.
fn lengths(unit: usize) -> impl Iterator<Item = usize> {
    let steps = 48 / unit + 1;
    (0..COUNT as usize).map(move |i| 16 / unit + i * 31 % steps)
}

/// `COUNT` copies of texts of 16 to 64 bytes.
fn texts() -> Contest {
    Contest::new(rows("alloc_str_16-64B"), |report: &mut Report, rows| {
        let texts: Vec<String> = lengths(1).map(|length| "x".repeat(length)).collect();
        let pool = ArenaPool::new();
        let mut bump = Bump::new();
        let mut scope: bump_scope::Bump = bump_scope::Bump::new();
        let mut blink = Blink::new();
        let mut sync = SyncBlinkAlloc::new();
        let mut boxes = Vec::with_capacity(texts.len());
        let sides = measure([
            Side::single("Cursor", || {
                let arena = pool.rent();
                let mut cursor = arena.cursor();
                for text in black_box(&texts) {
                    black_box(cursor.alloc_str(text));
                }
            }),
            Side::single("&Arena", || {
                let arena = pool.rent();
                for text in black_box(&texts) {
                    black_box(arena.alloc_str(text));
                }
            }),
            Side::single("bumpalo", || {
                for text in black_box(&texts) {
                    black_box(bump.alloc_str(text));
                }
                bump.reset();
            }),
            Side::single("bump-scope", || {
                for text in black_box(&texts) {
                    black_box(scope.alloc_str(text).into_mut());
                }
                scope.reset();
            }),
            Side::single("Blink", || {
                for text in black_box(&texts) {
                    black_box(blink.copy_str(text));
                }
                blink.reset();
            }),
            Side::single("SyncBlinkAlloc", || {
                for text in black_box(&texts) {
                    black_box(blink_slice(&sync, text.as_bytes()));
                }
                sync.reset();
            }),
            Side::single("Box<str>", || {
                for text in black_box(&texts) {
                    boxes.push(black_box(Box::<str>::from(text.as_str())));
                }
                boxes.clear();
            }),
        ]);
        compare(report, rows, sides, None);
    })
}

/// `COUNT` copies of slices of 16 to 64 bytes, in words.
fn slices() -> Contest {
    Contest::new(rows("alloc_slice_16-64B"), |report: &mut Report, rows| {
        let slices: Vec<Vec<u64>> = lengths(8).map(|length| vec![7; length]).collect();
        let pool = ArenaPool::new();
        let mut bump = Bump::new();
        let mut scope: bump_scope::Bump = bump_scope::Bump::new();
        let mut blink = Blink::new();
        let mut sync = SyncBlinkAlloc::new();
        let mut boxes = Vec::with_capacity(slices.len());
        let sides = measure([
            Side::single("Cursor", || {
                let arena = pool.rent();
                let mut cursor = arena.cursor();
                for slice in black_box(&slices) {
                    black_box(cursor.alloc_slice_copy(slice));
                }
            }),
            Side::single("&Arena", || {
                let arena = pool.rent();
                for slice in black_box(&slices) {
                    black_box(arena.alloc_slice_copy(slice));
                }
            }),
            Side::single("bumpalo", || {
                for slice in black_box(&slices) {
                    black_box(bump.alloc_slice_copy(slice));
                }
                bump.reset();
            }),
            Side::single("bump-scope", || {
                for slice in black_box(&slices) {
                    black_box(scope.alloc_slice_copy(slice).into_mut());
                }
                scope.reset();
            }),
            Side::single("Blink", || {
                for slice in black_box(&slices) {
                    black_box(blink.copy_slice(slice));
                }
                blink.reset();
            }),
            Side::single("SyncBlinkAlloc", || {
                for slice in black_box(&slices) {
                    black_box(blink_slice(&sync, slice));
                }
                sync.reset();
            }),
            Side::single("Box<[u64]>", || {
                for slice in black_box(&slices) {
                    boxes.push(black_box(Box::<[u64]>::from(slice.as_slice())));
                }
                boxes.clear();
            }),
        ]);
        compare(report, rows, sides, None);
    })
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    contests.extend([values::<2>(), values::<5>(), texts(), slices()]);
}
