#![expect(unsafe_code, reason = "reads the frames of the calling thread's stack")]

use std::{arch::asm, cell::Cell, ptr};

/// No code is below.
const LEAST_ADDRESS: usize = 4096;

/// The bits of an address. The others may hold a signature of a return address.
const ADDRESS: usize = (1 << 48) - 1;

/// The lowest address of a thread's stack, and the one after its highest.
#[derive(Clone, Copy)]
struct Bounds {
    low: usize,
    end: usize,
}

/// Nothing lies within.
const NOWHERE: Bounds = Bounds { low: 1, end: 1 };

thread_local! {
    // `const` and without `Drop`: an access never allocates.
    static BOUNDS: Cell<Option<Bounds>> = const { Cell::new(None) };
}

/// Writes the addresses of the calls that led here, innermost first, and returns how many they are.
#[inline(never)]
pub(in crate::sampler) fn walk(stack: &mut [usize]) -> usize {
    let (mut frame, here) = registers();
    let Bounds { low, end } = bounds();
    // On another stack: no frames rather than a guess (invariant 1).
    if here < low || here >= end {
        return 0;
    }
    let Some(last) = end.checked_sub(2 * size_of::<usize>()) else {
        return 0;
    };
    let (mut above, mut len) = (here, 0);
    for place in stack {
        if frame % size_of::<usize>() != 0 || frame < above || frame > last {
            break;
        }
        let words: *const [usize; 2] = ptr::with_exposed_provenance(frame);
        // SAFETY: both words lie between the stack pointer and the end of this thread's stack, and are
        // aligned (invariants 1 and 2).
        let [next, returns_to] = unsafe { words.read_volatile() };
        let returns_to = returns_to & ADDRESS;
        if returns_to < LEAST_ADDRESS {
            break;
        }
        // The address after the call may be another function's.
        *place = returns_to - 1;
        len += 1;
        above = frame + size_of::<usize>();
        frame = next;
    }
    len
}

/// The frame pointer and the stack pointer.
#[inline(always)]
fn registers() -> (usize, usize) {
    let (frame, stack): (usize, usize);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: copies two registers (invariant 3).
    unsafe {
        asm!("mov {}, rbp", "mov {}, rsp", out(reg) frame, out(reg) stack,
            options(nomem, nostack, preserves_flags));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: copies two registers (invariant 3).
    unsafe {
        asm!("mov {}, x29", "mov {}, sp", out(reg) frame, out(reg) stack,
            options(nomem, nostack, preserves_flags));
    }
    (frame, stack)
}

fn bounds() -> Bounds {
    BOUNDS
        .try_with(|cell| {
            if let Some(bounds) = cell.get() {
                return bounds;
            }
            // Should the C library come back here (invariant 4).
            cell.set(Some(NOWHERE));
            let bounds = ask().unwrap_or(NOWHERE);
            cell.set(Some(bounds));
            bounds
        })
        .unwrap_or(NOWHERE)
}

/// Asks the C library for the bounds of this thread's stack.
#[cold]
#[cfg(target_os = "linux")]
fn ask() -> Option<Bounds> {
    use std::mem::MaybeUninit;

    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let (mut low, mut size) = (ptr::null_mut(), 0);
    // SAFETY: the calling thread is alive, and `attributes` is valid for writes. Destroyed only after it
    // was initialised (invariant 4).
    let code = unsafe {
        let mut code = libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr());
        if code == 0 {
            code = libc::pthread_attr_getstack(attributes.as_ptr(), &mut low, &mut size);
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
        }
        code
    };
    let low = low.addr();
    let end = low.checked_add(size)?;
    (code == 0).then_some(Bounds { low, end })
}

/// Asks the C library for the bounds of this thread's stack.
#[cold]
#[cfg(target_os = "macos")]
fn ask() -> Option<Bounds> {
    // SAFETY: the calling thread is alive (invariant 4).
    let (end, size) = unsafe {
        let thread = libc::pthread_self();
        (
            libc::pthread_get_stackaddr_np(thread).addr(),
            libc::pthread_get_stacksize_np(thread),
        )
    };
    let low = end.checked_sub(size)?;
    Some(Bounds { low, end })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_stays_within_its_bounds_and_its_slice() {
        let mut stack = [0; 64];
        let len = walk(&mut stack);
        assert!(
            stack[..len]
                .iter()
                .all(|address| *address >= LEAST_ADDRESS - 1)
        );
        assert!(stack[len..].iter().all(|address| *address == 0));
        assert!(walk(&mut stack[..2]) <= 2);
        assert_eq!(walk(&mut []), 0);
    }

    #[test]
    fn a_local_is_within_the_bounds_of_each_thread() {
        fn check() {
            let local = 0_u8;
            let Bounds { low, end } = bounds();
            let (_, here) = registers();
            assert!(low < here && here < end);
            // Unless a sanitizer moved it elsewhere.
            let address = (&raw const local).addr();
            assert!(address < low || address > here - 4096);
        }
        check();
        std::thread::spawn(check).join().expect("no panic");
    }

    #[test]
    fn on_another_stack_no_frame_is_read() {
        BOUNDS.set(Some(NOWHERE));
        assert_eq!(walk(&mut [0; 8]), 0);
        BOUNDS.set(None);
    }
}
