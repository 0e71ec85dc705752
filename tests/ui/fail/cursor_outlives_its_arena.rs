use tower_memory::Arena;

fn main() {
    let mut cursor = {
        let arena = Arena::new();
        arena.cursor()
    };
    cursor.alloc(1);
}
