//! error[E0277]: `Rc<u8>` cannot be sent between threads safely

use std::rc::Rc;
use tower_memory::ArenaVec;

fn sent<T: Send>() {}

fn main() {
    sent::<ArenaVec<'_, Rc<u8>>>();
}
