//! error[E0080]: an arena does not drop its values

use tower_memory::Arena;

fn main() {
    let arena = Arena::new();
    arena
        .cursor()
        .alloc_slice_fill_with(1, |_| String::from("its memory would never be freed"));
}
