use tower_memory::Arena;

fn main() {
    let mut arena = Arena::new();
    let value = arena.exclusive_cursor().alloc(1);
    let clone = arena.clone();
    *value += 1;
    drop(clone);
}
