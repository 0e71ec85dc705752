//! What accounts hold after their owners have gone.

use std::{collections::HashMap, hash::Hash};

use super::{aside::aside, ledger::Account, raw::RecordRef};
use crate::sync::{Mutex, lock};

/// How many entries are kept without a look at what they hold.
const FEW: usize = 64;

/// Accounts that were over while blocks of 64 KiB and more were theirs, by a key of their owners.
pub(crate) struct Leftovers<K> {
    list: Mutex<List<K>>,
}

struct List<K> {
    entries: Vec<(K, RecordRef)>,
    /// At so many entries, those that hold nothing any more are removed.
    full: usize,
}

impl<K: Copy + Eq + Hash> Leftovers<K> {
    pub(crate) fn new() -> Self {
        Self {
            list: Mutex::new(List {
                entries: Vec::new(),
                full: FEW,
            }),
        }
    }

    /// The account is over, and may hold large blocks.
    #[inline]
    pub(crate) fn add(&self, key: K, account: &Account) {
        if account.record().large() != 0 {
            self.add_large(key, account.record());
        }
    }

    #[cold]
    #[inline(never)]
    fn add_large(&self, key: K, record: &RecordRef) {
        let mut list = lock(&self.list);
        if list.entries.len() >= list.full {
            list.entries.retain(|(_, record)| record.large() != 0);
            // Twice as many, so that looking at all costs each one two looks.
            list.full = FEW.max(2 * list.entries.len());
            let room = list.full;
            let entries = &mut list.entries;
            aside(|| {
                if entries.capacity() > 4 * room {
                    entries.shrink_to(room);
                }
                entries.reserve(room.saturating_sub(entries.len()));
            });
        } else if list.entries.capacity() == 0 {
            let entries = &mut list.entries;
            aside(|| entries.reserve(FEW));
        }
        list.entries.push((key, record.clone()));
    }

    /// What is held now, by key.
    pub(crate) fn held(&self) -> HashMap<K, u64> {
        let mut held = HashMap::new();
        lock(&self.list).entries.retain(|(key, record)| {
            let bytes = record.large();
            if bytes != 0 {
                *held.entry(*key).or_default() += bytes;
            }
            bytes != 0
        });
        held
    }
}
