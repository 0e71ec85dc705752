use tower_memory::Arena;

fn main() {
    let mut buf = Arena::new().into_buf(10);
    let written = &buf[..];
    buf.extend_from_slice(b"moves what was written");
    assert!(written.is_empty());
}
