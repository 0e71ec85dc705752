//! What the crate promises to cost, measured beside its peers in one process.
//!
//! ```text
//! cargo bench -p tower-memory-targets --bench targets [-- PREFIX.. | --list]
//! ```
//!
//! One line per row: `group/name | ours | peer (name) | ratio | target | met`, `missed` or `info`.
//! Ours and the peers take turns, each for a few milliseconds per round; times are processor time of
//! the thread (of the process, where a row says so), per operation. A ratio is the median of the
//! rounds' own ratios, and the figures behind it in brackets are its quartiles. Nothing here fails a
//! test: a number is for people to read.
//!
//! `--bench targets-mimalloc` is the same beside another allocator.
#![expect(unsafe_code, reason = "reads clocks and calls allocators directly")]
#![allow(missing_docs, reason = "a program, not a library")]

mod admission;
mod alloc;
mod arena;
mod body;
mod cancel;
mod clock;
mod harness;
mod layer;
mod load;
mod machine;
mod map;
mod memory;
mod natural;
mod pairs;
mod poll;
mod pool;
mod profile;
mod record;
mod run;
mod sides;
mod text;
mod trace;

use tower_memory::TrackingAllocator;

#[global_allocator]
static ALLOC: TrackingAllocator = TrackingAllocator::system();

fn main() {
    run::run(
        "TrackingAllocator<System>",
        &[
            layer::add,
            admission::add,
            load::add,
            natural::add,
            arena::add,
            text::add,
            map::add,
            pool::add,
            body::add,
            memory::add,
            alloc::add,
            profile::add,
            record::add,
            trace::add,
            poll::add,
            cancel::add,
        ],
    );
}
