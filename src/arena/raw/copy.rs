use std::{mem::MaybeUninit, ptr::NonNull};

/// Copies `count` bytes; up to 64 without a call of the C library.
///
/// Most appended texts are a few bytes long, and the call costs more than such a copy. Two overlapping
/// moves cover each range of lengths. They move `MaybeUninit`s, since the bytes may be padding or parts
/// of a pointer: reading padding as an integer is undefined, and a pointer would lose its provenance.
///
/// # Safety
///
/// As for [`NonNull::copy_to_nonoverlapping`] with bytes.
#[inline(always)]
pub(super) const unsafe fn copy(from: NonNull<u8>, to: NonNull<u8>, count: usize) {
    /// The first and the last `size_of::<T>()` of `count` bytes.
    ///
    /// # Safety
    ///
    /// As for [`copy`], and `count >= size_of::<T>()`.
    #[inline(always)]
    const unsafe fn both_ends<T: Copy>(from: NonNull<u8>, to: NonNull<u8>, count: usize) {
        let last = count - size_of::<T>();
        // SAFETY: both reads and both writes lie within `count` bytes (the caller's promise), unaligned;
        // a `MaybeUninit` may hold any bytes.
        unsafe {
            let head = from.cast::<MaybeUninit<T>>().read_unaligned();
            let tail = from.add(last).cast::<MaybeUninit<T>>().read_unaligned();
            to.cast::<MaybeUninit<T>>().write_unaligned(head);
            to.add(last).cast::<MaybeUninit<T>>().write_unaligned(tail);
        }
    }
    // SAFETY: the caller's promise; `count >= size_of::<T>()` in each arm.
    unsafe {
        // A comparison each, which a `match` of ranges does not become.
        if count >= 16 {
            if count <= 32 {
                both_ends::<u128>(from, to, count);
            } else if count <= 64 {
                both_ends::<[u128; 2]>(from, to, count);
            } else {
                from.copy_to_nonoverlapping(to, count);
            }
        } else if count >= 8 {
            both_ends::<u64>(from, to, count);
        } else if count >= 4 {
            both_ends::<u32>(from, to, count);
        } else if count >= 2 {
            both_ends::<u16>(from, to, count);
        } else if count == 1 {
            both_ends::<u8>(from, to, count);
        }
    }
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    /// Copied at compile time: the compiler refuses to read a pointer, or uninitialised bytes, as an
    /// integer.
    const fn copied<T: Copy>(from: T, mut to: T) -> T {
        // SAFETY: both have the size of a `T`, and are not the same.
        unsafe {
            let from = NonNull::new_unchecked((&raw const from).cast_mut());
            let to = NonNull::new_unchecked(&raw mut to);
            copy(from.cast(), to.cast(), size_of::<T>());
        }
        to
    }

    const POINTER: &u8 = copied(&1, &0);
    const TEXT: &str = copied("text", "");
    const TEXTS: [(&str, Option<u8>); 2] =
        copied([("first", None), ("second", Some(2))], [("", None); 2]);
    const PADDED: (u8, u32) = copied((1, 2), (0, 0));
    const UNWRITTEN: [MaybeUninit<u8>; 6] =
        copied([MaybeUninit::uninit(); 6], [MaybeUninit::new(1); 6]);

    #[test]
    fn pointers_and_padding_are_copied_as_they_are() {
        assert_eq!((POINTER, TEXT), (&1, "text"));
        assert_eq!(TEXTS, [("first", None), ("second", Some(2))]);
        assert_eq!((PADDED, UNWRITTEN.len()), ((1, 2), 6));
    }

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
