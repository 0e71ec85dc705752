//! error[E0277]: `Cell<u8>` cannot be shared between threads safely

use std::cell::Cell;
use tower_memory::arena::CursorVec;

fn shared<T: Sync>() {}

fn main() {
    shared::<CursorVec<'_, '_, Cell<u8>>>();
}
