use tower_memory::Arena;

fn main() {
    let arena = Arena::new();
    let mut list = arena.vec();
    {
        let text = String::from("dropped before the list");
        list.push(&*text);
    }
    drop(list);
}
