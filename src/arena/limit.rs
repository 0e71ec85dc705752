//! Growth that stays within what the request may hold.
//!
//! Methods with `try_` in their name fail rather than exceed the limit of the accounts that are entered on
//! the thread: these are charged with what an arena takes. Other methods grow, and the account notices.
//! The difference matters on the slow path only, so it is a flag of the thread there instead of an
//! argument of every method.

use std::cell::Cell;

use super::error::ArenaError;
use crate::account::exceeded_by;

thread_local! {
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, in which arenas do not grow beyond the limit. `f` must call no code of users, which may use an
/// arena otherwise, and must not panic.
#[inline]
pub(super) fn within_limit<T>(f: impl FnOnce() -> Result<T, ArenaError>) -> Result<T, ArenaError> {
    let set = |within| WITHIN.try_with(|flag| flag.replace(within));
    let former = set(true);
    let result = f();
    if let Ok(former) = former {
        let _ = set(former);
    }
    result
}

/// As [`within_limit`] if `limited` is true, and else without a limit.
#[inline]
pub(super) fn within_limit_if<T>(
    limited: bool,
    f: impl FnOnce() -> Result<T, ArenaError>,
) -> Result<T, ArenaError> {
    if limited { within_limit(f) } else { f() }
}

/// Whether taking `bytes` would exceed the limit, and the caller wants an error then.
#[inline]
pub(super) fn exceeds(bytes: impl FnOnce() -> usize) -> bool {
    is_within() && exceeded_by(bytes()).is_some()
}

/// The error of taking `bytes`, of which the caller has asked for `asked`, if that would exceed the limit.
pub(super) fn check(bytes: usize, asked: usize) -> Result<(), ArenaError> {
    if !is_within() {
        return Ok(());
    }
    match exceeded_by(bytes) {
        // Of this process, so they fit.
        Some((held, limit)) => Err(ArenaError::limit_exceeded(
            asked,
            held as usize,
            limit as usize,
        )),
        None => Ok(()),
    }
}

fn is_within() -> bool {
    WITHIN.try_with(Cell::get).unwrap_or(false)
}
