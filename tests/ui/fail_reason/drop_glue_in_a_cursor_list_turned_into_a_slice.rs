//! error[E0080]: nobody would drop the values of this slice

use tower_memory::Arena;

fn main() {
    let arena = Arena::new();
    let mut cursor = arena.cursor();
    let mut list = cursor.vec();
    list.push(String::from("nobody would drop it"));
    let _ = list.into_slice();
}
