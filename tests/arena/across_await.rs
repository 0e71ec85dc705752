//! What a cursor returns may be held across `.await` in an axum handler, whose future must be `Send`.

use axum::{Router, routing::get};
use tower_memory::{Arena, RequestScope};

async fn by_extractor(mut arena: Arena) -> String {
    let mut cursor = arena.exclusive_cursor();
    let count = cursor.alloc(0_u32);
    let names = cursor.alloc_slice_fill_iter(0..2);
    let first = cursor.alloc_fmt(format_args!("item-{}", names[0]));
    tokio::task::yield_now().await;
    *count += 1;
    first.make_ascii_uppercase();
    let mut list = cursor.vec();
    list.push(&*first);
    tokio::task::yield_now().await;
    let list = list.into_slice();
    let mut text = cursor.string();
    text.push_str(list[0]);
    tokio::task::yield_now().await;
    format!("{count} {text} {}", names.len())
}

async fn by_scope(scope: RequestScope) -> String {
    let arena = scope.arena();
    let mut cursor = arena.cursor();
    let kept = cursor.alloc_str("kept");
    let (one, two) = tokio::join!(
        async {
            let mut cursor = arena.cursor();
            let value = cursor.alloc(1);
            tokio::task::yield_now().await;
            *value
        },
        async {
            let value = arena.alloc(2);
            tokio::task::yield_now().await;
            *value
        },
    );
    kept.make_ascii_uppercase();
    format!("{kept} {}", one + two)
}

#[test]
fn results_of_cursors_are_held_across_await_in_handlers() {
    let _: Router = Router::new()
        .route("/extractor", get(by_extractor))
        .route("/scope", get(by_scope));
}
