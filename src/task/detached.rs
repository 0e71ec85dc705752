use std::collections::HashMap;

use crate::sync::{Arc, AtomicU64, AtomicUsize, Mutex, Ordering, lock};

/// How many names of detached tasks are told apart.
const MAX_NAMES: usize = 256;

// `RequestScope::detach` and `DetachedTasks::name` say so.
const _: () = assert!(MAX_NAMES == 256);

/// The name of all others.
const OTHER: &str = "{other}";

/// Detached tasks, counted by name.
#[derive(Debug, Default)]
pub(crate) struct DetachedCounters {
    names: Mutex<HashMap<&'static str, Arc<DetachedCounter>>>,
}

/// The detached tasks of one name.
#[derive(Debug)]
pub(crate) struct DetachedCounter {
    pub(super) name: &'static str,
    started: AtomicU64,
    alive: AtomicUsize,
    /// Ended tasks whose usage is known, and what they allocated.
    measured: AtomicU64,
    bytes: AtomicU64,
}

/// The figures of one name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NameCount {
    pub(crate) name: &'static str,
    pub(crate) started: u64,
    pub(crate) alive: usize,
    pub(crate) measured: u64,
    pub(crate) bytes: u64,
}

impl DetachedCounters {
    /// Counts one more task of this name.
    pub(super) fn started(&self, name: &'static str) -> Arc<DetachedCounter> {
        let mut names = lock(&self.names);
        let known = names.contains_key(name) || names.len() < MAX_NAMES;
        let name = if known { name } else { OTHER };
        let entry = names.entry(name).or_insert_with(|| {
            Arc::new(DetachedCounter {
                name,
                started: AtomicU64::new(0),
                alive: AtomicUsize::new(0),
                measured: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
            })
        });
        // Relaxed, as all of these: figures, each true at some moment.
        entry.started.fetch_add(1, Ordering::Relaxed);
        entry.alive.fetch_add(1, Ordering::Relaxed);
        Arc::clone(entry)
    }

    /// The names there were, in their own order.
    pub(crate) fn counts(&self) -> Vec<NameCount> {
        let mut counts: Vec<_> = lock(&self.names)
            .values()
            .map(|name| NameCount {
                name: name.name,
                started: name.started.load(Ordering::Relaxed),
                alive: name.alive.load(Ordering::Relaxed),
                measured: name.measured.load(Ordering::Relaxed),
                bytes: name.bytes.load(Ordering::Relaxed),
            })
            .collect();
        counts.sort_unstable_by_key(|count| count.name);
        counts
    }
}

impl DetachedCounter {
    pub(super) fn ended(&self, bytes: Option<u64>) {
        if let Some(bytes) = bytes {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.measured.fetch_add(1, Ordering::Relaxed);
        }
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;
    use crate::sync::OnceLock;

    #[test]
    fn names_beyond_the_bound_share_one() {
        // Kept, and not leaked: the tests are watched for leaks.
        static TEXTS: OnceLock<Vec<String>> = OnceLock::new();
        let texts = TEXTS.get_or_init(|| (0..1000).map(|n| format!("name-{n}")).collect());
        let names = DetachedCounters::default();
        for text in texts {
            names.started(text).ended(Some(2));
        }
        names.started("name-0");
        let counts = names.counts();
        assert_eq!(counts.len(), MAX_NAMES + 1);
        let of = |name| counts.iter().find(|count| count.name == name).unwrap();
        assert_eq!((of("name-0").started, of("name-0").alive), (2, 1));
        let other = of(OTHER);
        assert_eq!((other.started, other.alive, other.bytes), (744, 0, 1488));
    }
}
