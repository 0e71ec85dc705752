use tower_memory::Arena;

fn main() {
    let arena = Arena::new();
    let mut list = arena.vec();
    list.push(1);
    let first = &list[0];
    list.push(2);
    assert_eq!(*first, 1);
}
