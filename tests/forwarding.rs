//! What the global allocator passes on to the one it wraps, and what the arena does when that one
//! has no memory.
#![expect(unsafe_code, reason = "implements and calls a GlobalAlloc")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fmt::Write as _,
    io::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::BufMut;
use tower_memory::{
    Arena, TrackingAllocator,
    account::{HeapUsage, is_installed, thread_usage},
    arena::{ArenaError, ArenaErrorKind},
};

#[global_allocator]
static ALLOC: TrackingAllocator<Spy> = TrackingAllocator::new(Spy);

/// Counts the calls of each thread, and has no memory for blocks from a size on.
struct Spy;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Calls {
    alloc: u64,
    alloc_zeroed: u64,
    realloc: u64,
    dealloc: u64,
}

thread_local! {
    static CALLS: Cell<Calls> = const {
        Cell::new(Calls { alloc: 0, alloc_zeroed: 0, realloc: 0, dealloc: 0 })
    };
    /// Size and alignment from which on blocks are refused.
    static REFUSED_FROM: Cell<(usize, usize)> = const { Cell::new((usize::MAX, 1)) };
}

impl Spy {
    /// Notes a call; `false` if it is to fail.
    fn called(size: usize, align: usize, note: impl FnOnce(&mut Calls)) -> bool {
        let mut calls = CALLS.get();
        note(&mut calls);
        CALLS.set(calls);
        let refused = REFUSED_FROM.get();
        size < refused.0 || align < refused.1
    }
}

// SAFETY: forwards to `System`, or returns null, which is always allowed. The thread-local cells
// are const and have no destructor, so reaching them neither allocates nor fails.
unsafe impl GlobalAlloc for Spy {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !Self::called(layout.size(), layout.align(), |calls| calls.alloc += 1) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        Self::called(0, 1, |calls| calls.dealloc += 1);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) };
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !Self::called(layout.size(), layout.align(), |calls| {
            calls.alloc_zeroed += 1
        }) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if !Self::called(new_size, layout.align(), |calls| calls.realloc += 1) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

/// Runs `f`, in which this thread gets no blocks of `size` bytes or more.
fn refusing_from<R>(size: usize, f: impl FnOnce() -> R) -> R {
    refusing(size, 1, f)
}

/// Runs `f`, in which this thread gets no chunks of [`REFUSED`] bytes or more.
///
/// Chunks are aligned to 16; what a panic needs, which must not fail, is less aligned.
fn refusing_chunks<R>(f: impl FnOnce() -> R) -> R {
    refusing(REFUSED, 16, f)
}

fn refusing<R>(size: usize, align: usize, f: impl FnOnce() -> R) -> R {
    struct Reset((usize, usize));
    impl Drop for Reset {
        fn drop(&mut self) {
            REFUSED_FROM.set(self.0);
        }
    }
    let _reset = Reset(REFUSED_FROM.replace((size, align)));
    f()
}

/// What `f` called of the inner allocator, and how the thread's figures moved.
fn observed<R>(f: impl FnOnce() -> R) -> (R, Calls, HeapUsage) {
    assert!(is_installed());
    let (calls, usage) = (CALLS.get(), thread_usage().unwrap());
    let result = f();
    let (calls_now, now) = (CALLS.get(), thread_usage().unwrap());
    let mut moved = HeapUsage::default();
    moved.allocations = now.allocations - usage.allocations;
    moved.deallocations = now.deallocations - usage.deallocations;
    moved.reallocations = now.reallocations - usage.reallocations;
    moved.bytes_allocated = now.bytes_allocated - usage.bytes_allocated;
    moved.bytes_deallocated = now.bytes_deallocated - usage.bytes_deallocated;
    let called = Calls {
        alloc: calls_now.alloc - calls.alloc,
        alloc_zeroed: calls_now.alloc_zeroed - calls.alloc_zeroed,
        realloc: calls_now.realloc - calls.realloc,
        dealloc: calls_now.dealloc - calls.dealloc,
    };
    (result, called, moved)
}

#[test]
fn each_method_is_forwarded_to_the_same_method_and_counted_once() {
    let none = Calls::default();

    let (mut vec, calls, usage) = observed(|| Vec::<u8>::with_capacity(100));
    assert_eq!(calls, Calls { alloc: 1, ..none });
    assert_eq!((usage.allocations, usage.bytes_allocated), (1, 100));

    let ((), calls, usage) = observed(|| vec.reserve_exact(250));
    assert_eq!(calls, Calls { realloc: 1, ..none });
    assert_eq!((usage.reallocations, usage.bytes_allocated), (1, 150));
    assert_eq!((usage.allocations, usage.bytes_deallocated), (0, 0));

    let ((), calls, usage) = observed(|| vec.shrink_to(40));
    assert_eq!(calls, Calls { realloc: 1, ..none });
    assert_eq!((usage.reallocations, usage.bytes_deallocated), (1, 210));
    assert_eq!((usage.deallocations, usage.bytes_allocated), (0, 0));

    let ((), calls, usage) = observed(|| drop(vec));
    assert_eq!(calls, Calls { dealloc: 1, ..none });
    assert_eq!((usage.deallocations, usage.bytes_deallocated), (1, 40));

    let (zeroed, calls, usage) = observed(|| vec![0_u8; 300]);
    assert_eq!(
        calls,
        Calls {
            alloc_zeroed: 1,
            ..none
        }
    );
    assert_eq!((usage.allocations, usage.bytes_allocated), (1, 300));
    assert_eq!(zeroed, [0; 300]);
}

#[test]
fn null_is_passed_on_and_not_counted() {
    let layout = Layout::from_size_align(5000, 8).unwrap();
    for zeroed in [false, true] {
        let (block, calls, usage) = observed(|| {
            // SAFETY: the layout is not zero-sized.
            refusing_from(5000, || unsafe {
                if zeroed {
                    ALLOC.alloc_zeroed(layout)
                } else {
                    ALLOC.alloc(layout)
                }
            })
        });
        assert!(block.is_null());
        assert_eq!(calls.alloc + calls.alloc_zeroed, 1);
        assert_eq!(usage, HeapUsage::default());
    }

    let mut vec = Vec::with_capacity(100);
    vec.extend([7_u8; 100]);
    let (result, calls, usage) = observed(|| refusing_from(5000, || vec.try_reserve_exact(5000)));
    assert!(result.is_err());
    assert_eq!(calls.realloc, 1);
    assert_eq!(usage, HeapUsage::default());
    assert_eq!(vec, [7; 100], "a block that could not grow is as before");
}

const REFUSED: usize = 4096;
/// More than a chunk of less than [`REFUSED`] bytes can hold.
const ASKED: usize = 5000;

/// Runs `f` on an arena with earlier contents while there is no memory for a large block, and
/// checks the error and that the arena goes on working.
#[track_caller]
fn fails<'a, R>(
    arena: &'a Arena,
    asked: usize,
    f: impl FnOnce(&'a Arena) -> Result<R, ArenaError>,
) {
    let earlier = arena.alloc_str("earlier contents");
    let slice = arena.alloc_slice_fill_iter((0..10).map(|i| i as u64));
    let (used, capacity) = (arena.allocated_bytes(), arena.capacity());

    let Err(error) = refusing_chunks(|| f(arena)) else {
        panic!("there was no memory for it");
    };
    assert_eq!(error.kind(), ArenaErrorKind::OutOfMemory);
    assert_eq!(error.asked(), asked);
    assert_eq!(error.used(), used);
    assert_eq!(error.limit(), None);
    let text = error.to_string();
    assert!(
        text.contains(&asked.to_string()) && text.contains(&used.to_string()),
        "{text}"
    );

    assert_eq!(arena.allocated_bytes(), used, "a failure takes nothing");
    assert_eq!(arena.capacity(), capacity);
    assert_eq!(earlier, "earlier contents");
    assert_eq!(slice, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(arena.alloc_str("later"), "later");
}

#[test]
fn each_fallible_method_reports_that_there_is_no_memory() {
    let long = "x".repeat(ASKED);
    let long = long.as_str();
    let bytes = long.as_bytes();
    let big = [1_u8; ASKED];

    let arena = &Arena::new();
    fails(arena, ASKED, |a| a.try_alloc(big));
    fails(arena, ASKED, |a| a.try_alloc_box(big));
    fails(arena, ASKED, |a| a.try_alloc_str(long));
    fails(arena, ASKED, |a| a.try_alloc_slice_copy(bytes));
    fails(arena, ASKED, |a| {
        a.try_alloc_slice_fill_iter(bytes.iter().copied())
    });
    fails(arena, ASKED, |a| a.try_alloc_fmt(format_args!("{long}")));

    fails(arena, ASKED * 4, |a| a.vec::<u32>().try_reserve(ASKED));
    fails(arena, ASKED, |a| a.vec::<[u8; ASKED]>().try_reserve(1));
    fails(arena, ASKED, |a| a.vec::<u8>().try_reserve(ASKED));
    fails(arena, ASKED, |a| a.vec::<u8>().try_reserve_exact(ASKED));

    fails(arena, ASKED, |a| write!(a.string(), "{long}"));
    fails(arena, ASKED, |a| a.string().try_reserve(ASKED));

    fails(arena, ASKED, |a| write!(a.buf(), "{long}"));
    fails(arena, ASKED, |a| a.buf().try_reserve(ASKED));
}

#[test]
fn a_list_text_or_buffer_that_cannot_grow_keeps_what_it_has() {
    let arena = Arena::new();
    let mut list = arena.vec();
    let mut text = arena.string();
    let mut buf = arena.buf();
    for i in 0..10_u8 {
        list.push(i);
        text.push('x');
        buf.extend_from_slice(&[i]);
    }
    let long = "y".repeat(ASKED);
    refusing_chunks(|| {
        assert!(list.try_reserve(ASKED).is_err());
        assert!(text.try_reserve(ASKED).is_err());
        assert!(text.write_str(&long).is_err());
        assert!(buf.try_reserve(ASKED).is_err());
        assert!(buf.write_str(&long).is_err());
        let error = buf.write_all(long.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::OutOfMemory);
        let source = error.get_ref().and_then(|e| e.downcast_ref::<ArenaError>());
        assert_eq!(source.map(ArenaError::asked), Some(ASKED + 10));
    });
    assert_eq!(*list, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(&*text, "xxxxxxxxxx");
    assert_eq!(*buf, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);

    list.extend_from_slice(long.as_bytes());
    text.push_str(&long);
    buf.extend_from_slice(long.as_bytes());
    assert_eq!((list.len(), text.len(), buf.len()), (5010, 5010, 5010));
    assert_eq!(*list, *buf);
    assert_eq!(text[10..], long[..]);
}

#[test]
fn a_value_that_could_not_be_pushed_is_dropped_once() {
    struct Big<'d>(&'d Cell<u32>, [u8; ASKED]);
    impl Drop for Big<'_> {
        fn drop(&mut self) {
            self.0.set(self.0.get() + u32::from(self.1[0]));
        }
    }
    let drops = Cell::new(0);
    let arena = Arena::new();
    arena.alloc_str("a first chunk");
    let mut list = arena.vec();
    let mut push = || list.push(Big(&drops, [1; ASKED]));
    let pushed = refusing_chunks(|| catch_unwind(AssertUnwindSafe(&mut push)));
    assert!(pushed.is_err());
    assert_eq!((drops.get(), list.len()), (1, 0));
    assert!(refusing_chunks(|| arena.try_alloc_box(Big(&drops, [1; ASKED]))).is_err());
    assert_eq!(drops.get(), 2);
    list.push(Big(&drops, [1; ASKED]));
    drop(list);
    assert_eq!(drops.get(), 3);
}

#[test]
fn short_of_memory_an_arena_takes_what_is_asked_and_nothing_in_advance() {
    let arena = Arena::new();
    arena.alloc_slice_fill_iter((0..4000).map(|_| 1_u8));
    let before = arena.capacity();
    // A new chunk would be of 8 KiB, which is refused; the 3000 bytes alone are not.
    let text = refusing_chunks(|| arena.alloc_slice_fill_iter((0..3000).map(|i| i as u8)));
    assert_eq!(text.len(), 3000);
    assert_eq!(arena.capacity() - before, 3000);

    // The same for a list, whose doubled size is refused.
    let list_arena = Arena::new();
    let mut list = list_arena.vec_with_capacity(3000);
    list.extend_from_slice(&[1_u8; 3000]);
    list_arena.alloc_slice_fill_iter((0..900).map(|_| 2_u8));
    refusing_chunks(|| list.extend_from_slice(&[3; 500]));
    assert_eq!(list.len(), 3500);
    assert_eq!((list[2999], list[3000]), (1, 3));
}

#[test]
fn an_infallible_method_panics_with_the_numbers() {
    let arena = Arena::new();
    arena.alloc_str("0123456789");
    let long = "x".repeat(ASKED);
    let expected = "arena allocation of 5000 bytes failed: out of memory (10 in use)";
    let calls: [(&str, &dyn Fn()); 12] = [
        ("alloc", &|| {
            arena.alloc([0_u8; ASKED]);
        }),
        ("alloc_box", &|| drop(arena.alloc_box([0_u8; ASKED]))),
        ("alloc_str", &|| {
            arena.alloc_str(&long);
        }),
        ("alloc_slice_copy", &|| {
            arena.alloc_slice_copy(long.as_bytes());
        }),
        ("alloc_slice_fill_iter", &|| {
            arena.alloc_slice_fill_iter((0..ASKED).map(|_| 0_u8));
        }),
        ("format", &|| {
            arena.alloc_fmt(format_args!("{long}"));
        }),
        ("vec_with_capacity", &|| {
            drop(arena.vec_with_capacity::<u8>(ASKED));
        }),
        ("string_with_capacity", &|| {
            drop(arena.string_with_capacity(ASKED));
        }),
        ("buf_with_capacity", &|| {
            drop(arena.buf_with_capacity(ASKED))
        }),
        ("ArenaVec::reserve", &|| arena.vec::<u8>().reserve(ASKED)),
        ("ArenaString::push_str", &|| arena.string().push_str(&long)),
        ("BufMut::put_slice", &|| {
            arena.buf().put_slice(long.as_bytes());
        }),
    ];
    for (name, call) in calls {
        let panic = refusing_chunks(|| catch_unwind(AssertUnwindSafe(call))).expect_err(name);
        let message = panic.downcast_ref::<String>().expect("a formatted message");
        assert_eq!(message, expected, "{name}");
    }
    assert_eq!(arena.allocated_bytes(), 10);
    assert_eq!(*arena.alloc_str(&long), *long);
}

#[cfg(feature = "json")]
#[test]
fn json_that_finds_no_memory_is_an_error_and_not_a_panic() {
    use tower_memory::json::SerializeError;

    let arena = Arena::new();
    let long = "x".repeat(ASKED);
    let error = refusing_chunks(|| arena.json_bytes(&long)).unwrap_err();
    assert_eq!(error.written(), 1, "the opening quote");
    let response: http::Response<bytes::Bytes> = refusing_chunks(|| arena.json(&long));
    assert_eq!(response.status(), 500);
    let error = response.extensions().get::<SerializeError>().unwrap();
    let source = std::error::Error::source(error).unwrap().to_string();
    assert!(source.contains("of 5001 bytes failed"), "{source}");
}
