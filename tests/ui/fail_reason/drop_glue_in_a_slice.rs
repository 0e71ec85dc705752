//! error[E0080]: an arena does not drop its values

use tower_memory::Arena;

fn main() {
    let arena = Arena::new();
    arena.alloc_slice_clone(&[String::from("its memory would never be freed")]);
}
