//! The server with mimalloc.

#[global_allocator]
static ALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    tower_memory_lab::serve();
}
