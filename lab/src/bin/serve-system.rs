//! The server with the system's allocator.

fn main() {
    tower_memory_lab::serve();
}
