//! The server with the system's allocator, counted.

#[global_allocator]
static ALLOC: tower_memory::TrackingAllocator = tower_memory::TrackingAllocator::system();

fn main() {
    tower_memory_lab::serve();
}
