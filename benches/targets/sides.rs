//! What is measured: work on one thread, on two at once, or handed from one to the other.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use crossbeam_queue::ArrayQueue;

use crate::{clock, harness::TURN, machine};

/// Operations that a thread does before its time counts.
const WARM_UP: u64 = 100;

/// How many things are on their way between two threads at most.
const ON_THE_WAY: usize = 64;

/// A turn of two threads counts at once if each had a processor for this share of it.
pub(crate) const SIDE_BY_SIDE: f64 = 0.9;

/// How often a turn is taken again otherwise. More of them do not help where they are needed.
const RETRIES: usize = 1;

/// One way to do the work: does it `n` times and returns the processor time it took.
pub(crate) struct Side<'a> {
    pub(crate) label: &'static str,
    /// Of the time its threads should have run side by side, how much each got a processor.
    pub(crate) parallel: Rc<Cell<f64>>,
    pub(crate) run: Box<dyn FnMut(u64) -> f64 + 'a>,
}

impl<'a> Side<'a> {
    pub(crate) fn new(label: &'static str, run: impl FnMut(u64) -> f64 + 'a) -> Self {
        Self {
            label,
            parallel: Rc::new(Cell::new(1.0)),
            run: Box::new(run),
        }
    }

    /// `op` again and again on the calling thread.
    pub(crate) fn single(label: &'static str, mut op: impl FnMut() + 'a) -> Self {
        Self::new(label, move |n| timed(|| repeat(n, &mut op)))
    }

    /// The operations that `make` makes, on one thread or on two at once; per operation of a thread.
    pub(crate) fn on<O: FnMut()>(
        threads: usize,
        label: &'static str,
        make: impl Fn() -> O + Sync + 'a,
    ) -> Self {
        let work = move |n, ready: &dyn Fn()| {
            let mut op = make();
            repeat(WARM_UP, &mut op);
            ready();
            timed(|| repeat(n, &mut op))
        };
        if threads == 1 {
            return Self::new(label, move |n| work(n, &|| {}));
        }
        Self::pair(label, 2.0, move |_, n, ready| work(n, ready))
    }

    /// What `take` takes on one thread, `give` gives back on the other. Processor time of both for one
    /// thing, without their waiting for each other.
    pub(crate) fn handed_over<T: Send + 'a>(
        label: &'static str,
        take: impl Fn() -> T + Sync + 'a,
        give: impl Fn(T) + Sync + 'a,
    ) -> Self {
        let queue = ArrayQueue::new(ON_THE_WAY);
        let run = move |nth, n: u64| {
            if nth == 0 {
                for _ in 0..n {
                    let mut thing = take();
                    while let Err(refused) = queue.push(thing) {
                        thing = refused;
                        wait(|| queue.len() <= ON_THE_WAY / 2);
                    }
                }
                return;
            }
            let mut left = n;
            while left > 0 {
                if let Some(thing) = queue.pop() {
                    give(thing);
                    left -= 1;
                } else {
                    wait(|| queue.len() as u64 >= left.min(ON_THE_WAY as u64 / 2));
                }
            }
        };
        Self::pair(label, 1.0, move |nth, n, ready| {
            run(nth, WARM_UP);
            ready();
            timed(|| run(nth, n))
        })
    }

    /// Each of two threads takes things for the other, and gives back what the other has taken.
    /// Processor time for one thing, without their waiting for each other.
    pub(crate) fn exchanged<T: Send + 'a>(
        label: &'static str,
        take: impl Fn() -> T + Sync + 'a,
        give: impl Fn(T) + Sync + 'a,
    ) -> Self {
        let queues = [ArrayQueue::new(ON_THE_WAY), ArrayQueue::new(ON_THE_WAY)];
        let through = AtomicUsize::new(0);
        Self::pair(label, 2.0, move |nth, n, ready| {
            let (outgoing, incoming) = (&queues[nth], &queues[1 - nth]);
            let mut step = || {
                let mut thing = take();
                while let Err(refused) = outgoing.push(thing) {
                    thing = refused;
                    match incoming.pop() {
                        Some(thing) => give(thing),
                        None => {
                            wait(|| outgoing.len() <= ON_THE_WAY / 2 || !incoming.is_empty());
                        }
                    }
                }
                if let Some(thing) = incoming.pop() {
                    give(thing);
                }
            };
            repeat(WARM_UP, &mut step);
            ready();
            let used = timed(|| repeat(n, &mut step));
            // The other one may still be at it, and has to get rid of its things.
            meet(&through, || match incoming.pop() {
                Some(thing) => give(thing),
                None => pause(),
            });
            while let Some(thing) = incoming.pop() {
                give(thing);
            }
            used
        })
    }

    /// Two threads that begin together: each tells that it is ready, and returns the processor time it
    /// used from then on. The sum of both is that of `parts` times the operations.
    ///
    /// A turn in which the threads did not run side by side is taken again: on a busy machine they do
    /// not get into each other's way as they should.
    pub(crate) fn pair(
        label: &'static str,
        parts: f64,
        work: impl Fn(usize, u64, &dyn Fn()) -> f64 + Sync + 'a,
    ) -> Self {
        let parallel = Rc::new(Cell::new(1.0_f64));
        let share = Rc::clone(&parallel);
        let run = move |n| {
            let turn = || Turn::of_two(n, &work);
            let mut best = turn();
            // Short turns while calibrating say nothing.
            if best.used <= TURN {
                return best.used / parts;
            }
            for _ in 0..RETRIES {
                if best.share >= SIDE_BY_SIDE {
                    break;
                }
                let again = turn();
                if again.share > best.share {
                    best = again;
                }
            }
            share.set(share.get() * 0.9 + best.share * 0.1);
            best.used / parts
        };
        Self {
            label,
            parallel,
            run: Box::new(run),
        }
    }
}

/// What two threads did at once.
struct Turn {
    /// The processor time that counts.
    used: f64,
    /// Of the time from beginning to end, how much the threads had a processor.
    share: f64,
}

impl Turn {
    fn of_two(n: u64, work: &(impl Fn(usize, u64, &dyn Fn()) -> f64 + Sync)) -> Self {
        let barrier = &Barrier::new(2);
        let [first, second] = thread::scope(|scope| {
            let start = |nth| {
                scope.spawn(move || {
                    machine::pin(nth);
                    let start = Cell::new((Instant::now(), 0.0));
                    let used = work(nth, n, &|| {
                        barrier.wait();
                        start.set((Instant::now(), clock::thread()));
                    });
                    let (began, before) = start.get();
                    let passed = began.elapsed().as_nanos() as f64;
                    (used, clock::thread() - before, passed)
                })
            };
            [0, 1]
                .map(start)
                .map(|thread| thread.join().expect("no panic"))
        });
        Self {
            used: first.0 + second.0,
            share: (first.1 + second.1) / (first.2 + second.2),
        }
    }
}

thread_local! {
    /// What the thread has spent on waiting so far.
    static WAITED: Cell<f64> = const { Cell::new(0.0) };
}

/// The processor time that `work` takes on this thread, without waiting.
pub(crate) fn timed(work: impl FnOnce()) -> f64 {
    let (start, waited) = (clock::thread(), WAITED.get());
    work();
    clock::thread() - start - (WAITED.get() - waited)
}

/// Waits for another thread. Not for each single thing: looking at the clock takes time, too.
#[cold]
fn wait(until: impl Fn() -> bool) {
    let start = clock::thread();
    while !until() {
        pause();
    }
    WAITED.set(WAITED.get() + clock::thread() - start);
}

#[inline(never)]
fn repeat(n: u64, op: &mut impl FnMut()) {
    for _ in 0..n {
        op();
    }
}

/// Waits until the other one of two threads has come, too, doing `meanwhile` again and again.
pub(crate) fn meet(arrived: &AtomicUsize, mut meanwhile: impl FnMut()) {
    // The second arrival of each pair is even.
    let both = (arrived.fetch_add(1, Ordering::AcqRel) | 1) + 1;
    while arrived.load(Ordering::Acquire) < both {
        meanwhile();
    }
}

/// Lets another thread go on for a moment, with this processor if it has none.
pub(crate) fn pause() {
    for _ in 0..16 {
        std::hint::spin_loop();
    }
    thread::yield_now();
}
