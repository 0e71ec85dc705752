//! A counted reference that has no weak references.
//!
//! `std::sync::Arc::get_mut` locks the count of weak references, which takes a read-modify-write. Without
//! them it is one load, and so is the drop of the only reference.
//!
//! # Invariants
//!
//! 1. `refs` is the number of [`Counted`] for this value. It is freed when the last one is dropped.
//! 2. A reference is made from one that exists. So while the count is one, and the only reference is
//!    held exclusively, no other thread can read or change the count or the value. The same is true while the
//!    count is two, and one thread holds both references exclusively.
//! 3. A reference is dropped with release ordering, and the thread that finds itself to have the only one
//!    acquires. So it happens after all uses of the others.
#![expect(
    unsafe_code,
    reason = "frees a shared value, and lends it exclusively to the only reference"
)]

use std::{fmt, mem::ManuallyDrop, ops::Deref, process::abort, ptr::NonNull};

use crate::sync::{AtomicUsize, Ordering, fence};

/// References that are forgotten must not make the count wrap, as in `Arc`.
const MAX_REFS: usize = isize::MAX as usize;

/// A counted reference to a value that threads share.
pub(crate) struct Counted<T: ?Sized> {
    inner: NonNull<Inner<T>>,
}

/// The count and the value.
pub(crate) struct Inner<T: ?Sized> {
    refs: AtomicUsize,
    value: T,
}

// SAFETY: as `Arc`: each thread with a reference can read the value, and the last one drops it
// (invariant 1).
unsafe impl<T: ?Sized + Send + Sync> Send for Counted<T> {}
// SAFETY: a shared reference can be cloned, so this is the same as `Send` (invariant 1).
unsafe impl<T: ?Sized + Send + Sync> Sync for Counted<T> {}

impl<T> Counted<T> {
    pub(crate) fn new(value: T) -> Self {
        let inner = Box::new(Inner {
            refs: AtomicUsize::new(1),
            value,
        });
        Self {
            inner: NonNull::from(Box::leak(inner)),
        }
    }
}

impl<T: ?Sized> Counted<T> {
    #[inline]
    fn inner(&self) -> &Inner<T> {
        // SAFETY: the value is alive while there is a reference (invariant 1).
        unsafe { self.inner.as_ref() }
    }

    /// Whether this is the only reference. If so, it happens after all uses of the others.
    #[inline]
    pub(crate) fn is_only(&self) -> bool {
        // Acquire: invariant 3.
        self.inner().refs.load(Ordering::Acquire) == 1
    }

    /// Whether there are so many references now.
    #[inline]
    pub(crate) fn has_references(&self, count: usize) -> bool {
        // Acquire: invariant 3.
        self.inner().refs.load(Ordering::Acquire) == count
    }

    /// Returns the value if this is the only reference.
    #[inline]
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        if !self.is_only() {
            return None;
        }
        // SAFETY: this reference is held exclusively, and is the only one (invariants 2 and 3).
        Some(unsafe { &mut self.inner.as_mut().value })
    }

    /// As `clone`. The second reference of a value takes no locked instruction.
    #[inline]
    pub(crate) fn clone_mut(&mut self) -> Self {
        if !self.is_only() {
            return self.clone();
        }
        // Relaxed: no other thread can read the count (invariant 2), and the one that gets the new
        // reference happens after this.
        self.inner().refs.store(2, Ordering::Relaxed);
        Self { inner: self.inner }
    }

    /// As two clones, counted at once.
    #[inline]
    pub(crate) fn clone_twice(&self) -> [Self; 2] {
        self.count_more(2);
        [self.inner, self.inner].map(|inner| Self { inner })
    }

    #[inline]
    fn count_more(&self, count: usize) {
        // Relaxed: invariant 2.
        if self.inner().refs.fetch_add(count, Ordering::Relaxed) > MAX_REFS {
            abort();
        }
    }

    /// Drops the reference, or returns it if it is the last one.
    #[inline]
    pub(crate) fn into_last(self) -> Option<Self> {
        if self.is_only() {
            return Some(self);
        }
        let this = ManuallyDrop::new(self);
        if !this.release(1) {
            return None;
        }
        // Relaxed: as in `clone_mut`.
        this.inner().refs.store(1, Ordering::Relaxed);
        Some(ManuallyDrop::into_inner(this))
    }

    /// Drops the reference beside another one, without a locked instruction. Returns it if it is of another value,
    /// or if there are further references.
    #[inline]
    pub(crate) fn drop_beside(self, other: &mut Self) -> Option<Self> {
        if !self.is_same(other) || !self.has_references(2) {
            return Some(self);
        }
        let this = ManuallyDrop::new(self);
        // Relaxed: no other thread can read the count (invariant 2), and whatever gets `other` happens after this.
        this.inner().refs.store(1, Ordering::Relaxed);
        None
    }

    /// As [`into_last`](Self::into_last), of two references to one value, in one step. They are of the same value.
    #[inline]
    pub(crate) fn into_last_of_two<U: ?Sized>(self, other: Counted<U>) -> Option<Self> {
        debug_assert_eq!(self.addr(), other.addr(), "of one value");
        let (this, _other) = (ManuallyDrop::new(self), ManuallyDrop::new(other));
        if !this.release(2) {
            return None;
        }
        // Relaxed: as in `clone_mut`.
        this.inner().refs.store(1, Ordering::Relaxed);
        Some(ManuallyDrop::into_inner(this))
    }

    /// Counts references less, which must not be used any more. Returns whether they were the last ones.
    #[inline]
    fn release(&self, count: usize) -> bool {
        if bug!("last-drop-unordered") {
            return self.inner().refs.fetch_sub(count, Ordering::Relaxed) == count;
        }
        // Release: invariant 3.
        if self.inner().refs.fetch_sub(count, Ordering::Release) != count {
            return false;
        }
        // Acquire: invariant 3.
        fence(Ordering::Acquire);
        true
    }

    #[inline]
    pub(crate) fn addr(&self) -> usize {
        self.inner.addr().get()
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.addr() == other.addr()
    }

    /// For [`from_raw`](Self::from_raw).
    pub(crate) fn into_raw(self) -> NonNull<Inner<T>> {
        ManuallyDrop::new(self).inner
    }

    /// # Safety
    ///
    /// `inner` comes from [`into_raw`](Self::into_raw), as it is or made unsized, and is used once.
    pub(crate) const unsafe fn from_raw(inner: NonNull<Inner<T>>) -> Self {
        Self { inner }
    }
}

impl<T: ?Sized> Deref for Counted<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner().value
    }
}

impl<T: ?Sized> Clone for Counted<T> {
    #[inline]
    fn clone(&self) -> Self {
        self.count_more(1);
        Self { inner: self.inner }
    }
}

impl<T: ?Sized> Drop for Counted<T> {
    #[inline]
    fn drop(&mut self) {
        if self.is_only() || self.release(1) {
            // SAFETY: made by `Box::leak`, and this was the last reference (invariants 1 and 3).
            drop(unsafe { Box::from_raw(self.inner.as_ptr()) });
        }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Counted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    /// What is done with a list of references to one value.
    #[derive(Debug, Clone)]
    enum Step {
        Clone(prop::sample::Index),
        CloneMut(prop::sample::Index),
        Drop(prop::sample::Index),
        IntoLast(prop::sample::Index),
        DropBeside(prop::sample::Index),
        CloneTwice(prop::sample::Index),
        IntoLastOfTwo(prop::sample::Index),
        GetMut(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let index = any::<prop::sample::Index>;
        let step = prop_oneof![
            index().prop_map(Step::Clone),
            index().prop_map(Step::CloneMut),
            index().prop_map(Step::Drop),
            index().prop_map(Step::IntoLast),
            index().prop_map(Step::DropBeside),
            index().prop_map(Step::CloneTwice),
            index().prop_map(Step::IntoLastOfTwo),
            index().prop_map(Step::GetMut),
        ];
        prop::collection::vec(step, 1..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Beside a number.
        #[test]
        fn the_last_reference_and_no_other_has_the_value_to_itself(steps in steps()) {
            let alive = Arc::new(());
            let mut references = vec![Counted::new((Arc::clone(&alive), 0_u32))];
            let mut writes = 0;
            for step in steps {
                let count = references.len();
                if count == 0 {
                    break;
                }
                match step {
                    Step::Clone(at) => {
                        let clone = at.get(&references).clone();
                        references.push(clone);
                    }
                    Step::CloneMut(at) => {
                        let clone = at.get_mut(&mut references).clone_mut();
                        references.push(clone);
                    }
                    Step::Drop(at) => drop(references.swap_remove(at.index(count))),
                    Step::IntoLast(at) => {
                        let last = references.swap_remove(at.index(count)).into_last();
                        prop_assert_eq!(last.is_some(), count == 1);
                        references.extend(last);
                    }
                    Step::DropBeside(at) => {
                        let one = references.swap_remove(at.index(count));
                        let other = references.first_mut();
                        let left = match other {
                            Some(other) => one.drop_beside(other),
                            None => Some(one),
                        };
                        prop_assert_eq!(left.is_none(), count == 2);
                        references.extend(left);
                    }
                    Step::CloneTwice(at) => {
                        let clones = at.get(&references).clone_twice();
                        references.extend(clones);
                    }
                    Step::IntoLastOfTwo(at) => {
                        let one = references.swap_remove(at.index(count));
                        let last = match references.pop() {
                            Some(other) => one.into_last_of_two(other),
                            None => one.into_last(),
                        };
                        prop_assert_eq!(last.is_some(), count <= 2);
                        references.extend(last);
                    }
                    Step::GetMut(at) => {
                        let value = at.get_mut(&mut references).get_mut();
                        prop_assert_eq!(value.is_some(), count == 1);
                        if let Some(value) = value {
                            value.1 += 1;
                            writes += 1;
                        }
                    }
                }
                prop_assert!(references.iter().all(|one| one.1 == writes));
                prop_assert!(references.iter().all(|one| one.is_only() == (references.len() == 1)));
                let expected = if references.is_empty() { 1 } else { 2 };
                prop_assert_eq!(Arc::strong_count(&alive), expected);
            }
            drop(references);
            prop_assert_eq!(Arc::strong_count(&alive), 1);
        }
    }

    #[test]
    fn two_references_are_the_same_and_two_values_are_not() {
        let one = Counted::new(7);
        assert!(one.is_same(&one.clone()));
        let mut another = Counted::new(7);
        assert!(!one.is_same(&another));
        // Of another value, nothing is known.
        let (clone, _other) = (another.clone(), another.clone());
        assert!(clone.drop_beside(&mut another).is_some());
        let (mut one, clone) = (one.clone(), one);
        assert!(Counted::new(7).drop_beside(&mut one).is_some());
        assert!(clone.drop_beside(&mut one).is_none() && one.is_only());
        assert_eq!(format!("{one:?}"), "7");
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{cell::UnsafeCell, thread};

    use super::*;

    /// A value whose uses loom checks for races.
    struct Value(UnsafeCell<usize>);

    // SAFETY: for the models only, which check that no two threads use it at the same time (invariant 2).
    unsafe impl Sync for Value {}
    // SAFETY: as above (invariant 2).
    unsafe impl Send for Value {}

    impl Value {
        fn shared() -> Counted<Self> {
            Counted::new(Self(UnsafeCell::new(0)))
        }

        fn read(&self) -> usize {
            // SAFETY: alive; loom reports a write at the same time (invariant 2).
            self.0.with(|value| unsafe { *value })
        }

        fn add(&mut self) {
            // SAFETY: alive; loom reports any other use at the same time (invariant 2).
            self.0.with_mut(|value| unsafe { *value += 1 });
        }
    }

    impl Drop for Value {
        fn drop(&mut self) {
            self.add();
        }
    }

    /// Invariant 3, for a writer that has the only reference.
    #[test]
    fn the_only_reference_writes_after_the_others_have_read() {
        loom::model(|| {
            let mut mine = Value::shared();
            let other = mine.clone_mut();
            let reader = thread::spawn(move || other.read());
            if let Some(value) = mine.get_mut() {
                value.add();
            }
            assert_eq!(reader.join().expect("no panic"), 0);
        });
    }

    /// Invariants 1 and 3, for the drop and for recycling.
    #[test]
    fn one_of_two_references_is_the_last_and_happens_after_the_other() {
        loom::model(|| {
            let mine = Value::shared();
            let other = mine.clone();
            let last = |one: Counted<Value>| {
                one.read();
                one.into_last().map(|mut last| {
                    last.get_mut().expect("it is the only one").add();
                    last.read()
                })
            };
            let thread = thread::spawn(move || last(other));
            let here = last(mine);
            let there = thread.join().expect("no panic");
            assert_eq!([here, there].into_iter().flatten().sum::<usize>(), 1);
        });
    }

    /// Invariants 1 and 3, for two references that are dropped at once.
    #[test]
    fn two_references_dropped_at_once_are_the_last_and_happen_after_the_others() {
        loom::model(|| {
            let other = Value::shared();
            let [mine, beside] = other.clone_twice();
            let last = |last: Option<Counted<Value>>| {
                last.map(|mut last| {
                    last.get_mut().expect("it is the only one").add();
                    last.read()
                })
            };
            let thread = thread::spawn(move || {
                other.read();
                last(other.into_last())
            });
            mine.read();
            let here = last(mine.into_last_of_two(beside));
            let there = thread.join().expect("no panic");
            assert_eq!([here, there].into_iter().flatten().sum::<usize>(), 1);
        });
    }

    /// Invariants 2 and 3, for a reference that is dropped beside another one.
    #[test]
    fn a_reference_dropped_beside_another_leaves_what_other_threads_have() {
        loom::model(|| {
            let mut mine = Value::shared();
            let (beside, other) = (mine.clone(), mine.clone());
            let reader = thread::spawn(move || other.read());
            drop(beside.drop_beside(&mut mine));
            if let Some(value) = mine.get_mut() {
                value.add();
            }
            assert_eq!(reader.join().expect("no panic"), 0);
            assert!(mine.is_only());
        });
    }

    /// Invariant 1: a clone that another thread makes keeps the value.
    #[test]
    fn a_clone_made_while_a_reference_is_dropped_keeps_the_value() {
        loom::model(|| {
            let mine = Value::shared();
            let other = mine.clone();
            let thread = thread::spawn(move || {
                let clone = other.clone();
                drop(other);
                clone.read()
            });
            drop(mine);
            assert_eq!(thread.join().expect("no panic"), 0);
        });
    }
}
