use tower_memory::RequestScope;

async fn handler(scope: RequestScope) {
    let arena = scope.arena();
    let text = arena.alloc_str("the task may outlive it");
    tokio::spawn(async move { text.len() });
}

fn main() {
    let _ = handler;
}
