//! `pool/body_*`: a buffer of 16 KiB from a pool, 1 KiB written to it, given out as `Bytes`, and
//! dropped.

use std::{hint::black_box, sync::Arc};

use bytes::{Bytes, BytesMut};
use lockfree_object_pool::{LinearObjectPool, LinearOwnedReusable};
use object_pool::ReusableOwned;
use opool::{PoolAllocator, RcGuard};
use tower_memory::ArenaPool;
use zeropool::{BufUninit, ZeroPool};

use crate::{
    harness::{Contest, Report, Samples, Target, measure},
    sides::Side,
};

const CAPACITY: usize = 16 * 1024;
const WRITTEN: usize = 1024;

/// Buffers that the pools begin with or have room for.
const WAITING: usize = 64;

fn empty() -> Vec<u8> {
    Vec::with_capacity(CAPACITY)
}

/// Makes a guard that owns a vector an owner of `Bytes`.
struct Guard<G>(G);

impl<G: std::ops::Deref<Target = Vec<u8>>> AsRef<[u8]> for Guard<G> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// What `opool` is told about its buffers.
struct Buffers;

impl PoolAllocator<Vec<u8>> for Buffers {
    fn allocate(&self) -> Vec<u8> {
        empty()
    }

    fn reset(&self, buffer: &mut Vec<u8>) {
        buffer.clear();
    }
}

/// A buffer of `zeropool` of which the beginning is written. The pool would rather have all of it
/// written, or cleared; that would be more work than the others do.
struct Beginning {
    _buffer: BufUninit<'static>,
    written: &'static [u8],
}

impl Beginning {
    fn write(mut buffer: BufUninit<'static>, data: &[u8]) -> Self {
        let target = buffer.as_uninit_mut().as_mut_ptr().cast::<u8>();
        assert!(data.len() <= buffer.len());
        // SAFETY: there is room, as asserted. The buffer is kept as long as the slice, does not move
        // its bytes, and is not touched any more.
        let written = unsafe {
            target.copy_from_nonoverlapping(data.as_ptr(), data.len());
            std::slice::from_raw_parts(target, data.len())
        };
        Self {
            _buffer: buffer,
            written,
        }
    }
}

impl AsRef<[u8]> for Beginning {
    fn as_ref(&self) -> &[u8] {
        self.written
    }
}

fn frozen(threads: usize) -> Contest {
    let peers = [
        "BytesMut",
        "malloc",
        "object-pool",
        "opool",
        "lockfree-object-pool",
        "zeropool",
    ];
    Contest::new(
        peers.map(|peer| format!("pool/body_16KiB_write_1KiB_freeze/{threads}_thread/{peer}")),
        move |report: &mut Report, rows| {
            let data = black_box([7_u8; WRITTEN]);
            let data = &data[..];
            let pool = ArenaPool::new();
            let objects = Arc::new(object_pool::Pool::new(WAITING, empty));
            let shared = opool::Pool::new_prefilled(WAITING, Buffers).to_rc();
            let linear = Arc::new(LinearObjectPool::new(empty, Vec::clear));
            // Its buffers borrow it, and `Bytes` only own what borrows nothing.
            let zero: &'static ZeroPool = Box::leak(Box::new(ZeroPool::new()));
            let [ours, peers @ ..]: [Samples; 7] = measure([
                Side::on(threads, "ArenaPool", || {
                    || {
                        let mut body = pool.buf(CAPACITY);
                        body.extend_from_slice(black_box(data));
                        drop(black_box(body.freeze()));
                    }
                }),
                Side::on(threads, "BytesMut", || {
                    // One for each thread: the buffer comes back when its `Bytes` are gone.
                    let mut buffer = BytesMut::new();
                    move || {
                        buffer.reserve(CAPACITY);
                        buffer.extend_from_slice(black_box(data));
                        drop(black_box(buffer.split().freeze()));
                    }
                }),
                Side::on(threads, "malloc", || {
                    || {
                        let mut body = empty();
                        body.extend_from_slice(black_box(data));
                        drop(black_box(Bytes::from(body)));
                    }
                }),
                Side::on(threads, "object-pool", || {
                    || {
                        let mut body: ReusableOwned<Vec<u8>> = objects.pull_owned(empty);
                        body.clear();
                        body.extend_from_slice(black_box(data));
                        drop(black_box(Bytes::from_owner(Guard(body))));
                    }
                }),
                Side::on(threads, "opool", || {
                    || {
                        let mut body: RcGuard<_, _> = Arc::clone(&shared).get_rc();
                        body.extend_from_slice(black_box(data));
                        drop(black_box(Bytes::from_owner(Guard(body))));
                    }
                }),
                Side::on(threads, "lockfree-object-pool", || {
                    || {
                        let mut body: LinearOwnedReusable<Vec<u8>> = linear.pull_owned();
                        body.extend_from_slice(black_box(data));
                        drop(black_box(Bytes::from_owner(Guard(body))));
                    }
                }),
                Side::on(threads, "zeropool", || {
                    || {
                        let body = zero.alloc_uninit(CAPACITY);
                        let body = Beginning::write(body, black_box(data));
                        drop(black_box(Bytes::from_owner(body)));
                    }
                }),
            ]);
            for (row, peer) in rows.into_iter().zip(&peers) {
                report.compare(row, &ours, peer, Target::Below(1.0));
            }
        },
    )
}

pub(crate) fn add(contests: &mut Vec<Contest>) {
    contests.extend([frozen(1), frozen(2)]);
}
