//! What the allocator brings to the slow path: large blocks, and marks that were passed.

use super::{
    counters::{Block, LARGE},
    frames::{self, Stack},
    raw::{self, Record},
    usage::HeapUsage,
};
use crate::sampler;

/// Looks at an allocation of `size` bytes that the thread's counters include.
#[inline]
pub(super) fn allocated(block: &Block, address: usize, size: usize) {
    let counted = HeapUsage {
        allocations: 1,
        bytes_allocated: size as u64,
        ..HeapUsage::default()
    };
    sample(block, address, size, true);
    if frames::with(|stack| stack.allocated(block, address, size, counted)).is_none() {
        block.look_at_none();
    }
}

/// Looks at a block that is about to be freed. The thread's counters do not include it any more.
#[inline]
pub(super) fn deallocated(block: &Block, address: usize, size: usize) {
    let counted = HeapUsage {
        deallocations: 1,
        bytes_deallocated: size as u64,
        ..HeapUsage::default()
    };
    if size < LARGE {
        frames::with(|stack| stack.freed(block, counted));
        return;
    }
    large_deallocated(block, address, size, counted);
}

#[inline(never)]
fn large_deallocated(block: &Block, address: usize, size: usize, counted: HeapUsage) {
    // Before the block is taken away from its owner, whose peak may be in what has passed.
    frames::with(|stack| {
        stack.settle(block, || block.read() - counted);
        stack.moved_large(block, (size as i64).wrapping_neg());
    });
    raw::take_owners(address, |record| record.lost(size));
}

/// Looks at a small block that was resized. The thread's counters include that.
#[inline]
pub(super) fn reallocated(block: &Block, address: usize, from: usize, to: usize) {
    let mut counted = HeapUsage {
        reallocations: 1,
        ..HeapUsage::default()
    };
    if let Some(by) = to.checked_sub(from) {
        counted.bytes_allocated = by as u64;
        sample(block, address, by, false);
        if frames::with(|stack| stack.allocated(block, address, by, counted)).is_none() {
            block.look_at_none();
        }
    } else {
        counted.bytes_deallocated = from.wrapping_sub(to) as u64;
        frames::with(|stack| stack.freed(block, counted));
    }
}

/// A block that is large, or was, is being resized. The thread's counters do not include that yet.
pub(super) fn resizes(block: &Block) {
    // Before the block is taken away from its owner, whose peak may be in what has passed.
    frames::with(|stack| stack.visit(block, block.live_bytes()));
}

/// The block was resized, and the thread's counters include it. It belongs to the account that resized
/// it.
pub(super) fn resized(block: &Block, address: usize, from: usize, to: usize) {
    if let Some(by) = to.checked_sub(from) {
        sample(block, address, by, false);
    }
    let large = |size: usize| if size >= LARGE { size as i64 } else { 0 };
    frames::with(|stack| {
        stack.moved_large(block, large(to).wrapping_sub(large(from)));
        if to >= LARGE {
            stack.own(block, address, to);
        }
    });
}

/// Takes a sample, if one is due. Before the thread's marks are set, so that none is beyond the next one.
#[inline]
fn sample(block: &Block, address: usize, by: usize, is_new: bool) {
    let Some(rate) = block.draw.due(block.bytes_allocated()) else {
        return;
    };
    let sampled = frames::with(|stack| {
        sampler::sampled(address, by, is_new, rate, stack.labels(block));
    });
    if sampled.is_none() {
        sampler::sampled(address, by, is_new, rate, std::iter::empty());
    }
}

impl Stack {
    /// Makes all entered accounts owners of a large block.
    pub(super) fn own(&self, block: &Block, address: usize, size: usize) {
        for record in self
            .entered(block)
            .iter()
            .filter_map(|frame| frame.record.get())
        {
            record.with(|record| record.owns(size));
            if !raw::add_owner(address, record.to_ref()) {
                // The thread that frees it tells no account.
                record.with(Record::missed);
            }
        }
        // A threshold may be nearer now.
        self.watch(block, block.live_bytes());
    }

    /// Small blocks were freed: `counted`.
    #[inline]
    fn freed(&self, block: &Block, counted: HeapUsage) {
        self.settle(block, || block.read() - counted);
        self.fallen(block);
    }

    /// Live bytes may be below what the entered accounts held.
    pub(super) fn fallen(&self, block: &Block) {
        if !block.has_to_look() {
            return;
        }
        if self.entered(block).is_empty() {
            block.unwatch();
        } else {
            block.look_at_next();
        }
    }

    /// Live bytes rose by `size`, and all that was counted is `counted`.
    #[inline]
    fn allocated(&self, block: &Block, address: usize, size: usize, counted: HeapUsage) {
        self.settle(block, || block.read() - counted);
        if block.is_at_mark() {
            self.at_mark(block, address, size);
        }
    }

    /// The bytes allocated have reached the mark, with a block of `size` bytes.
    #[inline(never)]
    fn at_mark(&self, block: &Block, address: usize, size: usize) {
        if self.entered(block).is_empty() {
            block.look_at_none();
            return;
        }
        let live = block.live_bytes();
        if size >= LARGE {
            // No part of what is watched.
            block.shift(size as i64);
            self.tell(block, live);
            self.own(block, address, size);
            return;
        }
        let before = live.wrapping_sub(size as i64);
        if before < block.base() {
            self.visit(block, before);
        }
        self.visit(block, live);
    }

    /// Live bytes moved by `by` in large blocks, which are no part of what is watched.
    fn moved_large(&self, block: &Block, by: i64) {
        if !self.entered(block).is_empty() {
            block.shift(by);
            self.visit(block, block.live_bytes());
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::{
        sync::{Barrier, Mutex},
        thread,
    };

    use proptest::prelude::*;

    use super::*;
    use crate::account::{counters::Writer, raw::RecordRef};

    const ACCOUNTS: usize = 3;
    /// Small blocks that may pass unseen.
    const UNSEEN: i64 = 1 << 10;

    /// What an account holds, step by step.
    #[derive(Default)]
    struct Model {
        small: i64,
        large: i64,
        lent: i64,
        peak: i64,
        threshold: Option<Watched>,
    }

    struct Watched {
        at: i64,
        highest: i64,
    }

    impl Model {
        fn held(&self) -> i64 {
            self.small + self.large + self.lent
        }

        fn note(&mut self) {
            let held = self.held();
            self.peak = self.peak.max(held);
            if let Some(watched) = &mut self.threshold {
                watched.highest = watched.highest.max(held);
            }
        }

        fn add_small(&mut self, by: i64) {
            self.small = (self.small + by).max(0);
            self.note();
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Allocate(usize),
        Free(usize),
        Resize(usize, usize),
        Enter(usize),
        Leave(usize),
        Aside(usize),
        Lend(usize, usize),
        Take(usize),
        Return(usize),
        Watch(usize, Option<u64>),
        Look,
    }

    fn size() -> impl Strategy<Value = usize> {
        prop_oneof![
            6 => 1_usize..2000,
            3 => 2000_usize..LARGE,
            1 => LARGE..4 * LARGE,
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        let account = 0..ACCOUNTS;
        prop_oneof![
            10 => size().prop_map(Step::Allocate),
            8 => any::<usize>().prop_map(Step::Free),
            3 => (any::<usize>(), size()).prop_map(|(at, size)| Step::Resize(at, size)),
            3 => account.clone().prop_map(Step::Enter),
            2 => any::<usize>().prop_map(Step::Leave),
            1 => size().prop_map(Step::Aside),
            4 => size().prop_map(Step::Take),
            3 => any::<usize>().prop_map(Step::Return),
            1 => (account.clone(), 0_usize..100_000).prop_map(|(at, by)| Step::Lend(at, by)),
            2 => (account, prop::option::of(0_u64..400_000))
                .prop_map(|(at, bytes)| Step::Watch(at, bytes)),
            2 => Just(Step::Look),
        ]
    }

    /// A thread that allocates at addresses of its own.
    struct Machine {
        block: &'static Block,
        records: [RecordRef; ACCOUNTS],
        models: [Model; ACCOUNTS],
        guards: Vec<usize>,
        /// Address, size, and the owners of a large block.
        blocks: Vec<(usize, usize, Vec<usize>)>,
        /// The same, of a pool that had them before.
        pooled: Vec<(usize, usize, Vec<usize>)>,
    }

    /// Addresses that no allocator gives out.
    fn new_address() -> usize {
        use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
        static NEXT: AtomicUsize = AtomicUsize::new(usize::MAX / 2);
        NEXT.fetch_add(1 << 16, Relaxed)
    }

    /// A block that stays, as a thread's does in its list. The address is kept, so that no search for leaks
    /// takes it for one.
    fn new_block() -> &'static Block {
        static BLOCKS: Mutex<Vec<usize>> = Mutex::new(Vec::new());
        let block: &Block = Box::leak(Box::new(Block::new()));
        let address = std::ptr::from_ref(block).addr();
        BLOCKS.lock().unwrap().push(address);
        block
    }

    impl Machine {
        fn new() -> Self {
            Self {
                block: new_block(),
                records: std::array::from_fn(|at| match Self::writer(at) {
                    Writer::Exclusive => RecordRef::owned(),
                    Writer::Shared => RecordRef::new(),
                }),
                models: Default::default(),
                guards: Vec::new(),
                blocks: Vec::new(),
                pooled: Vec::new(),
            }
        }

        fn writer(account: usize) -> Writer {
            [Writer::Exclusive, Writer::Shared][account % 2]
        }

        fn entered(&self) -> Vec<usize> {
            let mut entered = self.guards.clone();
            entered.sort_unstable();
            entered.dedup();
            entered
        }

        /// The models of a new block, or of one that got another size.
        fn appears(&mut self, size: usize) -> Vec<usize> {
            let entered = self.entered();
            for at in &entered {
                let model = &mut self.models[*at];
                if size >= LARGE {
                    model.large += size as i64;
                    model.note();
                } else {
                    model.add_small(size as i64);
                }
            }
            entered
        }

        fn goes(&mut self, size: usize, owners: &[usize]) {
            if size >= LARGE {
                for at in owners {
                    self.models[*at].large -= size as i64;
                }
                return;
            }
            for at in self.entered() {
                self.models[at].add_small(-(size as i64));
            }
        }

        fn allocate(&mut self, size: usize) {
            let address = new_address();
            if self.block.allocated(size) {
                allocated(self.block, address, size);
            }
            let owners = self.appears(size);
            self.blocks.push((address, size, owners));
        }

        fn free(&mut self, at: usize) {
            let (address, size, owners) = self.blocks.swap_remove(at);
            if self.block.deallocated(size) {
                deallocated(self.block, address, size);
            }
            self.goes(size, &owners);
        }

        fn take(&mut self, size: usize) {
            let address = new_address();
            frames::with(|stack| stack.taken(self.block, address, size));
            let owners = self.appears(size);
            self.pooled.push((address, size, owners));
        }

        fn give_back(&mut self, at: usize) {
            let (address, size, owners) = self.pooled.swap_remove(at);
            frames::with(|stack| stack.returned(self.block, size));
            if size >= LARGE {
                raw::take_owners(address, |record| record.lost(size));
            }
            self.goes(size, &owners);
        }

        fn resize(&mut self, at: usize, to: usize) {
            let (address, from, owners) = self.blocks.swap_remove(at);
            let block = self.block;
            let entered = self.entered();
            if from < LARGE && to < LARGE {
                if block.reallocated(from, to) {
                    reallocated(block, address, from, to);
                }
                for at in &entered {
                    self.models[*at].add_small(to as i64 - from as i64);
                }
                self.blocks.push((address, to, entered));
                return;
            }
            // As the allocator does it.
            let mut lost = Vec::new();
            if from >= LARGE {
                raw::take_owners(address, |record| lost.push(record));
            }
            resizes(block);
            lost.iter().for_each(|record| record.lost(from));
            block.reallocated_large(from, to);
            resized(block, address, from, to);
            self.goes(from, &owners);
            self.appears(to);
            self.blocks.push((address, to, entered));
        }

        fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
            let block = self.block;
            match step {
                Step::Allocate(size) => self.allocate(size),
                Step::Free(at) if !self.blocks.is_empty() => self.free(at % self.blocks.len()),
                Step::Resize(at, size) if !self.blocks.is_empty() => {
                    self.resize(at % self.blocks.len(), size);
                }
                Step::Enter(at) => {
                    let writer = Self::writer(at);
                    let record = self.records[at].pin();
                    assert_eq!(
                        frames::with(|stack| stack.enter(record, writer, block)),
                        Some(true)
                    );
                    self.guards.push(at);
                }
                Step::Leave(at) if !self.guards.is_empty() => {
                    self.leave(at % self.guards.len());
                }
                Step::Aside(size) => {
                    let guards = std::mem::take(&mut self.guards);
                    let aside = frames::with(|stack| stack.set_aside(block)).flatten();
                    self.allocate(size);
                    self.guards = guards;
                    if let Some(aside) = aside {
                        frames::with(|stack| stack.put_back(&aside, block));
                    }
                }
                Step::Lend(at, bytes) => {
                    // What is lent grows only, outside of this test.
                    self.look();
                    self.records[at].lend(bytes);
                    self.look();
                    self.models[at].lent = bytes as i64;
                    self.models[at].note();
                }
                Step::Watch(at, bytes) => {
                    self.look();
                    self.records[at].set_threshold(bytes);
                    self.look();
                    let model = &mut self.models[at];
                    model.threshold = bytes.map(|at| Watched {
                        at: at as i64,
                        highest: 0,
                    });
                    model.note();
                }
                Step::Look => {
                    self.look();
                    self.is_exact()?;
                }
                Step::Take(size) => self.take(size),
                Step::Return(at) if !self.pooled.is_empty() => {
                    self.give_back(at % self.pooled.len());
                }
                Step::Free(_) | Step::Resize(..) | Step::Leave(_) | Step::Return(_) => {}
            }
            self.is_in_time()
        }

        fn look(&self) {
            frames::with(|stack| stack.visit(self.block, self.block.live_bytes()));
        }

        fn leave(&mut self, at: usize) {
            let account = self.guards.swap_remove(at);
            let record = self.records[account].pin();
            assert_eq!(
                frames::with(|stack| stack.leave(record, self.block)),
                Some(true)
            );
        }

        fn is_exact(&self) -> Result<(), TestCaseError> {
            for (record, model) in self.records.iter().zip(&self.models) {
                prop_assert_eq!(record.held(), Some(model.held() as u64));
                prop_assert_eq!(record.peak(), Some(model.peak as u64));
            }
            Ok(())
        }

        /// Also between visits.
        fn is_in_time(&self) -> Result<(), TestCaseError> {
            for (record, model) in self.records.iter().zip(&self.models) {
                let crossed = record.has_crossed();
                let Some(watched) = &model.threshold else {
                    prop_assert!(!crossed);
                    continue;
                };
                let (at, highest) = (watched.at, watched.highest);
                prop_assert!(!crossed || highest >= at, "{} of {}", highest, at);
                prop_assert!(crossed || highest < at + UNSEEN, "{} of {}", highest, at);
            }
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

        #[test]
        fn accounts_hold_what_a_model_holds_and_cross_thresholds_in_time(
            // Fewer sections than make a figure unknown.
            steps in prop::collection::vec(step(), 1..300),
        ) {
            run(steps)?;
        }
    }

    fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
        let mut machine = Machine::new();
        let mut result = steps.into_iter().try_for_each(|step| machine.step(step));
        while !machine.guards.is_empty() {
            machine.leave(0);
        }
        result = result.and_then(|()| machine.is_exact());
        while !machine.blocks.is_empty() {
            machine.free(0);
        }
        while !machine.pooled.is_empty() {
            machine.give_back(0);
        }
        result
    }

    #[test]
    fn a_block_that_becomes_large_is_followed_by_a_nearer_mark() {
        let small = Step::Allocate(1);
        run(vec![
            Step::Watch(0, Some(185_754)),
            Step::Allocate(1072),
            small,
            Step::Enter(0),
            small,
            small,
            small,
            Step::Resize(0, 151_068),
            Step::Allocate(35_710),
        ])
        .unwrap();
    }

    /// One allocation in a section of a new thread, which has a block of its own. Account 0 has an owner.
    fn section(record: &RecordRef, account: usize) {
        let mut machine = Machine::new();
        machine.records[account] = record.clone();
        machine.step(Step::Enter(account)).expect("no threshold");
        machine.allocate(100);
        machine.leave(0);
        machine.free(0);
    }

    #[test]
    fn the_thread_at_which_an_account_is_at_home_counts_without_locked_instructions() {
        let record = RecordRef::new();
        for (sections, exclusive) in [(1, 1), (2, 1)] {
            section(&record, 1);
            assert_eq!(record.credited().allocations, sections);
            assert_eq!(record.credited_exclusively().allocations, exclusive);
        }
    }

    #[test]
    fn the_exclusive_counts_of_an_account_with_an_owner_are_the_owners() {
        let record = RecordRef::owned();
        section(&record, 1);
        assert_eq!(record.credited_exclusively().allocations, 0);
        section(&record, 0);
        assert_eq!(record.credited_exclusively().allocations, 1);
        assert_eq!(record.credited().allocations, 2);
    }

    /// What threads of one account allocate in small pieces is seen when they leave it at the latest,
    /// and each of them may hide 64 KiB until then.
    #[test]
    fn threads_cross_a_threshold_together() {
        const THREADS: usize = 3;
        for (pieces, crossed) in [(999, false), (1000, true)] {
            let record = RecordRef::new();
            let budget = 1000 * 1000 * THREADS;
            record.set_threshold(Some(budget as u64));
            let done = Barrier::new(THREADS);
            thread::scope(|threads| {
                for _ in 0..THREADS {
                    threads.spawn(|| {
                        let mut machine = Machine::new();
                        machine.records[1] = record.clone();
                        machine.step(Step::Enter(1)).expect("no threshold");
                        for _ in 0..pieces {
                            machine.allocate(1000);
                        }
                        done.wait();
                        let hidden = budget - record.held().expect("known") as usize;
                        assert!(
                            hidden <= THREADS * (LARGE + 1000),
                            "{hidden} bytes not seen"
                        );
                        done.wait();
                        machine.leave(0);
                    });
                }
            });
            assert_eq!(record.held(), Some((pieces * 1000 * THREADS) as u64));
            assert_eq!(record.has_crossed(), crossed);
        }
    }
}
