use tower_memory::Arena;

fn main() {
    let arena = Arena::new();
    let mut cursor = arena.cursor();
    let mut text = cursor.string();
    cursor.alloc(2);
    text.push_str("overwrites it");
}
