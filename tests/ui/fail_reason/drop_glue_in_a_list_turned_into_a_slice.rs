//! error[E0080]: this type needs dropping, and an arena drops no values

use tower_memory::Arena;

struct Row(#[expect(dead_code)] String);

fn main() {
    let arena = Arena::new();
    let mut list = arena.vec();
    list.push(Row(String::new()));
    let _ = list.into_slice(); // refused
}
