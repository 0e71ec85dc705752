//! `arena/` and `pool/`: allocating in an arena, and taking one from a pool.

use std::{
    alloc::Layout,
    hint::black_box,
    sync::{Mutex, PoisonError},
};

use blink_alloc::SyncBlinkAlloc;
use bumpalo::Bump;
use tower_memory::ArenaPool;

use crate::harness::{Contest, Report, Side, Target, measure};

/// Allocations between two recyclings.
const COUNT: u32 = 1000;

/// `value` in a `SyncBlinkAlloc`, which has no typed method of its own without its `Blink`.
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
fn blink_str<'a>(blink: &'a SyncBlinkAlloc, text: &str) -> &'a str {
    let ptr = blink
        .allocate(Layout::for_value(text))
        .expect("memory")
        .cast::<u8>();
    // SAFETY: fresh memory of the text's layout, and a copy of valid UTF-8.
    unsafe {
        ptr.copy_from_nonoverlapping(std::ptr::NonNull::from(text).cast(), text.len());
        std::str::from_utf8_unchecked(std::slice::from_raw_parts(ptr.as_ptr(), text.len()))
    }
}

fn rows<const N: usize>(name: &str, peers: [&str; N]) -> [String; N] {
    peers.map(|peer| format!("arena/{name}/{peer}"))
}

/// `COUNT` values of `8 * WORDS` bytes.
fn values<const WORDS: usize>() -> Contest {
    let name = format!("alloc_{}B", 8 * WORDS);
    Contest::new(
        rows(&name, ["blink-alloc_sync", "bumpalo", "heap"]),
        |report: &mut Report, [blink_row, bump_row, heap_row]| {
            let pool = ArenaPool::new();
            let mut blink = SyncBlinkAlloc::new();
            let mut bump = Bump::new();
            let mut boxes = Vec::with_capacity(COUNT as usize);
            let [ours, blink, bump, heap] = measure([
                Side::single("&Arena", || {
                    let arena = pool.rent();
                    for i in 0..u64::from(COUNT) {
                        black_box(arena.alloc([i; WORDS]));
                    }
                }),
                Side::single("SyncBlinkAlloc", || {
                    for i in 0..u64::from(COUNT) {
                        black_box(blink_put(&blink, [i; WORDS]));
                    }
                    blink.reset();
                }),
                Side::single("bumpalo", || {
                    for i in 0..u64::from(COUNT) {
                        black_box(bump.alloc([i; WORDS]));
                    }
                    bump.reset();
                }),
                Side::single("Box", || {
                    for i in 0..u64::from(COUNT) {
                        boxes.push(black_box(Box::new([i; WORDS])));
                    }
                    boxes.clear();
                }),
            ])
            .map(|samples| samples.split(COUNT));
            report.compare(blink_row, &ours, &blink, Target::AtMost(0.5));
            report.compare(bump_row, &ours, &bump, Target::None);
            report.compare(heap_row, &ours, &heap, Target::None);
        },
    )
}

/// `COUNT` copies of texts of 16 to 64 bytes.
fn texts() -> Contest {
    Contest::new(
        rows("alloc_str_16-64B", ["blink-alloc_sync", "bumpalo", "heap"]),
        |report: &mut Report, [blink_row, bump_row, heap_row]| {
            let texts: Vec<String> = (0..COUNT as usize)
                .map(|i| "x".repeat(16 + i * 31 % 49))
                .collect();
            let pool = ArenaPool::new();
            let mut blink = SyncBlinkAlloc::new();
            let mut bump = Bump::new();
            let mut boxes = Vec::with_capacity(texts.len());
            let [ours, blink, bump, heap] = measure([
                Side::single("&Arena", || {
                    let arena = pool.rent();
                    for text in black_box(&texts) {
                        black_box(arena.alloc_str(text));
                    }
                }),
                Side::single("SyncBlinkAlloc", || {
                    for text in black_box(&texts) {
                        black_box(blink_str(&blink, text));
                    }
                    blink.reset();
                }),
                Side::single("bumpalo", || {
                    for text in black_box(&texts) {
                        black_box(bump.alloc_str(text));
                    }
                    bump.reset();
                }),
                Side::single("Box<str>", || {
                    for text in black_box(&texts) {
                        boxes.push(black_box(Box::<str>::from(text.as_str())));
                    }
                    boxes.clear();
                }),
            ])
            .map(|samples| samples.split(COUNT));
            report.compare(blink_row, &ours, &blink, Target::AtMost(0.5));
            report.compare(bump_row, &ours, &bump, Target::None);
            report.compare(heap_row, &ours, &heap, Target::None);
        },
    )
}

/// `COUNT` short texts, each formatted into memory of its own.
fn formats() -> Contest {
    Contest::new(
        rows("format_item", ["bumpalo", "heap"]),
        |report: &mut Report, [bump_row, heap_row]| {
            let pool = ArenaPool::new();
            let mut bump = Bump::new();
            let mut strings = Vec::with_capacity(COUNT as usize);
            let [ours, bump, heap] = measure([
                Side::single("&Arena", || {
                    let arena = pool.rent();
                    for i in 0..COUNT {
                        black_box(arena.format(format_args!("item-{}", black_box(i))));
                    }
                }),
                Side::single("bumpalo::format!", || {
                    for i in 0..COUNT {
                        black_box(bumpalo::format!(in &bump, "item-{}", black_box(i)));
                    }
                    bump.reset();
                }),
                Side::single("std format!", || {
                    for i in 0..COUNT {
                        strings.push(black_box(format!("item-{}", black_box(i))));
                    }
                    strings.clear();
                }),
            ])
            .map(|samples| samples.split(COUNT));
            report.compare(bump_row, &ours, &bump, Target::None);
            report.compare(heap_row, &ours, &heap, Target::None);
        },
    )
}

/// `COUNT` short texts written to one buffer that starts empty.
fn buffers() -> Contest {
    Contest::new(
        rows("buf_write_item", ["String", "Vec_u8", "bumpalo"]),
        |report: &mut Report, [string_row, vec_row, bump_row]| {
            use std::{fmt::Write as _, io::Write as _};

            let pool = ArenaPool::new();
            let mut bump = Bump::new();
            let [ours, string, vec, bump] = measure([
                Side::single("ArenaBuf", || {
                    let mut out = pool.rent().buf();
                    for i in 0..COUNT {
                        std::io::Write::write_fmt(&mut out, format_args!("item-{},", black_box(i)))
                            .expect("memory");
                    }
                    black_box(&*out);
                }),
                Side::single("String", || {
                    let mut out = String::new();
                    for i in 0..COUNT {
                        write!(out, "item-{},", black_box(i)).expect("memory");
                    }
                    black_box(&*out);
                }),
                Side::single("Vec<u8>", || {
                    let mut out = Vec::new();
                    for i in 0..COUNT {
                        out.write_fmt(format_args!("item-{},", black_box(i)))
                            .expect("memory");
                    }
                    black_box(&*out);
                }),
                Side::single("bumpalo String", || {
                    let mut out = bumpalo::collections::String::new_in(&bump);
                    for i in 0..COUNT {
                        write!(out, "item-{},", black_box(i)).expect("memory");
                    }
                    black_box(&*out);
                    drop(out);
                    bump.reset();
                }),
            ])
            .map(|samples| samples.split(COUNT));
            report.compare(string_row, &ours, &string, Target::None);
            report.compare(vec_row, &ours, &vec, Target::None);
            report.compare(bump_row, &ours, &bump, Target::None);
        },
    )
}

/// One arena: taken, used for some values of 40 bytes, given back.
fn pools(count: u64, threads: usize) -> Contest {
    Contest::new(
        [format!("pool/rent_{count}x40B_recycle/{threads}_thread")],
        move |report: &mut Report, [row]| {
            let pool = ArenaPool::new();
            let bumps = Mutex::new(Vec::<Bump>::new());
            let lock = || bumps.lock().unwrap_or_else(PoisonError::into_inner);
            let [ours, peer] = measure([
                Side::on(threads, "ArenaPool", || {
                    || {
                        let arena = pool.rent();
                        for i in 0..count {
                            black_box(arena.alloc([i; 5]));
                        }
                    }
                }),
                Side::on(threads, "Mutex<Vec<Bump>>", || {
                    || {
                        let waiting = lock().pop();
                        let mut bump = waiting.unwrap_or_default();
                        for i in 0..count {
                            black_box(bump.alloc([i; 5]));
                        }
                        bump.reset();
                        lock().push(bump);
                    }
                }),
            ]);
            // One value: the pool alone, for the eye.
            let target = if count == 10 {
                Target::Below(1.0)
            } else {
                Target::None
            };
            report.compare(row, &ours, &peer, target);
        },
    )
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    contests.extend([
        values::<5>(),
        values::<2>(),
        texts(),
        formats(),
        buffers(),
        pools(10, 1),
        pools(10, 2),
        pools(1, 1),
        pools(1, 2),
    ]);
}
