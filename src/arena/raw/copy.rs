use std::ptr::NonNull;

/// Copies `count` bytes, short ones without a call of the C library.
///
/// Most texts that are appended are a few bytes long, and for those the call costs more than the
/// copy. Two overlapping moves cover each range of lengths.
///
/// # Safety
///
/// As for [`NonNull::copy_to_nonoverlapping`] with bytes.
#[inline(always)]
pub(super) unsafe fn copy(from: NonNull<u8>, to: NonNull<u8>, count: usize) {
    /// The first and the last `size_of::<T>()` of `count` bytes.
    ///
    /// # Safety
    ///
    /// As for [`copy`], and `count >= size_of::<T>()`.
    #[inline(always)]
    unsafe fn both_ends<T: Copy>(from: NonNull<u8>, to: NonNull<u8>, count: usize) {
        let last = count - size_of::<T>();
        // SAFETY: both reads and both writes lie within `count` bytes; a `T` here is an array of
        // bytes, or an integer, read and written unaligned.
        unsafe {
            let head = from.cast::<T>().read_unaligned();
            let tail = from.add(last).cast::<T>().read_unaligned();
            to.cast::<T>().write_unaligned(head);
            to.add(last).cast::<T>().write_unaligned(tail);
        }
    }
    // SAFETY: the caller's promise, and `count` is in range in each arm.
    unsafe {
        match count {
            0 => {}
            1 => to.write(from.read()),
            2..4 => both_ends::<u16>(from, to, count),
            4..8 => both_ends::<u32>(from, to, count),
            8..16 => both_ends::<u64>(from, to, count),
            16..=32 => both_ends::<u128>(from, to, count),
            33..=64 => both_ends::<[u128; 2]>(from, to, count),
            _ => from.copy_to_nonoverlapping(to, count),
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_copied_whole_and_nothing_beyond_it() {
        let from: Vec<u8> = (0..200_u8).collect();
        for count in 0..200 {
            let mut to = vec![0xff_u8; 202];
            // SAFETY: both are long enough, and not the same.
            unsafe {
                let target = NonNull::new(to.as_mut_ptr()).unwrap().add(1);
                copy(NonNull::from(&from[..]).cast(), target, count);
            }
            assert_eq!(to[1..=count], from[..count]);
            assert!(to[0] == 0xff && to[count + 1..].iter().all(|&byte| byte == 0xff));
        }
    }
}
