//! What the crate promises to cost, measured beside its peers in one process.
//!
//! ```text
//! cargo bench --bench targets --features full [-- PREFIX | --list]
//! ```
//!
//! One line per row: `group/name | ours | peer (name) | ratio | target | met`, `missed` or `info`.
//! Ours and the peers take turns, each for a few milliseconds per round; times are processor time of
//! the thread (of the process, where a row says so), per operation. A ratio is the median of the
//! rounds' own ratios, and the figures behind it in brackets are its quartiles. Nothing here fails a
//! test: a number is for people to read.
#![expect(unsafe_code, reason = "reads clocks and calls allocators directly")]
#![allow(missing_docs, reason = "a program, not a library")]

mod alloc;
mod arena;
mod clock;
mod harness;
mod layer;
mod machine;
mod poll;

use tower_memory::TrackingAllocator;

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

fn main() {
    let mut list = false;
    let mut prefix = String::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--list" => list = true,
            // `cargo bench` passes `--bench`; other flags belong to other harnesses.
            flag if flag.starts_with('-') => {}
            other => prefix = other.to_owned(),
        }
    }

    let mut contests = Vec::new();
    layer::add(&mut contests);
    arena::add(&mut contests);
    alloc::add(&mut contests);
    poll::add(&mut contests);

    if list {
        for row in contests.iter().flat_map(|contest| &contest.rows) {
            if row.starts_with(&prefix) {
                println!("{row}");
            }
        }
        return;
    }

    let mut report = harness::Report::new(prefix);
    println!("group/name | ours | peer (name) | ratio [quartiles] | target | met");
    for contest in contests {
        report.run(contest);
    }
    println!("{}", machine::line());
}
