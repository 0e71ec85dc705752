use std::cell::Cell;
use tower_memory::arena::ArenaBox;

fn shared<T: Sync>() {}

fn main() {
    shared::<ArenaBox<'_, Cell<u8>>>();
}
