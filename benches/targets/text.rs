//! `arena/format_*` and `arena/buffer_*`: texts that are kept, and one that grows.

use std::{fmt::Write, hint::black_box};

use bump_scope::MutBumpString;
use bumpalo::Bump;
use bytes::BytesMut;
use tower_memory::ArenaPool;

use crate::{
    arena::COUNT,
    harness::{Contest, Report, Samples, Target, measure},
    sides::Side,
};

/// `COUNT` short texts, each formatted into memory of its own, and all of them kept.
///
/// References into arenas are kept as addresses, since one list of references cannot serve for an arena
/// before and after it is reset.
fn kept() -> Contest {
    let peers = ["bumpalo", "bump-scope", "bump-scope_mut", "heap"];
    let names = ["cursor", "shared"].map(|ours| peers.map(|peer| format!("{ours}/{peer}")));
    let [cursor, shared] = names.map(|rows| rows.map(|row| format!("arena/format_item/{row}")));
    let [a, b, c, d] = cursor;
    let [e, f, g, h] = shared;
    Contest::new([a, b, c, d, e, f, g, h], |report: &mut Report, rows| {
        let pool = ArenaPool::new();
        let mut bump = Bump::new();
        let mut scope: bump_scope::Bump = bump_scope::Bump::new();
        let mut scope_mut: bump_scope::Bump = bump_scope::Bump::new();
        let list = || Vec::<*const str>::with_capacity(COUNT as usize);
        let (mut of_cursor, mut of_arena) = (list(), list());
        let (mut of_bump, mut of_scope, mut of_scope_mut) = (list(), list(), list());
        let mut strings = Vec::with_capacity(COUNT as usize);
        let [cursor, shared, bump, scope, scope_mut, heap] = measure([
            Side::single("Cursor", || {
                let arena = pool.rent();
                let mut cursor = arena.cursor();
                for i in 0..COUNT {
                    of_cursor.push(cursor.alloc_fmt(format_args!("item-{}", black_box(i))));
                }
                black_box(&of_cursor);
                of_cursor.clear();
            }),
            Side::single("&Arena", || {
                let arena = pool.rent();
                for i in 0..COUNT {
                    of_arena.push(arena.alloc_fmt(format_args!("item-{}", black_box(i))));
                }
                black_box(&of_arena);
                of_arena.clear();
            }),
            Side::single("bumpalo::format!", || {
                for i in 0..COUNT {
                    let text = bumpalo::format!(in &bump, "item-{}", black_box(i));
                    of_bump.push(text.into_bump_str());
                }
                black_box(&of_bump);
                of_bump.clear();
                bump.reset();
            }),
            Side::single("bump-scope alloc_fmt", || {
                for i in 0..COUNT {
                    let text = scope.alloc_fmt(format_args!("item-{}", black_box(i)));
                    of_scope.push(text.into_mut());
                }
                black_box(&of_scope);
                of_scope.clear();
                scope.reset();
            }),
            Side::single("bump-scope alloc_fmt_mut", || {
                scope_mut.scoped(|scope| {
                    for i in 0..COUNT {
                        let text = scope.alloc_fmt_mut(format_args!("item-{}", black_box(i)));
                        of_scope_mut.push(text.into_mut());
                    }
                    black_box(&of_scope_mut);
                    of_scope_mut.clear();
                });
                scope_mut.reset();
            }),
            Side::single("std format!", || {
                for i in 0..COUNT {
                    strings.push(format!("item-{}", black_box(i)));
                }
                black_box(&strings);
                strings.clear();
            }),
        ])
        .map(|samples| samples.split(COUNT));
        let peers = [&bump, &scope, &scope_mut, &heap];
        let (cursor_rows, shared_rows) = rows.split_at(peers.len());
        for (row, peer) in cursor_rows.iter().zip(peers) {
            report.compare(row, &cursor, peer, Target::Below(1.0));
        }
        for (row, peer) in shared_rows.iter().zip(peers) {
            report.compare(row, &shared, peer, Target::None);
        }
    })
}

#[inline(always)]
fn write_items(out: &mut impl Write) {
    for i in 0..COUNT {
        write!(out, "item-{},", black_box(i)).expect("memory");
    }
}

/// `COUNT` short texts written to one buffer. Ours are taken from a pool each time; what the peers keep
/// is empty, but as large as it became.
fn growing() -> Contest {
    let ours = ["pool.rent.into_buf", "arena.buf", "cursor.string"];
    let peers = ["String", "BytesMut", "bump-scope_MutBumpString"];
    let rows: Vec<String> = ours
        .iter()
        .flat_map(|ours| peers.map(|peer| format!("arena/buffer_write_item/{ours}/{peer}")))
        .collect();
    let rows: [String; 9] = rows.try_into().expect("three times three");
    Contest::new(rows, |report: &mut Report, rows| {
        let pool = ArenaPool::new();
        let mut string = String::new();
        let mut bytes = BytesMut::new();
        let mut scope: bump_scope::Bump = bump_scope::Bump::new();
        let sides: [Samples; 6] = measure([
            Side::single("pool.rent().into_buf(0)", || {
                let mut out = pool.rent().into_buf(0);
                write_items(&mut out);
                black_box(&*out);
            }),
            Side::single("arena.buf()", || {
                let arena = pool.rent();
                let mut out = arena.buf();
                write_items(&mut out);
                black_box(&*out);
            }),
            Side::single("cursor.string()", || {
                let mut arena = pool.rent();
                let mut cursor = arena.exclusive_cursor();
                let mut out = cursor.string();
                write_items(&mut out);
                black_box(out.into_str());
            }),
            Side::single("String reused", || {
                write_items(&mut string);
                black_box(&*string);
                string.clear();
            }),
            Side::single("BytesMut reused", || {
                write_items(&mut bytes);
                black_box(&*bytes);
                bytes.clear();
            }),
            Side::single("MutBumpString", || {
                let mut out = MutBumpString::new_in(&mut scope);
                write_items(&mut out);
                black_box(out.into_str());
                scope.reset();
            }),
        ]);
        let [buffer, shared, text, peers @ ..] = sides.map(|samples| samples.split(COUNT));
        let mut rows = rows.into_iter();
        for ours in [&buffer, &shared, &text] {
            for peer in &peers {
                let row = rows.next().expect("a row each");
                report.compare(row, ours, peer, Target::AtMost(1.05));
            }
        }
    })
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    contests.extend([kept(), growing()]);
}
