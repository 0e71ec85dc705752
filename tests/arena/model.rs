//! Random use of one arena, compared with the same done to owned values.

use std::fmt::Write as _;

use bytes::{BufMut, Bytes};
use proptest::prelude::*;
use tower_memory::{Arena, ArenaBuf, ArenaPool, ArenaString, ArenaVec};

#[derive(Debug, Clone)]
enum Op {
    Str(usize),
    SliceCopy(usize),
    SliceClone(usize),
    FillWith(usize),
    FillIter(usize),
    Format(usize),
    Value,
    /// An alignment of two to this power.
    Aligned(u32),
    Nothing,
    VecPush(usize, usize),
    VecExtend(usize, usize),
    VecShorten(usize, usize),
    VecReserve(usize, usize),
    StringPush(usize, usize),
    StringWrite(usize),
    BufPut(usize, usize),
    BufExtend(usize, usize),
    BufShorten(usize, usize),
    /// Freezes a buffer, and starts another one in its place.
    BufFreeze(usize),
    DropVec(usize),
    CloneArena,
    DropClone,
}

/// How many lists, texts and buffers grow side by side.
const SIDE_BY_SIDE: usize = 3;

fn op() -> impl Strategy<Value = Op> {
    let which = 0..SIDE_BY_SIDE;
    let size = prop_oneof![4 => 0..40_usize, 1 => 0..1500_usize];
    let both = (which.clone(), size.clone());
    prop_oneof![
        size.clone().prop_map(Op::Str),
        size.clone().prop_map(Op::SliceCopy),
        size.clone().prop_map(Op::SliceClone),
        size.clone().prop_map(Op::FillWith),
        size.clone().prop_map(Op::FillIter),
        size.clone().prop_map(Op::Format),
        Just(Op::Value),
        (0..=12_u32).prop_map(Op::Aligned),
        Just(Op::Nothing),
        both.clone().prop_map(|(i, n)| Op::VecPush(i, n)),
        both.clone().prop_map(|(i, n)| Op::VecExtend(i, n)),
        both.clone().prop_map(|(i, n)| Op::VecShorten(i, n)),
        both.clone().prop_map(|(i, n)| Op::VecReserve(i, n)),
        both.clone().prop_map(|(i, n)| Op::StringPush(i, n)),
        which.clone().prop_map(Op::StringWrite),
        both.clone().prop_map(|(i, n)| Op::BufPut(i, n)),
        both.clone().prop_map(|(i, n)| Op::BufExtend(i, n)),
        both.prop_map(|(i, n)| Op::BufShorten(i, n)),
        which.clone().prop_map(Op::BufFreeze),
        which.prop_map(Op::DropVec),
        Just(Op::CloneArena),
        Just(Op::DropClone),
    ]
}

macro_rules! aligned {
    ($($name:ident $align:literal),*) => {
        $(
            #[derive(Debug, Clone, Copy, PartialEq)]
            #[repr(align($align))]
            struct $name(u8);
        )*

        /// One value and one list of the alignment; where they lie.
        fn alloc_aligned(arena: &Arena, log2: u32, mark: u8) -> Vec<Span> {
            match 1_usize << log2 {
                $($align => {
                    let value = arena.alloc($name(mark));
                    let span = span_of(std::slice::from_ref(value));
                    let mut list = arena.vec();
                    list.extend([$name(mark), $name(mark)]);
                    assert_eq!(*list, [*value, *value]);
                    let list = list.into_slice();
                    assert_eq!(span.start & ($align - 1), 0);
                    assert_eq!(list.as_ptr().addr() & ($align - 1), 0);
                    vec![span, span_of(list)]
                })*
                _ => unreachable!(),
            }
        }
    };
}
aligned!(A1 1, A2 2, A4 4, A8 8, A16 16, A32 32, A64 64, A128 128, A256 256, A512 512, A1024 1024,
    A2048 2048, A4096 4096);

/// Addresses of something that is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

pub(crate) fn span_of<T>(values: &[T]) -> Span {
    let range = values.as_ptr_range();
    Span {
        start: range.start.addr(),
        end: range.end.addr(),
    }
}

/// A pattern that no two operations share.
pub(crate) fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (seed.wrapping_mul(31) ^ i.wrapping_mul(7) ^ (i >> 8)) as u8)
        .collect()
}

pub(crate) fn letters(seed: usize, len: usize) -> String {
    ['a', 'é', '漢', '😀', 'z']
        .iter()
        .cycle()
        .skip(seed % 5)
        .take(len)
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Odd([u8; 3]);

/// Everything that was made, next to what it must be.
struct World<'a> {
    arena: &'a Arena,
    strs: Vec<(&'a mut str, String)>,
    bytes: Vec<(&'a mut [u8], Vec<u8>)>,
    words: Vec<(&'a mut [u64], Vec<u64>)>,
    vecs: [(ArenaVec<'a, Odd>, Vec<Odd>); SIDE_BY_SIDE],
    texts: [(ArenaString<'a>, String); SIDE_BY_SIDE],
    bufs: [(ArenaBuf, Vec<u8>); SIDE_BY_SIDE],
    frozen: Vec<(Bytes, Vec<u8>)>,
    aligned: Vec<Span>,
    clones: Vec<Arena>,
}

impl<'a> World<'a> {
    fn new(arena: &'a Arena) -> Self {
        Self {
            arena,
            strs: Vec::new(),
            bytes: Vec::new(),
            words: Vec::new(),
            vecs: std::array::from_fn(|_| (arena.vec(), Vec::new())),
            texts: std::array::from_fn(|_| (arena.string(), String::new())),
            bufs: std::array::from_fn(|_| (arena.buf(), Vec::new())),
            frozen: Vec::new(),
            aligned: Vec::new(),
            clones: Vec::new(),
        }
    }

    fn apply(&mut self, seed: usize, op: &Op) {
        let arena = self.arena;
        match *op {
            Op::Str(len) => {
                let model = letters(seed, len);
                self.strs.push((arena.alloc_str(&model), model));
            }
            Op::Format(len) => {
                let text = letters(seed, len);
                let model = format!("{seed:>5}-{text}-{text:?}");
                let made = arena.alloc_fmt(format_args!("{seed:>5}-{text}-{text:?}"));
                self.strs.push((made, model));
            }
            Op::SliceCopy(len) => {
                let model = pattern(seed, len);
                self.bytes.push((arena.alloc_slice_copy(&model), model));
            }
            Op::SliceClone(len) => {
                let model = pattern(seed, len);
                self.bytes
                    .push((arena.alloc_slice_fill_iter(model.iter().cloned()), model));
            }
            Op::FillWith(len) => {
                let value = |i| (seed * i) as u64;
                let model = (0..len).map(value).collect();
                self.words
                    .push((arena.alloc_slice_fill_iter((0..len).map(value)), model));
            }
            Op::FillIter(len) => {
                // A hint that is right, one that knows nothing.
                let model: Vec<u64> = (0..len as u64).collect();
                let values = model.iter().copied().filter(|_| seed % 2 == 0 || len > 0);
                self.words
                    .push((arena.alloc_slice_fill_iter(values), model));
            }
            Op::Value => {
                let value = arena.alloc(seed as u64);
                self.words
                    .push((std::slice::from_mut(value), vec![seed as u64]));
            }
            Op::Aligned(log2) => {
                let mut spans = alloc_aligned(arena, log2, seed as u8);
                self.aligned.append(&mut spans);
            }
            Op::Nothing => {
                let before = arena.allocated_bytes();
                assert_eq!(arena.alloc_str(""), "");
                assert!(arena.alloc_slice_copy::<u64>(&[]).is_empty());
                assert_eq!(
                    arena.alloc_slice_fill_iter((0..1000).map(|_| ())),
                    [(); 1000]
                );
                arena.alloc(());
                arena.alloc_slice_copy(&[[0_u64; 0]; 5]);
                assert!(arena.vec::<u8>().into_slice().is_empty());
                assert_eq!(arena.string().into_str(), "");
                assert_eq!(arena.buf().freeze(), Bytes::new());
                assert_eq!(arena.allocated_bytes(), before, "nothing costs nothing");
            }
            Op::VecPush(i, n) => {
                let (vec, model) = &mut self.vecs[i];
                for byte in pattern(seed, n.min(100)) {
                    vec.push(Odd([byte; 3]));
                    model.push(Odd([byte; 3]));
                }
            }
            Op::VecExtend(i, n) => {
                let (vec, model) = &mut self.vecs[i];
                let more: Vec<_> = pattern(seed, n).into_iter().map(|b| Odd([b; 3])).collect();
                vec.extend_from_slice(&more);
                model.extend_from_slice(&more);
            }
            Op::VecShorten(i, n) => {
                let (vec, model) = &mut self.vecs[i];
                assert_eq!(vec.pop(), model.pop());
                vec.truncate(n);
                model.truncate(n);
            }
            Op::VecReserve(i, n) => {
                let (vec, _) = &mut self.vecs[i];
                vec.reserve(n);
                assert!(vec.capacity() - vec.len() >= n);
                vec.try_reserve_exact(n + 1).unwrap();
                assert!(vec.capacity() - vec.len() > n);
                vec.reserve_exact(n + 2);
                assert!(vec.capacity() - vec.len() > n + 1);
            }
            Op::StringPush(i, n) => {
                let (text, model) = &mut self.texts[i];
                text.push_str(&letters(seed, n));
                model.push_str(&letters(seed, n));
            }
            Op::StringWrite(i) => {
                let (text, model) = &mut self.texts[i];
                write!(text, "{seed:x}/").unwrap();
                write!(model, "{seed:x}/").unwrap();
                if seed % 11 == 0 {
                    text.clear();
                    model.clear();
                }
            }
            Op::BufPut(i, n) => {
                let (buf, model) = &mut self.bufs[i];
                buf.put_slice(&pattern(seed, n));
                buf.put_u32(seed as u32);
                model.put_slice(&pattern(seed, n));
                model.put_u32(seed as u32);
            }
            Op::BufExtend(i, n) => {
                let (buf, model) = &mut self.bufs[i];
                buf.reserve(n);
                assert!(buf.spare_capacity() >= n);
                buf.extend(pattern(seed, n));
                model.extend(pattern(seed, n));
            }
            Op::BufShorten(i, n) => {
                let (buf, model) = &mut self.bufs[i];
                buf.truncate(n);
                model.truncate(n);
            }
            Op::BufFreeze(i) => {
                let (buf, model) = std::mem::replace(&mut self.bufs[i], (arena.buf(), Vec::new()));
                let bytes = buf.freeze();
                let middle = model.len() / 3..model.len() - model.len() / 4;
                self.frozen
                    .push((bytes.slice(middle.clone()), model[middle].to_vec()));
                self.frozen.push((bytes.clone(), model));
            }
            Op::DropVec(i) => self.vecs[i] = (arena.vec_with_capacity(seed % 50), Vec::new()),
            Op::CloneArena => self.clones.push(arena.clone()),
            Op::DropClone => drop(self.clones.pop()),
        }
    }

    fn check(&self) {
        for (made, model) in &self.strs {
            assert_eq!(**made, **model);
        }
        for (made, model) in &self.bytes {
            assert_eq!(made, model);
        }
        for (made, model) in &self.words {
            assert_eq!(made, model);
            assert_eq!(made.as_ptr().addr() % align_of::<u64>(), 0);
        }
        for (made, model) in &self.vecs {
            assert_eq!(**made, **model);
        }
        for (made, model) in &self.texts {
            assert_eq!(**made, **model);
        }
        for (made, model) in &self.bufs {
            assert_eq!(**made, **model);
        }
        for (made, model) in &self.frozen {
            assert_eq!(made, model);
        }
        self.check_overlaps();
    }

    fn check_overlaps(&self) {
        let capacity = |start: usize, bytes: usize| Span {
            start,
            end: start + bytes,
        };
        let mut spans: Vec<_> = self.aligned.clone();
        spans.extend(self.strs.iter().map(|(s, _)| span_of(s.as_bytes())));
        spans.extend(self.bytes.iter().map(|(s, _)| span_of(s)));
        spans.extend(self.words.iter().map(|(s, _)| span_of(s)));
        let vecs = self.vecs.iter();
        spans.extend(vecs.map(|(v, _)| capacity(v.as_ptr().addr(), v.capacity() * 3)));
        let texts = self.texts.iter();
        spans.extend(texts.map(|(t, _)| capacity(t.as_ptr().addr(), t.capacity())));
        let bufs = self.bufs.iter();
        spans.extend(bufs.map(|(b, _)| capacity(b.as_ptr().addr(), b.capacity())));
        let given: usize = spans.iter().map(|span| span.end - span.start).sum();
        // Of the two views of each frozen buffer only the whole one.
        let frozen = self.frozen.iter().skip(1).step_by(2);
        spans.extend(frozen.map(|(b, _)| span_of(b)));
        spans.retain(|span| span.start < span.end);
        spans.sort_unstable();
        for pair in spans.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{pair:?} overlap");
        }
        assert!(self.arena.allocated_bytes() >= given);
        assert!(self.arena.capacity() >= self.arena.allocated_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn an_arena_behaves_as_owned_values_do(
        first_chunk in prop_oneof![Just(1_usize), Just(64), Just(4096), Just(100_000)],
        rounds in prop::collection::vec(prop::collection::vec(op(), 1..60), 1..4),
    ) {
        let pool = ArenaPool::builder()
            .initial_bytes(first_chunk)
            .max_arena_bytes(200_000)
            .max_total_bytes(1_000_000)
            .build()
            .unwrap();
        let mut outlived = Vec::new();
        let mut seed = 0;
        // Each round but the first on memory that was used before.
        for ops in &rounds {
            let arena = pool.rent();
            prop_assert_eq!(arena.allocated_bytes(), 0);
            let mut world = World::new(&arena);
            for op in ops {
                seed += 1;
                world.apply(seed, op);
            }
            world.check();
            if seed % 2 == 0 {
                outlived.append(&mut world.frozen);
            }
        }
        for (bytes, model) in &outlived {
            prop_assert_eq!(bytes, model);
        }
        drop(outlived);
        prop_assert_eq!(pool.stats().rented, 0);
        prop_assert_eq!(pool.stats().rented_bytes, 0);
    }
}
