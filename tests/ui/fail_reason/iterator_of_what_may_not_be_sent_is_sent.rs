//! error[E0277]: `Rc<u8>` cannot be sent between threads safely

use std::rc::Rc;
use tower_memory::arena::IntoIter;

fn sent<T: Send>() {}

fn main() {
    sent::<IntoIter<'_, Rc<u8>>>();
}
