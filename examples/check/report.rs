//! The table of responses, and the expectations about them.

use std::{process::ExitCode, time::Duration};

use http::HeaderMap;
use tower_memory::{MemoryHandle, observe::Snapshot};

const HEADERS: [&str; 6] = [
    "x-alloc-route",
    "x-alloc-bytes",
    "x-alloc-count",
    "x-alloc-peak",
    "x-arena-bytes",
    "x-arena-source",
];

#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Vec<String>>,
    expectations: Vec<(bool, String)>,
}

impl Report {
    /// Adds a row to the table.
    pub(crate) fn received(&mut self, request: &str, status: &str, headers: &HeaderMap) {
        let figures = HEADERS.map(|name| text(headers, name));
        let row = [request, status].into_iter().chain(figures);
        self.rows.push(row.map(str::to_owned).collect());
    }

    pub(crate) fn expect(&mut self, holds: bool, what: impl Into<String>) {
        self.expectations.push((holds, what.into()));
    }

    /// Expects that nothing of any request is left after at most five seconds.
    pub(crate) async fn expect_nothing_left(&mut self, handle: &MemoryHandle) {
        let left = |snapshot: &Snapshot| {
            [
                snapshot.in_flight,
                snapshot.tasks,
                snapshot.tokens,
                snapshot.pool.rented,
            ]
        };
        let snapshot = settled(handle, |snapshot| left(snapshot) == [0; 4]).await;
        let [in_flight, tasks, tokens, rented] = left(&snapshot);
        self.expect(
            left(&snapshot) == [0; 4],
            format!(
                "afterwards: in flight {in_flight}, tasks {tasks}, tokens {tokens}, arenas rented \
                 {rented}"
            ),
        );
    }

    /// Prints everything. Returns a failure if an expectation does not hold.
    pub(crate) fn finish(self) -> ExitCode {
        let title: Vec<_> = ["request", "status"].into_iter().chain(HEADERS).collect();
        let mut widths: Vec<_> = title.iter().map(|cell| cell.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.len());
            }
        }
        let line = |cells: &[&str]| {
            // Names are aligned to the left, numbers to the right.
            let padded =
                (0..)
                    .zip(cells)
                    .zip(&widths)
                    .map(|((column, cell), width)| match column {
                        0 | 2 | 7 => format!("{cell:width$}"),
                        _ => format!("{cell:>width$}"),
                    });
            let line = padded.collect::<Vec<_>>().join("  ");
            println!("{}", line.trim_end());
        };
        line(&title);
        for row in &self.rows {
            line(&row.iter().map(String::as_str).collect::<Vec<_>>());
        }
        println!();
        for (holds, what) in &self.expectations {
            println!("{:6}  {what}", if *holds { "ok" } else { "FAILED" });
        }
        let failed = self.expectations.iter().filter(|(holds, _)| !holds).count();
        println!(
            "\n{} expectations, {failed} failed",
            self.expectations.len()
        );
        match failed {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }
}

/// Returns the value of a header, or `-`.
pub(crate) fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers
        .get(name)
        .map_or("-", |value| value.to_str().unwrap_or("?"))
}

/// Returns a snapshot for which `done` holds, or the last one after five seconds. A server may still
/// hold bytes of a response that the client has already read.
pub(crate) async fn settled(handle: &MemoryHandle, done: impl Fn(&Snapshot) -> bool) -> Snapshot {
    for _ in 0..500 {
        let snapshot = handle.snapshot();
        if done(&snapshot) {
            return snapshot;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    handle.snapshot()
}
