//! Objects without references, kept by a thread for a later request.
//!
//! They are made and freed in no account: whether a thread keeps one depends on other requests.

use std::{
    cell::{Cell, RefCell},
    thread::LocalKey,
};

use crate::account::aside;

/// Maximum number of objects of a kind that a thread keeps besides the last one.
const MAX_KEPT: usize = 64;

/// A thread's objects of one kind, which refer to nothing of the request that used them.
pub(crate) struct Recycled<T> {
    /// The last one, which serves most requests.
    last: Cell<Option<T>>,
    older: RefCell<Vec<T>>,
}

impl<T> Recycled<T> {
    pub(crate) const fn new() -> Self {
        Self {
            last: Cell::new(None),
            older: RefCell::new(Vec::new()),
        }
    }

    /// Returns an object that the calling thread keeps, or a new one.
    #[inline]
    pub(crate) fn take(kept: &'static LocalKey<Self>, make: impl FnOnce() -> T) -> T {
        match kept.try_with(|kept| kept.last.take()) {
            Ok(Some(object)) => object,
            _ => Self::take_older(kept, make),
        }
    }

    #[inline(never)]
    fn take_older(kept: &'static LocalKey<Self>, make: impl FnOnce() -> T) -> T {
        match kept.try_with(|kept| kept.older.borrow_mut().pop()) {
            Ok(Some(object)) => object,
            _ => aside(make),
        }
    }

    /// Keeps an object without other references, unless the thread has enough of them.
    #[inline]
    pub(crate) fn put(kept: &'static LocalKey<Self>, object: T) {
        let mut object = Some(object);
        let _ = kept.try_with(|kept| object = kept.last.replace(object.take()));
        if let Some(object) = object {
            Self::put_older(kept, object);
        }
    }

    #[inline(never)]
    fn put_older(kept: &'static LocalKey<Self>, object: T) {
        let mut object = Some(object);
        let _ = kept.try_with(|kept| {
            let mut kept = kept.older.borrow_mut();
            if kept.capacity() == 0 {
                aside(|| kept.reserve_exact(MAX_KEPT));
            }
            if kept.len() < MAX_KEPT {
                kept.extend(object.take());
            }
        });
        if object.is_some() {
            aside(|| drop(object));
        }
    }
}
