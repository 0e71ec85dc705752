//! The server with mimalloc, counted.

#[global_allocator]
static ALLOC: tower_memory::TrackingAllocator<mimalloc::MiMalloc> =
    tower_memory::TrackingAllocator::new(mimalloc::MiMalloc);

fn main() {
    tower_memory_lab::serve();
}
