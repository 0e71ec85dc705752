//! The stack of the calling thread, by frame pointers (unsafe module 3 of 3).
//!
//! A function that keeps a frame pointer leaves two words where it points to: the frame pointer of its
//! caller, and the address that it returns to. A build keeps them with `-C force-frame-pointers=yes`.
//! Without, the register holds anything, so no word is trusted for more than a number.
//!
//! # Invariants
//!
//! 1. A word is read only between the stack pointer of the running function and the end of the stack that
//!    the C library tells for this thread, and only if the stack pointer lies within that stack. All of
//!    that is mapped and readable: it is in use by the callers. On another stack (a signal's, a
//!    coroutine's) nothing is read.
//! 2. Each frame is aligned to a word and lies above the one before, so a walk ends.
//! 3. What is read is compared and stored as a number. Nothing but the next frame is read through it, which
//!    obeys invariant 1.
//! 4. The bounds are asked for once per thread. For that the C library may allocate, by its own `malloc`
//!    and not through the global allocator. It is called after the inner allocator has returned.

#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    any(target_os = "linux", target_os = "macos"),
    target_pointer_width = "64",
    not(miri)
))]
mod walk;
#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    any(target_os = "linux", target_os = "macos"),
    target_pointer_width = "64",
    not(miri)
))]
pub(super) use self::walk::walk;

/// Writes nothing: no frames are known here.
#[cfg(not(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    any(target_os = "linux", target_os = "macos"),
    target_pointer_width = "64",
    not(miri)
)))]
pub(super) fn walk(_: &mut [usize]) -> usize {
    0
}
