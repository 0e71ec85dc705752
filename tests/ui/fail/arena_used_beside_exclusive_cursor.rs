use tower_memory::Arena;

fn main() {
    let mut arena = Arena::new();
    let mut cursor = arena.exclusive_cursor();
    let clone = arena.clone();
    cursor.alloc(1);
    drop(clone);
}
