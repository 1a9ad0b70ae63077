; SPDX-License-Identifier: Apache-2.0
; TVM-FFI functions of LLVM IR: tables of addresses, a jump table, a thread-local variable, wide integers.
%any = type { i32, i32, i64 }
@table = internal constant [4 x i64] [i64 3, i64 1, i64 4, i64 1]
@pointers = internal constant [2 x ptr] [ptr @twice, ptr @square]
@counter = internal global i64 0
@count = thread_local global i64 100
@kind = private constant [11 x i8] c"ValueError\00"
@message = private constant [14 x i8] c"not from IR..\00"
declare void @TVMFFIErrorSetRaisedFromCStr(ptr, ptr)
declare double @llvm.pow.f64(double, double)
define internal i64 @twice(i64 %n) { %r = mul i64 %n, 2
 ret i64 %r }
define internal i64 @square(i64 %n) { %r = mul i64 %n, %n
 ret i64 %r }
define i32 @give(ptr %result, i64 %value) {
  %slot = getelementptr %any, ptr %result, i64 0, i32 2
  store i32 1, ptr %result
  store i64 %value, ptr %slot
  ret i32 0
}
define i32 @__tvm_ffi_pick(ptr %self, ptr %args, i32 %n, ptr %result) {
  %slot = getelementptr %any, ptr %args, i64 0, i32 2
  %v = load i64, ptr %slot
  %i = and i64 %v, 3
  %e = getelementptr [4 x i64], ptr @table, i64 0, i64 %i
  %x = load i64, ptr %e
  %j = and i64 %v, 1
  %p = getelementptr [2 x ptr], ptr @pointers, i64 0, i64 %j
  %f = load ptr, ptr %p
  %y = call i64 %f(i64 %v)
  %old = load i64, ptr @counter
  %new = add i64 %old, %x
  store i64 %new, ptr @counter
  %s = add i64 %new, %y
  %t = load i64, ptr @count
  %u = add i64 %t, 1
  store i64 %u, ptr @count
  %w = add i64 %s, %u
  %r = call i32 @give(ptr %result, i64 %w)
  ret i32 %r
}
define i32 @__tvm_ffi_choose(ptr %self, ptr %args, i32 %n, ptr %result) {
  %slot = getelementptr %any, ptr %args, i64 0, i32 2
  %v = load i64, ptr %slot
  switch i64 %v, label %else [ i64 0, label %a
    i64 1, label %b
    i64 2, label %c
    i64 3, label %d
    i64 4, label %e ]
a: %ra = call i32 @give(ptr %result, i64 17)
   ret i32 %ra
b: %pb = call double @llvm.pow.f64(double 2.5, double 3.5)
   %ib = fptosi double %pb to i64
   %rb = call i32 @give(ptr %result, i64 %ib)
   ret i32 %rb
c: %rc = call i32 @give(ptr %result, i64 -5)
   ret i32 %rc
d: %big = sext i64 %v to i128
   %m = mul i128 %big, 123456789012345678901234
   %q = udiv i128 %m, 1234567890123
   %id = trunc i128 %q to i64
   %rd = call i32 @give(ptr %result, i64 %id)
   ret i32 %rd
e: call void @TVMFFIErrorSetRaisedFromCStr(ptr @kind, ptr @message)
   ret i32 -1
else: unreachable
}
