//! The statistics of all routes.
//!
//! Threads write [journals](crate::journal). The thread that holds the lock of the table adds their entries to
//! it: one whose journal is half full, if the lock is free, and each reader. So a request takes no lock,
//! and there is one row, however many threads there are.

use super::{
    row::{self, Row},
    summary::{Summary, TimeSummary},
};
use crate::{
    account::aside,
    journal::{Entry, Journal, Journals, key_of, moved_from, place, place_of},
    route::{KnownMethod, RouteKey},
    sync::{Arc, Mutex, lock, try_lock},
};

/// The statistics of all routes.
#[derive(Debug)]
pub(super) struct Stats {
    journals: Arc<Journals>,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// By [`place`].
    rows: Vec<Option<Box<Row>>>,
}

impl Table {
    #[inline]
    fn row(&mut self, place: usize) -> &mut Row {
        if !self.rows.get(place).is_some_and(Option::is_some) {
            self.add_row(place);
        }
        match self.rows[place].as_mut() {
            Some(row) => row,
            None => unreachable!("added above"),
        }
    }

    #[cold]
    #[inline(never)]
    fn add_row(&mut self, place: usize) {
        aside(|| {
            if self.rows.len() <= place {
                // All methods of the route.
                let len = (place / KnownMethod::COUNT + 1) * KnownMethod::COUNT;
                self.rows.resize_with(len, || None);
            }
            self.rows[place].get_or_insert_with(Box::default);
        });
    }

    fn take_closes(&mut self, journal: &Journal) {
        journal.closes.drain(|entries| {
            for run in Entry::runs(entries, 0) {
                let Some(word) = run.first().map(|entry| entry.get(0)) else {
                    continue;
                };
                self.row(place_of(word)).add(word, run);
            }
        });
    }

    fn take_opens(&mut self, journal: &Journal) {
        journal.opens.drain(|entries| {
            for run in Entry::runs(entries, 0) {
                let Some(word) = run.first().map(|entry| entry.get(0)) else {
                    continue;
                };
                let count = run.len() as u64;
                let opened = &mut self.row(place_of(word)).opened;
                *opened = opened.wrapping_add(count);
                if let Some(from) = moved_from(word) {
                    let opened = &mut self.row(from).opened;
                    *opened = opened.wrapping_sub(count);
                }
            }
        });
    }

    fn take(&mut self, journal: &Journal) {
        self.take_closes(journal);
        self.take_opens(journal);
    }

    /// Iterates over the rows in the order of route numbers and methods.
    fn rows(&self) -> impl Iterator<Item = (RouteKey, &Row)> {
        let rows = self.rows.iter().enumerate();
        rows.filter_map(|(place, row)| Some((key_of(place), &**row.as_ref()?)))
    }
}

impl Stats {
    pub(super) fn new() -> Self {
        Self {
            journals: Arc::new(Journals::new()),
            table: Mutex::default(),
        }
    }

    /// What threads write.
    pub(super) const fn journals(&self) -> &Arc<Journals> {
        &self.journals
    }

    /// Empties the calling thread's journal, unless it is not full and another thread has the lock.
    pub(super) fn empty(&self, journal: &Journal, is_full: bool) {
        if is_full {
            lock(&self.table).take(journal);
            return;
        }
        // While there is room, no thread waits for another one.
        if let Some(mut table) = try_lock(&self.table) {
            table.take(journal);
            journal.emptied();
        }
    }

    /// Counts a request that held more than its limit and was not ended. Returns whether it is the first of
    /// its route and method.
    pub(super) fn over_limit(&self, key: RouteKey) -> bool {
        let mut table = lock(&self.table);
        let count = &mut table.row(place(key)).over_limit;
        *count += 1;
        *count == 1
    }

    /// Returns the rows of all routes and methods that have had requests.
    pub(super) fn rows(&self) -> Vec<(RouteKey, Row)> {
        let keys: Vec<RouteKey> = {
            let mut table = lock(&self.table);
            self.journals
                .all()
                .for_each(|journal| table.take_closes(journal));
            table.rows().map(|(key, _)| key).collect()
        };
        // Locked for each row anew, so that no thread has to wait for more than the copy of one.
        let rows = keys.into_iter().map(|key| {
            let row = lock(&self.table).row(place(key)).clone();
            (key, row)
        });
        let mut rows = rows.collect::<Vec<_>>().into_iter().peekable();
        // Read after the closed ones, so that no request appears closed but not opened.
        let mut table = lock(&self.table);
        self.journals
            .all()
            .for_each(|journal| table.take_opens(journal));
        let now = table.rows().map(|(key, now)| {
            let mut row = rows
                .next_if(|row| row.0 == key)
                .map(|row| row.1)
                .unwrap_or_default();
            row.opened = now.opened;
            (key, row)
        });
        // Not those whose requests were all relabelled.
        now.filter(|(_, row)| row.opened > 0).collect()
    }

    /// Returns what the requests of one route and method have allocated, if that is known of any.
    pub(super) fn bytes_of(&self, key: RouteKey) -> Option<Summary> {
        let mut table = lock(&self.table);
        self.journals
            .all()
            .for_each(|journal| table.take_closes(journal));
        let row = table.rows.get(place(key))?.as_ref()?;
        row.summary(row::Figure::Bytes)
    }

    /// Returns the number of open requests of each route and method, for a shutdown that has set its word.
    /// One that is negative is counted by another one, too, and the sum is right.
    pub(super) fn open_requests(&self) -> Vec<(RouteKey, i64)> {
        self.journals.fence();
        let mut table = lock(&self.table);
        self.journals
            .all()
            .for_each(|journal| table.take_closes(journal));
        self.journals
            .all()
            .for_each(|journal| table.take_opens(journal));
        let open = table.rows().map(|(key, row)| (key, row.open()));
        open.filter(|open| open.1 != 0).collect()
    }

    /// Returns the latencies of the cancelled tasks of each route that has had any.
    pub(super) fn cancel_latencies(&self) -> Vec<(usize, TimeSummary)> {
        let mut found = Vec::<(usize, TimeSummary)>::new();
        for (key, row) in self.rows() {
            let Some(latency) = row.times(row::Figure::CancelLatency) else {
                continue;
            };
            match found.last_mut().filter(|last| last.0 == key.route) {
                Some(last) => last.1.merge(&latency),
                None => found.push((key.route, latency)),
            }
        }
        found
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use std::thread;

    use super::*;
    use crate::{
        account::Totals,
        cancel::Outcome,
        journal::{ClosedEntry, ENTRIES},
    };

    /// As scopes do it.
    impl Stats {
        fn record(&self, push: impl Fn(&Journal) -> Option<usize>) {
            self.journals
                .record(push, |journal, is_full| self.empty(journal, is_full));
        }

        fn open(&self, key: RouteKey) {
            self.record(|journal| journal.opened(key));
        }

        fn relabelled(&self, from: RouteKey, to: usize) {
            self.record(|journal| journal.moved(from, to));
        }
    }

    fn key(route: usize) -> RouteKey {
        RouteKey {
            route,
            method: KnownMethod::Get,
        }
    }

    /// A closed request that took `nanos`.
    fn close(stats: &Stats, key: RouteKey, nanos: u64) {
        stats.record(|journal| {
            let entry = ClosedEntry {
                key,
                status: Some(200),
                outcome: Outcome::Completed,
                heap: None,
                arena_source: 0,
                arena_bytes: 0,
                time_to_head: Some(nanos / 2),
                time_to_end: nanos,
                total_time: nanos,
            };
            journal.closed(entry.words())
        });
    }

    #[test]
    fn readers_find_every_request_of_every_thread_while_they_run_and_afterwards() {
        const THREADS: u64 = 8;
        const REQUESTS: u64 = 5000;
        let stats = Stats::new();
        let one = |thread: u64, n: u64| {
            let (from, to) = (key(n as usize % 3), key(3));
            stats.open(from);
            let moves = n % 5 == 0;
            if moves {
                stats.relabelled(from, to.route);
            }
            close(&stats, if moves { to } else { from }, thread * REQUESTS + n);
        };
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let one = &one;
                // Numbers are used again by threads that start later.
                scope.spawn(move || {
                    for half in [0..REQUESTS / 2, REQUESTS / 2..REQUESTS] {
                        thread::scope(|scope| {
                            scope.spawn(|| half.for_each(|n| one(thread, n)));
                        });
                    }
                });
            }
            let mut seen = 0;
            while seen < THREADS * REQUESTS {
                let rows = stats.rows();
                let closed = rows.iter().map(|(_, row)| row.outcomes.total()).sum();
                let open: i64 = rows.iter().map(|(_, row)| row.open()).sum();
                assert!(closed >= seen && open >= 0);
                seen = closed;
                for (_, row) in &rows {
                    let times = row.times(row::Figure::TotalTime);
                    let count = times.as_ref().map_or(0, |times| times.count);
                    assert_eq!(count, row.outcomes.total(), "a row is read whole");
                    let counted = times.iter().flat_map(TimeSummary::buckets).map(|b| b.1);
                    // One request took no time, and is in no bucket.
                    assert!(count - counted.sum::<u64>() <= 1);
                }
                let open: i64 = stats.open_requests().iter().map(|open| open.1).sum();
                assert!(open >= 0, "{open}");
            }
        });
        let rows = stats.rows();
        assert_eq!(
            rows.iter().map(|row| row.0.route).collect::<Vec<_>>(),
            [0, 1, 2, 3]
        );
        let counts = rows
            .iter()
            .map(|row| (row.1.opened, row.1.outcomes.get(Outcome::Completed)));
        let counts: Vec<_> = counts.collect();
        assert!(
            counts.iter().all(|(opened, closed)| opened == closed),
            "{counts:?}"
        );
        assert_eq!(counts[3].0, THREADS * REQUESTS / 5);
        let total: u128 = rows
            .iter()
            .map(|row| {
                row.1
                    .times(row::Figure::TotalTime)
                    .unwrap()
                    .total
                    .as_nanos()
            })
            .sum();
        let all = u128::from(THREADS * REQUESTS);
        assert_eq!(total, all * (all - 1) / 2);
        assert!(stats.open_requests().is_empty());
    }

    #[test]
    fn rows_are_the_same_however_many_entries_are_taken_at_once() {
        let figures = |n: u64| ClosedEntry {
            key: key(if n % 7 == 6 { 1 } else { 0 }),
            status: [Some(200), Some(404), None, Some(999)][n as usize / 9 % 4],
            outcome: Outcome::ALL[n as usize / 11 % 3],
            heap: (n % 13 != 0).then_some(Totals {
                allocations: 5 + n / 5,
                bytes_allocated: 1000 + n % 2,
                peak_bytes: (n % 5 != 0).then_some(700),
            }),
            arena_source: n as usize / 6 % 3,
            arena_bytes: n as usize / 20 * 100,
            time_to_head: (n % 4 != 0).then_some(n),
            time_to_end: 2 * n,
            total_time: 3 * n,
        };
        let [at_once, one_by_one] = [(); 2].map(|()| Stats::new());
        for (stats, reads) in [(&at_once, false), (&one_by_one, true)] {
            // Each entry of a new journal is taken at once.
            for n in 0..1000 {
                let entry = figures(n);
                stats.open(entry.key);
                stats.record(|journal| journal.closed(entry.words()));
                if n % 10 == 0 {
                    stats.record(|journal| journal.latency(entry.key, n / 100));
                }
                if reads {
                    stats.rows();
                }
            }
        }
        let seen = |stats: &Stats| {
            let rows = stats.rows().into_iter();
            let seen = rows.map(|(key, row)| {
                let figures = [
                    row::Figure::Bytes,
                    row::Figure::Allocations,
                    row::Figure::PeakBytes,
                    row::Figure::ArenaBytes,
                    row::Figure::TimeToHead,
                    row::Figure::TotalTime,
                    row::Figure::CancelLatency,
                ];
                let figures = figures.map(|figure| row.summary(figure));
                let counts = (
                    row.opened,
                    row.outcomes,
                    row.statuses,
                    row.arenas,
                    row.time_to_end,
                );
                (key, figures, format!("{counts:?}"))
            });
            seen.collect::<Vec<_>>()
        };
        let rows = seen(&at_once);
        assert_eq!(rows, seen(&one_by_one));
        let [bytes, ..] = &rows[0].1;
        let known = (0..1000).filter(|n| n % 7 != 6 && n % 13 != 0).count();
        assert_eq!(bytes.as_ref().expect("known").count, known as u64);
    }

    #[test]
    fn a_request_is_counted_while_another_thread_reads() {
        let stats = Stats::new();
        let reading = lock(&stats.table);
        let requests = ENTRIES - 1;
        for n in 0..requests {
            stats.open(key(0));
            close(&stats, key(0), n as u64);
        }
        drop(reading);
        assert_eq!(stats.rows()[0].1.outcomes.total(), requests as u64);
    }

    #[test]
    fn threads_without_a_number_of_their_own_are_counted() {
        let stats = Stats::new();
        stats.journals.with_shared(|journal| journal.opened(key(7)));
        stats.open(key(7));
        assert_eq!(stats.open_requests(), [(key(7), 2)]);
    }

    #[test]
    fn recording_takes_a_lock_once_in_half_a_journal() {
        let stats = Stats::new();
        let record = |requests: usize| {
            let before = crate::sync::LOCKED.get();
            for n in 0..requests {
                stats.open(key(0));
                close(&stats, key(0), n as u64);
            }
            crate::sync::LOCKED.get() - before
        };
        record(ENTRIES);
        stats.rows();
        assert_eq!(record(ENTRIES / 2 - 1), 0);
        let locks = record(ENTRIES * 100);
        assert!(
            (200..=210).contains(&locks),
            "{locks} for {ENTRIES} * 100 requests"
        );
    }
}
