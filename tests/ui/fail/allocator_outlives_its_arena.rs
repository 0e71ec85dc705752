use allocator_api2::vec::Vec;
use tower_memory::Arena;

fn main() {
    let mut list = {
        let arena = Arena::new();
        Vec::new_in(&arena)
    };
    list.push(1);
}
