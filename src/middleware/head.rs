use http::{Request, request::Parts};

/// Calls `f` with the head of a request, which stays where it is.
///
/// A function of the application takes `Parts`. Taking the request apart and putting it together again would
/// move it, also for the requests of layers without such functions.
#[cold]
#[inline(never)]
pub(super) fn with_head<B, T>(request: &mut Request<B>, f: impl FnOnce(&Parts) -> T) -> T {
    let (mut head, ()) = Request::new(()).into_parts();
    swap(request, &mut head);
    let result = f(&head);
    swap(request, &mut head);
    result
}

fn swap<B>(request: &mut Request<B>, head: &mut Parts) {
    std::mem::swap(request.method_mut(), &mut head.method);
    std::mem::swap(request.uri_mut(), &mut head.uri);
    std::mem::swap(request.version_mut(), &mut head.version);
    std::mem::swap(request.headers_mut(), &mut head.headers);
    std::mem::swap(request.extensions_mut(), &mut head.extensions);
}
