#![deny(unused_must_use)]

use tower_memory::RequestScope;

fn upgrade(scope: &RequestScope) {
    scope.hold().run(async {});
}

fn main() {
    let _ = upgrade;
}
