//! The stack of accounts that are entered on the calling thread.
//!
//! An account is entered for a *section*. Its record learns what it holds when the section ends, and at
//! *visits* in between: at every [`LARGE`] bytes that the thread allocates, at every block of that
//! size, and when small blocks of others were freed. Every visit tells all accounts of the
//! stack, so the thread's peak since the last visit is a peak for each of them.

use std::cell::Cell;

use super::{
    counters::{Block, LARGE, Writer},
    raw::{self, Pinned, Record},
    usage::{Counts, HeapUsage},
};

/// Maximum number of different accounts that can be nested on one thread.
pub(super) const MAX_DEPTH: usize = 16;

// `Account::usage` states this bound.
const _: () = assert!(MAX_DEPTH == 16);

/// An account that is entered on this thread, and the thread's counters at that time.
#[repr(align(64))]
pub(super) struct Frame {
    record: Cell<Option<Pinned>>,
    start: Counts<Cell<u64>>,
    /// How far the section has moved the account's small bytes.
    moved: Cell<i64>,
    /// The number of guards, which is how often the account is entered.
    guards: Cell<u32>,
    writer: Cell<Writer>,
}

/// The accounts entered on this thread, outermost first.
pub(super) struct Stack {
    depth: Cell<usize>,
    /// How many of the outermost frames are [set aside](Self::set_aside).
    aside: Cell<usize>,
    /// The thread's small bytes at the last visit.
    visited: Cell<i64>,
    frames: [Frame; MAX_DEPTH],
}

/// The result of [`Stack::set_aside`], to be passed to [`Stack::put_back`].
pub(super) struct Aside {
    former: usize,
    start: HeapUsage,
}

thread_local! {
    static ENTERED: Stack = const {
        Stack {
            depth: Cell::new(0),
            aside: Cell::new(0),
            visited: Cell::new(0),
            frames: [const { Frame::new() }; MAX_DEPTH],
        }
    };
}

/// Calls `f` with the thread's stack. Returns `None` if the thread is ending.
#[inline]
pub(super) fn with<R>(f: impl FnOnce(&Stack) -> R) -> Option<R> {
    ENTERED.try_with(f).ok()
}

impl Frame {
    const fn new() -> Self {
        Self {
            record: Cell::new(None),
            start: Counts {
                allocations: Cell::new(0),
                deallocations: Cell::new(0),
                reallocations: Cell::new(0),
                bytes_allocated: Cell::new(0),
                bytes_deallocated: Cell::new(0),
            },
            moved: Cell::new(0),
            guards: Cell::new(0),
            writer: Cell::new(Writer::Shared),
        }
    }

    #[inline]
    fn begin(&self, record: Pinned, writer: Writer, block: &Block) {
        self.record.set(Some(record));
        self.start.write(&block.read(), Cell::set);
        self.moved.set(0);
        self.guards.set(1);
        self.writer.set(writer);
    }

    fn is_of(&self, record: Pinned) -> bool {
        self.record.get() == Some(record)
    }

    fn swap(&self, other: &Self) {
        let (mine, others) = (self.start(), other.start());
        self.start.write(&others, Cell::set);
        other.start.write(&mine, Cell::set);
        self.record.swap(&other.record);
        self.moved.swap(&other.moved);
        self.guards.swap(&other.guards);
        self.writer.swap(&other.writer);
    }

    /// Whether the thread's counters have moved. Bytes never change without a count.
    #[inline]
    fn has_moved(&self, block: &Block) -> bool {
        let counts = (
            self.start.allocations.get(),
            self.start.deallocations.get(),
            self.start.reallocations.get(),
        );
        counts != block.counts()
    }

    #[inline]
    fn start(&self) -> HeapUsage {
        self.start.read(Cell::get)
    }

    /// The small bytes of the thread rose by up to `rise`, and then were `net` more than before.
    #[inline]
    fn tell(&self, record: &Record, rise: i64, net: i64) {
        let by = record.moved(rise, net, self.writer.get());
        self.moved.set(self.moved.get().wrapping_add(by));
    }

    /// Credits the section, which ends.
    #[inline(always)]
    fn end(&self, record: &Record, block: &Block) {
        record.credit(&(block.read() - self.start()), self.writer.get());
        record.left(self.moved.get());
    }
}

impl Stack {
    #[inline]
    fn entered(&self) -> &[Frame] {
        let entered = self.aside.get()..self.depth.get();
        self.frames.get(entered).unwrap_or(&[])
    }

    fn position(&self, record: Pinned) -> Option<usize> {
        self.entered().iter().rposition(|frame| frame.is_of(record))
    }

    /// Enters an account. Returns `false` if the stack is full.
    #[inline]
    pub(super) fn enter(&self, record: Pinned, writer: Writer, block: &Block) -> bool {
        if self.depth.get() != 0 {
            return self.enter_inside(record, writer, block);
        }
        let [frame, ..] = &self.frames;
        frame.begin(record, writer, block);
        self.depth.set(1);
        let small = block.small_bytes();
        let held = record.with(Record::small).max(0);
        self.visited.set(small);
        block.watch(small, small.wrapping_sub(held));
        true
    }

    #[inline(never)]
    fn enter_inside(&self, record: Pinned, writer: Writer, block: &Block) -> bool {
        if let Some(frame) = self
            .entered()
            .iter()
            .rev()
            .find(|frame| frame.is_of(record))
        {
            frame.guards.set(frame.guards.get().saturating_add(1));
            return true;
        }
        let depth = self.depth.get();
        let Some(frame) = self.frames.get(depth) else {
            return false;
        };
        self.visit(block, block.small_bytes());
        frame.begin(record, writer, block);
        self.depth.set(depth.saturating_add(1));
        self.watch_from(block, block.small_bytes());
        true
    }

    /// Drops one guard of an account, and leaves the account if it was the last one. Returns `false` if
    /// it was not entered.
    #[inline]
    pub(super) fn leave(&self, account: Pinned, block: &Block) -> bool {
        let [frame, ..] = &self.frames;
        if self.depth.get() != 1 || frame.guards.get() != 1 || !frame.is_of(account) {
            return self.leave_inside(account, block);
        }
        // Most polls allocate nothing.
        if frame.has_moved(block) {
            self.end_outermost(frame, account, block);
        }
        self.depth.set(0);
        block.unwatch();
        true
    }

    #[inline(never)]
    fn end_outermost(&self, frame: &Frame, account: Pinned, block: &Block) {
        let small = block.small_bytes();
        let rise = block.small_peak().wrapping_sub(self.visited.get());
        let net = small.wrapping_sub(self.visited.get());
        account.with(|record| {
            frame.tell(record, rise, net);
            frame.end(record, block);
        });
    }

    /// Guards may be dropped in any order.
    #[inline(never)]
    fn leave_inside(&self, account: Pinned, block: &Block) -> bool {
        let Some(at) = self.position(account) else {
            return false;
        };
        let left = self.entered().get(at..).unwrap_or(&[]);
        let Some(frame) = left.first() else {
            return false;
        };
        let guards = frame.guards.get().saturating_sub(1);
        if guards != 0 {
            frame.guards.set(guards);
            return true;
        }
        self.visit(block, block.small_bytes());
        if frame.has_moved(block) {
            account.with(|record| frame.end(record, block));
        }
        // To the top, where it is taken off.
        for pair in left.windows(2) {
            if let [lower, upper] = pair {
                lower.swap(upper);
            }
        }
        self.depth.set(self.depth.get().saturating_sub(1));
        self.watch_from(block, block.small_bytes());
        true
    }

    /// Until [`put_back`](Self::put_back), the accounts entered so far see nothing of what the thread
    /// counts. Returns `None` if none is entered.
    pub(super) fn set_aside(&self, block: &Block) -> Option<Aside> {
        if self.entered().is_empty() {
            return None;
        }
        self.visit(block, block.small_bytes());
        block.unwatch();
        Some(Aside {
            former: self.aside.replace(self.depth.get()),
            start: block.read(),
        })
    }

    /// What was counted since is in no frame.
    pub(super) fn put_back(&self, aside: &Aside, block: &Block) {
        self.aside.set(aside.former);
        let counted = block.read() - aside.start;
        for frame in self.entered() {
            frame.start.write(&frame.start().plus(&counted), Cell::set);
        }
        self.watch_from(block, block.small_bytes());
    }

    /// Returns what the thread has counted since the account was entered, after a visit.
    pub(super) fn current(&self, account: Pinned, block: &Block) -> Option<HeapUsage> {
        let at = self.position(account)?;
        self.visit(block, block.small_bytes());
        let start = self.entered().get(at)?.start();
        Some(block.read() - start)
    }

    /// Tells the accounts what the thread has moved since the last visit, when its small bytes are
    /// `small`.
    fn visit(&self, block: &Block, small: i64) {
        let frames = self.entered();
        let before = self.visited.get();
        let rise = block.small_peak().wrapping_sub(before);
        let net = small.wrapping_sub(before);
        if frames.is_empty() || (rise <= 0 && net == 0) {
            return;
        }
        for frame in frames {
            if let Some(record) = frame.record.get() {
                record.with(|record| frame.tell(record, rise, net));
            }
        }
        self.watch_from(block, small);
    }

    /// Watches the thread's small bytes from `small` on.
    #[inline]
    fn watch_from(&self, block: &Block, small: i64) {
        self.visited.set(small);
        let frames = self.entered();
        if frames.is_empty() {
            block.unwatch();
            return;
        }
        let mut base = i64::MIN;
        for frame in frames {
            if let Some(record) = frame.record.get() {
                let held = record.with(Record::small).max(0);
                base = base.max(small.wrapping_sub(held));
            }
        }
        block.watch(small, base);
    }
}

/// Looks at an allocation of `size` bytes that the thread's counters include.
#[cold]
#[inline(never)]
pub(super) fn allocated(block: &Block, address: usize, size: usize) {
    block.set_mark();
    if size >= LARGE {
        block.move_large(size as i64);
        with(|stack| {
            stack.visit(block, block.small_bytes());
            stack.own(address, size);
        });
        return;
    }
    with(|stack| stack.visit(block, block.small_bytes().wrapping_sub(size as i64)));
    block.rose();
}

/// Looks at a large block that is about to be freed. The thread's counters include it.
#[cold]
#[inline(never)]
pub(super) fn deallocated(block: &Block, address: usize, size: usize) {
    block.move_large((size as i64).wrapping_neg());
    // Before the block is taken away from its owner, whose peak may be in what has passed.
    with(|stack| stack.visit(block, block.small_bytes()));
    raw::disown(address, |record| record.lost(size));
}

/// A block that is large, or was, is being resized. The thread's counters do not include that yet.
pub(super) fn resizes(block: &Block) {
    // Before the block is taken away from its owner, whose peak may be in what has passed.
    with(|stack| stack.visit(block, block.small_bytes()));
}

/// The block was resized, and the thread's counters include it. It belongs to the account that resized
/// it.
pub(super) fn resized(block: &Block, address: usize, from: usize, to: usize) {
    let large = |size: usize| if size >= LARGE { size as i64 } else { 0 };
    block.move_large(large(to).wrapping_sub(large(from)));
    block.set_mark();
    block.rose();
    with(|stack| {
        stack.visit(block, block.small_bytes());
        if to >= LARGE {
            stack.own(address, to);
        }
    });
}

impl Stack {
    /// Makes all entered accounts owners of a large block.
    fn own(&self, address: usize, size: usize) {
        for record in self.entered().iter().filter_map(|frame| frame.record.get()) {
            record.with(|record| record.owns(size));
            if !raw::own(address, record.to_ref()) {
                // Who frees it is not seen.
                record.with(Record::missed);
            }
        }
    }
}
