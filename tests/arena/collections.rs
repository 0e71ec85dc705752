//! `ArenaVec` and `ArenaString` beside `Vec` and `String`.

use std::{
    borrow::Cow,
    cell::RefCell,
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
};

use proptest::prelude::*;
use tower_memory::{Arena, ArenaString, ArenaVec, arena::Storage};

use super::panic_text;

/// What the standard library's twins can do, in the words of its users.
#[test]
fn the_methods_of_vec_are_there() {
    let arena = Arena::new();
    let mut v: ArenaVec<'_, u32> = arena.vec();
    v.push(1);
    v.insert(0, 2);
    assert_eq!(v, [2, 1]);
    assert_eq!(v.remove(0), 2);
    v.retain(|x| *x > 1);
    assert!(v.is_empty());
    v.drain(..);
    v.resize(3, 0);
    v.extend_from_within(..);
    assert_eq!(v, vec![0; 6]);
    let w = v.clone();
    assert!(v == w);
    v.extend([4, 5]);
    assert_eq!(v.swap_remove(0), 0);
    assert_eq!(v, [5, 0, 0, 0, 0, 0, 4]);
    v.retain(|x| {
        *x += 1;
        *x > 1
    });
    assert_eq!(v, &[6, 5][..]);
    assert!(v > w);
    assert!(w < v);
    assert_eq!(v.as_ref(), [6, 5]);

    let s: ArenaString<'_> = arena.string();
    let t = arena.string();
    assert!(s == t);
    fn r(s: impl AsRef<str>) -> usize {
        s.as_ref().len()
    }
    assert_eq!(r(s), 0);
}

#[track_caller]
fn panics<R>(f: impl FnOnce() -> R) {
    assert!(
        catch_unwind(AssertUnwindSafe(f)).is_err(),
        "it did not panic"
    );
}

/// One step for a list and for a `Vec`.
#[derive(Debug, Clone)]
enum Step {
    Push(u16),
    Pop,
    Insert(usize, u16),
    Remove(usize),
    SwapRemove(usize),
    Truncate(usize),
    Resize(usize, u16),
    Retain(u16),
    Drain(usize, usize, usize),
    Within(usize, usize),
    Extend(Vec<u16>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<u16>().prop_map(Step::Push),
        Just(Step::Pop),
        (0..40_usize, any::<u16>()).prop_map(|(at, value)| Step::Insert(at, value)),
        (0..40_usize).prop_map(Step::Remove),
        (0..40_usize).prop_map(Step::SwapRemove),
        (0..40_usize).prop_map(Step::Truncate),
        (0..40_usize, any::<u16>()).prop_map(|(len, value)| Step::Resize(len, value)),
        (1..4_u16).prop_map(Step::Retain),
        (0..40_usize, 0..40_usize, 0..6_usize).prop_map(|(a, b, taken)| Step::Drain(a, b, taken)),
        (0..40_usize, 0..40_usize).prop_map(|(a, b)| Step::Within(a, b)),
        prop::collection::vec(any::<u16>(), 0..20).prop_map(Step::Extend),
    ]
}

/// A value on the heap: one that is lost or dropped twice shows.
type Held = std::sync::Arc<u16>;

/// Does the same with both.
fn apply<'a, S: Storage<'a>>(list: &mut ArenaVec<'a, Held, S>, vec: &mut Vec<Held>, step: Step) {
    let len = vec.len();
    match step {
        Step::Push(value) => {
            list.push(Held::new(value));
            vec.push(Held::new(value));
        }
        Step::Pop => assert_eq!(list.pop(), vec.pop()),
        Step::Insert(at, value) => {
            list.insert(at.min(len), Held::new(value));
            vec.insert(at.min(len), Held::new(value));
        }
        Step::Remove(at) if at < len => assert_eq!(list.remove(at), vec.remove(at)),
        Step::SwapRemove(at) if at < len => assert_eq!(list.swap_remove(at), vec.swap_remove(at)),
        Step::Remove(at) | Step::SwapRemove(at) => {
            panics(|| list.remove(at));
            panics(|| list.swap_remove(at));
        }
        Step::Truncate(to) => {
            list.truncate(to);
            vec.truncate(to);
        }
        Step::Resize(to, value) => {
            list.resize(to, Held::new(value));
            vec.resize(to, Held::new(value));
        }
        Step::Retain(n) => {
            list.retain(|value| **value % n != 0);
            vec.retain(|value| **value % n != 0);
        }
        Step::Drain(a, b, taken) => {
            let range = a.min(b).min(len)..a.max(b).min(len);
            let (mut ours, mut theirs) = (list.drain(range.clone()), vec.drain(range));
            assert_eq!(ours.len(), theirs.len());
            for i in 0..taken {
                if i % 2 == 0 {
                    assert_eq!(ours.next(), theirs.next());
                } else {
                    assert_eq!(ours.next_back(), theirs.next_back());
                }
            }
        }
        Step::Within(a, b) => {
            let range = a.min(b).min(len)..a.max(b).min(len);
            list.extend_from_within(range.clone());
            vec.extend_from_within(range);
        }
        Step::Extend(values) => {
            list.extend(values.iter().copied().map(Held::new));
            vec.extend(values.into_iter().map(Held::new));
        }
    }
    assert_eq!(list, vec);
}

proptest! {
    #[test]
    fn a_list_does_what_a_vec_does(steps in prop::collection::vec(step(), 0..60)) {
        let arena = Arena::new();
        let (mut list, mut vec) = (arena.vec(), Vec::new());
        for step in steps.clone() {
            apply(&mut list, &mut vec, step);
        }
        prop_assert_eq!(&list.clone(), &list);
        prop_assert!(list.into_iter().eq(vec));

        let mut cursor = arena.cursor();
        let (mut list, mut vec) = (cursor.vec(), Vec::new());
        for step in steps {
            apply(&mut list, &mut vec, step);
        }
        prop_assert!(list.into_iter().eq(vec));
    }
}

/// Notes its drop; some drops panic.
struct Noted<'d>(u32, &'d RefCell<Vec<u32>>);

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.1.borrow_mut().push(self.0);
        assert!(self.0 != 13, "unlucky");
    }
}

fn filled<'a, 'd>(
    arena: &'a Arena,
    values: impl IntoIterator<Item = u32>,
    drops: &'d RefCell<Vec<u32>>,
) -> ArenaVec<'a, Noted<'d>> {
    let mut list = arena.vec();
    list.extend(values.into_iter().map(|value| Noted(value, drops)));
    list
}

fn values(list: &[Noted<'_>]) -> Vec<u32> {
    list.iter().map(|noted| noted.0).collect()
}

#[test]
fn what_is_not_retained_is_dropped_in_order_and_once() {
    let (arena, drops) = (Arena::new(), RefCell::default());
    let mut list = filled(&arena, 0..8, &drops);
    list.retain(|noted| noted.0 % 3 == 0);
    assert_eq!(
        (values(&list), drops.take()),
        (vec![0, 3, 6], vec![1, 2, 4, 5, 7])
    );
}

#[test]
fn a_panic_while_retaining_loses_nothing() {
    let (arena, drops) = (Arena::new(), RefCell::default());
    let mut list = filled(&arena, 0..8, &drops);
    panics(|| {
        list.retain(|noted| {
            assert!(noted.0 != 5, "the predicate panics");
            noted.0 % 2 == 1
        });
    });
    assert_eq!(
        (values(&list), drops.take()),
        (vec![1, 3, 5, 6, 7], vec![0, 2, 4])
    );

    // A drop that panics: the value is gone, and the others stay.
    let mut list = filled(&arena, 11..16, &drops);
    panics(|| list.retain(|noted| noted.0 != 13));
    assert_eq!(
        (values(&list), drops.take()),
        (vec![11, 12, 14, 15], vec![13])
    );
}

#[test]
fn a_panic_while_draining_closes_the_gap() {
    let (arena, drops) = (Arena::new(), RefCell::default());
    let mut list = filled(&arena, 10..20, &drops);
    panics(|| drop(list.drain(2..5)));
    assert_eq!(values(&list), [10, 11, 15, 16, 17, 18, 19]);
    assert_eq!(drops.take(), [12, 13, 14]);
}

#[test]
fn a_forgotten_drain_leaks_and_never_drops_twice() {
    let (arena, drops) = (Arena::new(), RefCell::default());
    let mut list = filled(&arena, 0..6, &drops);
    let mut drain = list.drain(2..4);
    drop(drain.next());
    #[expect(clippy::mem_forget, reason = "what is tested")]
    std::mem::forget(drain);
    assert_eq!(values(&list), [0, 1]);
    drop(list);
    assert_eq!(drops.take(), [2, 0, 1]);
}

#[test]
fn a_panic_in_clone_while_growing_keeps_what_was_made() {
    struct Fragile(u32);
    impl Clone for Fragile {
        fn clone(&self) -> Self {
            assert!(self.0 != 2, "the clone panics");
            Self(self.0)
        }
    }
    let arena = Arena::new();
    let mut list = arena.vec();
    list.extend((0..4).map(Fragile));
    panics(|| list.extend_from_within(1..));
    assert!(list.iter().map(|value| value.0).eq([0, 1, 2, 3, 1]));
    panics(|| list.clone());
}

#[test]
fn indices_out_of_bounds_panic_as_those_of_vec() {
    let arena = Arena::new();
    let mut list = arena.vec();
    list.extend([1, 2]);
    let mut vec = vec![1, 2];
    assert_eq!(panic_text(|| list.remove(2)), panic_text(|| vec.remove(2)));
    assert_eq!(
        panic_text(|| list.insert(3, 0)),
        panic_text(|| vec.insert(3, 0))
    );
    for range in [3..3, 1..3] {
        let text = panic_text(|| drop(list.drain(range.clone())));
        assert!(
            text.contains("out of bounds of a list of 2 values"),
            "{text}"
        );
        panics(|| list.extend_from_within(range));
    }
    #[expect(clippy::reversed_empty_ranges, reason = "what is refused")]
    panics(|| drop(list.drain(2..1)));
    panics(|| drop(list.drain(..=usize::MAX)));
    assert_eq!(list, vec);
}

#[test]
fn values_of_size_zero_are_counted_and_dropped() {
    struct Nothing<'d>(std::marker::PhantomData<&'d ()>);
    thread_local! {
        static DROPS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }
    impl Drop for Nothing<'_> {
        fn drop(&mut self) {
            DROPS.set(DROPS.get() + 1);
        }
    }
    let arena = Arena::new();
    let mut list = arena.vec();
    list.extend(std::iter::repeat_with(|| Nothing(std::marker::PhantomData)).take(10));
    let mut odd = false;
    list.retain(|_| {
        odd = !odd;
        odd
    });
    drop(list.remove(1));
    assert_eq!((list.len(), DROPS.get()), (4, 6));
    assert_eq!(list.drain(1..3).count(), 2);
    drop(list);
    assert_eq!((DROPS.get(), arena.allocated_bytes()), (10, 0));
}

fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[test]
fn lists_and_texts_compare_and_hash_as_what_they_hold() {
    let arena = Arena::new();
    let mut cursor = arena.cursor();
    let (mut list, mut other) = (arena.vec(), cursor.vec());
    list.extend([1, 2]);
    other.extend([1, 3]);
    assert_ne!(list, other);
    assert_eq!(list, list.clone());
    assert_eq!(list, [1, 2]);
    assert_eq!(list, [1, 2][..]);
    assert_eq!(hash(&list), hash(&[1, 2][..]));
    assert_eq!(list.cmp(&list.clone()), std::cmp::Ordering::Equal);
    assert!(list < other);
    drop(other);

    let (mut text, mut other) = (arena.string(), cursor.string());
    text.push_str("ab");
    other.push_str("ac");
    assert_ne!(text, other);
    assert!(text < other);
    assert_eq!(text, text.clone());
    assert_eq!(text, "ab");
    assert_eq!(text, *"ab");
    assert_eq!(text, String::from("ab"));
    assert_eq!(text, Cow::Borrowed("ab"));
    assert_eq!(hash(&text), hash("ab"));
    let mut counts = HashMap::from([(text, 1)]);
    *counts.get_mut("ab").expect("found by its `str`") += 1;
    assert_eq!(counts["ab"], 2);
    assert_eq!(
        (other.pop(), other.pop(), other.pop()),
        (Some('c'), Some('a'), None)
    );
}
