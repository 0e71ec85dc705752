use tower_memory::Arena;

fn main() {
    let arena = Arena::new();
    let mut cursor = arena.cursor();
    let mut list = cursor.vec();
    list.push(1);
    cursor.alloc(2);
    list.push(3);
}
