use std::{future::Ready, time::Duration};

use tower_memory::{
    MemoryHandle, RequestScope, client::PropagateDeadlineFuture, middleware::ResponseFuture,
    scope::HoldFuture,
};

fn send<T: Send>() {}
fn send_value<T: Send>(_: T) {}

fn main() {
    send::<HoldFuture<Ready<()>>>();
    send::<ResponseFuture<Ready<()>>>();
    send::<PropagateDeadlineFuture<Ready<()>>>();
    let of_a_handle = |handle: MemoryHandle, scope: RequestScope| {
        send_value(handle.shutdown(Duration::ZERO));
        send_value(scope.detach("named", async {}));
        send_value(scope.spawn_blocking(|| ()));
        send_value(scope.cancelled());
        send_value(scope.hold().run(scope.cancelled()));
    };
    let _ = of_a_handle;
}
