use tower_memory::RequestScope;

async fn handler(scope: RequestScope) {
    let list = scope.arena().vec::<u8>();
    scope.spawn_blocking(move || list.len());
}

fn main() {
    let _ = handler;
}
