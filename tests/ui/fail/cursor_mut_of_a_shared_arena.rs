use tower_memory::RequestScope;

fn handler(scope: &RequestScope) {
    scope.arena().cursor_mut().alloc(1);
}

fn main() {
    let _ = handler;
}
