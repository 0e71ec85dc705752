//! error[E0080]: an arena does not drop its values

use tower_memory::Arena;

fn main() {
    let arena = Arena::new();
    arena
        .cursor()
        .alloc(String::from("its memory would never be freed"));
}
