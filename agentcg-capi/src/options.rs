//! Structs of options that may grow: their first member says how large the caller's is.
//!
//! | the caller's struct | what is done |
//! |---|---|
//! | as large as ours | taken as it is |
//! | smaller: compiled with an older header | what it lacks has its default |
//! | larger: compiled with a newer header | refused if it sets something that we do not know |
//!
//! So a member that is added later goes to the end and means by 0 what was before. It must not fit in
//! the padding there: the size would not tell that it is new, and padding may hold anything.

use std::mem::size_of;

use crate::error::{Result, agentcg_error_code_t, agentcg_error_t};

/// Larger than any struct of options: such a size was never set.
const ABSURD: usize = 1 << 16;

/// A struct of options.
///
/// # Safety
/// It is `repr(C)`, and a `usize` for its size is its first member.
pub(crate) unsafe trait Options: Copy {
    /// Its name in C, without `agentcg_` and `_t`.
    const NAME: &'static str;
    /// Its size in the first version that had it.
    const FIRST_SIZE: usize;
    /// All defaults; the size is that of `Self`.
    const DEFAULTS: Self;
}

/// Fills in the defaults; NULL, and a size without room for the size, are ignored.
///
/// # Safety
/// `place` is NULL or `size` bytes may be written to.
pub(crate) unsafe fn init<T: Options>(place: *mut T, size: usize) {
    if place.is_null() || size < size_of::<usize>() {
        return;
    }
    let defaults = T::DEFAULTS;
    let (from, to) = (std::ptr::from_ref(&defaults).cast::<u8>(), place.cast::<u8>());
    // SAFETY: the caller's struct has `size` bytes, ours `size_of::<T>()`; its first member is the
    // size. What we do not know becomes 0.
    unsafe {
        to.write_bytes(0, size);
        to.copy_from_nonoverlapping(from, size.min(size_of::<T>()));
        place.cast::<usize>().write_unaligned(size);
    }
}

/// The caller's options; NULL: the defaults.
///
/// # Safety
/// `given` is NULL or initialised with [`init`], with members of the right types.
pub(crate) unsafe fn read<T: Options>(given: *const T) -> Result<T> {
    let mut options = T::DEFAULTS;
    if given.is_null() {
        return Ok(options);
    }
    // SAFETY: the size is the first member.
    let size = unsafe { given.cast::<usize>().read_unaligned() };
    if !(T::FIRST_SIZE..ABSURD).contains(&size) {
        let name = T::NAME;
        return Err(agentcg_error_t::invalid(format!(
            "invalid size {size} of an agentcg_{name}_t: fill it with agentcg_{name}_init"
        )));
    }
    let (from, to) = (given.cast::<u8>(), std::ptr::from_mut(&mut options).cast::<u8>());
    // SAFETY: the caller's struct has `size` bytes, ours `size_of::<T>()`.
    unsafe { to.copy_from_nonoverlapping(from, size.min(size_of::<T>())) };
    for i in size_of::<T>()..size {
        // SAFETY: within the caller's struct, and filled by `init`.
        if unsafe { from.add(i).read() } != 0 {
            return Err(agentcg_error_t::new(
                agentcg_error_code_t::AGENTCG_ERROR_UNSUPPORTED,
                format!(
                    "agentcg_{}_t: an option is set that libagentcg {} does not know",
                    T::NAME,
                    env!("CARGO_PKG_VERSION")
                ),
            ));
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Old {
        size: usize,
        a: u64,
    }

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct New {
        size: usize,
        a: u64,
        b: u64,
    }

    // SAFETY: both are repr(C) with their size first.
    unsafe impl Options for Old {
        const NAME: &'static str = "x";
        const FIRST_SIZE: usize = size_of::<Old>();
        const DEFAULTS: Self = Old { size: size_of::<Old>(), a: 7 };
    }
    // SAFETY: as above.
    unsafe impl Options for New {
        const NAME: &'static str = "x";
        const FIRST_SIZE: usize = size_of::<Old>();
        const DEFAULTS: Self = New { size: size_of::<New>(), a: 7, b: 0 };
    }

    #[test]
    fn an_older_program_gets_the_defaults_of_what_is_new() {
        let mut old = Old { size: 99, a: 99 };
        // SAFETY: a struct of that size.
        unsafe { init::<New>((&raw mut old).cast(), size_of::<Old>()) };
        assert_eq!(old, Old::DEFAULTS);
        old.a = 1;
        // SAFETY: it says its size.
        let read = unsafe { read::<New>((&raw const old).cast()) }.unwrap();
        assert_eq!((read.a, read.b), (1, 0));
    }

    #[test]
    fn a_newer_program_is_refused_only_what_is_not_known() {
        let mut new = New { size: 99, a: 99, b: 99 };
        // SAFETY: a struct of that size.
        unsafe { init::<Old>((&raw mut new).cast(), size_of::<New>()) };
        assert_eq!(new, New::DEFAULTS);
        // SAFETY: it says its size.
        assert_eq!(unsafe { read::<Old>((&raw const new).cast()) }.unwrap().a, 7);
        new.b = 1;
        // SAFETY: it says its size.
        let refused = unsafe { read::<Old>((&raw const new).cast()) }.unwrap_err();
        assert_eq!(refused.code(), agentcg_error_code_t::AGENTCG_ERROR_UNSUPPORTED);
    }

    #[test]
    fn a_struct_that_was_not_filled_is_refused() {
        for size in [0, 8, ABSURD, usize::MAX] {
            let old = Old { size, a: 0 };
            // SAFETY: nothing beyond a size that is refused is read.
            assert!(unsafe { read::<Old>(&raw const old) }.is_err(), "{size}");
        }
        // SAFETY: NULL is allowed, and a size too small is ignored.
        unsafe {
            assert_eq!(read::<Old>(std::ptr::null()).unwrap(), Old::DEFAULTS);
            init::<Old>(std::ptr::null_mut(), size_of::<Old>());
            let mut old = Old { size: 9, a: 9 };
            init::<Old>(&raw mut old, 4);
            assert_eq!(old.size, 9);
        }
    }
}
