use axum::{Router, routing::get};
use tower_memory::Arena;

async fn handler(arena: Arena) -> &'static str {
    arena.cursor().alloc_str("gone with the handle")
}

fn main() {
    let _: Router = Router::new().route("/", get(handler));
}
