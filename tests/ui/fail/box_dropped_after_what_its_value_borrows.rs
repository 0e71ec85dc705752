use tower_memory::Arena;

struct Borrows<'b>(&'b str);

impl Drop for Borrows<'_> {
    fn drop(&mut self) {
        assert_eq!(self.0, "read once more");
    }
}

fn main() {
    let arena = Arena::new();
    let _boxed;
    let text = String::from("read once more");
    _boxed = arena.alloc_box(Borrows(&text));
}
