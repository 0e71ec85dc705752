use tower_memory::ArenaPool;

fn main() {
    let pool = ArenaPool::new();
    let arena = pool.rent();
    let value = arena.alloc(1);
    drop(arena);
    *value += 1;
}
