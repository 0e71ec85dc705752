use tower_memory::{Arena, arena::ArenaBox};

fn main() {
    let arena = Arena::new();
    let boxed = arena.alloc_box(String::from("dropped twice"));
    let text = ArenaBox::into_inner(boxed);
    assert_eq!(*boxed, text);
}
