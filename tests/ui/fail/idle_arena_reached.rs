use tower_memory::arena::raw::IdleArena;

fn main() {}
