use tower_memory::Arena;

fn on_two_threads(_: impl FnOnce() + Send, _: impl FnOnce() + Send) {}

fn main() {
    let arena = Arena::new();
    let mut cursor = arena.cursor();
    on_two_threads(|| *cursor.alloc(()), || *cursor.alloc(()));
}
