use tower_memory::RequestScope;

fn main() {
    let _ = RequestScope::open;
}
