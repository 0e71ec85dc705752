//! error[E0277]: `Cell<u8>` cannot be shared between threads safely

use std::cell::Cell;
use tower_memory::ArenaVec;

fn shared<T: Sync>() {}

fn main() {
    shared::<ArenaVec<'_, Cell<u8>>>();
}
