//! The rows of `targets` that depend on the global allocator, with mimalloc instead of the system's.
//!
//! ```text
//! cargo bench -p tower-memory-targets --bench targets-mimalloc [-- PREFIX | --list]
//! ```
//!
//! Arenas save calls of the allocator, so they gain less where those are cheaper.
#![expect(unsafe_code, reason = "reads clocks and calls allocators directly")]
#![allow(missing_docs, reason = "a program, not a library")]

mod arena;
mod body;
mod clock;
mod harness;
mod layer;
mod load;
mod machine;
mod map;
mod memory;
mod pool;
mod run;
mod sides;
mod text;

use mimalloc::MiMalloc;
use tower_memory::TrackingAllocator;

#[global_allocator]
static ALLOC: TrackingAllocator<MiMalloc> = TrackingAllocator::new(MiMalloc);

fn main() {
    run::run(
        "TrackingAllocator<MiMalloc>",
        &[
            layer::add,
            load::add,
            arena::add,
            text::add,
            map::add,
            pool::add,
            body::add,
            memory::add,
        ],
    );
}
