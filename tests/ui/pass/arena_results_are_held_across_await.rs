//! In an axum handler, whose future must be `Send`; cursors in a handler are in `tests/arena`.

use axum::{Router, routing::get};
use tokio::task::yield_now;
use tower_memory::{Arena, RequestScope};

async fn by_extractor(arena: Arena) -> String {
    let count = arena.alloc(0_u32);
    let name = arena.alloc_str("name");
    let numbers = arena.alloc_slice_fill_iter(0..2);
    let text = arena.alloc_fmt(format_args!("item-{count}"));
    yield_now().await;
    *count += 1;
    name.make_ascii_uppercase();
    numbers[0] = 7;
    yield_now().await;
    format!("{count} {name} {numbers:?} {text}")
}

async fn collections(arena: Arena) -> usize {
    let mut boxed = arena.alloc_box(String::from("dropped with its box"));
    let mut list = arena.vec();
    let mut text = arena.string();
    let mut buf = arena.buf();
    let mut foreign = allocator_api2::vec::Vec::new_in(&arena);
    yield_now().await;
    boxed.push('.');
    list.push(boxed.len());
    text.push_str("text");
    buf.extend_from_slice(text.as_bytes());
    foreign.push(list.len());
    yield_now().await;
    foreign.len() + buf.freeze().len()
}

async fn in_a_task(scope: RequestScope) {
    let mut arena = scope.arena().clone();
    let task = scope.spawn(async move {
        let mut cursor = arena.exclusive_cursor();
        let one = cursor.alloc(1);
        yield_now().await;
        *one += *cursor.alloc(2);
        yield_now().await;
        *one
    });
    drop(task.await);
}

fn main() {
    let _: Router = Router::new()
        .route("/extractor", get(by_extractor))
        .route(
            "/collections",
            get(async |arena: Arena| collections(arena).await.to_string()),
        )
        .route("/task", get(in_a_task));
}
