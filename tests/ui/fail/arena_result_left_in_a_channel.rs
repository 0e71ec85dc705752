use std::sync::mpsc;
use tower_memory::Arena;

fn main() {
    let (sender, receiver) = mpsc::channel();
    {
        let arena = Arena::new();
        let _ = sender.send(arena.alloc_str("received after its arena is gone"));
    }
    let _ = receiver.recv();
}
