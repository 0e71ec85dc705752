use tower_memory::Cursor;

fn forever<'a>(cursor: Cursor<'a>) -> Cursor<'static> {
    cursor
}

fn main() {
    let _ = forever;
}
