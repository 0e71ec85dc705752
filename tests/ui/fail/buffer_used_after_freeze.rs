use tower_memory::Arena;

fn main() {
    let mut buf = Arena::new().into_buf(10);
    let bytes = buf.freeze();
    buf.extend_from_slice(b"written to what is shared");
    drop(bytes);
}
