//! error[E0080]: this type needs dropping, and an arena drops no values

use tower_memory::Arena;

struct Row(#[expect(dead_code)] String);

fn main() {
    let arena = Arena::new();
    let mut cursor = arena.cursor();
    let mut list = cursor.vec();
    list.push(Row(String::new()));
    let _ = list.into_slice(); // refused
}
