//! The stack of accounts that are entered on the calling thread.

use std::cell::Cell;

use super::{
    counters::Block,
    usage::{Counts, HeapUsage},
};

/// Maximum number of different accounts that can be nested on one thread.
const MAX_DEPTH: usize = 16;

// `Account::usage` states this bound.
const _: () = assert!(MAX_DEPTH == 16);

/// An account that is entered on this thread, and the thread's counters at that time.
#[repr(align(64))]
pub(super) struct Frame {
    /// The address of the account.
    account: Cell<usize>,
    start: Counts<Cell<u64>>,
    /// The thread's peak before, which an outer account may still need.
    pub(super) former_peak: Cell<i64>,
}

/// The accounts entered on this thread, outermost first.
pub(super) struct Stack {
    depth: Cell<usize>,
    frames: [Frame; MAX_DEPTH],
}

thread_local! {
    pub(super) static ENTERED: Stack = const {
        Stack {
            depth: Cell::new(0),
            frames: [const { Frame::new() }; MAX_DEPTH],
        }
    };
}

impl Frame {
    const fn new() -> Self {
        Self {
            account: Cell::new(0),
            start: Counts {
                allocations: Cell::new(0),
                deallocations: Cell::new(0),
                reallocations: Cell::new(0),
                bytes_allocated: Cell::new(0),
                bytes_deallocated: Cell::new(0),
            },
            former_peak: Cell::new(0),
        }
    }

    /// Records the thread's counters.
    #[inline]
    fn begin(&self, account: usize, block: &Block) {
        self.account.set(account);
        self.start.write(&block.read(), Cell::set);
        self.former_peak.set(block.peak());
    }

    /// Swaps two frames.
    fn swap(&self, other: &Self) {
        self.account.swap(&other.account);
        let (mine, others) = (self.start(), other.start());
        self.start.write(&others, Cell::set);
        other.start.write(&mine, Cell::set);
        self.former_peak.swap(&other.former_peak);
    }

    /// Returns the recorded [`Block::counts`]. Bytes never change without a count.
    #[inline]
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        (
            self.start.allocations.get(),
            self.start.deallocations.get(),
            self.start.reallocations.get(),
        )
    }

    #[inline]
    pub(super) fn start(&self) -> HeapUsage {
        self.start.read(Cell::get)
    }
}

impl Stack {
    #[inline]
    fn entered(&self) -> &[Frame] {
        self.frames.get(..self.depth.get()).unwrap_or(&[])
    }

    #[inline]
    pub(super) fn find(&self, account: usize) -> Option<&Frame> {
        self.entered()
            .iter()
            .rev()
            .find(|frame| frame.account.get() == account)
    }

    /// Returns `false` if the stack is full.
    #[inline]
    pub(super) fn push(&self, account: usize, block: &Block) -> bool {
        let depth = self.depth.get();
        let Some(place) = self.frames.get(depth) else {
            return false;
        };
        place.begin(account, block);
        self.depth.set(depth.wrapping_add(1));
        true
    }

    /// Removes the account's frame if it is the top one. The returned frame is valid until the next
    /// [`push`](Self::push).
    #[inline]
    pub(super) fn pop(&self, account: usize) -> Option<&Frame> {
        let top = self.depth.get().checked_sub(1)?;
        let frame = self.frames.get(top)?;
        if frame.account.get() != account {
            return None;
        }
        self.depth.set(top);
        Some(frame)
    }

    /// Returns the index of the account's frame.
    pub(super) fn position(&self, account: usize) -> Option<usize> {
        self.entered()
            .iter()
            .rposition(|frame| frame.account.get() == account)
    }

    /// Returns the counters at the time the account was entered, and the peak since then.
    pub(super) fn current(&self, account: usize, block: &Block) -> Option<(HeapUsage, i64)> {
        let at = self.position(account)?;
        let start = self.entered().get(at)?.start();
        Some((start, self.peak_since(at, block.peak())))
    }

    /// Returns the peak since the frame at `at` was pushed, given the thread's current `peak`. Each
    /// frame above it has reset the thread's peak.
    pub(super) fn peak_since(&self, at: usize, peak: i64) -> i64 {
        let above = self.entered().get(at..).unwrap_or(&[]).iter().skip(1);
        above.fold(peak, |peak, frame| peak.max(frame.former_peak.get()))
    }

    /// Moves the frame at `at` to the top, for guards that are not dropped in reverse order. The next
    /// frame keeps the former peak for the accounts further out.
    pub(super) fn raise(&self, at: usize) {
        let moved = self.entered().get(at..).unwrap_or(&[]);
        if let [frame, next, ..] = moved {
            let former = next.former_peak.get().max(frame.former_peak.get());
            next.former_peak.set(former);
        }
        for pair in moved.windows(2) {
            if let [lower, upper] = pair {
                lower.swap(upper);
            }
        }
    }
}
