use tower_memory::Arena;

fn main() {
    let arena = Arena::new();
    let mut list = arena.vec();
    list.push(1);
    let slice = list.into_slice();
    list.push(2);
    slice[0] = 3;
}
