//! error[E0277]: `Rc<u8>` cannot be sent between threads safely

use std::rc::Rc;
use tower_memory::arena::CursorVec;

fn sent<T: Send>() {}

fn main() {
    sent::<CursorVec<'_, '_, Rc<u8>>>();
}
