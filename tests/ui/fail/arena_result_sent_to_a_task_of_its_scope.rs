use tower_memory::RequestScope;

async fn handler(scope: RequestScope) {
    let arena = scope.arena();
    let text = arena.alloc_str("the task has its grace, and may outlive it");
    scope.spawn(async move { text.len() });
}

fn main() {
    let _ = handler;
}
