//! The stack of accounts that are entered on the calling thread.
//!
//! An account is entered for a *section*. Its record learns what it holds when the section ends, and at
//! *visits* in between: at every [`LARGE`] bytes that the thread allocates, at every block of that
//! size, and sooner if an account is near its budget. Every visit tells all accounts of the
//! stack, so the thread's peak since the last visit is a peak for each of them.
//!
//! When a section frees more than its account holds, the rest was memory of others. Between visits the
//! block of counters does without it, if one account is entered. If there are several, the next allocation is a visit,
//! since each account holds another amount.

use std::cell::Cell;

use super::{
    counters::{Block, LARGE, NO_BASE, NOWHERE, Writer},
    raw::{Pinned, Record},
    usage::{Counts, HeapUsage},
};
use crate::names::LabelWord;

/// Maximum number of different accounts that can be nested on one thread.
pub(super) const MAX_DEPTH: usize = 16;

// `Account::usage` states this bound.
const _: () = assert!(MAX_DEPTH == 16);

/// The values of [`Block::level`] are the number of frames, and [`FURTHER`] for each time that an account is
/// entered once more; with [`FRESH`] if no frame has a start yet.
const FRESH: usize = NOWHERE + 1;
const FURTHER: usize = 1 << 8;

/// An account that is entered on this thread, and the thread's counters at that time.
#[repr(align(64))]
pub(super) struct Frame {
    pub(super) record: Cell<Option<Pinned>>,
    start: Counts<Cell<u64>>,
    writer: Cell<Writer>,
    /// How far the section has moved the account's small bytes. Zero while the frame is free.
    moved: Cell<i64>,
    /// How often the account is entered beyond the first time. Zero while the frame is free.
    further: Cell<u32>,
}

/// The accounts entered on this thread, outermost first.
pub(super) struct Stack {
    /// How many of the outermost frames are [set aside](Self::set_aside).
    aside: Cell<usize>,
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
            aside: Cell::new(0),
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
            writer: Cell::new(Writer::Shared),
            moved: Cell::new(0),
            further: Cell::new(0),
        }
    }

    #[inline]
    fn begin(&self, record: Pinned, writer: Writer) {
        self.record.set(Some(record));
        self.writer.set(writer);
    }

    /// The only frame starts now.
    // Apart, so that the caller needs no room on its stack.
    #[inline(never)]
    fn begin_counting(&self, account: Pinned, block: &Block) {
        self.begin(account, Writer::Exclusive);
        account.with(|record| self.begin_only(block, &block.read(), record));
    }

    /// The only frame starts at `start`.
    #[inline]
    fn begin_only(&self, block: &Block, start: &HeapUsage, record: &Record) {
        self.start.write(start, Cell::set);
        block.level.set(1);
        let (live, step) = (start.live_bytes(), record.step());
        let mark = start.bytes_allocated.wrapping_add(step);
        block.watch(live, live.wrapping_sub(record.small()), mark, true);
    }

    /// The section counts from now on. Most sections count nothing, so how it is written is left open before.
    #[inline]
    fn choose_writer(&self, record: &Record, block: &Block) {
        if self.writer.get() == Writer::Shared {
            let thread = std::ptr::from_ref(block).addr();
            self.writer.set(record.writer_on(thread));
        }
    }

    #[inline]
    fn is_of(&self, record: Pinned) -> bool {
        self.record.get() == Some(record)
    }

    fn swap(&self, other: &Self) {
        let (mine, others) = (self.start(), other.start());
        self.start.write(&others, Cell::set);
        other.start.write(&mine, Cell::set);
        self.record.swap(&other.record);
        self.moved.swap(&other.moved);
        self.further.swap(&other.further);
        self.writer.swap(&other.writer);
    }

    /// Whether the thread's counters have moved. Their bytes never change without a count.
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

    /// Tells the account what the thread has moved since the last visit.
    #[inline]
    fn tell(&self, record: &Record, block: &Block, live: i64) {
        let (rise, net) = block.moved(live);
        let by = record.moved(rise, net, self.writer.get());
        self.moved.set(self.moved.get().wrapping_add(by));
    }

    /// Credits the section of the only account, which ends.
    #[inline]
    fn end_only(&self, account: Pinned, block: &Block) {
        account.with(|record| match self.writer.get() {
            // Each with a constant.
            Writer::Exclusive => self.end_only_as(Writer::Exclusive, record, block),
            Writer::Shared => self.end_only_as(Writer::Shared, record, block),
        });
    }

    #[inline(always)]
    fn end_only_as(&self, writer: Writer, record: &Record, block: &Block) {
        let now = block.read();
        let (rise, net) = block.moved(now.live_bytes());
        let by = record.moved(rise, net, writer);
        let counted = now - self.start();
        record.credit(&counted, writer);
        if writer == Writer::Exclusive {
            record.expect_counts(counted.is_any());
        }
        match self.moved.get() {
            0 => record.left(by),
            moved => {
                record.left(moved.wrapping_add(by));
                self.moved.set(0);
            }
        }
    }

    /// Credits the section, which ends.
    fn end(&self, record: &Record, block: &Block) {
        record.credit(&(block.read() - self.start()), self.writer.get());
        record.left(self.moved.replace(0));
    }
}

impl Stack {
    fn depth(block: &Block) -> usize {
        block.level.get() % FURTHER
    }

    /// Whether there are frames, and none has a start.
    #[inline]
    fn is_fresh(block: &Block) -> bool {
        block.level.get() >= FRESH
    }

    pub(super) fn entered(&self, block: &Block) -> &[Frame] {
        let entered = self.aside.get()..Self::depth(block);
        self.frames.get(entered).unwrap_or(&[])
    }

    /// The labels of the accounts that are entered, innermost first.
    pub(super) fn labels(&self, block: &Block) -> impl Iterator<Item = LabelWord> {
        let records = self
            .entered(block)
            .iter()
            .rev()
            .filter_map(|frame| frame.record.get());
        records.map(|record| record.with(|record| record.labels.get()))
    }

    fn position(&self, block: &Block, record: Pinned) -> Option<usize> {
        self.entered(block)
            .iter()
            .rposition(|frame| frame.is_of(record))
    }

    /// Enters an account. Returns `false` if the stack is full.
    ///
    /// Most polls count nothing. So the section's start is written down by the first count, which is brought
    /// to the slow path.
    #[inline]
    pub(super) fn enter(&self, record: Pinned, writer: Writer, block: &Block) -> bool {
        if block.level.get() != 0 {
            return self.enter_inside(record, writer, block);
        }
        debug_assert!(
            writer == Writer::Shared || record.with(|record| record.owned),
            "an account without an owner was entered as by one"
        );
        let [frame, ..] = &self.frames;
        if writer == Writer::Exclusive && record.with(Record::expects_counts) {
            frame.begin_counting(record, block);
            return true;
        }
        frame.begin(record, writer);
        block.level.set(FRESH + 1);
        block.look_at_all();
        true
    }

    /// The frames, if they are fresh, start at `start`.
    #[inline]
    pub(super) fn settle(&self, block: &Block, start: impl FnOnce() -> HeapUsage) {
        if block.level.get() != FRESH + 1 {
            if Self::is_fresh(block) {
                self.settle_all(block, &start());
            }
            return;
        }
        let [frame, ..] = &self.frames;
        if let Some(record) = frame.record.get() {
            record.with(|record| {
                frame.choose_writer(record, block);
                frame.begin_only(block, &start(), record);
            });
        }
    }

    #[inline(never)]
    fn settle_all(&self, block: &Block, start: &HeapUsage) {
        for frame in self.entered(block) {
            if let Some(record) = frame.record.get() {
                record.with(|record| frame.choose_writer(record, block));
            }
            frame.start.write(start, Cell::set);
        }
        block.level.set(Self::depth(block));
        self.watch_from(block, start);
    }

    #[inline(never)]
    fn enter_inside(&self, record: Pinned, writer: Writer, block: &Block) -> bool {
        let depth = Self::depth(block);
        // A task is entered inside of its request. As above, if nothing was counted.
        if Self::is_fresh(block) && self.position(block, record).is_none() {
            let Some(frame) = self.frames.get(depth) else {
                return false;
            };
            frame.begin(record, writer);
            block.level.set(block.level.get().wrapping_add(1));
            return true;
        }
        self.enter_counted(record, writer, block)
    }

    #[cold]
    #[inline(never)]
    fn enter_counted(&self, record: Pinned, writer: Writer, block: &Block) -> bool {
        self.settle(block, || block.read());
        if let Some(frame) = self
            .entered(block)
            .iter()
            .rev()
            .find(|frame| frame.is_of(record))
        {
            frame.further.set(frame.further.get().saturating_add(1));
            block.level.set(block.level.get().saturating_add(FURTHER));
            return true;
        }
        let Some(frame) = self.frames.get(Self::depth(block)) else {
            return false;
        };
        self.tell(block, block.live_bytes());
        frame.begin(record, writer);
        record.with(|record| frame.choose_writer(record, block));
        frame.start.write(&block.read(), Cell::set);
        block.level.set(block.level.get().saturating_add(1));
        self.watch(block, block.live_bytes());
        true
    }

    /// Drops one guard of an account, and leaves the account if it was the last one. Returns `false` if
    /// it was not entered.
    #[inline]
    pub(super) fn leave(&self, account: Pinned, block: &Block) -> bool {
        let [frame, ..] = &self.frames;
        if block.level.get() != FRESH + 1 || !frame.is_of(account) {
            return self.leave_counted(account, block);
        }
        block.look_at_none();
        block.unwatch();
        block.level.set(0);
        true
    }

    /// As [`leave`](Self::leave), of one of several accounts, or after something was counted.
    #[inline(never)]
    fn leave_counted(&self, account: Pinned, block: &Block) -> bool {
        let [frame, ..] = &self.frames;
        if block.level.get() != 1 || !frame.is_of(account) {
            let innermost = self.entered(block).last();
            if Self::is_fresh(block) && innermost.is_some_and(|frame| frame.is_of(account)) {
                block.level.set(block.level.get().wrapping_sub(1));
                return true;
            }
            return self.leave_inside(account, block);
        }
        frame.end_only(account, block);
        block.unwatch();
        block.level.set(0);
        true
    }

    /// Guards may be dropped in any order.
    #[cold]
    #[inline(never)]
    fn leave_inside(&self, account: Pinned, block: &Block) -> bool {
        self.settle(block, || block.read());
        let Some(at) = self.position(block, account) else {
            return false;
        };
        let left = self.entered(block).get(at..).unwrap_or(&[]);
        let Some(frame) = left.first() else {
            return false;
        };
        if let Some(further) = frame.further.get().checked_sub(1) {
            frame.further.set(further);
            block.level.set(block.level.get().saturating_sub(FURTHER));
            return true;
        }
        self.tell(block, block.live_bytes());
        // What a pool has lent is in no count.
        if frame.has_moved(block) || frame.moved.get() != 0 {
            account.with(|record| frame.end(record, block));
        }
        // To the top, where it is taken off.
        for pair in left.windows(2) {
            if let [lower, upper] = pair {
                lower.swap(upper);
            }
        }
        block.level.set(block.level.get().saturating_sub(1));
        self.watch(block, block.live_bytes());
        true
    }

    /// Until [`put_back`](Self::put_back), the accounts entered so far see nothing of what the thread
    /// counts. Returns `None` if none is entered.
    pub(super) fn set_aside(&self, block: &Block) -> Option<Aside> {
        self.settle(block, || block.read());
        if self.entered(block).is_empty() {
            return None;
        }
        self.tell(block, block.live_bytes());
        block.unwatch();
        Some(Aside {
            former: self.aside.replace(Self::depth(block)),
            start: block.read(),
        })
    }

    /// What was counted since is in no frame.
    pub(super) fn put_back(&self, aside: &Aside, block: &Block) {
        self.aside.set(aside.former);
        let counted = block.read() - aside.start;
        #[cfg(feature = "trace")]
        block.allocated_aside(counted.bytes_allocated);
        for frame in self.entered(block) {
            frame.start.write(&frame.start().plus(&counted), Cell::set);
        }
        self.watch(block, block.live_bytes());
    }

    /// Returns what the thread has counted since the account was entered, after a visit.
    #[inline]
    pub(super) fn current(&self, account: Pinned, block: &Block) -> Option<HeapUsage> {
        if block.level.get() == 0 {
            return None;
        }
        self.current_inside(account, block)
    }

    #[inline(never)]
    fn current_inside(&self, account: Pinned, block: &Block) -> Option<HeapUsage> {
        self.settle(block, || block.read());
        let at = self.position(block, account)?;
        self.visit(block, block.live_bytes());
        let start = self.entered(block).get(at)?.start();
        Some(block.read() - start)
    }

    /// Tells the accounts what the thread has moved since the last visit, when its live bytes are `live`.
    #[inline]
    pub(super) fn visit(&self, block: &Block, live: i64) {
        self.settle(block, || block.read());
        self.tell(block, live);
        self.watch(block, live);
    }

    pub(super) fn tell(&self, block: &Block, live: i64) {
        for frame in self.entered(block) {
            if let Some(record) = frame.record.get() {
                record.with(|record| frame.tell(record, block, live));
            }
        }
    }

    /// Watches the thread from `live` bytes on.
    pub(super) fn watch(&self, block: &Block, live: i64) {
        self.watch_at(block, live, block.bytes_allocated());
    }

    /// Watches the thread from `start` on.
    fn watch_from(&self, block: &Block, start: &HeapUsage) {
        self.watch_at(block, start.live_bytes(), start.bytes_allocated);
    }

    fn watch_at(&self, block: &Block, live: i64, bytes_allocated: u64) {
        let frames = self.entered(block);
        if frames.is_empty() {
            block.unwatch();
            return;
        }
        let (mut base, mut step) = (NO_BASE, LARGE as u64);
        for frame in frames {
            if let Some(record) = frame.record.get() {
                record.with(|record| {
                    base = base.max(live.wrapping_sub(record.small()));
                    step = step.min(record.step());
                });
            }
        }
        let mark = bytes_allocated.wrapping_add(step);
        block.watch(live, base, mark, frames.len() == 1);
    }
}
