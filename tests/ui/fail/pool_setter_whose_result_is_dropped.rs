#![deny(unused_must_use)]

use tower_memory::ArenaPool;

fn main() {
    let builder = ArenaPool::builder();
    builder.initial_bytes(1024);
}
