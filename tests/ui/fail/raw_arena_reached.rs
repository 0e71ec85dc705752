use tower_memory::arena::raw::RawArena;

fn main() {}
