use std::rc::Rc;
use tower_memory::arena::ArenaBox;

fn sent<T: Send>() {}

fn main() {
    sent::<ArenaBox<'_, Rc<u8>>>();
}
