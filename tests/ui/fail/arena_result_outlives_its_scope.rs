use tower_memory::RequestScope;

fn name(scope: RequestScope) -> &'static str {
    scope.arena().alloc_str("gone with the scope's handle")
}

fn main() {
    let _ = name;
}
