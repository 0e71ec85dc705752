#![deny(unused_must_use)]

use std::time::Duration;
use tower_memory::MemoryLayer;

fn main() {
    let layer = MemoryLayer::builder();
    layer.timeout(Duration::from_secs(5));
}
