use super::{
    frames::{self, Aside},
    raw,
};

/// Calls `f` outside of the accounts that are entered on this thread.
///
/// For tables of the crate that grow during a request and stay for others: they are no figure of the
/// request that happens to be there. The caller does this only when a table grows, which is seldom.
#[cold]
#[inline(never)]
pub(crate) fn aside<R>(f: impl FnOnce() -> R) -> R {
    // A thread without a block has entered no account.
    let set = raw::own()
        .and_then(|block| frames::with(|stack| stack.set_aside(block)))
        .flatten();
    let _put_back = PutBack(set);
    f()
}

struct PutBack(Option<Aside>);

impl Drop for PutBack {
    fn drop(&mut self) {
        if let (Some(aside), Some(block)) = (&self.0, raw::own()) {
            frames::with(|stack| stack.put_back(aside, block));
        }
    }
}
