// SPDX-License-Identifier: Apache-2.0
// TVM-FFI functions of Rust: the standard library, panics, thread-local variables, threads.
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};

#[repr(C)]
pub struct Any {
    type_index: i32,
    padding: u32,
    value: i64,
}

extern "C" {
    fn TVMFFIErrorSetRaisedFromCStr(kind: *const u8, message: *const u8);
}

/// A panic becomes a ValueError with its text.
unsafe fn call(args: *const Any, count: i32, result: *mut Any, body: fn(&[i64]) -> i64) -> i32 {
    let args = std::slice::from_raw_parts(args, count as usize);
    let values: Vec<i64> = args.iter().map(|argument| argument.value).collect();
    match std::panic::catch_unwind(|| body(&values)) {
        Ok(value) => {
            *result = Any { type_index: 1, padding: 0, value };
            0
        }
        Err(cause) => {
            let text = match cause.downcast_ref::<String>() {
                Some(text) => text.clone(),
                None => cause.downcast_ref::<&str>().unwrap().to_string(),
            };
            let text = std::ffi::CString::new(text).unwrap();
            TVMFFIErrorSetRaisedFromCStr(b"ValueError\0".as_ptr(), text.as_ptr() as *const u8);
            -1
        }
    }
}

macro_rules! export {
    ($symbol:ident, $body:expr) => {
        #[no_mangle]
        pub unsafe extern "C" fn $symbol(
            _: *mut u8,
            args: *const Any,
            count: i32,
            result: *mut Any,
        ) -> i32 {
            call(args, count, result, $body)
        }
    };
}

static DROPPED: AtomicI64 = AtomicI64::new(0);

struct Counted(Cell<i64>);

impl Drop for Counted {
    fn drop(&mut self) {
        DROPPED.fetch_add(self.0.get(), Ordering::SeqCst);
    }
}

thread_local! {
    static COUNT: Counted = Counted(Cell::new(0));
    static PLAIN: Cell<i64> = const { Cell::new(7) };
}

export!(__tvm_ffi_add, |a| a[0] + a[1]);
export!(__tvm_ffi_index, |a| vec![10, 20, 30][a[0] as usize]);
export!(__tvm_ffi_refuse, |a| panic!("not {}", a[0]));
export!(__tvm_ffi_words, |a| {
    let mut words: HashMap<String, i64> = HashMap::new();
    for i in 0..a[0] {
        *words.entry(format!("w{}", i % 7)).or_insert(0) += i;
    }
    let mut words: Vec<_> = words.into_iter().collect();
    words.sort();
    words.iter().fold(0, |hash, (word, n)| hash * 31 + word.len() as i64 + n)
});
export!(__tvm_ffi_count, |a| {
    PLAIN.with(|plain| plain.set(plain.get() + 1));
    COUNT.with(|count| {
        count.0.set(count.0.get() + a[0]);
        count.0.get() + PLAIN.with(|plain| plain.get())
    })
});
export!(__tvm_ffi_dropped, |_| DROPPED.load(Ordering::SeqCst));
export!(__tvm_ffi_threads, |a| {
    let n = a[0];
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            std::thread::spawn(move || {
                COUNT.with(|count| count.0.set(n));
                (0..n).map(|i| i * thread).sum::<i64>()
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).sum()
});
