use std::sync::OnceLock;
use tower_memory::Arena;

static NAME: OnceLock<&'static str> = OnceLock::new();

fn handler(arena: &Arena) {
    let _ = NAME.set(arena.alloc_str("overwritten by the next request"));
}

fn main() {
    handler(&Arena::new());
}
