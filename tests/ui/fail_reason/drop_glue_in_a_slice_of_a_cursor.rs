//! error[E0080]: this type needs dropping, and an arena drops no values

use tower_memory::Arena;

struct Row(#[expect(dead_code)] String);

fn main() {
    let arena = Arena::new();
    let mut cursor = arena.cursor();
    cursor.alloc_slice_fill_iter((0..1).map(|_| Row(String::new()))); // refused
}
