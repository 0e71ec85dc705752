use tower_memory::Arena;

fn main() {
    let arena = Arena::new();
    let mut list = arena.vec();
    list.push(1);
    let drain = list.drain(..);
    list.push(2);
    drop(drain);
}
