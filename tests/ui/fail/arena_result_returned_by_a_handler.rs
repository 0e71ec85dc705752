use axum::{Router, routing::get};
use tower_memory::Arena;

async fn handler(arena: Arena) -> &'static str {
    arena.alloc_fmt(format_args!("gone with the handle {}", 1))
}

fn main() {
    let _: Router = Router::new().route("/", get(handler));
}
