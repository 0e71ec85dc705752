use tower_memory::Arena;

fn main() {
    let arena = Arena::new();
    let value = arena.alloc(1);
    let buf = arena.into_buf(10);
    *value += 1;
    drop(buf);
}
