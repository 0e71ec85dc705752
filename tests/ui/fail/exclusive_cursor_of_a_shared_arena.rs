use tower_memory::RequestScope;

fn handler(scope: &RequestScope) {
    scope.arena().exclusive_cursor().alloc(1);
}

fn main() {
    let _ = handler;
}
