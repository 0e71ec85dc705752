//! Memory of a pool, as if it was allocated when it is taken, and freed when it comes back.
//!
//! Heap counters are of the allocator's calls, so only what accounts *hold* follows from these.

use super::{
    counters::{Block, LARGE},
    frames::{self, Stack},
    raw::{self, Record, SHORT_FRAME},
};

/// The code that runs now has taken a waiting block of `bytes` bytes.
#[inline]
pub(crate) fn taken(address: usize, bytes: usize) {
    if raw::block().is_entered() {
        taken_inside(address, bytes);
    }
}

/// A block of `bytes` bytes, which nothing refers to any more, comes back to its pool or is shortened by as
/// much.
#[inline]
pub(crate) fn returned(address: usize, bytes: usize) {
    // The owners of a large block are found on any thread.
    if bytes >= LARGE || raw::block().is_entered() {
        returned_anywhere(address, bytes);
    }
}

/// A small block of `bytes` bytes is frozen, of which `shown` bytes are shown: so much is held from now on.
#[inline]
pub(crate) fn froze(bytes: usize, shown: usize) {
    if raw::block().is_entered() {
        returned_anywhere(0, bytes.saturating_sub(shown));
        if shown < SHORT_FRAME {
            each(|record| record.froze_short(shown));
        }
    }
}

/// A frozen block that shows `shown` bytes comes back, as in [`returned`].
#[inline]
pub(crate) fn dropped_frozen(shown: usize) {
    if raw::block().is_entered() {
        returned_anywhere(0, shown);
        if shown < SHORT_FRAME {
            each(|record| {
                record.take_short_frozen(shown);
            });
        }
    }
}

#[cold]
fn each(f: impl Fn(&Record)) {
    frames::with(|stack| {
        let entered = stack.entered(raw::block()).iter();
        for record in entered.filter_map(|frame| frame.record.get()) {
            record.with(&f);
        }
    });
}

#[inline(never)]
fn taken_inside(address: usize, bytes: usize) {
    frames::with(|stack| {
        let block = raw::own()?;
        stack.taken(block, address, bytes);
        Some(())
    });
}

#[inline(never)]
fn returned_anywhere(address: usize, bytes: usize) {
    frames::with(|stack| {
        let block = raw::own()?;
        stack.returned(block, bytes);
        Some(())
    });
    if bytes >= LARGE {
        raw::take_owners(address, |record| record.lost(bytes));
    }
}

impl Stack {
    pub(super) fn taken(&self, block: &Block, address: usize, bytes: usize) {
        self.settle(block, || block.read());
        if self.entered(block).is_empty() {
            return;
        }
        if bytes >= LARGE || block.has_fallen() {
            self.visit(block, block.live_bytes());
        }
        if bytes >= LARGE {
            self.own(block, address, bytes);
            return;
        }
        block.rose(bytes);
        if block.is_at_mark() {
            self.visit(block, block.live_bytes());
        }
    }

    pub(super) fn returned(&self, block: &Block, bytes: usize) {
        self.settle(block, || block.read());
        if self.entered(block).is_empty() {
            return;
        }
        if bytes >= LARGE {
            // Its owner's peak may be in what has passed.
            self.visit(block, block.live_bytes());
            return;
        }
        block.fell(bytes);
        self.fallen(block);
    }
}
