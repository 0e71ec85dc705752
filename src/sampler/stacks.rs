//! The sums of samples by route, task and stack.
//!
//! # Invariants
//!
//! 1. A place goes from empty to the hash of its key once, by compare-and-swap, and keeps it. The thread that
//!    has set it writes the key, and then `ready`, which readers acquire.
//! 2. Words are reserved by moving `used` up, and written by the thread that reserved them. None is
//!    given back.
//! 3. Sums only grow. What is freed was allocated before.

use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

use super::draw::{PARTS, Weight, mixed};

/// Places that are looked at for a stack.
const PROBES: usize = if cfg!(tower_memory_loom) { 2 } else { 64 };

/// The numbers of a route and of a task, zero for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Names {
    pub(crate) route: u16,
    pub(crate) task: u16,
}

/// The sums of samples with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Which key it is, for as long as the process runs.
    pub(crate) index: usize,
    pub(crate) names: Names,
    /// Addresses within the calls, innermost first. Empty if the stack is not known.
    pub(crate) stack: Vec<usize>,
    /// Objects and bytes.
    pub(crate) allocated: (u64, u64),
    pub(crate) in_use: (u64, u64),
}

struct Place {
    hash: AtomicU64,
    ready: AtomicU32,
    names: AtomicU32,
    from: AtomicU32,
    len: AtomicU32,
    allocated: Sum,
    freed: Sum,
}

struct Sum {
    objects: AtomicU64,
    bytes: AtomicU64,
}

/// Up to `PLACES` keys, with `WORDS` addresses in sum. The first `ROUTES` are those of routes whose task and
/// stack are not known, so a sample never loses its route.
pub(super) struct Stacks<const ROUTES: usize, const PLACES: usize, const WORDS: usize> {
    places: [Place; PLACES],
    words: [AtomicUsize; WORDS],
    used: AtomicUsize,
}

impl<const ROUTES: usize, const PLACES: usize, const WORDS: usize> Stacks<ROUTES, PLACES, WORDS> {
    #[cfg(not(tower_memory_loom))]
    pub(super) const fn new() -> Self {
        Self {
            places: [const { Place::new() }; PLACES],
            words: [const { AtomicUsize::new(0) }; WORDS],
            used: AtomicUsize::new(0),
        }
    }

    #[cfg(tower_memory_loom)]
    pub(super) fn new() -> Self {
        Self {
            places: std::array::from_fn(|_| Place::new()),
            words: std::array::from_fn(|_| AtomicUsize::new(0)),
            used: AtomicUsize::new(0),
        }
    }

    /// The number of a key. Returns that of the route alone if there is no room.
    pub(super) fn number(&self, names: Names, stack: &[usize]) -> u32 {
        let of_route = u32::from(names.route);
        if names.task == 0 && stack.is_empty() {
            return of_route;
        }
        let hash = hash(names, stack);
        for probe in 0..PROBES.min(PLACES - ROUTES) {
            let at = ROUTES + (hash as usize).wrapping_add(probe) % (PLACES - ROUTES);
            let Some(place) = self.places.get(at) else {
                break;
            };
            match place.hash.compare_exchange(0, hash, Relaxed, Relaxed) {
                Ok(_) => {
                    self.write(place, names, stack);
                    return at as u32;
                }
                // Two keys with one hash of 64 bits are taken for one.
                Err(found) if found == hash => return at as u32,
                Err(_) => {}
            }
        }
        of_route
    }

    fn write(&self, place: &Place, names: Names, stack: &[usize]) {
        let more = |used: usize| used.checked_add(stack.len()).filter(|end| *end <= WORDS);
        // Without room for its addresses, the key is that of a stack that is not known.
        if let Ok(from) = self.used.fetch_update(Relaxed, Relaxed, more) {
            for (word, address) in self.words.iter().skip(from).zip(stack) {
                word.store(*address, Relaxed);
            }
            place.from.store(from as u32, Relaxed);
            place.len.store(stack.len() as u32, Relaxed);
        }
        let packed = u32::from(names.route) << 16 | u32::from(names.task);
        place.names.store(packed, Relaxed);
        // Release: invariant 1.
        place.ready.store(1, Release);
    }

    pub(super) fn allocated(&self, number: u32, weight: Weight) {
        if let Some(place) = self.places.get(number as usize) {
            place.allocated.add(weight);
        }
    }

    pub(super) fn freed(&self, number: u32, weight: Weight) {
        if let Some(place) = self.places.get(number as usize) {
            place.freed.add(weight);
        }
    }

    /// The keys with samples, and their sums.
    pub(super) fn totals(&self) -> Vec<Totals> {
        let places = self.places.iter().enumerate();
        places
            .filter_map(|(at, place)| self.total(at, place))
            .collect()
    }

    fn total(&self, index: usize, place: &Place) -> Option<Totals> {
        let (names, stack) = if index < ROUTES {
            let route = index as u16;
            (Names { route, task: 0 }, Vec::new())
        } else {
            // Acquire: invariant 1.
            if place.ready.load(Acquire) == 0 {
                return None;
            }
            let packed = place.names.load(Relaxed);
            let (from, len) = (place.from.load(Relaxed), place.len.load(Relaxed));
            let words = self.words.iter().skip(from as usize).take(len as usize);
            let names = Names {
                route: (packed >> 16) as u16,
                task: packed as u16,
            };
            (names, words.map(|word| word.load(Relaxed)).collect())
        };
        // What is freed is read first, so nothing is freed that is not allocated (invariant 3).
        let freed = place.freed.read();
        let allocated = place.allocated.read();
        if allocated == (0, 0) {
            return None;
        }
        let in_use = (
            allocated.0.saturating_sub(freed.0) / PARTS,
            allocated.1.saturating_sub(freed.1),
        );
        Some(Totals {
            index,
            names,
            stack,
            allocated: (allocated.0 / PARTS, allocated.1),
            in_use,
        })
    }
}

/// Not zero.
fn hash(names: Names, stack: &[usize]) -> u64 {
    let names = u64::from(names.route) << 16 | u64::from(names.task);
    let fold =
        |hash: u64, word: &usize| mixed((hash ^ *word as u64).wrapping_mul(0xff51_afd7_ed55_8ccd));
    stack.iter().fold(mixed(names + 1), fold).max(1)
}

impl Place {
    #[cfg(not(tower_memory_loom))]
    const fn new() -> Self {
        Self {
            hash: AtomicU64::new(0),
            ready: AtomicU32::new(0),
            names: AtomicU32::new(0),
            from: AtomicU32::new(0),
            len: AtomicU32::new(0),
            allocated: Sum {
                objects: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
            },
            freed: Sum {
                objects: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
            },
        }
    }

    #[cfg(tower_memory_loom)]
    fn new() -> Self {
        let sum = || Sum {
            objects: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        Self {
            hash: AtomicU64::new(0),
            ready: AtomicU32::new(0),
            names: AtomicU32::new(0),
            from: AtomicU32::new(0),
            len: AtomicU32::new(0),
            allocated: sum(),
            freed: sum(),
        }
    }
}

impl Sum {
    fn add(&self, weight: Weight) {
        self.objects.fetch_add(weight.objects, Relaxed);
        // Release: pairs with `read`, so a reader that sees something freed sees it allocated.
        self.bytes.fetch_add(weight.bytes, Release);
    }

    fn read(&self) -> (u64, u64) {
        // Acquire: see `add`.
        let bytes = self.bytes.load(Acquire);
        (self.objects.load(Relaxed), bytes)
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    type Small = Stacks<4, 12, 16>;

    const ONE: Weight = Weight {
        objects: PARTS,
        bytes: 100,
    };

    const fn names(route: u16, task: u16) -> Names {
        Names { route, task }
    }

    #[test]
    fn samples_are_summed_by_route_task_and_stack() {
        let stacks = Small::new();
        let keys: [(Names, &[usize]); 5] = [
            (names(1, 0), &[1, 2, 3]),
            (names(2, 0), &[1, 2, 3]),
            (names(1, 1), &[1, 2, 3]),
            (names(1, 0), &[1, 2]),
            (names(1, 0), &[]),
        ];
        for (times, (names, stack)) in keys.iter().enumerate() {
            for _ in 0..=times {
                let number = stacks.number(*names, stack);
                stacks.allocated(number, ONE);
                stacks.freed(number, Weight { bytes: 40, ..ONE });
            }
        }
        let mut totals = stacks.totals();
        totals.sort_by_key(|totals| totals.allocated);
        let found: Vec<_> = totals
            .iter()
            .map(|totals| (totals.names, totals.stack.as_slice(), totals.allocated))
            .collect();
        let expected: Vec<_> = (1..)
            .zip(&keys)
            .map(|(times, (names, stack))| (*names, *stack, (times, times * 100)))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(totals[4].in_use, (0, 300));
    }

    #[test]
    fn a_sample_without_room_for_its_stack_keeps_its_route() {
        let stacks = Small::new();
        for n in 0..100 {
            let number = stacks.number(names(3, 0), &[n, n + 1, n + 2]);
            stacks.allocated(number, ONE);
        }
        let totals = stacks.totals();
        assert!(totals.iter().all(|totals| totals.names == names(3, 0)));
        let sum: u64 = totals.iter().map(|totals| totals.allocated.1).sum();
        assert_eq!(sum, 100 * 100);
        let words: usize = totals.iter().map(|totals| totals.stack.len()).sum();
        assert_eq!((totals.len(), words), (9, 15));
    }
}

#[cfg(all(test, tower_memory_loom))]
mod loom_models {
    use loom::{sync::Arc, thread};

    use super::*;

    #[test]
    fn two_threads_with_one_stack_share_its_place_and_a_reader_sees_it_whole() {
        loom::model(|| {
            let stacks = Arc::new(Stacks::<1, 3, 4>::new());
            let names = Names { route: 0, task: 7 };
            let add = move |stacks: &Stacks<1, 3, 4>| {
                let number = stacks.number(names, &[11, 12]);
                stacks.allocated(
                    number,
                    Weight {
                        objects: PARTS,
                        bytes: 5,
                    },
                );
            };
            let other = thread::spawn({
                let stacks = Arc::clone(&stacks);
                move || add(&stacks)
            });
            add(&stacks);
            for totals in stacks.totals() {
                assert_eq!((totals.names, totals.stack), (names, vec![11, 12]));
            }
            other.join().expect("no panic");
            let totals = stacks.totals();
            assert_eq!(totals.len(), 1);
            assert_eq!(totals[0].allocated, (2, 10));
        });
    }
}
